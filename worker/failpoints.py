"""The worker with its fail points: the same classes, which reach a named point on their way.

Only a process that was started with --failpoints makes objects of these. What each point means is in
evenpost.runtime.failpoints.
"""

from pathlib import Path
from typing import ClassVar

from evenpost.runtime.failpoints import FailPoints
from evenpost.wire import messages
from worker.batch_run import BatchRun
from worker.outcome_log import OutcomeLog, OutcomeLogError
from worker.service import Worker
from worker.settings import Settings
from worker.smtp.content import WireContent
from worker.smtp.events import Envelope
from worker.smtp.outcome import Result
from worker.templates import Composing
from worker.vocabulary import Command, Event, Held, Received, SendGoodbye, SendHello, SendOutcomes

REWRITE_BYTES = 2_000
"""The log is rewritten after a few messages, so that a short test gets there."""


class FailingOutcomeLog(OutcomeLog):
    points: ClassVar[FailPoints]
    """Of the process: a log is opened by a class method."""

    def __init__(self, path: Path, fd: int, *, sync: bool, rewrite_bytes: int) -> None:
        super().__init__(path, fd, sync=sync, rewrite_bytes=min(rewrite_bytes, REWRITE_BYTES))
        self._opening = True

    def _recover(self, now_ms: int) -> None:
        super()._recover(now_ms)
        self._opening = False

    def _append(self, record: bytes) -> None:
        half = len(record) // 2
        self.points.hit("worker.before_log_write")
        super()._append(record[:half])
        self.points.hit("worker.mid_log_write")
        super()._append(record[half:])
        self.points.hit("worker.after_log_write")

    def _rewrite(self, *, clean: bool = False) -> None:
        if self._opening:
            self.points.hit("worker.opening_log")
            super()._rewrite(clean=clean)
            return
        try:
            self.points.hit("worker.rotating")
        except OSError as error:
            self.failed = OutcomeLogError(f"can't write to {self.path}.new: {error.strerror}")
            raise self.failed from None
        super()._rewrite(clean=clean)
        self.points.hit("worker.rotated")


class FailingBatchRun(BatchRun):
    __slots__ = ("_worker",)

    def __init__(self, worker: "FailingWorker", held: Held, template: Composing | None) -> None:
        super().__init__(worker, held, template)
        self._worker = worker

    def content(self, envelope: Envelope) -> WireContent | None:
        self._worker.points.hit("worker.content_wanted")
        return super().content(envelope)

    def before_write(self) -> None:
        points = self._worker.points
        points.hit("worker.before_begun")
        super().before_write()
        points.hit("worker.after_begun")
        # The bytes leave at the end of this turn of the loop at the latest.
        self._worker.call_soon(lambda: points.hit("worker.after_dot"))

    def result(self, envelope: Envelope, result: Result) -> None:
        self._worker.points.hit("worker.before_outcome")
        super().result(envelope, result)
        self._worker.points.hit("worker.after_outcome")


class FailingWorker(Worker):
    def __init__(self, settings: Settings, log: OutcomeLog, points: FailPoints) -> None:
        self.points = points
        super().__init__(settings, log)
        self.call_soon = self._loop.call_soon

    def _batch_run(self, held: Held, template: Composing | None) -> BatchRun:
        return FailingBatchRun(self, held, template)

    def _handle(self, event: Event) -> None:
        message = event.message if isinstance(event, Received) else None
        if isinstance(message, messages.Batch):
            self.points.hit("worker.batch_received")
        confirms = isinstance(message, messages.OutcomesCommitted)
        if confirms:
            self.points.hit("worker.committed_received")
        super()._handle(event)
        if confirms:
            self.points.hit("worker.after_committed")

    def _perform(self, command: Command) -> None:
        if isinstance(command, SendOutcomes):
            self.points.hit("worker.before_report")
        elif isinstance(command, SendGoodbye):
            self.points.hit("worker.before_goodbye")
        super()._perform(command)
        if isinstance(command, SendOutcomes):
            self.points.hit("worker.after_report")
        elif isinstance(command, SendGoodbye):
            self.points.hit("worker.after_goodbye")
        elif isinstance(command, SendHello):
            self.points.hit("worker.after_hello")


def log_type(points: FailPoints) -> type[OutcomeLog]:
    """The outcome log of a process that is to fail at these points; says so in the log."""
    points.warn()
    FailingOutcomeLog.points = points
    return FailingOutcomeLog


async def serve(settings: Settings, log: OutcomeLog, points: FailPoints) -> int:
    """As worker.service.serve."""
    return await FailingWorker(settings, log, points).run()
