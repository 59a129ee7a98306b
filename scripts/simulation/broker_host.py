"""The broker's process: the shipping Dispatcher, and around it what broker/service.py does: one loop, and a
journal whose commits take their time."""

import math
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, assert_never

from broker.core.balancer import Balancer
from broker.core.commands import (
    Command,
    Log,
    LookUp,
    Persist,
    Raise,
    ReadFresh,
    ReadHeld,
    ReadRetries,
    Reopen,
    Reply,
    ResolveMx,
    SendBatch,
    SendTemplate,
    ToWorker,
)
from broker.core.dispatcher import Dispatcher
from broker.core.events import Event, FromClient, FromWorker, MxFound, SendFailed, SubmissionOpened, Tick
from broker.core.settings import Settings
from broker.core.state import Campaign
from broker.journal.answers import answer
from broker.journal.store import Journal
from broker.opening import fingerprint_of
from broker.reopening import Reopening
from broker.service import TICK_S
from evenpost.runtime.clock import Now
from evenpost.wire import codec, messages
from evenpost.wire.messages import BatchItem, Message
from scripts.simulation.clock import Clock, Host
from scripts.simulation.commit_queue import Queue
from scripts.simulation.disk import Disk
from scripts.simulation.network import Listener, Network
from scripts.simulation.watch import Watch

Dispatchers = Callable[..., Dispatcher]
"""What makes a core; a test puts a broken one here."""


@dataclass(frozen=True, slots=True)
class BrokerSettings:
    core: Settings = field(default_factory=Settings)
    turn_s: float = 0.0002
    """From an event to the dispatch that follows it: what comes within that is one turn of the loop."""
    flush_s: tuple[float, float] = (0.0005, 0.003)
    """A commit takes something between these."""
    tick_s: float = TICK_S
    mx: Callable[[str], str] = lambda domain: f"mx.{domain}"
    """A domain's best mail exchanger."""
    mx_s: float = 0.02


class BrokerHost:
    """The broker, through all its processes."""

    def __init__(
        self,
        settings: BrokerSettings,
        disk: Disk,
        clock: Clock,
        network: Network,
        rng: random.Random,
        watch: Watch,
        *,
        dispatchers: Dispatchers = Dispatcher,
        balancers: Callable[[Settings], Balancer] | None = None,
        boot_s: float = 0.0,
        skew_ms: int = 0,
    ) -> None:
        """`balancers` makes another balancer than the settings ask for, at each start: for comparisons."""
        self.settings = settings
        self.host = Host(clock, boot_s=boot_s, skew_ms=skew_ms)
        self.disk = disk
        self.workers = Listener(network, _WorkerSocket(self), "w", messages.FROM_WORKER, messages.TO_WORKER)
        self.clients = Listener(network, _ClientSocket(self), "c", messages.FROM_CLIENT, messages.TO_CLIENT)
        self.starts = 0
        self.core: Dispatcher
        self.journal: Journal
        self.queue: Queue
        self._rng = rng
        self._watch = watch
        self._dispatchers = dispatchers
        self._balancers = balancers
        self._next_number = 0
        self._turn_due = False
        self._next_at = math.inf
        self._turned_at = 0.0
        self._tick_at = 0.0

    # --- the process -----------------------------------------------------------------------

    def start(self) -> None:
        self.host.start()
        self.starts += 1
        self.journal = self.disk.open()
        self.queue = Queue(self.journal, self.host, self._rng, self.settings.flush_s, self._idle)
        more: dict[str, Any] = {}
        if self._balancers is not None:
            more["balancer"] = self._balancers(self.settings.core)
        self.core = self._dispatchers(
            self.settings.core,
            boot=self.journal.boot,
            broker=f"broker-{self.starts}",
            uniform=self._rng.uniform,
            campaigns=self.journal.campaigns(),
            workers=self.journal.workers(),
            quotas=self.journal.quotas(),
            batches=self.journal.batches(),
            now=self.now(),
            **more,
        )
        self._next_number = self.journal.next_campaign_number()
        self._turn_due, self._next_at = False, math.inf
        self._turned_at = self.host.mono()
        self._tick_at = 0.0
        self._watch.broker_started(self)
        self.host.after(0.0, self._tick)

    def crash(self) -> None:
        """kill -9, or the power: what isn't committed never was."""
        self.host.die()
        self.disk.crash()
        self.workers.close()
        self.clients.close()

    def stop(self) -> None:
        """SIGTERM: what waits for the journal is written and answered; then it ends."""
        self.queue.finish()
        self.host.die()
        self.disk.close()
        self.workers.close()
        self.clients.close()

    def now(self) -> Now:
        return self.host.now()

    # --- the loop --------------------------------------------------------------------------

    def _tick(self) -> None:
        mono = self.host.mono()
        if mono - self._turned_at > self.settings.core.heartbeat_s:
            # It was frozen, its workers weren't: hear what they said before judging them.
            self._tick_at = mono + self.settings.core.heartbeat_s
        self._turned_at = mono
        if mono >= self._tick_at:
            self._tick_at = mono + self.settings.tick_s
            self.handle(Tick())
        self.host.after(max(0.001, self._tick_at - mono), self._tick)

    def _turn(self) -> None:
        """The end of a turn of the loop."""
        self._turn_due = False
        commands = self.core.dispatch(self.now())
        self._watch.dispatched(self)
        self.execute(commands)
        next_at = self.core.next_at()
        if next_at < self._next_at and next_at < math.inf:
            self._next_at = next_at
            wait_ms = math.ceil(max(0.0, next_at - self.host.mono()) * 1000)  # as zmq's poll has it
            self.host.after(wait_ms / 1000, self._wake)

    def _wake(self) -> None:
        self._next_at = math.inf
        self._turn_soon()

    def _turn_soon(self) -> None:
        if not self._turn_due:
            self._turn_due = True
            self.host.after(self.settings.turn_s, self._turn)

    def _idle(self) -> None:
        self._watch.committed(self)

    # --- what comes in ---------------------------------------------------------------------

    def handle(self, event: Event) -> None:
        commands = self.core.handle(event, self.now())
        self._watch.broker_event(self, event)
        self.execute(commands)
        self._turn_soon()

    def open_campaign(self, peer: bytes, request: int, message: messages.OpenCampaign) -> None:
        packed = codec.pack_struct(message.template)
        fingerprint = fingerprint_of(message, packed)

        def found(known: Campaign | None) -> None:
            number = self._next_number
            self._next_number += 1
            event = SubmissionOpened(peer, request, message, packed, fingerprint, known, f"c{number}", number)
            self.handle(event)

        self.queue.read(lambda: self.journal.campaign_by_submission(message.submission), found)

    # --- what the core wants done ----------------------------------------------------------

    def execute(self, commands: Iterable[Command]) -> None:
        for command in commands:
            match command:
                case SendBatch():
                    self._send_batch(command)
                case Persist():
                    self._persist(command)
                case ToWorker():
                    self.workers.send(command.peer, command.request, command.message)
                case Reply():
                    self.clients.send(command.peer, command.request, command.message)
                case Log():
                    self._watch.log("broker", command.level, command.event, command.fields)
                case ReadFresh() | ReadRetries() | ReadHeld() | LookUp():
                    self.queue.read(partial(answer, command, self.journal), self.handle)
                case SendTemplate():
                    pass  # contents are all the same here
                case Raise(event):
                    self.handle(event)
                case Reopen():
                    self._reopen(command)
                case ResolveMx(domain):
                    exchanger = self.settings.mx(domain)
                    self.host.after(self.settings.mx_s, partial(self.handle, MxFound(domain, exchanger)))
                case _:
                    assert_never(command)

    def _send_batch(self, command: SendBatch) -> None:
        self._watch.gives(self, command)
        items = [BatchItem(*item) for item in command.items]
        batch = messages.Batch(command.batch, command.campaign, items)
        if not self.workers.send(command.peer, 0, batch):
            self.handle(SendFailed(command.peer, command.batch))

    def _persist(self, command: Persist) -> None:
        done = partial(self.execute, command.then)
        self.queue.write(command.changes, done, wait_s=command.may_wait_s)

    def _reopen(self, command: Reopen) -> None:
        # It only wants a journal and its queue.
        Reopening(command, self.journal, self.queue, self.handle, self.host.wall).start()  # type: ignore[arg-type]


class _WorkerSocket:
    """The ROUTER that workers dial."""

    def __init__(self, broker: BrokerHost) -> None:
        self.host = broker.host
        self._broker = broker

    def receive(self, peer: bytes, request: int, message: Message) -> None:
        self._broker.handle(FromWorker(peer, request, message))


class _ClientSocket:
    """The ROUTER that clients dial."""

    def __init__(self, broker: BrokerHost) -> None:
        self.host = broker.host
        self._broker = broker

    def receive(self, peer: bytes, request: int, message: Message) -> None:
        if isinstance(message, messages.OpenCampaign):
            self._broker.open_campaign(peer, request, message)
        else:
            self._broker.handle(FromClient(peer, request, message))
