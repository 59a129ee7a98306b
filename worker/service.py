"""The worker's process: where session, socket, outcome log and pool meet. It decides nothing.

Everything happens in one event loop. What comes in becomes an event of the session, and what the session
wants is done at once; what a turn of the loop added to the outcome log is written and reported at its end.
"""

import asyncio
import signal
from collections import deque
from typing import TYPE_CHECKING, Any, assert_never

import zmq

from evenpost.runtime import clock, logs
from evenpost.runtime.clock_log import follow_clock
from evenpost.runtime.settings import EXIT_INTERNAL
from evenpost.runtime.sockets import Dealer
from evenpost.runtime.startup import release_signals
from evenpost.runtime.tasks import Tasks
from evenpost.wire import codec, messages
from evenpost.wire.errors import Code, WireError
from evenpost.wire.messages import BatchItem, Message, Type
from worker.batch_run import BatchRun, plain_row
from worker.complaints import Complaints
from worker.hello import hello_of
from worker.outcome_log import OutcomeLog, OutcomeLogError
from worker.session import Session
from worker.settings import Settings
from worker.templates import Composing, Templates
from worker.upstream import Upstream
from worker.vocabulary import (
    EXIT_LOG,
    EXIT_UNFINISHED,
    BatchBegun,
    BatchEnded,
    Command,
    DrainAsked,
    Event,
    Flushed,
    FlushLog,
    GiveBack,
    Held,
    Log,
    LogFailed,
    Received,
    SendGoodbye,
    SendHeartbeat,
    SendHello,
    SendOutcomes,
    StartBatch,
    Stop,
    Tick,
    Unsent,
)

if TYPE_CHECKING:
    from worker.signing import Dkim

ABORT_TIMEOUT_S = 2.0
"""How long tasks and connections may take to end once they were told to."""
TIMER_S_MIN = 0.001
NOTED_WITHIN_S = 0.001
"""How soon an answer is in the outcome log's file, where nothing else writes it sooner (twice that where
something has written in between): what a process has only in memory when it is killed may go out twice."""
_LEVELS = {"deferred": "info", "bounced": "info", "unknown": "warning", "not_sent": "debug", "sent": "debug"}


class Worker:
    """One worker; `run` is its whole life. It is what a BatchRun calls its owner."""

    def __init__(self, settings: Settings, log: OutcomeLog) -> None:
        self.settings = settings
        self.log = log
        self.hears_sent = settings.log_sent
        self._loop = asyncio.get_running_loop()
        self._logger = logs.get().bind(worker=settings.name, server=settings.server_label)
        self._session = Session(
            log.rows,
            max_connections=settings.server.max_connections,
            drain_timeout_s=settings.drain_timeout_s,
        )
        self.may_begin = self._session.may_begin
        self.has_lease = self._session.has_lease
        self._templates = Templates()
        self._dkim: Dkim | None = None
        if settings.dkim is not None:
            from worker import signing  # cryptography takes 30 ms to import

            self._dkim = signing.Dkim(settings.dkim, self._logger)
        self._upstream = Upstream(settings, self._logger, self._handle, self._crash)
        self._pool = self._upstream.pool
        self._tasks = Tasks(self._crash)
        self._dealer: Dealer | None = None
        self._events: deque[Event] = deque()
        self._handling = False
        self._flush_scheduled = self._note_scheduled = False
        self._writes_seen = 0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = float("inf")
        self._signals = 0
        self._complaints = Complaints(self._logger, settings.broker)
        self._stopped: asyncio.Future[int] = self._loop.create_future()

    async def run(self) -> int:
        """Works until a signal, the broker or a failure ends it. The status to exit with."""
        self._loop.set_exception_handler(self._loop_failed)
        for number in self.settings.endings:
            self._loop.add_signal_handler(number, self._signalled, number)
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(io_threads=1)
        self._log_started()
        release_signals()
        try:
            self._dealer = Dealer(
                context, self.settings.broker, self._receive, self.settings.curve, self._complaints.refused
            )
            await self._upstream.start()
            self._handle(Tick())
            status = await self._stopped
            status = await self._close(status)
        finally:
            for number in self.settings.endings:
                self._loop.remove_signal_handler(number)
            if self._dealer is not None:
                self._dealer.close()
            context.term()
        self._logger.info("worker.stopped", status=status)
        return status

    # --- what comes in ------------------------------------------------------------------------------

    def _receive(self, frames: list[bytes]) -> None:
        try:
            received = codec.decode(frames, messages.TO_WORKER)
        except WireError as error:
            if error.code is Code.BAD_VERSION:
                self._handle(Received(messages.Error(error.code, error.message)))
            else:
                self._complaints.bad_frame(error)
            return
        message = received.message
        if isinstance(message, messages.CampaignTemplate):
            self._templates.put(message, len(frames[1]))
        elif isinstance(message, messages.Batch):
            self._templates.use(message.campaign)  # it is used from now on, though the batch may wait
        self._handle(Received(message, received.request))

    def _signalled(self, number: signal.Signals) -> None:
        self._signals += 1
        if self._signals == 1:
            self._handle(DrainAsked(number.name))
        elif not self._stopped.done():
            self._logger.error("worker.aborted", reason=f"{number.name} came again")
            self._stopped.set_result(EXIT_UNFINISHED)

    def _tick(self) -> None:
        self._timer, self._timer_at = None, float("inf")
        self._handle(Tick())

    def _flush_log(self) -> None:
        self._flush_scheduled = False
        self._write_log()
        self._handle(Flushed())

    def _write_log(self) -> None:
        try:
            self.log.flush()
        except OutcomeLogError as error:
            self.log_failed(error)

    async def _run_batch(self, held: Held) -> None:
        template = self._templates.use(held.campaign)
        if template is None:
            self._logger.error("batch.no_template", batch=held.number, campaign=held.campaign)
        else:
            await template.compiled()
        batch = self._batch_run if self._dkim is None else self._dkim.signed(self._batch_run)
        await self._pool.run(batch(held, template), lambda: self._handle(BatchBegun(held.number)))
        if self._stopped.done():
            return  # `_close` has taken over
        if self.hears_sent:
            self._logger.debug("batch.done", batch=held.number, campaign=held.campaign)
        self._handle(BatchEnded(held.number))

    def _batch_run(self, held: Held, template: Composing | None) -> BatchRun:
        return BatchRun(self, held, template)

    # --- for BatchRun -------------------------------------------------------------------------------

    def outcome(self, held: Held, item: BatchItem, kind: str, code: int, reply: str) -> None:
        level = _LEVELS[kind]
        if level == "debug" and not self.hears_sent:
            return
        log: Any = getattr(self._logger, level)
        log(
            f"message.{kind}", campaign=held.campaign, message=item.index, batch=held.number,
            attempt=item.attempt, address=item.address, code=code, reply=reply,
        )  # fmt: skip

    def noted(self) -> None:
        if not self._note_scheduled:
            self._note_scheduled = True
            self._writes_seen = self.log.writes
            self._loop.call_later(NOTED_WITHIN_S, self._note)

    def _note(self) -> None:
        """Where mail flows, each turn's begun contents take the answers into the file with them."""
        self._note_scheduled = False
        if self.log.writes == self._writes_seen:
            self._write_log()
        elif self.log.has_unwritten:
            self.noted()  # they came after that write
        self._set_timer()  # there is something to report, and the more the sooner

    def log_failed(self, error: OutcomeLogError) -> None:
        self._handle(LogFailed(str(error)))

    def composing_failed(self, held: Held, error: Exception) -> None:
        self._logger.error(
            "message.composing_failed", campaign=held.campaign, batch=held.number, error=repr(error),
            exc_info=error,
        )  # fmt: skip

    # --- events to commands -------------------------------------------------------------------------

    def _handle(self, event: Event) -> None:
        """The session's answer to an event is carried out before the next event, whatever causes that."""
        self._events.append(event)
        if self._handling:
            return
        self._handling = True
        try:
            while self._events:
                for command in self._session.handle(self._events.popleft(), clock.now()):
                    self._perform(command)
        finally:
            self._handling = False
        self._set_timer()

    def _perform(self, command: Command) -> None:
        match command:
            case SendOutcomes(report):
                body = {"first": report.first, "rows": report.rows, "done": report.done}
                self._send(Type.OUTCOMES, codec.encode_raw(Type.OUTCOMES, body))
            case StartBatch(held):
                if self.hears_sent:
                    self._logger.debug(
                        "batch.started", batch=held.number, campaign=held.campaign, messages=len(held.items)
                    )
                self._tasks.start(f"batch {held.number}", self._run_batch(held))
            case FlushLog():
                if not self._flush_scheduled:
                    self._flush_scheduled = True
                    self._loop.call_soon(self._flush_log)
            case SendHeartbeat():
                follow_clock()
                self._send_message(self._upstream.heartbeat(command, clock.now().wall))
            case SendHello():
                hello = hello_of(self.settings, self.log, self._upstream.pool.limit, command)
                self._send_message(hello, command.request)
            case GiveBack(held, items, reason):
                wall = clock.now().wall
                for item in items:
                    self.log.add(plain_row(held, item, "not_sent", reason, wall))
            case SendGoodbye(reason):
                self._send_message(messages.Goodbye(reason))
            case Log(level, event, fields):
                log: Any = getattr(self._logger, level)
                log(event, **fields)
            case Stop(status):
                if not self._stopped.done():
                    self._stopped.set_result(status)
            case _:
                assert_never(command)

    def _send_message(self, message: Message, request: int = 0) -> None:
        self._send(message.TYPE, codec.encode(message, request))

    def _send(self, type_: Type, frames: list[bytes]) -> None:
        if self._dealer is not None and not self._dealer.send(frames):
            self._events.append(Unsent(type_))

    def _set_timer(self) -> None:
        wake_at = self._session.wake_at()
        if wake_at >= self._timer_at:
            return  # it rings early, finds nothing due and is set anew: cheaper than a timer an event
        if self._timer is not None:
            self._timer.cancel()
        delay = max(wake_at - clock.now().mono, TIMER_S_MIN)
        self._timer_at = wake_at
        self._timer = self._loop.call_later(delay, self._tick)

    # --- failures -----------------------------------------------------------------------------------

    def _loop_failed(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if "transport" in context or "protocol" in context:
            # One connection's trouble; the connection's owner hears of its end.
            self._logger.warning("server.transport_failed", reason=context["message"], error=repr(error))
        else:
            self._crash(context["message"], error)

    def _crash(self, where: str, error: BaseException | None) -> None:
        """A fault of ours: nothing that this process believes can be relied on any more."""
        if not self._stopped.done():
            self._stopped.set_result(EXIT_INTERNAL)  # first: it may be the log itself that fails
        self._logger.critical("worker.crashed", where=where, error=repr(error), exc_info=error)

    # --- the ends -----------------------------------------------------------------------------------

    def _log_started(self) -> None:
        log, settings = self.log, self.settings
        self._logger.info(
            "worker.started", broker=settings.broker, incarnation=log.incarnation,
            max_connections=settings.server.max_connections, outcome_log=str(log.path), log=log.id,
            unconfirmed=len(log.rows), unknown=log.unknown,
        )  # fmt: skip
        if log.cut_bytes:
            self._logger.warning(
                "worker.log_cut", outcome_log=str(log.path), cut_bytes=log.cut_bytes, damaged=log.damaged
            )

    async def _close(self, status: int) -> int:
        """Ends connections and tasks, then lets go of the log. Gives the status, worse where that fails."""
        if self._timer is not None:
            self._timer.cancel()
        await self._upstream.stop()
        if len(self._tasks):
            for held in self._session.batches.values():
                held.take_rest()
            self._pool.abort()
            await self._tasks.cancel()
        try:
            async with asyncio.timeout(self.settings.server.timeouts.quit + ABORT_TIMEOUT_S):
                await self._pool.close()
        except TimeoutError:
            self._pool.abort()
            self._logger.warning("server.not_closed", connections=self._pool.open)
        if self._dkim is not None:
            self._dkim.close()
        try:
            self.log.close()
        except OutcomeLogError as error:
            self._logger.error("worker.log_failed", reason=str(error))
            status = status or EXIT_LOG
        return status


async def serve(settings: Settings, log: OutcomeLog) -> int:
    """A worker's life. The log is closed at its end."""
    return await Worker(settings, log).run()
