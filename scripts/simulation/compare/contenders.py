"""Other ways to choose a server, as Balancers: the same core, workers and network around each.

They balance requests, so each batch is one message; but for `Sessions` none of them knows of connections
that are all in use: a message goes where the policy says, and waits in that server's worker. What bounds
a campaign is its sender, which has so many messages outstanding at once (`outstanding`, a multiple of all
connections); a single message is sent as it comes. Health checks, slow start and feedback are the
engine's, not theirs: `Sessions` alone, which stands for HAProxy, leaves out a server that is down.
"""

import random
from collections import deque

from broker.core.balancer import Accept, Balancer, Tag
from broker.core.picks import Choice
from broker.core.settings import Settings
from broker.core.worker_state import Worker

_ONE_EACH = 2**40
"""As `connections`, which the core divides what is left of a campaign by: a batch gets one message."""


class Contender(Balancer):
    """What they share; `_choose` is the policy."""

    in_batches = False
    """Whether it gives out batches as large as the engine's, instead of one message at a time."""

    def __init__(self, settings: Settings, rng: random.Random, outstanding: float | None) -> None:
        """`outstanding`: messages in flight in all, for each connection; None: nothing is held back."""
        super().__init__(settings)
        self._rng = rng
        self._outstanding = outstanding
        self._here: dict[str, Worker] = {}
        self._in_flight: dict[str, int] = {}
        self._out = 0
        self._room = 0

    def connections(self, tag: Tag = None) -> int:
        return self._room if self.in_batches else _ONE_EACH

    def has_room(self, tag: Tag, urgent: bool) -> bool:
        return bool(self._here) and (self._outstanding is None or self._out < self._outstanding * self._room)

    def is_eligible(self, worker: Worker, now: float) -> bool:
        return worker.welcomed and worker.state == "ready"

    def update(self, worker: Worker, now: float) -> None:
        worker.version += 1
        self._out += worker.in_flight - self._in_flight.get(worker.name, 0)
        self._in_flight[worker.name] = worker.in_flight
        if self.is_eligible(worker, now):
            self._here[worker.name] = worker
        else:
            self._here.pop(worker.name, None)
        self._room = sum(here.max_connections for here in self._here.values())

    def pick(
        self,
        tag: Tag,
        now: float,
        *,
        urgent: bool = False,
        ahead: bool = False,
        accept: Accept | None = None,
    ) -> tuple[Worker, Choice] | None:
        if not self.has_room(tag, urgent):
            return None
        workers = [
            worker
            for worker in self._here.values()
            if (tag is None or tag in worker.pools)
            and (worker.bucket is None or worker.bucket.available(now, 1))
            and (accept is None or accept(worker))
        ]
        chosen = self._choose(workers) if workers else None
        if chosen is None:
            return None
        self._uses += 1
        chosen.last_used = self._uses
        return chosen, Choice(chosen.name, 0.0, "", 0.0)

    def _choose(self, workers: list[Worker]) -> Worker | None:
        raise NotImplementedError


class RoundRobin(Contender):
    def _choose(self, workers: list[Worker]) -> Worker:
        return min(workers, key=lambda worker: (worker.last_used, worker.number))


class WeightedRoundRobin(Contender):
    """Smooth, as nginx does it: each gains its weight, the one that has most goes, and pays for all."""

    def __init__(self, settings: Settings, rng: random.Random, outstanding: float | None) -> None:
        super().__init__(settings, rng, outstanding)
        self._current: dict[str, int] = {}

    def _choose(self, workers: list[Worker]) -> Worker:
        current = self._current
        total = 0
        for worker in workers:
            total += worker.weight
            current[worker.name] = current.get(worker.name, 0) + worker.weight
        best = max(workers, key=lambda worker: (current[worker.name], -worker.number))
        current[best.name] -= total
        return best


class Random(Contender):
    def _choose(self, workers: list[Worker]) -> Worker:
        return self._rng.choice(workers)


class TwoChoices(Contender):
    """The one with less in flight of two at random (Mitzenmacher, "The Power of Two Choices", TPDS 2001)."""

    def _choose(self, workers: list[Worker]) -> Worker:
        two = self._rng.sample(workers, min(2, len(workers)))
        return min(two, key=lambda worker: worker.in_flight)


class HeartbeatOnly(Contender):
    """Least connections by what the last heartbeat said, and nothing else; ties go to the least recently
    used, as with the engine."""

    def _choose(self, workers: list[Worker]) -> Worker:
        return min(workers, key=lambda worker: (worker.busy, worker.last_used, worker.number))


class Sessions(Contender):
    """HAProxy's `leastconn` in front of a mailer: it balances sessions when they are opened, to the server
    with the fewest; the mailer keeps its sessions and sends over the one that has been free for longest. No
    server gets more sessions than it may have connections (`maxconn`). A session is at hand without a way
    through the broker, so it gets as much at a time as the engine's connections do."""

    in_batches = True

    def __init__(self, settings: Settings, rng: random.Random, outstanding: float | None) -> None:
        super().__init__(settings, rng, None)
        self._idle: deque[str] = deque()
        """A server's name for each free session to it."""
        self._busy: dict[str, int] = {}
        self._sessions: dict[str, int] = {}

    def is_eligible(self, worker: Worker, now: float) -> bool:
        """The engine's breaker stands for its health check: down, it gets one message, for proof."""
        breaker = worker.breaker
        is_well = not breaker.is_open or (breaker.lets_probe(now) and not worker.batches)
        return is_well and super().is_eligible(worker, now)

    def has_room(self, tag: Tag, urgent: bool) -> bool:
        return bool(self._idle) or any(self._may_open(worker) for worker in self._here.values())

    def update(self, worker: Worker, now: float) -> None:
        was_here = worker.name in self._here
        super().update(worker, now)
        name = worker.name
        breaker = worker.breaker
        if breaker.is_open and not breaker.lets_probe(now):
            self._wait(worker, breaker.open_until, now)
        if was_here and name not in self._here:  # its sessions are gone
            self._idle = deque(free for free in self._idle if free != name)
            self._sessions[name] = self._busy[name] = 0
        elif name in self._here:
            for _ in range(self._busy.get(name, 0) - worker.in_flight):
                self._busy[name] -= 1
                self._idle.append(name)

    def _may_open(self, worker: Worker) -> bool:
        most = 1 if worker.breaker.is_open else worker.max_connections
        return self._sessions.get(worker.name, 0) < most

    def _choose(self, workers: list[Worker]) -> Worker | None:
        names = {worker.name: worker for worker in workers}
        for place, name in enumerate(self._idle):
            if name in names:
                del self._idle[place]
                break
        else:
            open_to = [worker for worker in workers if self._may_open(worker)]
            if not open_to:
                return None
            name = min(open_to, key=lambda w: (self._sessions.get(w.name, 0), w.last_used, w.number)).name
            self._sessions[name] = self._sessions.get(name, 0) + 1
        self._busy[name] = self._busy.get(name, 0) + 1
        return names[name]
