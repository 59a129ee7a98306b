"""What would be sent, without sending it: .eml files to look at, and the sums of a dry run."""

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from client import output_table
from client.problems import PROBLEMS_KEPT_MAX, InputError, Problem, counted
from client.submission_plan import Plan
from evenpost.compose import ComposeError
from evenpost.wire import codec, limits

DOMAINS_SHOWN_MAX = 10
_DOMAINS_COUNTED_MAX = 100_000
"""Lists have a few thousand domains; a crafted one must not fill the memory."""


@dataclass(slots=True)
class DryRun:
    """What a campaign comes to."""

    recipients: int = 0
    bytes: int = 0
    largest_bytes: int = 0
    skipped: int = 0
    domains: Counter[str] = field(default_factory=Counter)

    def facts(self) -> dict[str, Any]:
        top = [{"domain": name, "recipients": n} for name, n in self.domains.most_common(DOMAINS_SHOWN_MAX)]
        return {
            "dry_run": True,
            "recipients": self.recipients,
            "bytes": self.bytes,
            "largest_bytes": self.largest_bytes,
            "skipped": self.skipped,
            "domains_total": len(self.domains),
            "domains": top,
        }

    def show(self) -> None:
        average = self.bytes // max(1, self.recipients)
        skipped = f", {self.skipped:,} left out" if self.skipped else ""
        click.echo(f"Nothing was sent. This would go to {counted(self.recipients, 'recipient')}{skipped}:")
        click.echo(
            f"{size(self.bytes)} in all, {size(average)} a message, the largest {size(self.largest_bytes)}; "
            f"{counted(len(self.domains), 'domain')}."
        )
        rows = [
            [name, count, f"{100 * count / self.recipients:.1f} %"]
            for name, count in self.domains.most_common(DOMAINS_SHOWN_MAX)
        ]
        output_table.table({"domain": 0, "recipients": 0, "share": 0}, rows)


def dry_run(plan: Plan) -> DryRun:
    """Composes each message. Raises InputError with each recipient whose message can't be made."""
    found = DryRun(skipped=plan.skipped)
    problems: list[Problem] = []
    problems_total = 0
    date = time.time()
    for number, (address, packed) in enumerate(_rows(plan)):
        try:
            message = plan.composer.compose(number, address, codec.unpack_values(packed), date)
        except ComposeError as error:
            problems_total += 1
            if len(problems) < PROBLEMS_KEPT_MAX:
                problems.append(plan.row_problem(number, address, error))
            continue
        found.recipients += 1
        found.bytes += len(message)
        found.largest_bytes = max(found.largest_bytes, len(message))
        domain = address.rpartition("@")[2]
        if domain in found.domains or len(found.domains) < _DOMAINS_COUNTED_MAX:
            found.domains[domain] += 1
        plan.tell("compose", found.recipients)
    if problems:
        raise InputError(problems, problems_total)
    return found


def write_previews(plan: Plan, count: int, folder: Path) -> list[Path]:
    """The first messages, numbered, as files that mail programs open. Raises InputError, OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    width = len(str(count))
    date = time.time()
    files = []
    for number, (address, packed) in enumerate(_rows(plan)):
        if number == count:
            break
        try:
            message = plan.composer.compose(number, address, codec.unpack_values(packed), date)
        except ComposeError as error:
            raise InputError([plan.row_problem(number, address, error)]) from None
        name = "".join(c if c.isalnum() or c in "@.-_+" else "_" for c in address)[:100].lstrip(".")
        file = folder / f"{number + 1:0{width}}-{name}.eml"
        file.write_bytes(message)
        files.append(file)
    return files


def size(count: int) -> str:
    """Bytes as people say them."""
    for unit, bytes_ in (("GB", 10**9), ("MB", 10**6), ("KB", 10**3)):
        if count >= bytes_:
            return f"{count / bytes_:.1f} {unit}"
    return f"{count} bytes"


def _rows(plan: Plan) -> Iterator[tuple[str, bytes]]:
    for chunk in plan.raw_rows(limits.CHUNK_ROWS_MAX, limits.CHUNK_BYTES_MAX):
        yield from chunk
