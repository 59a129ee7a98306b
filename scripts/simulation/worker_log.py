"""A worker's outcome log without the file: what outcome_log.py keeps, and what a crash leaves of it."""

from typing import TypeAlias

from broker.core.message_state import message_id
from worker.outcome_log import ENDED_TOO_SOON, RUN_ROWS_BITS
from worker.outcome_rows import OutcomeRow, Rows

BegunRow: TypeAlias = tuple[int, int, int, int, int]


class WorkerLog:
    """It outlives its processes: `open` is what a new one finds."""

    def __init__(self, id_: str) -> None:
        self.id = id_
        self.incarnation = 0
        self.rows = Rows()
        self._open: dict[tuple[int, int], BegunRow] = {}
        self._fresh: list[tuple[int, OutcomeRow]] = []
        # What is in the file:
        self._written_open: dict[tuple[int, int], BegunRow] = {}
        self._written: dict[int, OutcomeRow] = {}
        self._confirmed = 0
        self._next = 0

    def open(self, now_ms: int) -> None:
        """A new process: what was begun and has no outcome is `unknown` now."""
        rows = Rows()
        for number, row in sorted(self._written.items()):
            if number != rows.next:
                rows.jump(number)
            rows.add(row)
        rows.jump(max(rows.next, self._next))
        rows.confirm(self._confirmed)
        rows.jump(((rows.next >> RUN_ROWS_BITS) + 1) << RUN_ROWS_BITS)
        self.rows, self._fresh = rows, []
        self._open = dict(self._written_open)
        self.incarnation = max(now_ms, self.incarnation + 1)
        for batch, campaign, index, attempt, at in list(self._open.values()):
            ended = max(at, now_ms)
            self.add((batch, campaign, index, attempt, "unknown", "server", 0, ENDED_TOO_SOON, at, ended))
        self.flush()

    def begin(self, batch: int, campaign: int, index: int, attempt: int, at: int) -> None:
        self._open[batch, index] = (batch, campaign, index, attempt, at)

    def add(self, row: OutcomeRow) -> None:
        self._open.pop((row[0], row[2]), None)
        self._fresh.append((self.rows.next, row))
        self.rows.add(row)

    def flush(self) -> None:
        self._written_open = dict(self._open)
        for number, row in self._fresh:
            self._written[number] = row
        self._fresh.clear()
        if self.rows.confirmed != self._confirmed:
            self._confirmed = self.rows.confirmed
            for number in [number for number in self._written if number < self._confirmed]:
                del self._written[number]
        self._next = self.rows.next

    def ids(self) -> set[int]:
        """Messages, by their numbers in the journal, that it says anything of."""
        written = {message_id(row[1], row[2]) for row in self._written.values()}
        return written | {message_id(row[1], row[2]) for row in self._written_open.values()}

    def __len__(self) -> int:
        return len(self._written) + len(self._written_open)
