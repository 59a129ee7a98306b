"""Which answer belongs to which request, when to ask again and when to give up. Pure: times are arguments.

Every request may be said twice: the broker answers the second as it answered the first. So a request without
an answer is simply sent again, with growing pauses, until its time is up.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from client.errors import ClientError, unavailable
from evenpost.wire import codec
from evenpost.wire.errors import Code
from evenpost.wire.messages import Error, Message, Type, Watch

ANSWERS: Mapping[Type, Type] = MappingProxyType(
    {
        Type.HELLO: Type.WELCOME,
        Type.STATUS: Type.STATUS_REPLY,
        Type.WATCH: Type.WATCH_UPDATE,
        Type.PAUSE: Type.DONE,
        Type.RESUME: Type.DONE,
        Type.CANCEL: Type.DONE,
        Type.RETRY_FAILED: Type.DONE,
        Type.REPORT: Type.REPORT_PAGE,
        Type.TRACE: Type.TRACE_PAGE,
        Type.SERVERS: Type.SERVERS_REPLY,
        Type.SET_SERVER: Type.DONE,
        Type.EXPLAIN: Type.EXPLANATION,
    }
)
"""The type that answers each request; a submission's own are in submission.py."""

TRY_LATER = frozenset({Code.BUSY, Code.UNAVAILABLE})
"""Refusals that say nothing against the request: it is made again a little later."""

WATCH_RENEW_S = 10.0
"""A WATCH lapses in the broker after 30 s: two renewals may get lost."""

BYTES_A_SECOND_MIN = 500_000
"""A request gets this much longer for each of its bytes: a template with attachments takes its time on a
slow line, and sending it again would make it slower."""


@dataclass(frozen=True, slots=True)
class Timing:
    """How patient a client is, in seconds."""

    timeout_s: float = 30.0
    """Without any answer for this long, the broker counts as unavailable."""
    retry_s: float = 2.0
    """The first pause before a request is sent again; it doubles each time."""
    retry_s_max: float = 8.0
    busy_s: float = 0.1
    """The first pause after the answer "busy"; it doubles each time, up to retry_s_max."""
    unsent_s: float = 0.02
    """The pause before what found no connection is tried again."""


@dataclass(frozen=True, slots=True)
class Send:
    """Hand these frames to the socket; call `unsent` if it wouldn't take them."""

    request: int
    frames: list[bytes]


@dataclass(frozen=True, slots=True)
class Answer:
    request: int
    message: Message


@dataclass(frozen=True, slots=True)
class Fail:
    request: int
    error: ClientError


Command = Send | Answer | Fail


@dataclass(slots=True)
class _Pending:
    type_: Type
    frames: list[bytes]
    patience_s: float
    deadline: float
    send_at: float
    pause_s: float
    busy_s: float
    refusal: str = ""
    quiet_s: float = 0.0
    """A watch: without an update for this long it is said again. 0: a request with one answer."""
    said_at: float = 0.0
    unsent: bool = False


class Session:
    """All requests of one client except submissions."""

    def __init__(self, timing: Timing) -> None:
        self._timing = timing
        self._pending: dict[int, _Pending] = {}
        self._last_request = 0

    def ask(
        self, message: Message, now: float, *, timeout_s: float | None = None
    ) -> tuple[int, list[Command]]:
        """Takes on a request: its number and what to do at once."""
        self._last_request += 1
        request = self._last_request
        frames = codec.encode(message, request)
        allowance_s = sum(map(len, frames)) / BYTES_A_SECOND_MIN
        patience_s = (self._timing.timeout_s if timeout_s is None else timeout_s) + allowance_s
        pending = _Pending(
            type_=message.TYPE,
            frames=frames,
            patience_s=patience_s,
            deadline=now + patience_s,
            send_at=now,
            pause_s=self._timing.retry_s + allowance_s,
            busy_s=self._timing.busy_s,
        )
        if isinstance(message, Watch):
            pending.quiet_s = max(self._timing.retry_s, 3 * message.interval_s)
        self._pending[request] = pending
        return request, self.tick(now)

    def forget(self, request: int) -> None:
        """Whoever asked has lost interest."""
        self._pending.pop(request, None)

    def unsent(self, request: int, now: float) -> None:
        """The socket didn't take a request: there is no connection just now."""
        if pending := self._pending.get(request):
            pending.send_at = now + self._timing.unsent_s
            pending.unsent = True

    def connected(self, now: float) -> list[Command]:
        """There is a connection again, or the first: what found none is sent at once."""
        for pending in self._pending.values():
            if pending.unsent:
                pending.send_at = now
        return self.tick(now)

    def receive(self, request: int, message: Message, now: float) -> list[Command]:
        """An answer came. One that nobody waits for (a duplicate, or late) is passed over."""
        pending = self._pending.get(request)
        if pending is None:
            return []
        if isinstance(message, Error):
            if message.code in TRY_LATER:
                pending.refusal = message.message
                pending.send_at = now + pending.busy_s
                pending.busy_s = min(2 * pending.busy_s, self._timing.retry_s_max)
                return []
            del self._pending[request]
            return [Fail(request, ClientError(message.code, message.message))]
        if ANSWERS[pending.type_] != message.TYPE:
            del self._pending[request]
            return [Fail(request, _wrong_answer(pending.type_, message.TYPE))]
        if pending.quiet_s:
            pending.deadline = now + pending.patience_s
            pending.send_at = min(pending.said_at + WATCH_RENEW_S, now + pending.quiet_s)
            pending.pause_s, pending.busy_s = self._timing.retry_s, self._timing.busy_s
            pending.refusal = ""
        else:
            del self._pending[request]
        return [Answer(request, message)]

    def tick(self, now: float) -> list[Command]:
        """Sends what is due and gives up what is overdue."""
        commands: list[Command] = []
        for request, pending in list(self._pending.items()):
            if now >= pending.deadline:
                del self._pending[request]
                commands.append(Fail(request, _no_answer(pending.patience_s, pending.refusal)))
            elif now >= pending.send_at:
                pending.said_at, pending.unsent = now, False
                pending.send_at = now + max(pending.pause_s, pending.quiet_s)
                pending.pause_s = min(2 * pending.pause_s, max(pending.pause_s, self._timing.retry_s_max))
                commands.append(Send(request, pending.frames))
        return commands

    def reject(self, request: int, error: ClientError) -> list[Command]:
        """The answer to this request can't be used."""
        return [Fail(request, error)] if self._pending.pop(request, None) else []

    def fail_all(self, error: ClientError) -> list[Command]:
        """The two sides can't talk at all: another version of the protocol, or the client was closed."""
        failed: list[Command] = [Fail(request, error) for request in self._pending]
        self._pending.clear()
        return failed

    @property
    def wake_at(self) -> float | None:
        """When `tick` has something to do next; None: never."""
        return min((min(p.deadline, p.send_at) for p in self._pending.values()), default=None)


def _no_answer(patience_s: float, refusal: str) -> ClientError:
    if refusal:
        return unavailable(f"the broker couldn't serve the request within {patience_s:.0f} s: {refusal}")
    return unavailable(f"no answer from the broker within {patience_s:.0f} s")


def _wrong_answer(asked: Type, answered: Type) -> ClientError:
    return ClientError(Code.BAD_MESSAGE, f"the broker answered {asked.name} with {answered.name}")
