"""Up to `limit` connections to one server, kept while they are good, and batches run over them.

A batch isn't tied to the connection that is made for it: it takes whichever is there first, that one or one
that another batch has done with. A server whose accept queue is full can leave a new connection without a
greeting for minutes, and that must hold up nobody who has another way.
"""

import asyncio
from collections import deque
from functools import partial
from typing import Protocol

from worker.smtp.config import ServerConfig
from worker.smtp.connection import Batch, Connection, tls_context
from worker.smtp.events import Envelope
from worker.smtp.outcome import Cause, Result, Stage, failure
from worker.smtp.turn import Turn

RECONNECTS_MAX = 2
"""New connections in a row that may end before they finish a message, in one batch."""
SWEEP_S = 1.0
"""How often idle connections are looked at."""

_STOPS = failure(Cause.CANCELLED, Stage.CONNECT, "the worker stops")


class Watcher(Protocol):
    """Hears of each connection."""

    def opened(self, seconds: float, *, tls: bool) -> None:
        """It takes messages; `seconds` after its dialling began."""

    def closed(self, messages: int, reason: Result | None) -> None:
        """It has ended, or couldn't be opened; None after a QUIT that we wanted."""


class Pool:
    """Runs batches, each over one connection at a time. A batch in flight is a connection in use."""

    def __init__(self, config: ServerConfig, *, watcher: Watcher | None = None) -> None:
        self.config = config
        self._limit = config.max_connections
        self._tls = tls_context(config)
        self._watcher = watcher
        self._loop = asyncio.get_running_loop()
        self._idle: list[tuple[Connection, float]] = []  # and since when; the last one is used first
        self._connections: set[Connection] = set()  # open or opening
        self._busy = 0
        self._queue: deque[asyncio.Future[None]] = deque()  # runs that wait for a slot
        self._sweeper: asyncio.TimerHandle | None = None
        self._turn = Turn(self._loop)
        self._wanting: deque[asyncio.Future[Connection | Result]] = deque()  # batches without a connection
        self._dials: set[asyncio.Task[None]] = set()
        self._is_closing = False

    @property
    def limit(self) -> int:
        """Connections at most. It may change at any time: above it, idle ones are closed at once and
        busy ones with their batch."""
        return self._limit

    @limit.setter
    def limit(self, limit: int) -> None:
        self._limit = limit
        excess = max(0, self.open - limit)
        for connection, _ in self._idle[:excess]:
            connection.quit()
        del self._idle[:excess]
        self._hand_out_slots()

    @property
    def open(self) -> int:
        """Connections that exist, or are being made."""
        return len(self._connections)

    @property
    def busy(self) -> int:
        """Batches that have a slot."""
        return self._busy

    async def run(self, batch: Batch) -> None:
        """Sends a batch, waiting for a free slot first. Every message that `next` gave has its result
        when this returns, or is cancelled. When the server can't be used, the rest of the batch is
        taken from `next` too, and is `not_sent`."""
        progress = _Progress(batch)
        try:
            await self._take_slot()
            try:
                reason = await self._send(progress)
            finally:
                self._release_slot()
        except asyncio.CancelledError:
            progress.give_back(failure(Cause.CANCELLED, Stage.CONNECT, "cancelled"))
            raise
        if reason is not None:
            progress.give_back(reason)

    async def close(self) -> None:
        """Lets batches end, says QUIT on every connection, returns when all are gone."""
        self._stop()
        for connection, _ in self._idle:
            connection.quit()
        self._idle.clear()
        while self._connections:
            await asyncio.wait([connection.gone for connection in self._connections])

    def abort(self) -> None:
        """Ends every connection now: messages whose last byte is out become `unknown`."""
        self._stop()
        for connection in list(self._connections):
            connection.abort("the worker stops")

    def _stop(self) -> None:
        """No batch gets a connection any more."""
        self._is_closing = True
        self._hand_out_slots()
        while self._answer(_STOPS):
            pass
        for dial in self._dials:
            dial.cancel()

    # -- running a batch ----------------------------------------------------------------------

    async def _send(self, progress: "_Progress") -> Result | None:
        """None when the batch is done, else why it can't be."""
        stalled = 0
        while progress.has_more():
            if self._is_closing:
                return _STOPS
            is_reused = bool(self._idle)
            connection = await self._connection()
            if isinstance(connection, Result):
                return connection
            results_before = progress.results
            try:
                closed = await connection.send_batch(progress)
            except asyncio.CancelledError:
                if connection.closed is not None:
                    progress.put_back(connection.closed.unsent)
                raise
            if closed is None:
                await self._keep(connection)
                continue
            progress.put_back(closed.unsent)
            if progress.unknown:
                return closed.reason  # the server takes mail and doesn't say so: no more of this batch
            if progress.results > results_before:
                stalled = 0
            elif not is_reused:  # the server may have closed an idle connection at any time
                stalled += 1
            if stalled > RECONNECTS_MAX:
                return closed.reason
        return None

    async def _keep(self, connection: Connection) -> None:
        if connection.is_worn or self._is_closing or self.open > self.limit:
            connection.quit()
            # The server counts it until it is gone: a new one might be one too many.
            await asyncio.wait([connection.gone])
            return
        self._give(connection)

    # -- getting a connection -----------------------------------------------------------------

    async def _connection(self) -> Connection | Result:
        """An idle one, a new one, or one that another batch has done with: the first there is. Or why
        there is none."""
        if self._idle:
            return self._idle.pop()[0]
        wanted: asyncio.Future[Connection | Result] = self._loop.create_future()
        self._wanting.append(wanted)
        self._dial_for_all()
        try:
            return await wanted
        except asyncio.CancelledError:
            if wanted.done() and not wanted.cancelled() and isinstance(found := wanted.result(), Connection):
                self._give(found)
            raise

    def _dial_for_all(self) -> None:
        """A connection is made for each batch that wants one, as far as the limit goes."""
        wanting = sum(not wanted.done() for wanted in self._wanting)
        while len(self._dials) < wanting and self.open < self.limit:
            connection = Connection(self.config, self._tls, turn=self._turn, on_gone=self._forget)
            self._connections.add(connection)
            dial = self._loop.create_task(self._dial(connection), name="dial")
            self._dials.add(dial)
            dial.add_done_callback(partial(self._dialled, connection))

    async def _dial(self, connection: Connection) -> None:
        began_at = self._loop.time()
        refusal = await connection.open()
        if refusal is not None:
            self._answer(refusal)
            return
        if self._watcher is not None:
            self._watcher.opened(self._loop.time() - began_at, tls=connection.has_tls)
        if self._is_closing or self.open > self.limit:
            connection.quit()
        else:
            self._give(connection)

    def _dialled(self, connection: Connection, dial: asyncio.Task[None]) -> None:
        self._dials.discard(dial)
        if dial.cancelled():
            connection.abandon()  # it may have been cancelled before its first step
        elif (error := dial.exception()) is not None:
            for wanted in self._wanting:  # a bug: whoever waits for this one would wait for ever
                if not wanted.done():
                    wanted.set_exception(error)
            self._wanting.clear()

    def _answer(self, found: Connection | Result) -> bool:
        """Gives it to the batch that has waited longest. False where none waits."""
        while self._wanting:
            wanted = self._wanting.popleft()
            if not wanted.done():
                wanted.set_result(found)
                return True
        return False

    def _give(self, connection: Connection) -> None:
        """To a batch that wants one, or it is kept."""
        if self._answer(connection):
            return
        self._idle.append((connection, self._loop.time()))
        if self._sweeper is None:
            self._sweeper = self._loop.call_later(self._sweep_delay, self._sweep)

    # -- slots --------------------------------------------------------------------------------

    async def _take_slot(self) -> None:
        if self._busy < self._limit or self._is_closing:
            self._busy += 1
            return
        waiting = self._loop.create_future()
        self._queue.append(waiting)
        try:
            await waiting
        except asyncio.CancelledError:
            if not waiting.cancelled():  # it had got the slot already
                self._release_slot()
            raise

    def _release_slot(self) -> None:
        self._busy -= 1
        self._hand_out_slots()

    def _hand_out_slots(self) -> None:
        """In the order of asking; when closing to everybody, to be told so."""
        while self._queue and (self._busy < self._limit or self._is_closing):
            waiting = self._queue.popleft()
            if not waiting.done():
                self._busy += 1
                waiting.set_result(None)

    # -- connections --------------------------------------------------------------------------

    def _forget(self, connection: Connection) -> None:
        self._connections.discard(connection)
        self._idle = [(kept, since) for kept, since in self._idle if kept is not connection]
        if self._watcher is not None:
            reason = connection.closed.reason if connection.closed is not None else None
            self._watcher.closed(connection.messages, reason)
        if self._wanting and not self._is_closing:
            self._dial_for_all()

    @property
    def _sweep_delay(self) -> float:
        return min(SWEEP_S, self.config.idle_s / 4)

    def _sweep(self) -> None:
        now = self._loop.time()
        kept = []
        for connection, since in self._idle:
            if now - since >= self.config.idle_s or connection.is_worn:
                connection.quit()
            else:
                kept.append((connection, since))
        self._idle = kept
        self._sweeper = self._loop.call_later(self._sweep_delay, self._sweep) if kept else None


class _Progress:
    """A batch that may go on over another connection: what came back is given out first."""

    def __init__(self, batch: Batch) -> None:
        self._batch = batch
        self._again: deque[Envelope] = deque()
        self.results = 0
        self.unknown = False
        self.content = batch.content
        self.before_write = batch.before_write

    def next(self) -> Envelope | None:
        return self._again.popleft() if self._again else self._batch.next()

    def result(self, envelope: Envelope, result: Result) -> None:
        self.results += 1
        self.unknown |= result.kind == "unknown"
        self._batch.result(envelope, result)

    def has_more(self) -> bool:
        envelope = self.next()
        if envelope is None:
            return False
        self._again.appendleft(envelope)
        return True

    def put_back(self, envelopes: tuple[Envelope, ...]) -> None:
        self._again.extendleft(reversed(envelopes))

    def give_back(self, reason: Result) -> None:
        """The rest gets the reason for which nothing can be sent."""
        while (envelope := self.next()) is not None:
            self.result(envelope, reason)
