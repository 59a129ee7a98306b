"""Least connections: which worker gets the next batch.

    L(w)   = in_flight + max(0, reported_busy + reported_external - in_flight_at_report)
    key(w) = (L(w) + 1) / weight

The lowest key wins, ties go to the least recently used. The broker's own count of batches in flight is
exact; a heartbeat only adds what the broker can't know. Ranking on heartbeats alone would send everything to
one server until the next heartbeat (Mitzenmacher, "How useful is old information?", TPDS 2000).
"""

import heapq
from collections.abc import Callable

from broker.core.state import Worker

FAILURES_TO_HOLD = 2
"""Batches in a row failed by the server after which it is left alone for a while."""


def load(worker: Worker) -> int:
    """Connections in use at a worker's server, as far as can be known."""
    return worker.in_flight + max(0, worker.busy + worker.external - worker.in_flight_at_report)


def key(worker: Worker) -> float:
    return (load(worker) + 1) / worker.weight


def held(worker: Worker) -> bool:
    """The server failed too often: while this lasts it gets nothing, then one message at a time."""
    return worker.failures >= FAILURES_TO_HOLD


def eligible(worker: Worker, now: float) -> bool:
    """It may get a batch that it starts at once."""
    return _available(worker, now) and worker.in_flight < worker.limit


def in_service(worker: Worker) -> bool:
    """It is here and nobody, nor its server, says that it should get nothing."""
    return worker.welcomed and not worker.drained and not worker.leaving and not held(worker)


def _available(worker: Worker, now: float) -> bool:
    if in_service(worker):
        return True
    probed = held(worker) and now >= worker.hold_until and not worker.batches
    return probed and worker.welcomed and not worker.drained and not worker.leaving


def _ahead(worker: Worker) -> int:
    """Batches that it may have beyond its connections, so that none stands idle for a round trip."""
    return max(1, worker.limit // 4)


class _Order:
    """Workers by their key: a heap in which an entry is void once its worker has changed."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, int, int, Worker]] = []

    def __len__(self) -> int:
        return len(self._heap)

    def push(self, worker: Worker, workers: int) -> None:
        entry = (key(worker), worker.last_used, worker.number, worker.version, worker)
        heapq.heappush(self._heap, entry)
        if len(self._heap) > 64 + 4 * workers:
            self._heap = [e for e in self._heap if e[3] == e[4].version]
            heapq.heapify(self._heap)

    def first(self, accept: Callable[[Worker], bool]) -> Worker | None:
        passed_over = []
        found = None
        while self._heap:
            entry = self._heap[0]
            worker = entry[4]
            if entry[3] != worker.version:
                heapq.heappop(self._heap)
            elif accept(worker):
                found = worker
                break
            else:
                passed_over.append(heapq.heappop(self._heap))
        for entry in passed_over:
            heapq.heappush(self._heap, entry)
        return found


class Balancer:
    """The workers that may get something, in order."""

    def __init__(self) -> None:
        self._free = _Order()
        self._full = _Order()
        """All connections are in use, but there is a place in the queue before them."""
        self._uses = 0
        self._limits: dict[str, int] = {}
        self.connections = 0
        """All connections that workers here may use."""

    def update(self, worker: Worker, now: float) -> None:
        """To be called whenever something that `key` or `eligible` looks at has changed."""
        worker.version += 1
        limit = worker.limit if worker.connected else 0
        self.connections += limit - self._limits.get(worker.name, 0)
        self._limits[worker.name] = limit
        if not _available(worker, now):
            return
        if worker.in_flight < worker.limit:
            self._free.push(worker, len(self._limits))
        elif not worker.failures and worker.in_flight < worker.limit + _ahead(worker):
            self._full.push(worker, len(self._limits))

    def pick(self, accept: Callable[[Worker], bool], *, ahead: bool = False) -> Worker | None:
        """The least loaded eligible worker that `accept` takes, or None. `ahead`: if there is none, one that
        takes a batch before it has a connection for it. It stays in the order: the caller gives it a batch
        and calls `update`."""
        worker = self._free.first(accept)
        if worker is None and ahead:
            worker = self._full.first(accept)
        if worker is not None:
            self._uses += 1
            worker.last_used = self._uses
        return worker
