"""CSV, from any spreadsheet or database: the delimiter is found, the header names the fields."""

import csv
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import compress, islice
from operator import itemgetter

import msgspec

from client.input_rows import (
    BATCH_ROWS,
    Batch,
    Incomplete,
    clean_addresses,
    guess_email_name,
    merge_name,
    report_fat,
)
from client.input_text import ListText, Progress
from client.problems import InputError, Problem, ProblemLog, counted, shown
from evenpost.wire import limits

DELIMITERS = ",;\t|"

Row = list[str]

# The same bytes as evenpost.wire.codec.pack_values for strings and None, in a quarter of its time; a test
# holds that.
_pack = msgspec.msgpack.Encoder().encode
_line_ends = re.compile(r"\r\n|\r|\n").findall
_HEADER_HINT = "The first line names the columns, one of them 'email'"
_NO_ADDRESS_HINT = "Name the column 'email', or give --email-column"


class CsvSource:
    """A CSV file. Raises InputError at once where its header can't be used."""

    def __init__(
        self, text: ListText, fields: Sequence[str], delimiter: str | None, email_column: str | None
    ) -> None:
        self._text = text
        self.name = text.name
        self.rows_seen = 0
        if delimiter is not None and (len(delimiter) != 1 or delimiter in '"\r\n\0'):
            raise self._error(
                "bad_option", f"{delimiter!r} can't be a delimiter", "Give one character, such as ;"
            )
        self._skipped_lines, self._delimiter = self._find_delimiter(delimiter)
        header, self.header_line = self._read_header()
        self._header = [name.strip() for name in header]
        self._email_index = self._find_email(email_column)
        self._email_column = self._header[self._email_index]
        self.columns: tuple[str, ...] | None = tuple(
            name for i, name in enumerate(self._header) if name and i != self._email_index
        )
        self._fields = tuple(fields)
        self._indices = [self._find_field(field) for field in fields]
        self.missing_columns = tuple(f for f, i in zip(fields, self._indices, strict=True) if i is None)

    def batches(self, log: ProblemLog, *, checking: bool, progress: Progress | None) -> Iterator[Batch]:
        self.rows_seen = 0
        width, email_of, column = len(self._header), itemgetter(self._email_index), self._email_column
        values_of = self._values_getter()
        for rows, lines in self._rows(log, progress):
            if set(map(len, rows)) != {width} or "" in map(str.strip, map(email_of, rows)):
                rows, lines = self._of_right_width(rows, lines, log)
            if self._text.suspicious:
                rows, lines = self._of_clean_text(rows, lines, log)
            self.rows_seen += len(rows)
            addresses, good = clean_addresses(list(map(email_of, rows)), lines, log, column)
            if good is not None:
                addresses = list(compress(addresses, good))
                rows, lines = list(compress(rows, good)), list(compress(lines, good))
            packed = [_pack(values_of(row)) for row in rows]
            batch = Batch(lines, addresses, packed)
            if packed and max(map(len, packed)) > limits.ROW_FIELDS_BYTES_MAX:
                batch, rows = self._without_fat_rows(batch, rows, log)
            if checking and self.missing_columns:
                batch.incomplete = [
                    Incomplete(line, address, values_of(row), self.missing_columns)
                    for line, address, row in zip(batch.lines, batch.addresses, rows, strict=True)
                ]
            if batch.addresses:
                yield batch

    def check_unchanged(self) -> None:
        self._text.check_unchanged()

    def close(self) -> None:
        self._text.close()

    # --- rows -----------------------------------------------------------------------------------

    def _rows(self, log: ProblemLog, progress: Progress | None) -> Iterator[tuple[list[Row], Sequence[int]]]:
        """Rows as they are read and the lines on which they begin. Rows that can't be read are reported."""
        lines_of_text = islice(self._text.lines(progress), self._skipped_lines, None)
        reader = csv.reader(lines_of_text, delimiter=self._delimiter, strict=True)
        for row in reader:
            if row:
                break  # the header
        while True:
            first = reader.line_num + self._skipped_lines + 1
            rows: list[Row] = []
            error: csv.Error | None = None
            try:
                rows.extend(islice(reader, BATCH_ROWS))  # keeps what came before an error
            except csv.Error as caught:
                error = caught
            if not rows and error is None:
                return
            lines: Sequence[int] = range(first, first + len(rows))
            if error is not None or reader.line_num + self._skipped_lines + 1 != first + len(rows):
                lines, end = _begin_lines(rows, first)
                if error is not None:
                    self.rows_seen += 1
                    log.add("bad_row", end, *_csv_reason(error))
            yield rows, lines

    def _of_right_width(
        self, rows: list[Row], lines: Sequence[int], log: ProblemLog
    ) -> tuple[list[Row], Sequence[int]]:
        """Leaves out empty rows in silence and short or long ones with a word."""
        width = len(self._header)
        kept_rows, kept_lines = [], []
        for row, line in zip(rows, lines, strict=True):
            if len(row) > width and not any(row[width:]):
                row = row[:width]  # delimiters too many at the end hold nothing
            if not any(map(str.strip, row)):
                continue
            if len(row) == width:
                kept_rows.append(row)
                kept_lines.append(line)
                continue
            self.rows_seen += 1
            long = len(row) > width
            log.add(
                "long_row" if long else "short_row", line,
                f"{counted(len(row), 'value')} for {counted(width, 'column')}",
                f"Put a value with {self._delimiter!r} in it into quotes" if long
                else f"From {shown(self._header[len(row)])} on it is cut off: complete it or remove the line",
            )  # fmt: skip
        return kept_rows, kept_lines

    def _of_clean_text(
        self, rows: list[Row], lines: Sequence[int], log: ProblemLog
    ) -> tuple[list[Row], Sequence[int]]:
        kept_rows, kept_lines = [], []
        for row, line in zip(rows, lines, strict=True):
            good = True
            for cell, name in zip(row, self._header, strict=True):
                if "\0" in cell:
                    log.add("nul", line, "a NUL character", "Remove it: no mail can carry it", name)
                    good = False
                elif reason := self._text.undecodable(cell):
                    log.add("wrong_encoding", line, reason, self._text.encoding_hint(cell), name)
                    good = False
            if good:
                kept_rows.append(row)
                kept_lines.append(line)
            else:
                self.rows_seen += 1
        return kept_rows, kept_lines

    def _without_fat_rows(self, batch: Batch, rows: list[Row], log: ProblemLog) -> tuple[Batch, list[Row]]:
        good = [len(packed) <= limits.ROW_FIELDS_BYTES_MAX for packed in batch.packed]
        for line, packed, fits in zip(batch.lines, batch.packed, good, strict=True):
            if not fits:
                report_fat(log, line, len(packed))
        thinner = Batch(
            list(compress(batch.lines, good)),
            list(compress(batch.addresses, good)),
            list(compress(batch.packed, good)),
        )
        return thinner, list(compress(rows, good))

    def _values_getter(self) -> Callable[[Row], Sequence[object]]:
        indices = self._indices
        present = [i for i in indices if i is not None]
        if len(present) == len(indices) and len(present) >= 2:
            return itemgetter(*present)
        return lambda row: [None if i is None else row[i] for i in indices]

    # --- header ---------------------------------------------------------------------------------

    def _find_delimiter(self, given: str | None) -> tuple[int, str]:
        """Lines before the header, and the delimiter: the one that splits the header best."""
        for line in self._text.lines():
            said = re.fullmatch(r"sep=(.)\s*", line)  # Excel's own way to tell
            if said:
                return 1, given or said[1]
            if not line.strip():
                continue
            if given:
                return 0, given

            def parts(delimiter: str, line: str = line) -> tuple[bool, int]:
                names = next(csv.reader([line], delimiter=delimiter))
                return guess_email_name(names) is not None, len(names)

            return 0, max(DELIMITERS, key=parts)
        raise self._error("empty", "the list is empty", _HEADER_HINT)

    def _read_header(self) -> tuple[Row, int]:
        lines = islice(self._text.lines(), self._skipped_lines, None)
        reader = csv.reader(lines, delimiter=self._delimiter, strict=True)
        try:
            for row in reader:
                if row:
                    return row, reader.line_num + self._skipped_lines - sum(map(_breaks, row))
        except csv.Error as error:
            raise self._error("bad_row", *_csv_reason(error), line=reader.line_num) from None
        raise self._error("empty", "the list is empty", _HEADER_HINT)

    def _find_email(self, given: str | None) -> int:
        header = self._header
        if given is not None:
            wanted = given.strip().lower()
            for i, name in enumerate(header):
                if name.lower() == wanted:
                    return i
            has = ", ".join(map(shown, header))
            raise self._error(
                "missing_column", f"no column {given!r}", f"The list has {has}", self.header_line
            )
        found = guess_email_name(header)
        if found is not None:
            return header.index(found)
        if any("@" in name for name in header):
            hint = "Put a line above it that names the columns, such as: email,first_name"
            raise self._error("no_header", "the first line is an address already", hint, self.header_line)
        reason = f"no column with addresses among {', '.join(map(shown, header))}"
        raise self._error("missing_column", reason, _NO_ADDRESS_HINT, self.header_line)

    def _find_field(self, field: str) -> int | None:
        """Where a field's value stands: under its own name, or under one like it ("First name" for
        first_name)."""
        alike = [i for i, name in enumerate(self._header) if name == field]
        alike = alike or [i for i, name in enumerate(self._header) if merge_name(name) == merge_name(field)]
        if len(alike) > 1:
            hint = "Rename or remove all but one"
            reason = f"{len(alike)} columns are called {field!r}"
            raise self._error("double_column", reason, hint, self.header_line)
        return alike[0] if alike else None

    def _error(self, kind: str, reason: str, hint: str, line: int = 0) -> InputError:
        return InputError([Problem(kind, reason, hint, self.name, line)])


def _begin_lines(rows: list[Row], first: int) -> tuple[list[int], int]:
    """The line that each row begins on where some have line ends inside, and the line after the last."""
    lines = []
    for row in rows:
        lines.append(first)
        first += 1 + sum(map(_breaks, row))
    return lines, first


def _breaks(cell: str) -> int:
    return len(_line_ends(cell)) if "\n" in cell or "\r" in cell else 0


def _csv_reason(error: csv.Error) -> tuple[str, str]:
    words = str(error)
    if "expected after" in words:
        return "text after a closing quote", 'Double a quote that is part of the value: ""'
    if "unexpected end" in words:
        return "a quote that is never closed", "Close it; everything after it was taken as one value"
    if "field limit" in words:
        return "a value is over 131,072 characters", "Is a quote not closed?"
    return words, ""
