"""Many changes, one flush.

Statements run on the caller's thread, where they wait for nobody; only COMMIT, which waits for the disk, runs
on a thread of its own. (A thread that ran the statements too would have to win the GIL back after each row.)
While a commit is under way, whatever comes waits, and becomes the next group. A group that nobody is in a
hurry for waits a little, so that it grows: a flush costs the same for one row as for a thousand.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from broker.core.commands import AddRecipients, Change, PutOff, SetMessages, SetSent
from broker.journal.store import Journal

GROUP_ROWS_MAX = 20_000
"""Rows in one group: about 50 ms of statements, after which sockets get their turn."""

STEP_S = 0.05
"""After so long at work a step ends, so that a heap of questions holds nobody else up."""

_WITH_ROWS = (SetSent, SetMessages, AddRecipients, PutOff)


@dataclass(frozen=True, slots=True)
class _Job:
    run: Callable[[], Any]
    done: Callable[[Any], None]
    """Called with what `run` gave; for a write, once that is flushed to disk."""
    rows: int
    writes: bool
    wait_s: float
    """How long it may wait for more."""


class GroupCommit:
    """The journal's one queue: reads and writes happen in the order in which they were asked for."""

    def __init__(self, journal: Journal, wake: Callable[[], None]) -> None:
        """`wake` is called from another thread when a commit has ended: call `step` then."""
        self._journal = journal
        self._wake = wake
        self._jobs: deque[_Job] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="journal")
        self._commit: Future[None] | None = None
        self._uncommitted: list[tuple[Callable[[Any], None], Any]] = []
        self._flush_at: float | None = None
        """When the open group is to be flushed (monotonic); None: nothing is open."""
        self._rows = 0
        """In the open group."""
        self.rows_waiting = 0
        self._between: Callable[[float], float | None] | None = None
        self._between_at = math.inf

    @property
    def idle(self) -> bool:
        return not self._jobs and self._commit is None and self._flush_at is None

    def wait_s(self, now: float) -> float:
        """Seconds until `step` has something to do of itself; it is woken for everything else."""
        if self._commit is not None:
            return math.inf
        if self._jobs:
            return 0.0
        if self._flush_at is None:
            return max(0.0, self._between_at - now)
        return max(0.0, self._flush_at - now)

    def write(self, changes: Sequence[Change], done: Callable[[], None], *, wait_s: float = 0.0) -> None:
        """Applies changes in one transaction with others; `done` when they are on disk. Without changes:
        `done` when all that was asked for before is on disk. It may wait for more for `wait_s` seconds."""
        rows = sum(len(c.rows) if isinstance(c, _WITH_ROWS) else 1 for c in changes)
        self._add(_Job(lambda: self._journal.apply(changes), lambda _: done(), rows, True, wait_s))

    def write_call(self, run: Callable[[], Any], done: Callable[[Any], None], rows: int) -> None:
        """The same for a call that writes: `done` gets what it gave."""
        self._add(_Job(run, done, rows, True, 0.0))

    def read(self, run: Callable[[], Any], done: Callable[[Any], None]) -> None:
        """Runs a query when its turn comes; `done` at once with what it gave."""
        self._add(_Job(run, done, 0, False, 0.0))

    def between(self, work: Callable[[float], float | None]) -> None:
        """Runs `work` as soon as no transaction is open: between two groups. It gets the time (monotonic) and
        says when it wants to run again, or None: never."""
        self._between, self._between_at = work, -math.inf

    def _add(self, job: _Job) -> None:
        self._jobs.append(job)
        self.rows_waiting += job.rows

    def step(self, now: float) -> None:
        """Does what can be done without waiting for the disk. `now`: monotonic seconds. Raises JournalError:
        nothing more can be promised then, and the caller ends the process."""
        if self._commit is not None:
            if not self._commit.done():
                return
            commit, self._commit = self._commit, None
            commit.result()
            finished, self._uncommitted = self._uncommitted, []
            for done, result in finished:
                done(result)
        if self._between is not None and self._flush_at is None and now >= self._between_at:
            again_at = self._between(now)
            self._between_at = math.inf if again_at is None else again_at
            if again_at is None:
                self._between = None
        busy_until = time.monotonic() + STEP_S
        while self._jobs and self._rows < GROUP_ROWS_MAX and time.monotonic() < busy_until:
            job = self._jobs.popleft()
            self.rows_waiting -= job.rows
            result = job.run()
            if not job.writes:
                job.done(result)
                continue
            self._rows += max(1, job.rows)
            self._uncommitted.append((job.done, result))
            flush_at = now + job.wait_s
            self._flush_at = flush_at if self._flush_at is None else min(self._flush_at, flush_at)
        if self._flush_at is not None and (now >= self._flush_at or self._rows >= GROUP_ROWS_MAX):
            self._flush_at, self._rows = None, 0
            self._commit = self._thread.submit(self._journal.commit)
            self._commit.add_done_callback(lambda _: self._wake())

    def finish(self) -> None:
        """Blocks until all is on disk. Raises JournalError."""
        self._between, self._between_at = None, math.inf
        while not self.idle:
            if self._commit is not None:
                self._commit.exception()
            self.step(math.inf)
        self._thread.shutdown()
