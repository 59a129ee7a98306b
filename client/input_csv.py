"""CSV, from any spreadsheet or database: the delimiter is found, the header names the fields."""

import csv
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, compress, islice
from operator import itemgetter
from typing import cast

import msgspec

from client.input_csv_cells import Row, begin_lines, breaks, columns_of, csv_reason, pieces, rows_of
from client.input_rows import (
    BATCH_ROWS,
    Batch,
    Incomplete,
    clean_addresses,
    guess_email_name,
    merge_name,
    report_fat,
)
from client.input_text import ListText, Progress, lines_of
from client.problems import InputError, Problem, ProblemLog, counted, shown
from evenpost.compose import SHORT_VALUE_CHARS
from evenpost.wire import limits

DELIMITERS = ",;\t|"

# The same bytes as evenpost.wire.codec.pack_values for strings and None, in a quarter of its time; a test
# holds that.
_pack = msgspec.msgpack.Encoder().encode
_HEADER_HINT = "The first line names the columns, one of them 'email'"
_NO_ADDRESS_HINT = "Name the column 'email', or give --email-column"


Values = Sequence[str | None]


@dataclass(slots=True)
class _Part:
    """Rows of the right width, and of them what is wanted."""

    lines: Sequence[int]
    addresses: list[str]
    values: list[Values]


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
        header, self.header_line, self._header_lines = self._read_header()
        self._header = [name.strip() for name in header]
        self._email_index = self._find_email(email_column)
        self._email_column = self._header[self._email_index]
        self.columns: tuple[str, ...] | None = tuple(
            name for i, name in enumerate(self._header) if name and i != self._email_index
        )
        self._fields = tuple(fields)
        self._indices = [self._find_field(field) for field in fields]
        self._values_of = self._values_getter()
        self.missing_columns = tuple(f for f, i in zip(fields, self._indices, strict=True) if i is None)

    def batches(self, log: ProblemLog, *, checking: bool, progress: Progress | None) -> Iterator[Batch]:
        self.rows_seen = 0
        for part in self._parts(log, progress):
            self.rows_seen += len(part.addresses)
            lines, values = part.lines, part.values
            addresses, good = clean_addresses(part.addresses, lines, log, self._email_column)
            if good is not None:
                addresses, values = list(compress(addresses, good)), list(compress(values, good))
                lines = list(compress(lines, good))
            batch = Batch(lines, addresses, list(map(_pack, values)))
            longest = max(map(len, batch.packed), default=0)
            if longest > limits.ROW_FIELDS_BYTES_MAX:
                batch, values = self._without_fat_rows(batch, values, log)
            if checking and self.missing_columns:
                batch.incomplete = [
                    Incomplete(line, address, row, self.missing_columns)
                    for line, address, row in zip(batch.lines, batch.addresses, values, strict=True)
                ]
            elif not checking and not self.missing_columns:
                plain = batch.addresses is part.addresses
                batch.simple = plain and _are_simple(values, longest)
            if batch.addresses:
                yield batch

    def check_unchanged(self) -> None:
        self._text.check_unchanged()

    def close(self) -> None:
        self._text.close()

    # --- rows -----------------------------------------------------------------------------------

    def _parts(self, log: ProblemLog, progress: Progress | None) -> Iterator[_Part]:
        line, begun = self._header_lines + 1, ""
        texts = pieces(self._text.blocks(progress), self._header_lines)
        for text in texts:
            text = begun + text
            part = None if begun else self._by_columns(text, line)
            if part is not None:
                line += len(part.addresses)
            elif (found := rows_of(text, self._delimiter)) is not None:
                rows, size, begun = found
                lines = range(line, line + size) if size == len(rows) else begin_lines(rows, line)[0]
                line += size
                part = self._picked(rows, lines, log)
            else:
                yield from self._one_by_one(chain([text], texts), line, log)
                return
            yield part
        if begun:
            yield from self._one_by_one([begun], line, log)

    def _by_columns(self, text: str, line: int) -> _Part | None:
        """The usual piece: nothing in it needs a closer look."""
        if self._text.suspicious:
            return None
        columns = columns_of(text, self._delimiter, len(self._header))
        if columns is None:
            return None
        addresses = columns[self._email_index]
        if "" in addresses or "" in map(str.strip, addresses):
            return None  # an empty row, perhaps
        rows = len(addresses)
        picked: list[Values] = [[None] * rows if i is None else columns[i] for i in self._indices]
        values: list[Values] = list(zip(*picked, strict=True)) if picked else [()] * rows
        return _Part(range(line, line + rows), addresses, values)

    def _one_by_one(self, texts: Iterable[str], first: int, log: ProblemLog) -> Iterator[_Part]:
        """The same where the csv module finds something wrong: rows that can't be read are reported."""
        lines_of_text = chain.from_iterable(map(lines_of, texts))
        reader = csv.reader(lines_of_text, delimiter=self._delimiter, strict=True)
        lines_before = first - 1
        while True:
            first = lines_before + reader.line_num + 1
            rows: list[Row] = []
            error: csv.Error | None = None
            try:
                rows.extend(islice(reader, BATCH_ROWS))  # keeps what came before an error
            except csv.Error as caught:
                error = caught
            if not rows and error is None:
                return
            lines, end = begin_lines(rows, first)
            if error is not None:
                self.rows_seen += 1
                log.add("bad_row", end, *csv_reason(error))
            yield self._picked(rows, lines, log)

    def _picked(self, rows: list[Row], lines: Sequence[int], log: ProblemLog) -> _Part:
        email_of = itemgetter(self._email_index)
        if set(map(len, rows)) != {len(self._header)} or "" in map(str.strip, map(email_of, rows)):
            rows, lines = self._of_right_width(rows, lines, log)
        if self._text.suspicious:
            rows, lines = self._of_clean_text(rows, lines, log)
        return _Part(lines, list(map(email_of, rows)), list(map(self._values_of, rows)))

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

    def _without_fat_rows(
        self, batch: Batch, values: list[Values], log: ProblemLog
    ) -> tuple[Batch, list[Values]]:
        good = [len(packed) <= limits.ROW_FIELDS_BYTES_MAX for packed in batch.packed]
        for line, packed, fits in zip(batch.lines, batch.packed, good, strict=True):
            if not fits:
                report_fat(log, line, len(packed))
        thinner = Batch(
            list(compress(batch.lines, good)),
            list(compress(batch.addresses, good)),
            list(compress(batch.packed, good)),
        )
        return thinner, list(compress(values, good))

    def _values_getter(self) -> Callable[[Row], Values]:
        indices = self._indices
        present = [i for i in indices if i is not None]
        if len(present) == len(indices) and len(present) >= 2:
            return itemgetter(*present)
        return lambda row: tuple([None if i is None else row[i] for i in indices])

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

    def _read_header(self) -> tuple[Row, int, int]:
        """The names, the line they begin on, and how many lines there are up to the list's first row."""
        lines = islice(self._text.lines(), self._skipped_lines, None)
        reader = csv.reader(lines, delimiter=self._delimiter, strict=True)
        try:
            for row in reader:
                if row:
                    end = self._skipped_lines + reader.line_num
                    return row, end - sum(map(breaks, row)), end
        except csv.Error as error:
            raise self._error("bad_row", *csv_reason(error), line=reader.line_num) from None
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


def _are_simple(values: list[Values], longest: int) -> bool:
    """Whether all of them, none of which is None, are short and printable. `longest`: bytes of the longest
    row, packed."""
    texts = list(chain.from_iterable(cast("list[list[str]]", values)))
    if longest > SHORT_VALUE_CHARS and max(map(len, texts), default=0) > SHORT_VALUE_CHARS:
        return False
    return "".join(texts).isprintable()
