"""Outcomes by number, as the outcome log keeps them in memory. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

OutcomeRow: TypeAlias = tuple[int, int, int, int, str, str, int, str, int, int]
"""The fields of wire.messages.Outcome, in its order."""


@dataclass(slots=True)
class _Run:
    """Rows with numbers that follow each other."""

    first: int
    rows: list[OutcomeRow] = field(default_factory=list)

    @property
    def end(self) -> int:
        return self.first + len(self.rows)


class Rows:
    """The outcomes that the broker hasn't confirmed. Their runs are in order and never touch."""

    def __init__(self) -> None:
        self._runs = [_Run(0)]
        self.next = 0
        """The number that the next row gets."""
        self.confirmed = 0
        """Rows below this number are confirmed, and forgotten here."""

    def __len__(self) -> int:
        return sum(len(run.rows) for run in self._runs)

    @property
    def span(self) -> tuple[int, int]:
        """The number of the first row, and one more than that of the last; (0, 0) where there is none."""
        runs = [run for run in self._runs if run.rows]
        return (runs[0].first, runs[-1].end) if runs else (0, 0)

    def runs(self) -> Iterator[tuple[int, list[OutcomeRow]]]:
        """Each run: the number of its first row, and its rows."""
        for run in self._runs:
            yield run.first, run.rows

    def jump(self, first: int) -> None:
        """The next row gets this number."""
        assert first >= self.next, (first, self.next)
        if first > self.next:
            if not self._runs[-1].rows:
                self._runs.pop()
            self._runs.append(_Run(first))
            self.next = first

    def add(self, row: OutcomeRow) -> None:
        self._runs[-1].rows.append(row)
        self.next += 1

    def confirm(self, upto: int) -> None:
        """Forgets the rows below `upto`."""
        if upto <= self.confirmed:
            return
        self.confirmed = upto
        for run in self._runs:
            if (known := min(upto - run.first, len(run.rows))) > 0:
                del run.rows[:known]
                run.first += known
        self._runs = [run for run in self._runs[:-1] if run.rows] + self._runs[-1:]

    def read(self, position: int, limit: int) -> tuple[int, list[OutcomeRow]]:
        """At most `limit` rows that follow each other, from the first at or after `position`."""
        for run in self._runs:
            if run.end > position:
                start = max(0, position - run.first)
                return run.first + start, run.rows[start : start + limit]
        return self.next, []
