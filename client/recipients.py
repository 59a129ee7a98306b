"""Recipient lists: checked whole, then streamed; never held.

    with RecipientList.open("list.csv", fields=["first_name"]) as recipients:
        recipients.check().raise_for_problems()
        for rows in recipients.chunks():
            ...                     # [(address, packed values), ...]

Two passes over the list: the first finds every problem, the second gives the rows. The second gives the same
chunks each time, so that a submission that was cut off goes on with chunk N of another run.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import compress
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from client.input_csv import CsvSource
from client.input_duplicates import DuplicateFinder, RepeatCheck
from client.input_mappings import IterableSource, JsonlSource
from client.input_rows import Batch, Incomplete, RowCheck, Source
from client.input_text import ListText, Progress, open_text
from client.problems import InputError, Problem, ProblemLog
from evenpost.wire import limits

RecipientSource = str | Path | Iterable[str | Mapping[str, object]]
"""A path, "-" for standard input, or an iterable of addresses or of mappings with `email` and fields."""

Row = tuple[str, bytes]
"""Address and packed merge values: a wire.messages.Recipient as plain values."""

_JSON_SUFFIXES = {".jsonl", ".ndjson", ".json"}

_ROW_OVERHEAD_BYTES = 16
"""msgpack's marks around an address and its values, rounded up."""


@dataclass(frozen=True, slots=True)
class Checked:
    """What the check of a list found."""

    name: str
    total: int
    """Rows in the list, without empty ones."""
    good: int
    """Rows that can be sent."""
    problems: tuple[Problem, ...]
    """By line; of each kind the first 1,000."""
    counts: Mapping[str, int]
    """All problems by kind."""
    fatal: bool
    """Something is wrong with the list as a whole: leaving out the bad rows doesn't help."""
    digest: str
    """The same for the same addresses with the same values in the same order, and for no other list."""

    @property
    def problems_total(self) -> int:
        return sum(self.counts.values())

    def raise_for_problems(self, *, skip_bad: bool = False) -> None:
        """Raises InputError if the list can't be sent: with any problem, or with `skip_bad` only where
        nothing is left or the list as a whole is wrong."""
        if self.problems and (self.fatal or not skip_bad):
            raise InputError(self.problems, self.problems_total)


class Chunk(NamedTuple):
    """Rows that are sent together."""

    rows: list[Row]
    simple: bool
    """Every address in it is plain, and every value a short printable text."""


class RecipientList:
    """A list of recipients. Use `open`; then `check` once, then `chunks` as often as needed."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._checked: Checked | None = None
        self._bad_lines = _LineSet()
        """Rows that only the check finds bad: duplicates, and those that can't fill the template."""

    @classmethod
    def open(
        cls,
        source: RecipientSource,
        *,
        fields: Sequence[str],
        encoding: str | None = None,
        delimiter: str | None = None,
        email_column: str | None = None,
    ) -> Self:
        """Opens a CSV or JSONL file, standard input ("-") or an iterable from Python.

        `fields` are the merge fields that the template uses, without `email`: only their values are sent, in
        this order. Encoding and delimiter are found out where they aren't given. Raises InputError if the
        list can't be read at all: no such file, no column with addresses, an unknown encoding."""
        if "email" in fields:
            raise ValueError("'email' is always there: it is not one of the fields")
        if not isinstance(source, str | Path):
            return cls(IterableSource(source, fields, email_column))
        text = open_text(source, encoding)
        try:
            if _is_jsonl(source, text):
                return cls(JsonlSource(text, fields, email_column))
            return cls(CsvSource(text, fields, delimiter, email_column))
        except BaseException:
            text.close()
            raise

    @property
    def name(self) -> str:
        return self._source.name

    @property
    def columns(self) -> tuple[str, ...] | None:
        """The merge fields that the list offers, as its header (or its first row) has them, without the
        address. None: its rows are bare addresses, or there are none."""
        return self._source.columns

    def check(self, progress: Progress | None = None, check_row: RowCheck | None = None) -> Checked:
        """Reads the whole list and finds everything that is wrong with it.

        `check_row` is asked about rows in which a field has no value (None): it says what the template
        misses, or None if it can do without. Without it, each missing value is a problem. `progress` gets
        bytes read and in all; for an iterable rows read and 0."""
        if self._checked is not None:
            return self._checked
        log = ProblemLog(self.name)
        repeats = RepeatCheck()
        digest = _Digest()
        judge = _Judge(log, self._source, check_row)
        good = 0
        try:
            for batch in self._source.batches(log, checking=True, progress=progress):
                digest.add(batch)
                if batch.incomplete:
                    batch = self._judged(batch, judge)
                repeats.add(batch.addresses)
                good += len(batch.addresses)
            if repeats.any():
                good -= self._find_duplicates(log)
        finally:
            repeats.close()
        self._source.check_unchanged()
        if good > limits.RECIPIENTS_MAX:
            most = f"at most {limits.RECIPIENTS_MAX:,} go into one campaign"
            log.add("too_many", 0, f"{good:,} recipients; {most}", "Split the list")
        if good == 0:
            log.add("empty", 0, "the list has no recipient" if not log.total else "no recipient is left")
        self._checked = Checked(
            self.name, self._source.rows_seen, good, log.kept(), dict(log.counts),
            fatal=good == 0 or good > limits.RECIPIENTS_MAX or judge.column_missing,
            digest=digest.text(),
        )  # fmt: skip
        return self._checked

    def chunks(
        self,
        rows_max: int = limits.CHUNK_ROWS_MAX,
        bytes_max: int = limits.CHUNK_BYTES_MAX,
        *,
        skip_bad: bool = False,
    ) -> Iterator[list[Row]]:
        """The rows in chunks of at most `rows_max` rows and `bytes_max` bytes.

        The same list gives the same chunks, today and tomorrow. Raises InputError if the check found a
        problem (other than rows left out by `skip_bad`), or if the file is changed meanwhile."""
        for chunk in self.told_chunks(rows_max, bytes_max, skip_bad=skip_bad):
            yield chunk.rows

    def told_chunks(self, rows_max: int, bytes_max: int, *, skip_bad: bool) -> Iterator[Chunk]:
        """The same, with a word about what is in them."""
        self.check().raise_for_problems(skip_bad=skip_bad)
        for chunk in self._chunks(rows_max, bytes_max):
            self._source.check_unchanged()
            yield chunk

    def close(self) -> None:
        self._source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _find_duplicates(self, log: ProblemLog) -> int:
        """Reads the list once more, since there are some. How many rows are left out for it."""
        finder = DuplicateFinder()
        found = 0
        try:
            for batch in self._source.batches(ProblemLog(self.name), checking=False, progress=None):
                batch = self._without_bad_lines(batch)
                finder.add(batch.lines, batch.addresses)
            for first, line in finder.duplicates():
                log.add(
                    "duplicate", line, f"the same address as in line {first}", "Remove one of them", "email"
                )
                self._bad_lines.add(line)
                found += 1
        finally:
            finder.close()
        return found

    def _without_bad_lines(self, batch: Batch) -> Batch:
        if not self._bad_lines:
            return batch
        good = [line not in self._bad_lines for line in batch.lines]
        return Batch(
            list(compress(batch.lines, good)), list(compress(batch.addresses, good)),
            list(compress(batch.packed, good)), simple=batch.simple,
        )  # fmt: skip

    def _judged(self, batch: Batch, judge: "_Judge") -> Batch:
        bad = {row.line for row in batch.incomplete if judge.is_bad(row)}
        if not bad:
            return batch
        for line in bad:
            self._bad_lines.add(line)
        return self._without_bad_lines(batch)

    def _chunks(self, rows_max: int, bytes_max: int) -> Iterator[Chunk]:
        chunk: list[Row] = []
        chunk_bytes, simple = 0, True
        for batch in self._source.batches(ProblemLog(self.name), checking=False, progress=None):
            batch = self._without_bad_lines(batch)
            rows = list(zip(batch.addresses, batch.packed, strict=True))
            simple = batch.simple and (simple or not chunk)
            # The sum of all _bound(row): nearly always the whole batch fits.
            size = sum(map(len, batch.packed)) + 4 * sum(map(len, batch.addresses))
            size += _ROW_OVERHEAD_BYTES * len(rows)
            if chunk_bytes + size <= bytes_max:
                chunk += rows
                chunk_bytes += size
                while len(chunk) >= rows_max:
                    yield Chunk(chunk[:rows_max], simple)
                    chunk, simple = chunk[rows_max:], batch.simple
                    chunk_bytes = sum(map(_bound, chunk))
                continue
            for row in rows:
                size = _bound(row)
                if chunk and (len(chunk) >= rows_max or chunk_bytes + size > bytes_max):
                    yield Chunk(chunk, simple)
                    chunk, chunk_bytes, simple = [], 0, batch.simple
                chunk.append(row)
                chunk_bytes += size
            if len(chunk) >= rows_max:
                yield Chunk(chunk, simple)
                chunk, chunk_bytes = [], 0
        if chunk:
            yield Chunk(chunk, simple)


class _Judge:
    """Decides on rows that lack a value. A column that the list doesn't have is told once, not a row."""

    def __init__(self, log: ProblemLog, source: Source, check_row: RowCheck | None) -> None:
        self._log = log
        self._header_line = source.header_line
        self._missing_columns = frozenset(source.missing_columns)
        self._check_row = check_row
        self.column_missing = False
        if check_row is None:
            for field in source.missing_columns:
                self._report_column(field, "the template uses it")

    def is_bad(self, row: Incomplete) -> bool:
        if self.column_missing:
            return False  # told already: there is nothing to send anyway
        if self._check_row is None:
            for field in row.missing:
                self._log.add("missing_value", row.line, "no value", "Fill it in or remove the line", field)
            return True
        reason = self._check_row(row.line, row.address, row.values)
        if reason is None:
            return False
        field = next((field for field in row.missing if field in reason), row.missing[0])
        if field in self._missing_columns:
            self._report_column(field, f"line {row.line} needs it: {reason}")
            return False  # the list is at fault and not this row, which may be the first of duplicates
        hint = "Fill it in, remove the line, or give the template a default"
        self._log.add("missing_value", row.line, reason, hint, field)
        return True

    def _report_column(self, field: str, reason: str) -> None:
        self.column_missing = True
        hint = f"Add the column, or write {{{{ {field} | default('...') }}}}"
        reason = f"the list has no such column; {reason}"
        self._log.add("missing_column", self._header_line, reason, hint, field)


class _Digest:
    """Of rows as they go to the broker, so all that decides on them (encoding, delimiter, columns) is in it.
    Which of them are left out follows from them and the template."""

    def __init__(self) -> None:
        self._addresses, self._values = blake2b(digest_size=32), blake2b()

    def add(self, batch: Batch) -> None:
        self._addresses.update("\0".join([*batch.addresses, ""]).encode())
        self._values.update(b"".join(batch.packed))

    def text(self) -> str:
        both = self._addresses.copy()
        both.update(self._values.digest())
        return both.hexdigest()


class _LineSet:
    """A set of line numbers: a bit a line up to the last one in it."""

    def __init__(self) -> None:
        self._bits = bytearray()

    def add(self, line: int) -> None:
        place = line >> 3
        if place >= len(self._bits):
            self._bits.extend(bytes(place + 1 - len(self._bits)))
        self._bits[place] |= 1 << (line & 7)

    def __contains__(self, line: int) -> bool:
        place = line >> 3
        return place < len(self._bits) and bool(self._bits[place] & (1 << (line & 7)))

    def __bool__(self) -> bool:
        return bool(self._bits)


def _is_jsonl(source: str | Path, text: ListText) -> bool:
    if Path(source).suffix.lower() in _JSON_SUFFIXES:
        return True
    head = text.head.lstrip(b"\xef\xbb\xbf \t\r\n")
    return head.startswith((b"{", b"[{"))


def _bound(row: Row) -> int:
    return len(row[1]) + 4 * len(row[0]) + _ROW_OVERHEAD_BYTES
