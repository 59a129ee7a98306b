"""Which outcomes to tell the broker next. Pure.

Rows go out in order and a few OUTCOMES at a time; what isn't confirmed in time goes out again, from the
oldest. Telling one twice does no harm, the broker knows them by number.
"""

from collections import deque
from dataclasses import dataclass

from evenpost.wire import limits
from worker.outcome_rows import OutcomeRow, Rows

OUTCOMES_IN_FLIGHT_MAX = 64
"""OUTCOMES ahead of their confirmation. The broker confirms those of 0.1 s together, and a connection whose
batch has ended stands idle until that is told: towards a campaign's end many short ones end in that time."""
ROWS_IN_FLIGHT_MAX = 8 * limits.OUTCOMES_ROWS_MAX
"""The same in rows: while the broker's disk is slow they gather here, not in the broker's memory."""
INTERVAL_S = 0.02
"""A batch that lasts longer reports what it has this often. What isn't reported when a worker freezes, or
dies together with its disk, is sent again: so this is short, and costs one small message each time."""
FEW_ROWS = 16
FEW_INTERVAL_S = 0.1
"""Fewer rows than that wait this long: each of a thousand workers has but few at a time, and a message about
each few would cost the broker more than all else."""
CONFIRM_TIMEOUT_S = 5.0
"""Without a confirmation for this long, everything unconfirmed is told again."""


@dataclass(frozen=True, slots=True)
class Report:
    """One OUTCOMES message."""

    first: int
    rows: list[OutcomeRow]
    done: list[int]

    @property
    def upto(self) -> int:
        return self.first + len(self.rows)


def interval_s(rows: int) -> float:
    """From one report to the next, where so many rows haven't been told."""
    return INTERVAL_S if rows >= FEW_ROWS else FEW_INTERVAL_S


class Reporter:
    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._position = 0
        """Rows from this number on haven't been told."""
        self._ended: list[int] = []
        self._done: deque[tuple[int, int]] = deque()
        """Ended batches: told once the rows below a number are."""
        self._in_flight: deque[Report] = deque()
        self._hurry = False
        self._taken_at = float("-inf")
        self._heard_at = float("-inf")

    @property
    def settled(self) -> bool:
        """Whether the broker has confirmed everything."""
        return not (len(self._rows) or self._ended or self._done or self._in_flight)

    def ended(self, batch: int) -> None:
        """A batch is finished; the log holds all its outcomes by the time of the next `take`."""
        self._ended.append(batch)

    def hurry(self) -> None:
        """What there is shall go out with the next `take`."""
        self._hurry = True

    def due_at(self) -> float:
        """When `take` is due: now where in the past, never where infinite."""
        if self._is_full:
            return self._heard_at + CONFIRM_TIMEOUT_S
        unsent = self._rows.next - self._position if len(self._rows) else 0
        if self._ended or self._done or (self._hurry and unsent > 0):
            return float("-inf")
        due = self._heard_at + CONFIRM_TIMEOUT_S if self._in_flight else float("inf")
        return min(due, self._taken_at + interval_s(unsent)) if unsent > 0 else due

    @property
    def _is_full(self) -> bool:
        in_flight = self._in_flight
        if len(in_flight) < OUTCOMES_IN_FLIGHT_MAX:
            return bool(in_flight) and self._position - in_flight[0].first >= ROWS_IN_FLIGHT_MAX
        return True

    def take(self, now: float) -> list[Report]:
        """What is to be told now. The log must have been flushed."""
        if now < self.due_at():
            self._hurry = False
            return []
        self._done.extend((self._rows.next, batch) for batch in self._ended)
        self._ended.clear()
        if self._in_flight and now >= self._heard_at + CONFIRM_TIMEOUT_S:
            self.restart(now)
        reports: list[Report] = []
        while not self._is_full:
            first, rows = self._rows.read(self._position, limits.OUTCOMES_ROWS_MAX)
            upto = first + len(rows)
            done: list[int] = []
            while self._done and self._done[0][0] <= upto and len(done) < limits.OUTCOMES_ROWS_MAX:
                done.append(self._done.popleft()[1])
            if not rows and not done:
                break
            if not self._in_flight:
                self._heard_at = now
            report = Report(first, rows, done)
            self._position = upto
            self._in_flight.append(report)
            reports.append(report)
        self._taken_at, self._hurry = now, False
        return reports

    def committed(self, upto: int, now: float) -> None:
        """The broker has the rows below `upto`, and knows that the batches told with them are done."""
        self._rows.confirm(min(upto, self._rows.next))
        self._heard_at = now
        while self._in_flight and self._in_flight[0].upto <= upto:
            self._in_flight.popleft()

    def restart(self, now: float) -> None:
        """Everything that isn't confirmed is to be told again."""
        for report in reversed(self._in_flight):
            self._done.extendleft((report.upto, batch) for batch in reversed(report.done))
        self._in_flight.clear()
        self._position = self._rows.confirmed
        self._taken_at, self._hurry = now, True
