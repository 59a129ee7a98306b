"""The shell around the protocol core: one connection, asyncio's callbacks, no decisions.

The hot path has no task and no future: bytes arrive, the core says what they mean, results go to the
batch; at the end of the loop's turn the next contents are asked for and one write takes them out, with
CHUNKING as whole messages, else one content and the next envelope.
"""

import asyncio
import os
import socket
import ssl
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Protocol, assert_never, cast

from worker.smtp.config import NEAR_DEPTH, ServerConfig
from worker.smtp.content import WireContent
from worker.smtp.dial import dial
from worker.smtp.events import Closed, Completed, ContentWanted, Envelope, Event, Ready, StartTls
from worker.smtp.outbox import WRITE_BYTES_MAX
from worker.smtp.outcome import Cause, Result, Stage, failure
from worker.smtp.protocol import CHUNK_BYTES_MAX, SmtpClient
from worker.smtp.tls import PinError, advice, check_pins, tls_context
from worker.smtp.turn import Turn

TICK_S = 1.0
"""How often time-outs are looked at: they are minutes long, and a timer a message would cost."""


FAR_S = 0.01
"""A round trip from which on it is worth not to wait for a batch's last answers before the next one begins.
Nearer, that is a small part of a batch's 200 ms; and a batch that has a connection to itself can't get stuck
behind another's message that isn't answered."""
HOLDS_MAX = 3
"""Turns that a content waits for bytes that are there and not read yet: the loop reads them in the next."""

_GIVEN_UP = failure(Cause.GIVEN_UP, Stage.CONTENT, "given up before its content was sent")


class WithheldError(Exception):
    """A content may not be written."""


class Later:
    """Said by a batch whose next message isn't ready."""

    __slots__ = ("hurry", "wake")

    def __init__(self, hurry: Callable[[], None]) -> None:
        self.wake: Callable[[], None] | None = None
        """Is called, once, when `next` gives more. Whoever is told Later sets it."""
        self.hurry = hurry
        """To be called by who only wants to know which messages are left: `next` doesn't say Later again."""


class Batch(Protocol):
    """The messages of one run, as their owner gives them. Every method is called synchronously and
    must return at once. For one arrival of bytes the order is: results; at the end of the loop's turn
    content, then, when all connections that are ready have theirs, before_write, next, one write. With
    CHUNKING it is: results; at the end of the turn next and content, as often as there is room; then
    before_write, one write.
    """

    def next(self) -> Envelope | Later | None:
        """The next message, up to one ahead of the one being sent. None: no more, ever."""

    def content(self, envelope: Envelope) -> WireContent | None:
        """The content, just before it is written. None: not to be sent any more (the lease ended).
        Asked again for the same message when a connection broke before it was gone, or where it is larger
        than `envelope` said."""

    def before_write(self) -> None:
        """The contents last asked for are written when this returns: note that first. Raises WithheldError
        where that can't be."""

    def may_end(self) -> bool:
        """Whether the final dot of a content that went out in pieces may still follow."""

    def result(self, envelope: Envelope, result: Result) -> None:
        """What became of a message."""


class _Deaf:
    """In place of a batch that raised: it is told nothing more."""

    def __init__(self, batch: Batch) -> None:
        self.next = batch.next
        self.content = batch.content
        self.before_write = batch.before_write
        self.may_end = batch.may_end

    def result(self, envelope: Envelope, result: Result) -> None: ...


class _Run:
    """A batch on a connection."""

    __slots__ = ("all_begun", "batch", "closed", "ended", "is_early", "open", "unsent")

    def __init__(self, batch: Batch, ended: asyncio.Future[None]) -> None:
        self.batch = batch
        self.ended = ended
        """For who awaits it."""
        self.all_begun = False
        self.is_early = False
        """Its next message isn't ready; it wakes us."""
        self.open = 0
        """Messages that were begun and have no result."""
        self.closed: Closed | None = None
        """How the connection ended under it."""
        self.unsent: tuple[Envelope, ...] = ()
        """What its end left of it."""


class Connection(asyncio.Protocol):
    """One connection to one server. `open` it, `send_batch` any number of times, `close` it."""

    __slots__ = (
        "_asked_at", "_called", "_client", "_config", "_content", "_has_joined", "_holds", "_is_held",
        "_large", "_left", "_loaded", "_loop", "_on_gone", "_on_room", "_paused", "_progress_at",
        "_progress_seen", "_round_trip_s", "_runs", "_timer", "_tls", "_tls_wanted", "_transport", "_turn",
        "_waiter", "_wanted", "_worn_at", "closed", "fd", "gone", "has_tls", "messages",
    )  # fmt: skip
    # A class without them holds up to 30 attributes well (CPython's shared keys), and this has more.

    def __init__(
        self,
        config: ServerConfig,
        tls: ssl.SSLContext | None = None,
        *,
        turn: Turn | None = None,
        on_gone: Callable[["Connection"], None] | None = None,
        on_room: Callable[["Connection", Batch], None] | None = None,
    ) -> None:
        """`tls` is `tls_context(config)`, which takes a while: make it once a server. `turn` is shared with
        the owner's other connections.

        `on_gone` is called when the connection has ended, however that came. `on_room` is called when all of
        a batch has been begun and answers are still out, if those are `FAR_S` away: the next may follow it.
        """
        self._config = config
        self._tls = tls or tls_context(config)
        self._on_gone = on_gone
        self._on_room = on_room
        self._loop = asyncio.get_running_loop()
        self._turn = turn or Turn(self._loop)
        self._client = SmtpClient(config)
        self._transport: asyncio.Transport | None = None
        self._runs: deque[_Run] = deque()  # in the order of their answers; only the last has more to begin
        self._left: list[_Run] = []  # those that were on it when it ended
        self._called: _Run | None = None  # whose batch is being asked or told
        self._wanted: Envelope | None = None  # its content is asked for at the end of the turn
        self._content: WireContent | None = None  # of _wanted, until it is written
        self._loaded: list[tuple[Envelope, WireContent]] = []  # whole messages, until they are written
        self._large: Envelope | None = None  # behind them, the envelope of one that goes by DATA
        self._has_joined = False  # it loads at the end of the turn
        self.fd = -1
        self._holds = 0  # turns that it has waited to load because of that
        self._is_held = False
        self._waiter: asyncio.Future[None] | None = None  # who awaits open
        self._tls_wanted = False
        self._paused = False
        self._round_trip_s = float("inf")  # the shortest before Ready, when each command waits for its answer
        self._asked_at: float | None = self._loop.time()  # None once it is
        self._timer: asyncio.TimerHandle | None = None
        self._progress_seen = 0
        self._progress_at = self._loop.time()
        self._worn_at = float("inf")
        self.closed: Closed | None = None
        """How the session ended, once it has."""
        self.gone: asyncio.Future[None] = self._loop.create_future()
        self.messages = 0
        """Messages begun on it."""
        self.has_tls = False

    # -- what the owner does ------------------------------------------------------------------

    async def open(self) -> Result | None:
        """Connects and goes as far as a session that takes messages. A result is why it can't."""
        try:
            await self._open()
        except asyncio.CancelledError:
            self.abandon()
            raise
        finally:
            if self._transport is None:
                self._set_gone()
        return self.closed.reason if self.closed is not None else None

    async def send_batch(self, batch: Batch) -> Closed | None:
        """Sends until the batch has no more, or the connection is worn, and all that was begun is answered.
        None: the connection is still good. May be called while others of its batches are being answered.

        Closed: it ended, and its `unsent` messages have got no result; all others have theirs.
        """
        if self.closed is not None:
            return Closed(self.closed.reason, ())
        if self._current is not None:
            raise RuntimeError("send_batch while another one has more to begin")
        self._runs.append(run := _Run(batch, self._loop.create_future()))
        try:
            self._pump()
            await run.ended
        except BaseException:  # cancelled, or the batch raised
            self._fail(Cause.CANCELLED, "cancelled")
            raise
        return run.closed

    def unsent_of(self, batch: Batch) -> tuple[Envelope, ...]:
        """What its end left unsent of a batch that was cancelled."""
        return next((run.unsent for run in self._left if run.batch is batch), ())

    @property
    def is_used(self) -> bool:
        """A batch is on it."""
        return bool(self._runs)

    @property
    def is_worn(self) -> bool:
        """It has carried enough messages, or is too old, to begin another one."""
        return (
            self.messages >= self._config.max_messages
            or self._progress_at >= self._worn_at
            or self._client.is_worn
        )

    @property
    def local_address(self) -> tuple[str, int] | None:
        """Ours, while it is connected."""
        name = self._transport.get_extra_info("sockname") if self._transport is not None else None
        return (name[0], name[1]) if name else None

    @property
    def progress_at(self) -> float:
        """When something last moved on it, or it was idle, to a second; the loop's time."""
        return self._progress_at

    def quit(self) -> None:
        """Says QUIT; `gone` is done when the server has answered, or didn't in time."""
        if self._client.is_idle:
            self._client.quit()
            self._write()
        else:
            self.abort("closed")

    def abort(self, text: str) -> None:
        """Ends it now. Messages whose last byte is out become `unknown`."""
        self._fail(Cause.CANCELLED, text)

    def abandon(self) -> None:
        """It wasn't opened to the end, or not begun: it is gone."""
        self._fail(Cause.CANCELLED, "cancelled")
        self._set_gone()

    # -- opening ------------------------------------------------------------------------------

    async def _open(self) -> None:
        config, timeouts = self._config, self._config.timeouts
        where = f"{config.host}:{config.port}"
        implicit = config.tls == "implicit"
        try:
            async with asyncio.timeout(timeouts.connect):
                sock = await dial(config.host, config.port)
        except TimeoutError:
            self._fail(Cause.TIMEOUT, f"no connection to {where} within {timeouts.connect:g} s")
            return
        except OSError as error:
            cause = Cause.REFUSED if isinstance(error, ConnectionError) else Cause.UNREACHABLE
            self._fail(cause, f"no connection to {where}: {_reason(error)}")
            return
        if self.closed is not None:  # aborted meanwhile
            sock.close()
            return
        self._waiter = self._loop.create_future()
        try:
            await self._loop.create_connection(
                lambda: self,
                sock=sock,
                ssl=self._tls if implicit else None,
                server_hostname=config.host if implicit else None,
                ssl_handshake_timeout=timeouts.tls if implicit else None,
                ssl_shutdown_timeout=timeouts.quit if implicit else None,
            )
            await self._waiter
            if self._tls_wanted and self.closed is None:
                await self._start_tls()
        except (OSError, TimeoutError) as error:  # ssl.SSLError is an OSError
            self._fail(Cause.TLS, advice(error, config))
            self._set_gone()  # asyncio tells nobody of a connection lost in a TLS handshake
        finally:
            self._waiter = None

    async def _start_tls(self) -> None:
        assert self._transport is not None
        assert self._tls is not None
        timeouts = self._config.timeouts
        self._waiter = self._loop.create_future()
        transport = await self._loop.start_tls(
            self._transport,
            self,
            self._tls,
            server_hostname=self._config.host,
            ssl_handshake_timeout=timeouts.tls,
            ssl_shutdown_timeout=timeouts.quit,
        )
        if transport is None:
            raise ConnectionResetError("the server closed the connection")
        if self.closed is not None:
            transport.abort()
            return
        self._transport = transport
        check_pins(self._config, transport)
        self.has_tls = True
        self._client.tls_established()
        self._write()
        await self._waiter

    # -- asyncio's callbacks ------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport = cast(asyncio.Transport, transport)  # uvloop's isn't a subclass
        if self.closed is not None:
            transport.abort()
            return
        self._progress_at = self._asked_at = self._loop.time()
        self._worn_at = self._progress_at + self._config.max_age_s
        self.has_tls = self._config.tls == "implicit"
        if self.has_tls:
            try:
                check_pins(self._config, transport)
            except PinError as error:
                self._fail(Cause.TLS, str(error))
                return
        sock = transport.get_extra_info("socket")
        if sock is not None:
            self.fd = sock.fileno()
            self._turn.listen(self.fd)
        helo_name = self._config.helo_name or _own_name(transport)
        self._client.start(helo_name, tls_active=self.has_tls)
        self._tick()

    def data_received(self, data: bytes) -> None:
        try:
            transport = self._transport
            unwritten = transport.get_write_buffer_size() if transport is not None else 0
            if self._asked_at is not None:
                self._round_trip_s = min(self._round_trip_s, self._loop.time() - self._asked_at)
            self._interpret(self._client.receive_data(data, unwritten))
        except Exception as error:  # noqa: BLE001  # the batch's own: for whoever awaits send_batch
            self._break(error)

    def connection_lost(self, exc: Exception | None) -> None:
        try:
            self._interpret(
                self._client.receive_eof()
                if exc is None
                else self._client.connection_failed(Cause.LOST, f"connection lost: {exc}")
            )
        except Exception as error:  # noqa: BLE001  # as above
            self._break(error)
        self._set_gone()

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._pump()

    # -- inside -------------------------------------------------------------------------------

    def _interpret(self, events: list[Event]) -> None:
        for event in events:
            match event:
                case Completed():
                    run = self._called = self._runs[0]
                    run.open = left = run.open - 1
                    run.batch.result(event.envelope, event.result)
                    if not left:
                        self._settle()
                case ContentWanted():  # the last event but Closed: the server has nothing else to say
                    self._wanted = event.envelope
                    self._join()
                case Closed():
                    self._end(event)
                    return
                case Ready():
                    self._asked_at = None
                    if self._round_trip_s < FAR_S and self._config.pipeline_depth is None:
                        self._client.depth = NEAR_DEPTH
                    self._wake()
                case StartTls():
                    self._tls_wanted = True
                    self._wake()
                case _:
                    assert_never(event)
        if self._wanted is None:
            self._pump()

    def _join(self) -> None:
        if not self._has_joined:
            self._has_joined = True
            self._turn.join(self)

    def load(self, hears_more: bool) -> int:
        """For the turn. A reply that was there before the content is no answer to it; and to a server that
        has gone nothing is sent that would then be `unknown`."""
        self._has_joined = False
        if not self._runs or self.closed is not None:
            return 0  # it has ended since
        self._is_held = hears_more and self._holds < HOLDS_MAX
        if self._is_held:
            self._holds += 1
            self._join()
            return 0
        self._holds = 0
        try:
            if self._wanted is None:
                self._load_messages()
                return len(self._loaded)
            run = self._called = self._runs[0]
            self._content = run.batch.content(self._wanted)
        except Exception as error:  # noqa: BLE001  # as above
            self._break(error)
        return 1

    def _load_messages(self) -> None:
        """As many as there is room for, so far as they fit into one write: they leave at once and whole."""
        client, room, left = self._client, self._client.room, WRITE_BYTES_MAX
        run = self._called = self._current
        if self._paused or run is None:
            return
        batch = run.batch
        while room > 0 and left > 0 and not self.is_worn:
            envelope = self._next(run)
            if envelope is None:
                return
            if (refusal := client.refusal(envelope)) is not None:
                batch.result(envelope, refusal)
                continue
            self.messages += 1
            run.open += 1
            if envelope.size_bytes > CHUNK_BYTES_MAX:
                self._large = envelope
                return
            content = batch.content(envelope)
            if content is None:
                run.open -= 1
                batch.result(envelope, _GIVEN_UP)
            elif len(content) > CHUNK_BYTES_MAX:
                self._large = envelope
                return
            else:
                self._loaded.append((envelope, content))
                room -= 1
                left -= len(content)

    def depart(self) -> None:
        """For the turn."""
        if not self._runs or self.closed is not None or self._is_held:
            return
        try:
            if self._wanted is None:
                self._send_messages(self._runs[-1])
            else:
                self._send_content(self._runs[0])
        except Exception as error:  # noqa: BLE001  # as above
            self._break(error)

    def _send_messages(self, run: _Run) -> None:
        self._called = run
        loaded, self._loaded = self._loaded, []
        large, self._large = self._large, None
        client = self._client
        if loaded:
            try:
                run.batch.before_write()
            except WithheldError:
                run.open -= len(loaded)
                for envelope, _ in loaded:
                    run.batch.result(envelope, _GIVEN_UP)
                loaded = []
        for envelope, content in loaded:
            client.send_message(envelope, content)
        if large is not None:
            client.send_envelope(large)
        self._pump()

    def _send_content(self, run: _Run) -> None:
        self._called = run
        content, self._wanted, self._content = self._content, None, None
        if content is not None:
            try:
                run.batch.before_write()
            except WithheldError:
                content = None
        if content is None:
            self._interpret(self._client.give_up_content())
        else:
            self._client.send_content(content)
            self._pump()

    @property
    def _current(self) -> _Run | None:
        """The one that has more to begin, as far as it is known."""
        return self._runs[-1] if self._runs and not self._runs[-1].all_begun else None

    def _pump(self) -> None:
        """Asks the batch for what the core can take, and writes what there is."""
        client, runs = self._client, self._runs
        if runs:
            loads, run = False, runs[-1]
            if not run.all_begun:
                self._called = run
                if client.chunks:
                    loads = client.room > 0 and not run.is_early and not self.is_worn
                    if loads and not self._paused:
                        self._join()
                else:
                    while client.ready_for_envelope and not run.is_early and not self.is_worn:
                        envelope = self._next(run)
                        if envelope is None:
                            break
                        if (refusal := client.send_envelope(envelope)) is None:
                            self.messages += 1
                            run.open += 1
                            break  # one ahead
                        run.batch.result(envelope, refusal)
            if len(runs) > 1:
                self._settle()
            if client.is_idle and not loads and not run.is_early:
                self._finish(runs.popleft())
                return
        self._write()

    def _next(self, run: _Run) -> Envelope | None:
        """The batch's next message, if it has one and that is ready."""
        envelope = run.batch.next()
        if isinstance(envelope, Later):
            run.is_early = True
            envelope.wake = partial(self._resume, run)
            return None
        if envelope is None:
            self._begun(run)
        return envelope

    def _resume(self, run: _Run) -> None:
        """The batch has its next message."""
        if run not in self._runs:
            return  # it goes on elsewhere
        run.is_early = False
        try:
            self._pump()
        except Exception as error:  # noqa: BLE001  # as above
            self._break(error)

    def _begun(self, run: _Run) -> None:
        """There is no more of it to begin."""
        run.all_begun = True
        if run.open and self._on_room is not None and self._round_trip_s >= FAR_S and not self.is_worn:
            self._on_room(self, run.batch)

    def _settle(self) -> None:
        """Those behind which others follow have ended with their last answer."""
        while len(self._runs) > 1 and not self._runs[0].open:
            self._finish(self._runs.popleft())

    def _finish(self, run: _Run) -> None:
        if not run.ended.done():
            run.ended.set_result(None)

    def _write(self) -> None:
        client, transport = self._client, self._transport
        if self._asked_at is not None:
            self._asked_at = self._loop.time()
        while client.has_data_to_send and not self._paused and transport is not None:
            if client.ends_content_next and self._runs and not self._runs[0].batch.may_end():
                self._break_off()
                return
            transport.write(client.data_to_send())

    def _break_off(self) -> None:
        """What has gone of a content has no final dot, so the server forgets it."""
        try:
            self._interpret(self._client.break_off_content())
        except Exception as error:  # noqa: BLE001  # as above
            self._break(error)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _tick(self) -> None:
        now = self._loop.time()
        client = self._client
        timeout = client.timeout
        if client.progress != self._progress_seen or timeout is None:
            self._progress_seen = client.progress
            self._progress_at = now
        elif now - self._progress_at >= timeout:
            self._fail(Cause.TIMEOUT, f"nothing came for {timeout:g} s")
            return
        delay = TICK_S if timeout is None else min(TICK_S, timeout / 4)
        self._timer = self._loop.call_later(delay, self._tick)

    def _fail(self, cause: Cause, text: str) -> None:
        events = self._client.connection_failed(cause, text)
        if self._transport is not None:
            self._transport.abort()
        try:
            self._interpret(events)
        except Exception as error:  # noqa: BLE001  # as above
            self._break(error)

    def _end(self, closed: Closed) -> None:
        """The core says that it is over: a last write, and hang up."""
        begun = [envelope for envelope, _ in self._loaded]
        if self._large is not None:
            begun.append(self._large)
        self.closed = closed
        self._part(deque((*closed.unsent, *begun)), closed.reason)
        self._wanted = self._content = self._large = None
        self._loaded.clear()
        self._cancel_timer()
        if self._transport is not None and not self._transport.is_closing():
            self._write()
            self._transport.close()
            # close() waits until a peer that may not read has taken what was written.
            self._timer = self._loop.call_later(self._config.timeouts.quit, self._transport.abort)
        self._wake()

    def _part(self, unsent: deque[Envelope], reason: Result | None) -> None:
        """Each batch gets what is its own of what wasn't sent; all are in one order."""
        self._left, self._runs = list(self._runs), deque()
        for run in self._left:
            run.unsent = tuple([unsent.popleft() for _ in range(min(run.open, len(unsent)))])
            run.closed = Closed(reason, run.unsent)
            self._finish(run)

    def _break(self, error: Exception) -> None:
        """A batch raised: who awaits it gets the error."""
        if (run := self._called) is not None:
            run.batch, run.all_begun = _Deaf(run.batch), True
            if not run.ended.done():
                run.ended.set_exception(error)
        self._fail(Cause.CANCELLED, f"the batch failed: {error!r}")
        if self.closed is None:  # it raised while its end was being told
            self._end(Closed(None, ()))

    def _set_gone(self) -> None:
        self._cancel_timer()
        if self.fd >= 0:
            self._turn.forget(self.fd)
            self.fd = -1
        if not self.gone.done():
            self.gone.set_result(None)
            if self._on_gone is not None:
                self._on_gone(self)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _own_name(transport: asyncio.Transport) -> str:
    """RFC 5321 4.1.3: a host without a domain gives its address."""
    name = socket.gethostname()
    if "." in name and name.isascii():
        return name
    address = transport.get_extra_info("sockname")[0]
    return f"[IPv6:{address}]" if ":" in address else f"[{address}]"


def _reason(error: OSError) -> str:
    if isinstance(error, socket.gaierror) or error.errno is None:
        return error.strerror or str(error)
    return os.strerror(error.errno)
