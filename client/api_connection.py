"""Where the pure session, the socket and the clock meet: one connection to one broker."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import TypeVar

import zmq

from client.errors import BAD_INPUT, CLOSED, ClientError
from client.session import Answer, Command, Fail, Send, Session, Timing
from client.submission import PackedRow, Submission
from evenpost.runtime import clock, sockets
from evenpost.runtime.curve import CurvePeer
from evenpost.runtime.handshakes import Failure
from evenpost.wire import codec
from evenpost.wire.errors import Code, WireError
from evenpost.wire.messages import TO_CLIENT, Message, OpenCampaign, Watch, WatchUpdate

M = TypeVar("M", bound=Message)

_LANE_BITS = 40
"""Request numbers from here up name the submission that they belong to; below it are all others."""


class _Watching:
    """The newest update of a watch: who is too slow for all of them gets the newest."""

    def __init__(self) -> None:
        self.news = asyncio.Event()
        self.update: WatchUpdate | None = None
        self.error: ClientError | None = None


class Connection:
    """Opened inside a running event loop, and closed there."""

    def __init__(self, broker: str, timing: Timing, curve: CurvePeer | None = None) -> None:
        """Raises ClientError (`bad_input`) where `broker` is no endpoint."""
        self._broker = broker
        self._timing = timing
        self._session = Session(timing)
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[int, asyncio.Future[Message]] = {}
        self._watching: dict[int, _Watching] = {}
        self._submissions: dict[int, Stream] = {}
        self._lanes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self._trouble = ""
        """Why the last handshake failed."""
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        try:
            self._dealer = sockets.Dealer(
                self._context, broker, self._received, curve, self._refused, self._connected
            )
        except (sockets.EndpointError, zmq.ZMQError) as error:
            self._context.destroy(0)
            raise ClientError(BAD_INPUT, str(error)) from None

    def close(self) -> None:
        """Whoever still waits gets ClientError (`closed`). Nothing is undone in the broker."""
        if self._closed:
            return
        self._closed = True
        error = ClientError(CLOSED, "the client was closed")
        self._perform(self._session.fail_all(error))
        for stream in list(self._submissions.values()):
            stream.abandon(error)
        if self._timer:
            self._timer.cancel()
        self._dealer.close()
        self._context.term()

    async def ask(self, message: Message, answer: type[M], *, timeout_s: float | None = None) -> M:
        """Asks and waits for the answer. Raises ClientError."""
        self._check_open()
        request, commands = self._session.ask(message, clock.now().mono, timeout_s=timeout_s)
        self._waiting[request] = self._loop.create_future()
        self._perform(commands)
        try:
            found = await self._waiting[request]
        finally:
            del self._waiting[request]
            self._session.forget(request)
        assert isinstance(found, answer)  # the session has checked the type
        return found

    async def watch(self, message: Watch) -> AsyncGenerator[WatchUpdate, None]:
        """Updates until the caller stops. Raises ClientError."""
        self._check_open()
        request, commands = self._session.ask(message, clock.now().mono)
        watching = self._watching[request] = _Watching()
        self._perform(commands)
        try:
            while True:
                await watching.news.wait()
                watching.news.clear()
                if watching.update is not None:
                    update, watching.update = watching.update, None
                    yield update
                if watching.error is not None:
                    raise watching.error
        finally:
            del self._watching[request]
            self._session.forget(request)

    async def open(self, opening: OpenCampaign, in_flight_max: int) -> "Stream":
        """Opens a campaign, or finds it. Raises ClientError."""
        self._check_open()
        self._lanes += 1
        lane = self._lanes
        submission = Submission(opening, in_flight_max, self._timing, (lane << _LANE_BITS) + 1)
        stream = self._submissions[lane] = Stream(self, submission, lane)
        self.send_for(submission, submission.start(clock.now().mono))
        try:
            await stream.opened()
        except BaseException:
            stream.abandon(ClientError(CLOSED, "the submission was given up"))
            raise
        return stream

    def send_for(self, submission: Submission, sends: list[Send]) -> None:
        for send in sends:
            if not self._dealer.send(send.frames):
                submission.unsent(send.request, clock.now().mono)
        self._arm()

    def drop(self, lane: int) -> None:
        self._submissions.pop(lane, None)

    def _check_open(self) -> None:
        if self._closed:
            raise ClientError(CLOSED, "the client is closed")

    def _received(self, frames: list[bytes]) -> None:
        try:
            envelope = codec.decode(frames, TO_CLIENT)
        except WireError as error:
            self._unreadable(codec.request_of(frames), error)
            return
        self._trouble = ""
        request, message = envelope.request, envelope.message
        now = clock.now().mono
        stream = self._submissions.get(request >> _LANE_BITS)
        if stream is not None:
            self.send_for(stream.submission, stream.submission.receive(request, message, now))
            stream.news()
        else:
            self._perform(self._session.receive(request, message, now))

    def _unreadable(self, request: int, error: WireError) -> None:
        found = ClientError(error.code, f"the broker's answer can't be read: {error.message}")
        if error.code == Code.BAD_VERSION:
            self._fail_all(found)
        elif stream := self._submissions.get(request >> _LANE_BITS):
            stream.abandon(found)
        else:
            self._perform(self._session.reject(request, found))

    def _connected(self) -> None:
        self._perform(self._session.connected(clock.now().mono))

    def _refused(self, failure: Failure) -> None:
        self._trouble = failure.reason
        if failure.final:
            self._fail_all(ClientError(Code.FORBIDDEN, f"{failure.reason} ({self._broker})"))

    def _fail_all(self, error: ClientError) -> None:
        self._perform(self._session.fail_all(error))
        for each in list(self._submissions.values()):
            each.abandon(error)

    def _perform(self, commands: list[Command]) -> None:
        for command in commands:
            match command:
                case Send(request, frames):
                    if not self._dealer.send(frames):
                        self._session.unsent(request, clock.now().mono)
                case Answer(request, message):
                    self._deliver(request, message)
                case Fail(request, error):
                    self._deliver(request, self.with_address(error))
        self._arm()

    def _deliver(self, request: int, found: Message | ClientError) -> None:
        if watching := self._watching.get(request):
            if isinstance(found, ClientError):
                watching.error = found
            elif isinstance(found, WatchUpdate):
                watching.update = found
            watching.news.set()
        elif (future := self._waiting.get(request)) and not future.done():
            if isinstance(found, ClientError):
                future.set_exception(found)
            else:
                future.set_result(found)

    def with_address(self, error: ClientError) -> ClientError:
        if error.code != Code.UNAVAILABLE:
            return error
        trouble = f": {self._trouble}" if self._trouble else ""
        return ClientError(error.code, f"{error.message} ({self._broker}){trouble}")

    def _arm(self) -> None:
        """One timer for whatever is due first."""
        if self._timer:
            self._timer.cancel()
            self._timer = None
        if self._closed:
            return
        times = [self._session.wake_at, *(s.submission.wake_at for s in self._submissions.values())]
        due = min((t for t in times if t is not None), default=None)
        if due is not None:
            self._timer = self._loop.call_later(max(0.0, due - clock.now().mono), self._tick)

    def _tick(self) -> None:
        self._timer = None
        now = clock.now().mono
        for stream in list(self._submissions.values()):
            self.send_for(stream.submission, stream.submission.tick(now))
            stream.news()
        self._perform(self._session.tick(now))


class Stream:
    """A submission on its way: `put` chunks, then `finish`. `submission` says how far it is."""

    def __init__(self, connection: Connection, submission: Submission, lane: int) -> None:
        self.submission = submission
        self.stored: Callable[[int], None] | None = None
        """Called with the number of recipients stored, each time that it grew."""
        self._told = 0
        self._changed = asyncio.Event()
        self._connection = connection
        self._lane = lane

    async def opened(self) -> None:
        """Until the broker has said what it knows of this submission. Raises ClientError."""
        await self._until_state(lambda s: s.campaign != "")

    async def put(self, rows: Sequence[PackedRow]) -> None:
        """Sends a chunk, as soon as there is room for one more in flight. Raises ClientError."""
        await self._until_state(lambda s: s.room)
        if self.submission.room:
            self._connection.send_for(self.submission, self.submission.add(rows, clock.now().mono))

    async def finish(self) -> None:
        """Commits: returns when the broker has all of it on disk. Raises ClientError."""
        if not self.submission.over:
            self._connection.send_for(self.submission, self.submission.end(clock.now().mono))
        await self._until_state(lambda s: False)
        self._connection.drop(self._lane)

    def abandon(self, error: ClientError) -> None:
        """Sends nothing more. What is stored stays until the campaign is cancelled."""
        if not self.submission.over:
            self.submission.fail(error)
        self._connection.drop(self._lane)
        self._changed.set()

    def news(self) -> None:
        """Something came, or time has passed."""
        self._changed.set()

    async def _until_state(self, ready: Callable[[Submission], bool]) -> None:
        while not (self.submission.over or ready(self.submission)):
            self._changed.clear()
            await self._changed.wait()
            self._tell()
        self._tell()
        if self.submission.error is not None:
            self._connection.drop(self._lane)
            raise self._connection.with_address(self.submission.error)

    def _tell(self) -> None:
        if self.stored is not None and self.submission.stored > self._told:
            self._told = self.submission.stored
            self.stored(self._told)
