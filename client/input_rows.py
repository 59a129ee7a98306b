"""What every kind of list becomes: batches of checked rows, ready for the wire."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from client.addresses import AddressError, are_plain, clean_address, is_plain
from client.input_text import Progress
from client.problems import ProblemLog
from evenpost.wire import limits

BATCH_ROWS = 1_000
"""Rows that are worked on together: enough that Python's cost is a row's, not a batch's; few enough that
rows of 64 KB fit into memory."""

EMAIL_NAMES = ("email", "e-mail", "email address", "e-mail address", "emailaddress", "email_address", "mail")
"""How a column with the address may be called, in any case, the best first."""


@dataclass(slots=True)
class Incomplete:
    """A row without a value for each field: whether the template can do without is the caller's to say."""

    line: int
    address: str
    values: Sequence[object]
    missing: Sequence[str]


@dataclass(slots=True)
class Batch:
    """Rows that can be sent, column by column. `incomplete` are some of them, once more."""

    lines: Sequence[int]
    addresses: list[str]
    packed: list[bytes]
    incomplete: list[Incomplete] = field(default_factory=list)
    simple: bool = False
    """Every address is plain, and every value a printable text of at most SHORT_VALUE_CHARS: what a Composer
    that `takes_simple` can't fail with. Not looked at when `checking`."""


class Source(Protocol):
    """A list that can be read twice with the same result."""

    name: str
    columns: tuple[str, ...] | None
    """The merge fields that the list has; None: each row says."""
    missing_columns: tuple[str, ...]
    """Fields that no row of this list has. Their values are None in each row."""
    header_line: int
    """Where they would have to be named. 0: each row names its own."""
    rows_seen: int
    """Rows that the last walk came across, good and bad."""

    def batches(self, log: ProblemLog, *, checking: bool, progress: Progress | None) -> Iterator[Batch]:
        """The good rows; what is wrong with the others goes into the log. Rows that lack a value are told
        when `checking`."""
        ...

    def check_unchanged(self) -> None: ...
    def close(self) -> None: ...


def clean_addresses(
    raw: list[str], lines: Sequence[int], log: ProblemLog, column: str
) -> tuple[list[str], list[bool] | None]:
    """The addresses as they are sent (the same list: all of them are plain), and which are good; None: all of
    them, as is usual."""
    if are_plain(raw):
        return raw, None
    addresses = [address if is_plain(address) else "" for address in raw]
    if "" not in addresses:
        return addresses, None
    for i, address in enumerate(addresses):
        if not address:
            try:
                addresses[i] = clean_address(raw[i])
            except AddressError as error:
                log.add("bad_address", lines[i], error.reason, error.hint, column)
    return addresses, ([bool(address) for address in addresses] if "" in addresses else None)


def guess_email_name(names: Sequence[str]) -> str | None:
    """Which of these names is the one of the address column?"""
    by_lowered = {name.strip().lower(): name for name in reversed(names)}
    return next((by_lowered[name] for name in EMAIL_NAMES if name in by_lowered), None)


def merge_name(column: str) -> str:
    """A column's name as a template can use it: "First name" is first_name."""
    return re.sub(r"\W+", "_", column.strip().lower()).strip("_")


def report_fat(log: ProblemLog, line: int, size: int) -> None:
    most = limits.ROW_FIELDS_BYTES_MAX
    log.add("fat_row", line, f"{size:,} bytes of merge fields; at most {most:,} can be sent", "Shorten them")


RowCheck = Callable[[int, str, Sequence[object]], str | None]
"""(line, address, values) -> what is wrong with the row, or None. Called for rows that lack a value."""
