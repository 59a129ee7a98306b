"""`evenpost-broker backup` in a broker that runs: a few pages between two groups, so that sending goes on."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from broker.control import Asker, Progress, Question
from broker.journal.copying import Copy
from broker.journal.group_commit import GroupCommit
from broker.journal.store import JournalError
from evenpost.runtime import logs

STEP_S = 0.004
"""So long are pages copied in a turn, at most once in PAUSE_S: the rest of the time is for sending."""
PAUSE_S = 0.008
TELL_S = 0.2


class Backups:
    """One copy at a time. `ask` and `tick` come from the loop; what touches the journal is done by the queue,
    between two transactions, when no other thread has it."""

    def __init__(
        self, copy: Callable[[Path, bool], Copy], queue: GroupCommit, wake: Callable[[], None]
    ) -> None:
        """`wake` is called from another thread when a copy has been flushed: call `tick` then."""
        self._begin = copy
        self._queue = queue
        self._wake = wake
        self._log = logs.get()
        self._asker: Asker | None = None
        """Whose copy is being made."""
        self._file = Path()
        self._copy: Copy | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._finishing: Future[int] | None = None
        self._began_at = self._tell_at = 0.0

    @property
    def is_running(self) -> bool:
        return self._asker is not None

    def ask(self, question: Question, asker: Asker, now: float) -> None:
        """A question of the control socket. `now`: monotonic seconds."""
        file = Path(question.backup)
        if self._asker is not None or not file.is_absolute():
            busy = f"a backup to {self._file} is running: wait for it"
            asker.tell(Progress(error=busy if self._asker is not None else f"{file} is no absolute path"))
            asker.leave()
            return
        self._asker, self._file = asker, file
        self._began_at = self._tell_at = now
        self._log.info("backup.started", file=str(file))
        self._queue.between(lambda now: self._step(asker, now, force=question.force))

    def _step(self, asker: Asker, now: float, *, force: bool) -> float | None:
        """Copies some pages; when to come again, None for the end."""
        try:
            if self._copy is None:
                self._copy = self._begin(self._file, force)
            if asker.gone:
                raise JournalError("who asked for it has gone")
            ended = self._copy.step(STEP_S)
        except JournalError as error:
            self._fail(error)
            return None
        if now >= self._tell_at or ended:
            self._tell_at = now + TELL_S
            asker.tell(Progress(pages=self._copy.pages, copied=self._copy.copied))
        if not ended:
            return now + STEP_S + PAUSE_S
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="backup")
        self._finishing = self._thread.submit(self._copy.finish)
        self._finishing.add_done_callback(lambda _: self._wake())
        return None

    def tick(self, now: float) -> None:
        """Looks whether the copy has been flushed and has its name. `now`: monotonic seconds."""
        if self._finishing is None or not self._finishing.done():
            return
        assert self._thread is not None and self._asker is not None
        finishing, self._finishing = self._finishing, None
        self._thread.shutdown()
        try:
            size = finishing.result()
        except JournalError as error:
            self._fail(error)
            return
        seconds = round(now - self._began_at, 2)
        self._log.info("backup.done", file=str(self._file), bytes=size, seconds=seconds)
        self._answer(Progress(done=True, bytes=size))

    def _fail(self, error: JournalError) -> None:
        self._log.warning("backup.failed", file=str(self._file), error=str(error))
        if self._copy is not None:
            self._copy.drop()
        self._answer(Progress(error=str(error)))

    def _answer(self, last: Progress) -> None:
        assert self._asker is not None
        self._asker.tell(last)
        self._asker.leave()
        self._asker = self._copy = None

    def close(self, now: float) -> None:
        """The broker ends, and no commit is under way: so does the copy, unless it is being flushed."""
        if self._thread is not None:
            self._thread.shutdown()
        self.tick(now)
        if self._asker is not None:
            self._fail(JournalError("the broker is stopping"))
