"""Simulated SMTP servers: how long they take, what they refuse, how they fail. They remember the truth: each
message that they took, when, and how many connections were open."""

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol

from scripts.simulation.clock import Clock
from worker.smtp.outcome import Cause, Result, Stage, classify, failure
from worker.smtp.reply import Reply

ServiceTime = Callable[[random.Random], float]
"""Seconds from a message's content to the server's answer."""


def exponential(mean_s: float) -> ServiceTime:
    return lambda rng: rng.expovariate(1.0 / mean_s)


def lognormal(mean_s: float, sigma: float = 1.0) -> ServiceTime:
    """`sigma`: of the logarithm; 1.0 is a tail like that of real mail servers."""
    scale = 2.718281828459045 ** (-sigma * sigma / 2) * mean_s
    return lambda rng: scale * rng.lognormvariate(0.0, sigma)


def constant(seconds: float) -> ServiceTime:
    return lambda _: seconds


@dataclass(slots=True)
class Behaviour:
    """What a server does. All of it may change while it runs."""

    service: ServiceTime = field(default_factory=lambda: exponential(0.05))
    connect_s: float = 0.003
    """From dialling to the end of the greeting and EHLO."""
    connections_max: int = 0
    """Connections of everybody; 0: no limit."""
    over_limit: Literal["421", "refuse"] = "421"
    rate_max: int = 0
    """Messages in one second, of all connections; more get a 454. 0: no limit."""
    state: Literal["up", "down", "reject", "hang", "tarpit", "swallow"] = "up"
    """`down`: connections are refused at once. `reject`: it greets with a 421, at once. `hang`: it accepts
    connections and never greets. `tarpit`: it greets and never answers an envelope. `swallow`: it takes
    contents and never answers."""
    deferrals: float = 0.0
    """The part of recipients that it puts off (450), and..."""
    bounces: float = 0.0
    """...that it refuses (550)."""
    drops: float = 0.0
    """The part of messages at which it hangs up; in half of the cases after it has taken the message."""
    capacity: int = 0
    """Contents that it can work at without getting slower, everybody's together; beyond that all slow down
    in proportion. 0: no limit."""


@dataclass(slots=True)
class Taken:
    """A message that a server answered with 250, or would have, had the worker lived to read it."""

    id: int
    time: float
    worker: str


class Caller(Protocol):
    """The worker's end of a connection."""

    worker: str

    def hung_up(self, why: Result) -> None:
        """The server has ended the connection."""


@dataclass(slots=True, eq=False)
class _Content:
    """A content that the server works at."""

    id: int
    worker: str
    answer: Callable[[Result], None] | None
    """None: nobody listens any more."""


def _reply(stage: Stage, code: int, enhanced: str | None, text: str) -> Result:
    return classify(stage, Reply(code, enhanced, (text,)))


class Server:
    """One simulated SMTP server. It is on a machine of its own: no worker's death takes it along."""

    def __init__(
        self, name: str, clock: Clock, rng: random.Random, behaviour: Behaviour | None = None
    ) -> None:
        self.name = name
        self.is_ = behaviour or Behaviour()
        self.external = 0
        """Other people's connections to it..."""
        self.external_busy = 0
        """...and how many of them it is working for."""
        self.taken: list[Taken] = []
        self.began: list[float] = []
        """When each envelope came, refused ones too."""
        self.refused_connections = 0
        """421 at the greeting, or no connection at all."""
        self.throttled = 0
        """454s."""
        self.open: dict[Caller, None] = {}
        """Our connections."""
        self.open_over_time: list[tuple[float, int, int]] = []
        """Time, our connections, other people's: a row a change."""
        self.on_taken: Callable[[Server, Taken], None] | None = None
        self._clock = clock
        self._rng = rng
        self._working: dict[Caller, _Content] = {}
        self._second: deque[float] = deque()

    # --- connections -----------------------------------------------------------------------

    def connect(self, caller: Caller, answer: Callable[[Result | None], None]) -> None:
        """`answer` gets None when the connection is ready for messages, else why there is none."""
        is_ = self.is_
        full = 0 < is_.connections_max <= len(self.open) + self.external
        if is_.state == "down" or (full and is_.over_limit == "refuse"):
            self.refused_connections += 1
            refused = failure(Cause.REFUSED, Stage.CONNECT, "connection refused")
            self._clock.after(is_.connect_s / 3, lambda: answer(refused))
        elif is_.state == "reject" or full:
            self.refused_connections += 1
            text = "Too many connections" if full else "Service not available"
            self._clock.after(is_.connect_s, lambda: answer(_reply(Stage.GREETING, 421, None, text)))
        else:
            self.open[caller] = None
            self._note()
            if is_.state != "hang":
                self._clock.after(is_.connect_s, lambda: answer(None))

    def disconnect(self, caller: Caller) -> None:
        """The other side is gone. A content that has come whole is worked at all the same."""
        if caller in self.open:
            del self.open[caller]
            self._note()
        if (content := self._working.get(caller)) is not None:
            content.answer = None

    def hang_up_on_all(self) -> None:
        """It dies: what it works at is lost, or was taken without an answer."""
        for caller in list(self.open):
            content = self._working.pop(caller, None)
            if content is not None and self._rng.random() < 0.3:
                self._took(content)
            del self.open[caller]
            caller.hung_up(failure(Cause.LOST, Stage.IDLE, "connection lost"))
        self._working.clear()
        self._note()

    def set_external(self, connections: int, busy: int | None = None) -> None:
        """So many connections are other people's from now on, and so many of them busy (none said: all)."""
        self.external = connections
        self.external_busy = connections if busy is None else busy
        self._note()

    def _note(self) -> None:
        self.open_over_time.append((self._clock.time, len(self.open), self.external))

    # --- messages --------------------------------------------------------------------------

    def envelope(self, caller: Caller) -> Result | Literal["welcome", "silence"]:
        """What it says to MAIL, RCPT and DATA; the answer comes with the one to the message before."""
        is_ = self.is_
        if caller not in self.open or is_.state == "tarpit":
            return "silence"
        self.began.append(self._clock.time)
        if is_.rate_max and not self._in_rate():
            self.throttled += 1
            return _reply(Stage.RCPT, 454, None, "Throttling failure: Maximum sending rate exceeded.")
        chance = self._rng.random()
        if chance < is_.deferrals:
            return _reply(Stage.RCPT, 450, "4.2.0", "Greylisted, try again later")
        if chance < is_.deferrals + is_.bounces:
            return _reply(Stage.RCPT, 550, "5.1.1", "No such user")
        return "welcome"

    def content(self, caller: Caller, id_: int, answer: Callable[[Result], None]) -> None:
        """A whole content has come. `answer` gets what became of it, or never anything."""
        if caller not in self.open:
            return
        is_, rng = self.is_, self._rng
        content = self._working[caller] = _Content(id_, caller.worker, answer)
        if is_.state in ("swallow", "tarpit", "hang"):
            return
        seconds = is_.service(rng)
        if is_.capacity:
            seconds *= max(1.0, (len(self._working) + self.external_busy) / is_.capacity)
        drops = is_.drops > 0 and rng.random() < is_.drops
        self._clock.after(seconds, lambda: self._done(caller, content, drops))

    def _done(self, caller: Caller, content: _Content, drops: bool) -> None:
        if self._working.get(caller) is not content:
            return  # it died
        del self._working[caller]
        if drops:
            if self._rng.random() < 0.5:
                self._took(content)
            if caller in self.open:
                del self.open[caller]
                self._note()
                caller.hung_up(failure(Cause.LOST, Stage.DOT, "connection lost"))
            return
        self._took(content)
        if content.answer is not None:
            content.answer(_reply(Stage.DOT, 250, "2.0.0", "Ok: queued"))

    def _took(self, content: _Content) -> None:
        taken = Taken(content.id, self._clock.time, content.worker)
        self.taken.append(taken)
        if self.on_taken is not None:
            self.on_taken(self, taken)

    def _in_rate(self) -> bool:
        second, time = self._second, self._clock.time
        while second and second[0] <= time - 1.0:
            second.popleft()
        if len(second) >= self.is_.rate_max:
            return False
        second.append(time)
        return True
