"""What is wrong with the input, said so that a person can mend it: where, what, and what to do."""

import heapq
import itertools
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from client.errors import BAD_INPUT

PROBLEMS_KEPT_MAX = 1_000
"""Problems of one kind that are kept to be shown; the others are counted. Nobody reads more, and a list of
millions in the wrong encoding must not fill the memory."""

SHOWN_CHARS_MAX = 60
"""Of a bad value, in a message: enough to find it by."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong. `kind` is for programs; the rest is for people."""

    kind: str
    reason: str
    hint: str = ""
    """What to do about it."""
    file: str = ""
    line: int = 0
    """Counted from 1; for recipients from Python, the recipient's number. 0: no line in particular."""
    column: int = 0
    """Of the character in the line, for syntax errors. 0: unknown."""
    field: str = ""
    """The column of the list, or the key of the file."""
    severity: Literal["error", "warning"] = "error"

    def __str__(self) -> str:
        place = ":".join([self.file, *(str(n) for n in (self.line, self.column) if n)]).strip(":")
        parts = [part for part in (place, self.field) if part]
        if self.severity == "warning":
            parts.append("warning")
        text = ": ".join([*parts, self.reason])
        return f"{text}. {self.hint}" if self.hint else text


class InputError(Exception):
    """The input can't be used. `problems` has what is wrong, up to a bound; `total` counts all of it."""

    code = BAD_INPUT

    def __init__(self, problems: Iterable[Problem], total: int | None = None) -> None:
        self.problems: tuple[Problem, ...] = tuple(problems)
        self.total = len(self.problems) if total is None else total
        more = f" (and {self.total - 1:,} more)" if self.total > 1 else ""
        self.message = f"{self.problems[0]}{more}" if self.problems else "the input can't be used"
        super().__init__(self.message)


class ProblemLog:
    """Counts every problem and keeps the first ones of each kind, by line."""

    def __init__(self, file: str, kept_max: int = PROBLEMS_KEPT_MAX) -> None:
        self._file = file
        self._kept_max = kept_max
        self._kept: dict[str, list[tuple[int, int, Problem]]] = {}  # heaps: the last line on top
        self._numbers = itertools.count()
        self.counts: Counter[str] = Counter()

    def add(self, kind: str, line: int, reason: str, hint: str = "", field: str = "") -> None:
        self.counts[kind] += 1
        kept = self._kept.setdefault(kind, [])
        full = len(kept) >= self._kept_max
        if full and line >= -kept[0][0]:
            return
        problem = Problem(kind, reason, hint, self._file, line, field=field)
        entry = (-line, -next(self._numbers), problem)
        if full:
            heapq.heapreplace(kept, entry)
        else:
            heapq.heappush(kept, entry)

    @property
    def total(self) -> int:
        return self.counts.total()

    def kept(self) -> tuple[Problem, ...]:
        """The problems that were kept, by line."""
        entries = itertools.chain.from_iterable(self._kept.values())
        return tuple(entry[2] for entry in sorted(entries, key=lambda entry: (-entry[0], -entry[1])))


def shown(value: object) -> str:
    """A value as it is put into a message: quoted, control characters visible, not too long."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no integer of more than 4,300 digits out
        return "a number of thousands of digits"
    return text if len(text) <= SHOWN_CHARS_MAX else f"{text[: SHOWN_CHARS_MAX - 3]}..."


def counted(number: int, noun: str) -> str:
    """ "1 message", "4,998 messages" """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def unreadable(error: OSError) -> str:
    """Why a file can't be read."""
    missing = isinstance(error, FileNotFoundError)
    return "there is no such file" if missing else f"can't be read: {error.strerror}"


def not_utf8(error: UnicodeDecodeError) -> tuple[int, str]:
    """The line of a file's first byte that isn't UTF-8, and what is wrong with it."""
    line = error.object.count(b"\n", 0, error.start) + 1
    return line, f"byte 0x{error.object[error.start]:02X} is not UTF-8"
