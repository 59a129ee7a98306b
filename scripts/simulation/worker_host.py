"""A worker's process: the shipping Session, and around it what worker/service.py does."""

from collections import deque
from dataclasses import dataclass, field
from typing import assert_never

import msgspec

from evenpost.wire import messages
from evenpost.wire.messages import BatchItem, Message, ServerWord, Type
from scripts.simulation.clock import Clock, Host, Timer
from scripts.simulation.network import Dealer, Listener, Network
from scripts.simulation.pool import Limits, Pool
from scripts.simulation.servers import Server
from scripts.simulation.watch import Watch
from scripts.simulation.worker_log import WorkerLog
from worker.session import Session
from worker.vocabulary import (
    AgentSaid,
    BatchEnded,
    Command,
    DrainAsked,
    Event,
    Flushed,
    FlushLog,
    GiveBack,
    Held,
    LimitChanged,
    Log,
    Received,
    SendGoodbye,
    SendHeartbeat,
    SendHello,
    SendOutcomes,
    StartBatch,
    Stop,
    Tick,
    Unsent,
)

TIMER_S_MIN = 0.001


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """What worker/settings.py has, as far as it matters here."""

    name: str
    max_connections: int = 20
    weight: int = 100
    pools: tuple[str, ...] = ()
    rate: str = ""
    sees_external: bool = True
    """It runs beside its server, and sees other people's connections to it."""
    drain_timeout_s: float = 30.0
    limits: Limits = field(default_factory=Limits)


class WorkerHost:
    """One worker, through all its processes."""

    def __init__(
        self,
        settings: WorkerSettings,
        server: Server,
        clock: Clock,
        network: Network,
        watch: Watch,
        *,
        boot_s: float = 0.0,
        skew_ms: int = 0,
    ) -> None:
        self.settings = settings
        self.name = settings.name
        self.max_connections = settings.max_connections
        self.server = server
        self.host = Host(clock, boot_s=boot_s, skew_ms=skew_ms)
        self.log = WorkerLog(f"log-{self.name}")
        self.logs_lost = 0
        self.lost_ids: set[int] = set()
        """Messages that the log which was lost last knew of."""
        self.stopped_with: int | None = None
        """The last process's exit status, where it ended by itself."""
        self.session: Session
        self.pool: Pool
        self.dealer: Dealer
        self._network = network
        self._watch = watch
        self._events: deque[Event] = deque()
        self._handling = False
        self._flush_scheduled = False
        self._timer: Timer | None = None
        self._timer_at = float("inf")

    # --- the process -----------------------------------------------------------------------

    def start(self, listener: Listener) -> None:
        self.host.start()
        self.log.open(self.host.wall())
        self.stopped_with = None
        settings = self.settings
        self.session = Session(
            self.log.rows,
            max_connections=settings.max_connections,
            drain_timeout_s=settings.drain_timeout_s,
        )
        self._events.clear()
        self._handling = self._flush_scheduled = False
        self._timer, self._timer_at = None, float("inf")
        self.pool = Pool(self, self.server, settings.limits)
        self.dealer = Dealer(self._network, self, listener, self.name)
        self.handle(Tick())

    def kill(self, *, broker_learns_s: float = 0.0) -> None:
        """kill -9, or the machine's power where the broker learns of it only later."""
        self.host.die()
        self._network.cut_dealer(self.dealer, 0.0, broker_learns_s)
        for connection in list(self.pool.connections):
            self.server.disconnect(connection)

    def lose_log(self) -> None:
        """The disk with its outcome log is gone, or a power cut has eaten the log's end."""
        assert not self.host.up
        self.logs_lost += 1
        self.lost_ids = self.log.ids()
        self.log = WorkerLog(f"log-{self.name}-{self.logs_lost}")
        self._watch.log_lost(self)

    def drain(self) -> None:
        """SIGTERM."""
        if self.host.up:
            self.host.bound(lambda: self.handle(DrainAsked("SIGTERM")))()

    # --- what comes in ---------------------------------------------------------------------

    def receive(self, request: int, message: Message) -> None:
        known = isinstance(message, messages.Batch) and message.batch in self.session.batches
        self.handle(Received(message, request))
        if isinstance(message, messages.Batch) and not known:
            held = self.session.batches.get(message.batch)
            if held is not None:
                self._watch.holds(self, held)

    def handle(self, event: Event) -> None:
        """The session's answer to an event is carried out before the next event."""
        self._events.append(event)
        if self._handling:
            return
        self._handling = True
        process = self.host.process
        try:
            while self._events and self.host.process == process:
                for command in self.session.handle(self._events.popleft(), self.host.now()):
                    self._perform(command)
        finally:
            self._handling = False
        if self.host.process == process:
            self._set_timer()
            self._watch.worker_event(self)

    def _perform(self, command: Command) -> None:
        match command:
            case SendOutcomes(report):
                rows = [msgspec.convert(row, messages.Outcome) for row in report.rows]
                self._send(messages.Outcomes(report.first, rows, report.done))
            case StartBatch(held):
                self.host.after(0.0, lambda: self.pool.run(held))
            case FlushLog():
                if not self._flush_scheduled:
                    self._flush_scheduled = True
                    self.host.after(0.0, self._flush)
            case SendHeartbeat():
                self._send_heartbeat(command)
            case SendHello():
                self._send_hello(command)
            case GiveBack(held, items, reason):
                wall = self.host.wall()
                for item in items:
                    key = (held.number, held.campaign, item.index, item.attempt)
                    self.log.add((*key, "not_sent", "recipient", 0, reason, wall, wall))
            case SendGoodbye(reason):
                self._send(messages.Goodbye(reason))
            case Log(level, event, fields):
                self._watch.log(self.name, level, event, fields)
            case Stop(status):
                self.host.after(0.0, lambda: self._stop(status))
            case _:
                assert_never(command)

    def _send_heartbeat(self, command: SendHeartbeat) -> None:
        heartbeat = messages.Heartbeat(
            command.number,
            busy=self.pool.busy,
            open=self.pool.open,
            external=self.server.external if self.settings.sees_external else 0,
            limit=self.pool.limit,
            last_batch=command.last_batch,
            state=command.state,
            weight=command.weight,
        )
        self._send(heartbeat)

    def _send_hello(self, command: SendHello) -> None:
        settings = self.settings
        hello = messages.WorkerHello(
            worker=settings.name,
            incarnation=self.log.incarnation,
            server=self.server.name,
            log=self.log.id,
            max_connections=settings.max_connections,
            weight=settings.weight,
            rate=settings.rate,
            pools=list(settings.pools),
            holding=command.holding,
            outcomes_from=command.outcomes[0],
            outcomes_upto=command.outcomes[1],
            state=command.state,
            agent_weight=command.weight,
            limit=self.pool.limit,
        )
        self._send(hello, command.request)

    def _send(self, message: Message, request: int = 0) -> None:
        if not self.dealer.send(request, message):
            self._events.append(Unsent(Type(message.TYPE)))

    def _flush(self) -> None:
        self._flush_scheduled = False
        self.log.flush()
        self.handle(Flushed())

    def _set_timer(self) -> None:
        wake_at = self.session.wake_at()
        if wake_at >= self._timer_at or wake_at == float("inf"):
            return
        if self._timer is not None:
            self._timer.cancel()
        wake_at = max(wake_at, self.host.mono() + TIMER_S_MIN)
        self._timer_at = wake_at
        self._timer = self.host.at_mono(wake_at, self._tick)

    def _tick(self) -> None:
        self._timer, self._timer_at = None, float("inf")
        self.handle(Tick())

    def _stop(self, status: int) -> None:
        self.log.flush()
        self.kill()
        self.stopped_with = status

    # --- for the pool ----------------------------------------------------------------------

    def may_begin(self) -> bool:
        return self.session.may_begin(self.host.mono())

    def begins(self, held: Held, item: BatchItem) -> None:
        self._watch.begins(self, held, item)

    def limited(self, limit: int) -> None:
        self.handle(LimitChanged(limit))

    def agent_says(self, state: ServerWord, weight: int | None = None) -> None:
        """The server's agent wants another share for it."""
        if self.host.up:
            self.host.bound(lambda: self.handle(AgentSaid(state, weight)))()

    def opened(self) -> None:
        self._watch.opened(self)

    def ended(self, held: Held) -> None:
        self.handle(BatchEnded(held.number))
