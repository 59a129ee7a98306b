"""Many changes, one flush.

Statements run on the caller's thread, where they wait for nobody; only COMMIT, which waits for the disk, runs
on a thread of its own. (A thread that ran the statements too would have to win the GIL back after each row.)
While a commit is under way, whatever comes waits, and becomes the next group.
"""

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from broker.core.commands import AddRecipients, Change, SetMessages
from broker.journal.store import Journal

GROUP_ROWS_MAX = 20_000
"""Rows in one group: about 50 ms of statements, after which sockets get their turn."""


@dataclass(frozen=True, slots=True)
class _Job:
    run: Callable[[], Any]
    done: Callable[[Any], None]
    """Called with what `run` gave; for a write, once that is flushed to disk."""
    rows: int
    writes: bool


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
        self.rows_waiting = 0

    @property
    def idle(self) -> bool:
        return not self._jobs and self._commit is None

    @property
    def ready(self) -> bool:
        """`step` has something to do now."""
        return bool(self._jobs) and self._commit is None

    def write(self, changes: Sequence[Change], done: Callable[[], None]) -> None:
        """Applies changes in one transaction with others; `done` when they are on disk. Without changes:
        `done` when all that was asked for before is on disk."""
        rows = sum(len(c.rows) if isinstance(c, SetMessages | AddRecipients) else 1 for c in changes)
        self._add(_Job(lambda: self._journal.apply(changes), lambda _: done(), rows, True))

    def write_call(self, run: Callable[[], Any], done: Callable[[Any], None], rows: int) -> None:
        """The same for a call that writes: `done` gets what it gave."""
        self._add(_Job(run, done, rows, True))

    def read(self, run: Callable[[], Any], done: Callable[[Any], None]) -> None:
        """Runs a query when its turn comes; `done` at once with what it gave."""
        self._add(_Job(run, done, 0, False))

    def _add(self, job: _Job) -> None:
        self._jobs.append(job)
        self.rows_waiting += job.rows

    def step(self) -> None:
        """Does what can be done without waiting for the disk. Raises JournalError: nothing more can be
        promised then, and the caller ends the process."""
        if self._commit is not None:
            if not self._commit.done():
                return
            commit, self._commit = self._commit, None
            commit.result()
            finished, self._uncommitted = self._uncommitted, []
            for done, result in finished:
                done(result)
        rows = 0
        while self._jobs and rows < GROUP_ROWS_MAX:
            job = self._jobs.popleft()
            self.rows_waiting -= job.rows
            result = job.run()
            if job.writes:
                rows += max(1, job.rows)
                self._uncommitted.append((job.done, result))
            else:
                job.done(result)
        if self._uncommitted:
            self._commit = self._thread.submit(self._journal.commit)
            self._commit.add_done_callback(lambda _: self._wake())

    def finish(self) -> None:
        """Blocks until all is on disk. Raises JournalError."""
        while not self.idle:
            if self._commit is not None:
                self._commit.exception()
            self.step()
        self._thread.shutdown()
