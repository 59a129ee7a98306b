"""Least connections: which worker gets the next batch.

    L(w)   = in_flight + max(0, reported_busy - in_flight_at_report) + reported_external
    key(w) = (L(w) + 1) / effective_weight(w)

The lowest key wins, ties go to the least recently used. The broker's own count of batches in flight is
exact; a heartbeat only adds what the broker can't know. Ranking on heartbeats alone would send everything to
one server until the next heartbeat (Mitzenmacher, "How useful is old information?", TPDS 2000).

Workers stand in heaps by their key, one heap for all and one a pool, and an entry is void once its worker has
changed: a pick costs O(log n) in workers.
"""

import heapq
from collections import defaultdict
from collections.abc import Callable
from math import ceil, inf
from typing import NamedTuple, Protocol

from broker.core.picks import Choice
from broker.core.settings import Settings
from broker.core.worker_state import Worker

RESERVE_FROM_CONNECTIONS = 20
"""Below so many, one reserved connection would be too large a part of all."""
WAIT_S_MIN = 0.001
"""For what should be there by now and is not: rates are floats. Sooner, and the loop would spin."""
_WEIGHT_MIN = 0.01
"""What failures and slow start leave of a weight at least."""

Accept = Callable[[Worker], bool]
Tag = str | None
"""A pool; None: all workers."""


def load(worker: Worker) -> int:
    """Connections in use at a worker's server, as far as can be known."""
    return worker.in_flight + max(0, worker.busy - worker.in_flight_at_report) + worker.external


def held(worker: Worker) -> bool:
    """Its breaker isn't closed: it gets nothing, then one message."""
    return worker.breaker.is_open


def in_service(worker: Worker) -> bool:
    """It is here and nobody, nor its server, says that it should get nothing."""
    return worker.welcomed and worker.state == "ready" and not worker.breaker.is_open


class Policy(Protocol):
    """What the workers are ranked by."""

    def key(self, worker: Worker, weight: float) -> float:
        """The lowest gets the next batch. `weight`: the effective one, more than 0."""

    def changed(self, worker: Worker) -> None:
        """To be told of each worker that may have changed, before its key is asked for."""


class LeastConnections:
    def key(self, worker: Worker, weight: float) -> float:
        return (load(worker) + 1) / weight

    def changed(self, worker: Worker) -> None:
        """It remembers nothing."""


class LeastTime:
    """Shortest expected delay: the server's seconds a message times (1 + L / limit), over the weight.

    Below its limit nobody queues at a server, so a message takes its seconds there however many connections
    are in use; L / limit spreads what equal servers get. (With L + 1 instead, which counts connections as if
    they were a queue, the mean delay in docs/balancing.md is a tenth longer.) Who has no history yet counts
    as the mean of the others.
    """

    def __init__(self) -> None:
        self._known: dict[str, float] = {}
        self._sum = 0.0

    def key(self, worker: Worker, weight: float) -> float:
        seconds = worker.seconds_a_message
        if seconds <= 0:
            seconds = self._sum / len(self._known) if self._known else 1.0
        return seconds * (1 + load(worker) / worker.limit) / weight

    def changed(self, worker: Worker) -> None:
        known = self._known.pop(worker.name, 0.0)
        seconds = worker.seconds_a_message if in_service(worker) else 0.0
        if seconds > 0:
            self._known[worker.name] = seconds
        self._sum = self._sum + seconds - known if self._known else 0.0


class _Order:
    """Workers by their key."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, int, int, Worker]] = []

    def push(self, key: float, worker: Worker, workers: int) -> None:
        heapq.heappush(self._heap, (key, worker.last_used, worker.number, worker.version, worker))
        if len(self._heap) > 64 + 4 * workers:
            self._heap = [e for e in self._heap if e[3] == e[4].version]
            heapq.heapify(self._heap)

    def first(self, accept: Accept) -> tuple[Worker, float, str, float] | None:
        """The worker with the lowest key that `accept` takes, its key, and the name and key of the next.
        It leaves the order: whoever takes it changes it."""
        passed_over = []
        found: tuple[float, Worker] | None = None
        second: tuple[str, float] = ("", 0.0)
        heap = self._heap
        while heap:
            entry = heap[0]
            worker = entry[4]
            if entry[3] != worker.version:
                heapq.heappop(heap)
            elif not accept(worker):
                passed_over.append(heapq.heappop(heap))
            elif found is None:
                heapq.heappop(heap)
                found = (entry[0], worker)
            else:
                second = (worker.name, entry[0])
                break
        for entry in passed_over:
            heapq.heappush(heap, entry)
        return (found[1], found[0], *second) if found is not None else None


class _Sum(NamedTuple):
    """What a worker adds to the sums of each of its pools."""

    tags: tuple[Tag, ...] = ()
    connections: int = 0
    used: int = 0
    speed: float = 0.0
    begun: int = 0


class Balancer:
    """The workers that may get something, in order."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._policy: Policy = LeastTime() if settings.policy == "least-time" else LeastConnections()
        self._free: defaultdict[Tag, _Order] = defaultdict(_Order)
        self._full: defaultdict[Tag, _Order] = defaultdict(_Order)
        """All connections are in use, but there is a place in the queue before them."""
        self._uses = 0
        self._sums: dict[str, _Sum] = {}
        self._connections: defaultdict[Tag, int] = defaultdict(int)
        self._used: defaultdict[Tag, int] = defaultdict(int)
        self._speed: defaultdict[Tag, float] = defaultdict(float)
        self._begun: defaultdict[Tag, int] = defaultdict(int)
        self._later: list[tuple[float, int, int, Worker]] = []
        """A heap: workers that wait for a token of their server's rate or for the end of a pause."""

    # --- what there is --------------------------------------------------------------------------

    def connections(self, tag: Tag = None) -> int:
        """All connections that workers in service may use."""
        return self._connections[tag]

    def speed(self, tag: Tag = None) -> float:
        """Messages a second that they send when all are used, as far as it is known; 0: not known."""
        return self._speed[tag]

    def begun(self, tag: Tag = None) -> int:
        """Batches at once that wait for far servers' answers only, as their workers told last."""
        return self._begun[tag]

    def reserve(self, tag: Tag = None) -> int:
        """Connections that only urgent campaigns may use."""
        connections = self._connections[tag]
        if connections < RESERVE_FROM_CONNECTIONS or self._settings.reserved_share <= 0:
            return 0
        return ceil(connections * self._settings.reserved_share)

    def has_room(self, tag: Tag, urgent: bool) -> bool:
        """Whether a connection is free for a campaign of this pool."""
        free = self._free_connections(tag)
        return free > 0 if urgent else free > self.reserve(tag)

    def _free_connections(self, tag: Tag) -> int:
        return self._connections[tag] - self._used[tag]

    def ramp(self, worker: Worker, now: float) -> float:
        """The part of its share that a worker has: less than 1 while it starts slowly."""
        return worker.breaker.ramp(now, self._settings.slow_start_s)

    def weight(self, worker: Worker, now: float) -> float:
        """The effective one: less while a server starts slowly, and with the part of its batches that
        fail."""
        well = (1.0 - worker.breaker.failure_rate(now)) ** 2
        part = well * self.ramp(worker, now)
        return worker.weight * max(part, _WEIGHT_MIN)

    def limit(self, worker: Worker, now: float) -> int:
        """Connections that a worker may have just now."""
        ramp = self.ramp(worker, now)
        return worker.limit if ramp >= 1.0 else max(1, int(worker.limit * ramp))

    def key(self, worker: Worker, now: float) -> float:
        return self._policy.key(worker, self.weight(worker, now))

    # --- what changes ---------------------------------------------------------------------------

    def update(self, worker: Worker, now: float) -> None:
        """To be called whenever something that a worker is ranked or judged by has changed."""
        worker.version += 1
        self._policy.changed(worker)
        limit = self.limit(worker, now)
        breaker = worker.breaker
        willing = worker.welcomed and worker.state == "ready"
        if willing and breaker.is_open:
            if worker.batches:
                limit = 0
            elif breaker.lets_probe(now):
                limit = 1
            else:
                limit = 0
                self._wait(worker, breaker.open_until, now)
        if not willing:
            limit = 0
        if not limit:
            self._count(worker, 0)
            return
        wait_until = self._blocked_until(worker, now)
        if wait_until > now:
            # What it may not use now is no free connection for anybody.
            self._count(worker, min(limit, worker.in_flight))
            self._wait(worker, wait_until, now)
            return
        self._count(worker, limit)
        if worker.in_flight < limit:
            orders = self._free
        elif (
            not breaker.failures
            and limit == worker.limit
            and worker.in_flight < limit + batches_ahead(worker)
        ):
            orders = self._full
        else:
            return
        key = self.key(worker, now)
        workers = len(self._sums)
        orders[None].push(key, worker, workers)
        for tag in worker.pools:
            orders[tag].push(key, worker, workers)

    def _count(self, worker: Worker, limit: int) -> None:
        before = self._sums.get(worker.name, _Sum())
        after = _Sum()
        if limit:
            speed = limit / worker.seconds_a_message if worker.seconds_a_message > 0 else 0.0
            tags, used = (None, *worker.pools), min(limit, worker.in_flight)
            after = _Sum(tags, limit, used, speed, worker.begun)
        if after == before and worker.name in self._sums:
            return
        self._sums[worker.name] = after
        for tag in before.tags:
            self._connections[tag] -= before.connections
            self._used[tag] -= before.used
            self._speed[tag] -= before.speed
            self._begun[tag] -= before.begun
        for tag in after.tags:
            self._connections[tag] += after.connections
            self._used[tag] += after.used
            self._speed[tag] += after.speed
            self._begun[tag] += after.begun

    def _blocked_until(self, worker: Worker, now: float) -> float:
        """When a pause is over, or its server's rate has a token; `now` or before: at once."""
        if worker.breaker.paused_until > now:
            return worker.breaker.paused_until
        if worker.bucket is None or worker.bucket.available(now, 1):
            return now
        until = worker.bucket.next_at(now)
        return until if until > now else now + WAIT_S_MIN

    def _wait(self, worker: Worker, until: float, now: float) -> None:
        if until == inf:
            return  # for the journal's word on a rate: `update` follows it
        heapq.heappush(self._later, (until, worker.number, worker.version, worker))
        if len(self._later) > 64 + 4 * len(self._sums):
            self._later = [entry for entry in self._later if entry[2] == entry[3].version]
            heapq.heapify(self._later)

    def refresh(self, now: float) -> None:
        """Time has passed: who was waiting may be ready."""
        while self._later and self._later[0][0] <= now:  # `update` may put another heap in its place
            _, _, version, worker = heapq.heappop(self._later)
            if version == worker.version:
                self.update(worker, now)

    def next_at(self) -> float:
        """When `refresh` will find something; infinity: not known of anything."""
        while self._later and self._later[0][2] != self._later[0][3].version:
            heapq.heappop(self._later)
        return self._later[0][0] if self._later else inf

    # --- the pick -------------------------------------------------------------------------------

    def pick(
        self,
        tag: Tag,
        now: float,
        *,
        urgent: bool = False,
        ahead: bool = False,
        accept: Accept | None = None,
    ) -> tuple[Worker, Choice] | None:
        """The least loaded eligible worker of a pool, or None. `ahead`: if there is none, one that takes a
        batch before it has a connection for it. The caller gives it a batch and calls `update`."""
        found = None

        def fits(worker: Worker) -> bool:
            if worker.bucket is not None and not worker.bucket.available(now, 1):
                return False  # another worker of the same server took the last token
            return accept is None or accept(worker)

        def fits_beside_reserves(worker: Worker) -> bool:
            tags = (None, *worker.pools)
            return all(self.has_room(tag, False) for tag in tags) and fits(worker)

        def fits_behind_reserves(worker: Worker) -> bool:
            # What waits in a worker takes the next connection there: while a reserve is in use, that is its.
            tags = (None, *worker.pools)
            return all(self._free_connections(tag) >= self.reserve(tag) for tag in tags) and fits(worker)

        if self.has_room(tag, urgent):
            found = self._free[tag].first(fits if urgent else fits_beside_reserves)
        if found is None and ahead:
            found = self._full[tag].first(fits if urgent else fits_behind_reserves)
        if found is None:
            return None
        worker, key, runner_up, runner_up_key = found
        self._uses += 1
        worker.last_used = self._uses
        return worker, Choice(worker.name, key, runner_up, runner_up_key)


def batches_ahead(worker: Worker) -> int:
    """Batches that it may have beyond its connections, so that none stands idle for a round trip: to us, and
    where its server is far away, to that."""
    limit = worker.limit
    return max(1, limit // 4, min(worker.begun, limit))
