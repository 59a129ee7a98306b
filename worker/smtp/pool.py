"""Up to `limit` connections to one server, kept while they are good, and batches run over them.

The limit follows the server: what it says of each batch and each new connection goes to a ConcurrencyLimit.

A batch in flight is a connection in use, with one exception: where the server is far away (FAR_S), the next
batch follows on a connection as soon as all messages of the one before have been begun. Else a round trip
would be lost between two batches.

A batch isn't tied to the connection that is made for it: it takes whichever is there first, that one or one
that another batch has done with. A server whose accept queue is full can leave a new connection without a
greeting for minutes, and that must hold up nobody who has another way.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import cast

from worker.concurrency import ConcurrencyLimit
from worker.smtp.config import ServerConfig
from worker.smtp.connection import Batch, Connection
from worker.smtp.outcome import Cause, Result, Stage, beside_others, failure, turned_away
from worker.smtp.progress import Progress
from worker.smtp.slots import Slots
from worker.smtp.spare import Spare
from worker.smtp.tls import tls_context
from worker.smtp.turn import Turn
from worker.smtp.watcher import Watcher

RECONNECTS_MAX = 2
"""New connections in a row that may end before they finish a message, in one batch."""
UNDECIDED_S = 1.0
"""How long the batch of a refused connection waits to hear whether others that are being made fare better. A
server that has enough of us may refuse before it greets: it mustn't look like one that is dead."""
WORKS_S = 60.0
"""A connection on which nothing has moved for so long is no sign that the server works. Longer than most
connections take to fail, shorter than the time-outs of an answer."""

_STOPS = failure(Cause.CANCELLED, Stage.CONNECT, "the worker stops")


class Pool:
    """Runs batches, each over one connection at a time."""

    def __init__(self, config: ServerConfig, *, watcher: Watcher | None = None) -> None:
        self.config = config
        self._concurrency = ConcurrencyLimit(config.max_connections)
        self._slots = Slots(config.max_connections)
        self._tls = tls_context(config)
        self._watcher = watcher
        self._loop = asyncio.get_running_loop()
        self._spare = Spare(config.idle_s)
        self._connections: set[Connection] = set()  # open or opening
        self._established: set[Connection] = set()  # of these, those past their handshake
        self._turn = Turn(self._loop)
        self._dials: set[asyncio.Task[None]] = set()
        self._undecided: deque[Result] = (
            deque()
        )  # refusals that are one of a batch that wants a connection each
        self._decider: asyncio.TimerHandle | None = None
        self._is_closing = False

    @property
    def limit(self) -> int:
        """Connections at most. It may change at any time: above it, those that are being made and idle ones
        are closed at once, and busy ones with their batch."""
        return self._slots.limit

    @limit.setter
    def limit(self, limit: int) -> None:
        self._follow(limit)
        self._drop_dials()

    def _follow(self, limit: int) -> None:
        self._spare.quit(max(0, len(self._established) - limit))
        is_rise, self._slots.limit = limit > self._slots.limit, limit
        if is_rise and self._spare.wanted and not self._is_closing:
            self._dial_for_all()

    def set_max(self, max_connections: int) -> None:
        """The most that the limit may be, from now on."""
        with self._feedback() as concurrency:
            concurrency.set_max(max_connections)
        self._drop_dials()

    @property
    def open(self) -> int:
        """Connections that exist, or are being made."""
        return len(self._connections)

    @property
    def addresses(self) -> set[tuple[str, int]]:
        """Our ends of the connections."""
        return {address for one in self._connections if (address := one.local_address) is not None}

    @property
    def busy(self) -> int:
        """Batches that have a slot."""
        return self._slots.taken

    async def run(self, batch: Batch, makes_room: Callable[[], None] | None = None) -> None:
        """Sends a batch, waiting for a free slot first. Every message that `next` gave has its result
        when this returns, or is cancelled. When the server can't be used, or asks for less, the rest of
        the batch is taken from `next` too, and is `not_sent`.

        `makes_room` is called when all of it is begun, and another batch may follow behind it: it needs no
        slot any more."""
        progress = Progress(batch, self._seen, makes_room)
        try:
            reason = await self._send(progress)
        except asyncio.CancelledError:
            progress.give_back(failure(Cause.CANCELLED, Stage.CONNECT, "cancelled"))
            raise
        finally:
            self._release(progress)
        if reason is not None:
            progress.give_back(reason)

    async def close(self) -> None:
        """Lets batches end, says QUIT on every connection, returns when all are gone."""
        self._stop()
        self.close_idle()
        while self._connections:
            await asyncio.wait([connection.gone for connection in self._connections])

    def close_idle(self) -> None:
        """Says QUIT on each connection that no batch uses."""
        self._spare.quit(len(self._spare))

    def abort(self) -> None:
        """Ends every connection now: messages whose last byte is out become `unknown`."""
        self._stop()
        for connection in list(self._connections):
            connection.abort("the worker stops")

    def _stop(self) -> None:
        """No batch gets a connection any more."""
        self._is_closing = True
        self._slots.open()
        self._decide()
        while self._spare.answer(_STOPS):
            pass
        for dial in self._dials:
            dial.cancel()

    # -- running a batch ----------------------------------------------------------------------

    async def _send(self, progress: Progress) -> Result | None:
        """None when the batch is done, else why it can't be."""
        stalled = 0
        while True:
            if not progress.has_slot:
                await self._slots.take()
                progress.has_slot = True
            if not progress.has_more():
                break
            if self._is_closing:
                return _STOPS
            connection = await self._connection()
            if isinstance(connection, Result):
                return connection
            results_before, is_new = progress.results, connection.messages == 0
            try:
                closed = await connection.send_batch(progress)
            except asyncio.CancelledError:
                progress.put_back(connection.unsent_of(progress))
                raise
            if closed is None:
                has_more = progress.has_more()
                if progress.answered and not progress.throttled and not has_more:
                    self._batch_ended(throttled=False)
                await self._keep(connection)
                if not has_more:
                    break
                continue
            progress.put_back(closed.unsent)
            if progress.unknown:
                return closed.reason  # the server takes mail and doesn't say so: no more of this batch
            if progress.results > results_before:
                stalled = 0
            elif is_new:  # the server may have closed an idle connection at any time
                stalled += 1
                if closed.reason is not None:
                    reason = self._noted(closed.reason)
                    if reason.scope == "throttled":
                        return reason
            if stalled > RECONNECTS_MAX:
                return closed.reason
        if progress.throttled is not None:
            self._batch_ended(throttled=True)
        return progress.throttled

    def _release(self, progress: Progress) -> None:
        if progress.has_slot:
            progress.has_slot = False
            self._slots.release()

    def _has_room(self, connection: Connection, batch: Batch) -> None:
        if self._is_closing or len(self._established) > self.limit:
            return
        self._spare.give_roomy(connection)
        assert isinstance(batch, Progress)
        self._release(batch)
        if batch.makes_room is not None:
            batch.makes_room()

    async def _keep(self, connection: Connection) -> None:
        if connection.is_used or connection.closed is not None or self._spare.is_anybodys(connection):
            return
        if connection.is_worn or self._is_closing or len(self._established) > self.limit:
            self._spare.promise(connection)
            connection.quit()
            # The server counts it until it is gone: a new one might be one too many.
            await asyncio.wait([connection.gone])
            return
        self._spare.give(connection)

    # -- getting a connection -----------------------------------------------------------------

    async def _connection(self) -> Connection | Result:
        """An idle one, a new one, or one that another batch has done with: the first there is. Or why
        there is none."""
        if (spare := self._spare.take(roomy=self.open >= self.limit)) is not None:
            return spare
        wanted = self._spare.want()
        self._dial_for_all()
        return await self._spare.wait(wanted)

    def _dial_for_all(self) -> None:
        """A connection is made for each batch that wants one, as far as the limit goes."""
        wanting = self._spare.wanted - len(self._undecided)
        while len(self._dials) < wanting and self.open < self.limit:
            connection = Connection(
                self.config, self._tls, turn=self._turn, on_gone=self._forget, on_room=self._has_room
            )
            self._connections.add(connection)
            dial = self._loop.create_task(self._dial(connection), name="dial")
            self._dials.add(dial)
            dial.add_done_callback(partial(self._dialled, connection))

    async def _dial(self, connection: Connection) -> None:
        began_at = self._loop.time()
        refusal = await connection.open()
        if refusal is not None:
            self._refused(refusal)
            return
        if connection in self._connections:
            self._established.add(connection)
            with self._feedback() as concurrency:
                concurrency.opened(len(self._established))
        if self._watcher is not None:
            self._watcher.opened(self._loop.time() - began_at, tls=connection.has_tls)
        if self._is_closing or len(self._established) > self.limit:
            connection.quit()
        else:
            self._spare.give(connection)
        self._decide()

    def _refused(self, refusal: Result) -> None:
        """One batch is told: at once, or when it is clear whether the server is dead."""
        self._dials.discard(cast(asyncio.Task[None], asyncio.current_task()))  # it has ended
        is_unclear = turned_away(refusal) and self._seen(refusal).scope == "server"
        self._undecided.append(refusal)
        if not (is_unclear and self._dials) or self._is_closing:
            self._decide()
        elif self._decider is None:
            self._decider = self._loop.call_later(UNDECIDED_S, self._decide)

    def _decide(self) -> None:
        """Answers for the connections that were refused."""
        if self._decider is not None:
            self._decider.cancel()
            self._decider = None
        undecided, self._undecided = self._undecided, deque()
        for refusal in undecided:
            refusal = self._noted(refusal)
            if self._watcher is not None:
                self._watcher.closed(0, refusal)
            self._spare.answer(refusal)

    def _dialled(self, connection: Connection, dial: asyncio.Task[None]) -> None:
        self._dials.discard(dial)
        if dial.cancelled():
            connection.abandon()  # it may have been cancelled before its first step
        elif (error := dial.exception()) is not None:
            self._spare.fail(error)  # a bug: whoever waits for this one would wait for ever

    # -- what the server takes ----------------------------------------------------------------

    @contextmanager
    def _feedback(self) -> Iterator[ConcurrencyLimit]:
        """Tell it something; the limit follows."""
        before = self._concurrency.limit
        yield self._concurrency
        if (limit := self._concurrency.limit) != before:
            self._follow(limit)
            if self._watcher is not None:
                self._watcher.limited(limit, self._concurrency.max_connections)

    def _batch_ended(self, *, throttled: bool) -> None:
        with self._feedback() as concurrency:
            concurrency.batch_ended(throttled=throttled, others_open=len(self._established) - 1)

    def _noted(self, refusal: Result) -> Result:
        """Of a new connection; where it was refused because there are enough, the limit follows."""
        refusal = self._seen(refusal)
        if refusal.scope == "throttled":
            with self._feedback() as concurrency:
                concurrency.refused(others_open=sum(c.closed is None for c in self._established))
        return refusal

    def _seen(self, result: Result) -> Result:
        """What it means in the light of the other connections: while one works, the server isn't dead."""
        since = self._loop.time() - WORKS_S
        works = any(c.closed is None and c.progress_at > since for c in self._established)
        return beside_others(result) if works else result

    # -- connections --------------------------------------------------------------------------

    def _forget(self, connection: Connection) -> None:
        self._connections.discard(connection)
        self._spare.forget(connection)
        if self._watcher is not None and connection in self._established:
            reason = connection.closed.reason if connection.closed is not None else None
            self._watcher.closed(connection.messages, self._seen(reason) if reason is not None else None)
        self._established.discard(connection)
        if self._spare.wanted and not self._is_closing:
            self._dial_for_all()

    def _drop_dials(self) -> None:
        """Not where refusals lowered the limit: the others that are being made tell if it is too low."""
        for dial in list(self._dials)[: max(0, self.open - self.limit)]:
            dial.cancel()
