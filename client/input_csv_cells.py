"""The text of a CSV file to cells, a piece at a time.

Three ways, all with the same result. A piece without quotes, the usual one, is split at its delimiters in one
go: its columns are every n-th cell, if no line end stands anywhere else. Other pieces are for the csv module,
which takes twice as long. Where that fails, rows are read one by one, to say on which line and why.
"""

import csv
import re
from collections.abc import Iterator, Sequence
from itertools import islice

from client.input_text import lines_of

Row = list[str]

PIECE_CHARS = 64 * 1024
"""Split at once. Far fewer than a value may have (131,072, the csv module's limit), and the cells of a piece
fit into the processor's cache: with four times as many it takes half as long again."""

_line_ends = re.compile(r"\r\n|\r|\n").findall


def pieces(blocks: Iterator[str], skipped_lines: int) -> Iterator[str]:
    """The text behind the first `skipped_lines` lines, in pieces that end with a line."""
    for text in blocks:
        if skipped_lines:
            skipped = list(islice(lines_of(text), skipped_lines))
            skipped_lines -= len(skipped)
            text = text[sum(map(len, skipped)) :]
        start = 0
        while start < len(text):
            end = start + PIECE_CHARS
            if end < len(text):
                end = text.rfind("\n", start, end) + 1 or len(text)
            yield text[start:end]
            start = end


def columns_of(text: str, delimiter: str, width: int) -> list[list[str]] | None:
    """The columns of a piece. None where it needs the csv module, or where a row has another width."""
    if '"' in text or len(text) > 2 * PIECE_CHARS:
        return None
    if "\r" in text:
        text = text.replace("\r\n", "\n")
        if "\r" in text:
            return None
    text = text.removesuffix("\n")
    rows = text.count("\n") + 1
    # Each line end becomes the beginning of a cell. With all of them in the first column each row is whole.
    cells = text.replace("\n", f"{delimiter}\n").split(delimiter)
    if len(cells) != rows * width:
        return None
    first = "".join(cells[::width]).split("\n")
    if len(first) != rows:
        return None
    return [first, *(cells[i::width] for i in range(1, width))]


def rows_of(text: str, delimiter: str) -> tuple[list[Row], int, str] | None:
    """The rows of a piece, their lines, and the text of a last row that goes on in the next piece. None where
    the csv module finds something wrong."""
    lines = list(lines_of(text))
    rows: list[Row] = []
    try:
        rows.extend(csv.reader(lines, delimiter=delimiter, strict=True))  # keeps what came before an error
    except csv.Error as error:
        if "unexpected end" not in str(error):
            return None
        size = begin_lines(rows, 0)[1]
        return rows, size, "".join(lines[size:])
    return rows, len(lines), ""


def begin_lines(rows: Sequence[Row], first: int) -> tuple[Sequence[int], int]:
    """The line that each row begins on, if the first does on `first`, and the line after the last."""
    lines = []
    for row in rows:
        lines.append(first)
        first += 1 + sum(map(breaks, row))
    return lines, first


def breaks(cell: str) -> int:
    """Line ends in a cell."""
    return len(_line_ends(cell)) if "\n" in cell or "\r" in cell else 0


def csv_reason(error: csv.Error) -> tuple[str, str]:
    """What the csv module found, and what to do about it."""
    words = str(error)
    if "expected after" in words:
        return "text after a closing quote", 'Double a quote that is part of the value: ""'
    if "unexpected end" in words:
        return "a quote that is never closed", "Close it; everything after it was taken as one value"
    if "field limit" in words:
        return "a value is over 131,072 characters", "Is a quote not closed?"
    return words, ""
