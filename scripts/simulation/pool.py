"""Connections of a worker to a simulated server, as worker/smtp/pool.py keeps them."""

from collections import deque
from dataclasses import dataclass
from typing import Protocol

from evenpost.wire.messages import BatchItem
from scripts.simulation.batch import Run
from scripts.simulation.clock import Host, Timer
from scripts.simulation.servers import Server
from scripts.simulation.worker_log import WorkerLog
from worker.concurrency import ConcurrencyLimit
from worker.smtp.outcome import Cause, Result, Stage, beside_others, failure, turned_away
from worker.smtp.pool import UNDECIDED_S
from worker.vocabulary import Held


@dataclass(frozen=True, slots=True)
class Limits:
    """Of connections; the times are worker.smtp.config.Timeouts', shorter in a sweep."""

    messages_max: int = 1_000
    idle_s: float = 30.0
    greeting_s: float = 300.0
    envelope_s: float = 300.0
    dot_s: float = 600.0


class Owner(Protocol):
    """The worker whose batches these are."""

    host: Host
    log: WorkerLog
    name: str
    max_connections: int

    def may_begin(self) -> bool: ...

    def begins(self, held: Held, item: BatchItem) -> None:
        """A content is about to be written."""

    def opened(self) -> None:
        """A connection is being made."""

    def limited(self, limit: int) -> None:
        """So many connections from now on."""

    def ended(self, held: Held) -> None:
        """Each message of the batch has its outcome."""


class Pool:
    """Connections of one worker's process to its server."""

    def __init__(self, owner: Owner, server: Server, limits: Limits) -> None:
        self.owner = owner
        self.server = server
        self.limits = limits
        self.limit = owner.max_connections
        self.concurrency = ConcurrencyLimit(owner.max_connections)
        self.established: set[Connection] = set()
        """Connections past their handshake."""
        self.connections: set[Connection] = set()
        self.busy = 0
        self._idle: list[Connection] = []
        self._queue: deque[Run] = deque()
        self._wanting: deque[Run] = deque()
        self._dialling = 0
        self._undecided: deque[Result] = deque()
        """Refusals, each of which is one of a run in `_wanting`."""
        self._decider: Timer | None = None

    @property
    def open(self) -> int:
        return len(self.connections)

    def run(self, held: Held) -> None:
        run = Run(self, held)
        if self.busy < self.limit:
            self.busy += 1
            run.go()
        else:
            self._queue.append(run)

    # --- what the server takes -------------------------------------------------------------

    def _follow(self) -> None:
        """The limit is what the feedback says: above it, idle connections are closed at once and busy ones
        with their batch."""
        if self.limit == self.concurrency.limit:
            return
        self.limit = self.concurrency.limit
        while self._idle and self.open > self.limit:
            self._idle.pop(0).close()
        self._hand_out_slots()
        self.owner.limited(self.limit)

    def batch_ended(self, *, throttled: bool) -> None:
        self.concurrency.batch_ended(throttled=throttled, others_open=len(self.established) - 1)
        self._follow()

    def is_too_many(self, refusal: Result) -> bool:
        """Whether a new connection was refused because there are enough, which then is noted."""
        if self.seen(refusal).scope != "throttled":
            return False
        self.concurrency.refused(others_open=len(self.established))
        self._follow()
        return True

    def seen(self, result: Result) -> Result:
        """What it means in the light of the other connections."""
        return beside_others(result) if self.established else result

    # --- slots and connections -------------------------------------------------------------

    def release(self) -> None:
        """A batch has ended."""
        self.busy -= 1
        self._hand_out_slots()

    def _hand_out_slots(self) -> None:
        while self._queue and self.busy < self.limit:
            self.busy += 1
            self._queue.popleft().go()

    def idle(self) -> "Connection | None":
        return self._idle.pop() if self._idle else None

    def want(self, run: "Run") -> None:
        """A connection for this run: the first there is."""
        self._wanting.append(run)
        self.dial_for_all()

    def dial_for_all(self) -> None:
        while self._dialling < len(self._wanting) - len(self._undecided) and self.open < self.limit:
            self._dialling += 1
            connection = Connection(self)
            self.connections.add(connection)
            connection.dial()
            self.owner.opened()

    def dialled(self, connection: "Connection", refusal: Result | None) -> None:
        self._dialling -= 1
        if refusal is None:
            self.established.add(connection)
            self.concurrency.opened(len(self.established))
            self._follow()
            self.give(connection)
            if self._undecided:
                self._decide()
            return
        self.connections.discard(connection)
        is_last = self._dialling == 0
        if self.is_too_many(refusal) or is_last or not turned_away(refusal):
            self._refuse_one(refusal)
            if is_last:
                self._decide()
        else:
            self._undecided.append(refusal)
            if self._decider is None:
                self._decider = self.owner.host.after(UNDECIDED_S, self._decide)
        self.dial_for_all()

    def _decide(self) -> None:
        """Answers for the connections that were refused while it wasn't known whether the server is dead."""
        if self._decider is not None:
            self._decider.cancel()
            self._decider = None
        undecided, self._undecided = self._undecided, deque()
        for refusal in undecided:
            self.is_too_many(refusal)
            self._refuse_one(refusal)

    def _refuse_one(self, refusal: Result) -> None:
        if self._wanting:
            self._wanting.popleft().failed(refusal)

    def give(self, connection: "Connection") -> None:
        """To a run that wants one, or it is kept while it is good."""
        assert connection in self.connections
        if connection.messages >= self.limits.messages_max or self.open > self.limit:
            connection.close()  # dials for who wants one, if there is room
        elif self._wanting:
            self._wanting.popleft().use(connection)
        else:
            self._idle.append(connection)
            connection.wait()

    def forget(self, connection: "Connection") -> None:
        self.connections.discard(connection)
        self.established.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        self.dial_for_all()


class Connection:
    """A servers.Caller."""

    def __init__(self, pool: Pool) -> None:
        self.worker = pool.owner.name
        self.messages = 0
        self.run: Run | None = None
        self._pool = pool
        self._is_dialling = True
        self._is_open = True
        self._timer: Timer | None = None

    def dial(self) -> None:
        host, pool = self._pool.owner.host, self._pool
        process = host.process

        def greeted(refusal: Result | None) -> None:
            if host.process != process:
                return
            host.bound(lambda: self._greeted(refusal))()

        self.limit_time(pool.limits.greeting_s, Stage.GREETING)
        pool.server.connect(self, greeted)

    def _greeted(self, refusal: Result | None) -> None:
        if self._is_dialling:
            self._is_dialling = False
            self._stop_timer()
            self._is_open = refusal is None
            self._pool.dialled(self, refusal)

    def limit_time(self, seconds: float, stage: Stage) -> None:
        """The server has so long for its next word."""
        self._stop_timer()
        timed_out = failure(Cause.TIMEOUT, stage, f"no answer within {seconds:.0f} s")
        self._timer = self._pool.owner.host.after(seconds, lambda: self._end(timed_out))

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def wait(self) -> None:
        """Nothing to do: it is kept for a while."""
        self.run = None
        self._stop_timer()
        self._timer = self._pool.owner.host.after(self._pool.limits.idle_s, self.close)

    def take_up(self, run: "Run") -> None:
        self._stop_timer()
        self.run = run

    def heard(self) -> None:
        self._stop_timer()

    def close(self) -> None:
        """QUIT."""
        self._is_open = False
        self._stop_timer()
        self._pool.server.disconnect(self)
        self._pool.forget(self)

    def hung_up(self, why: Result) -> None:
        self._pool.owner.host.bound(lambda: self._end(why))()

    def _end(self, why: Result) -> None:
        """It is lost, or the server has been silent for too long."""
        if not self._is_open:
            return
        if self._is_dialling:
            self._pool.server.disconnect(self)
            self._greeted(why)
            return
        run = self.run
        self.close()
        if run is not None:
            run.lost(why)
