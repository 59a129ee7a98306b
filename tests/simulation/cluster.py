"""A broker's core on a real journal, simulated workers, network and clock; one seed, one history.

The shells are replaced by what can be cut at any point: a connection loses what is under way, a broker
forgets what wasn't flushed, a worker keeps only its outcome log.
"""

import random
from collections import Counter, deque
from dataclasses import dataclass, field
from pathlib import Path

from broker.core import commands as c
from broker.core import events as e
from broker.core.dispatcher import Dispatcher
from broker.core.invariants import violations
from broker.core.state import Settings, message_id
from broker.journal.answers import answer
from broker.journal.sqlite import SqliteJournal
from evenpost.runtime.clock import Now
from evenpost.wire import messages as wire

SETTINGS = Settings(
    heartbeat_s=1.0, lease_s=5.0, retry_initial_s=2.0, retry_max_s=8.0, batch_target_s=1.0, page_rows=20
)


@dataclass(eq=False)
class SimWorker:
    """A worker as docs/protocol.md describes it, with an SMTP server that answers at random."""

    name: str
    cluster: "Cluster"
    connections: int = 3
    incarnation: int = 0
    log_id: str = ""
    # What survives a crash:
    log: list[wire.Outcome] = field(default_factory=list)
    first: int = 0
    begun: dict[tuple[int, int], wire.Outcome] = field(default_factory=dict)
    # What doesn't:
    up: bool = False
    peer: bytes = b""
    welcomed: bool = False
    hello: int = 0
    sent_at: dict[int, float] = field(default_factory=dict)
    heartbeats: int = 0
    lease_end: float = 0.0
    last_batch: int = 0
    batches: dict[int, tuple[int, deque[wire.BatchItem]]] = field(default_factory=dict)
    done: list[int] = field(default_factory=list)
    reported: int = 0
    heard_at: float = 0.0
    beat_at: float = 0.0

    def start(self) -> None:
        self.up = True
        self.incarnation += 1
        self.log_id = self.log_id or f"log-{self.name}"
        self.batches, self.done, self.welcomed = {}, [], False
        for key, outcome in self.begun.items():
            assert key
            self.log.append(outcome)
        self.begun = {}
        self.connect()

    def crash(self) -> None:
        self.up = False
        self.cluster.cut(self.peer)

    def connect(self) -> None:
        self.cluster.cut(self.peer)
        self.cluster.peers += 1
        self.peer = f"{self.name}-{self.cluster.peers}".encode()
        self.cluster.links[self.peer] = self
        self.say_hello()

    def say_hello(self) -> None:
        self.hello += 1
        self.welcomed = False
        self.sent_at = {}
        self.hello_at = self.heard_at = self.cluster.mono
        holding = [
            wire.HeldBatch(
                number,
                campaign,
                [i for n, i in self.begun if n == number] + [item.index for item in items],
            )
            for number, (campaign, items) in self.batches.items()
        ]
        message = wire.WorkerHello(
            worker=self.name,
            incarnation=self.incarnation,
            server=f"{self.name}:25",
            log=self.log_id,
            max_connections=self.connections,
            holding=holding,
            outcomes_from=self.first,
            outcomes_upto=self.first + len(self.log),
        )
        self.send(message, self.hello)

    def send(self, message: wire.Message, request: int = 0) -> None:
        self.cluster.to_broker.append((self.peer, request, message))

    def receive(self, request: int, message: wire.Message) -> None:
        self.heard_at = self.cluster.mono
        match message:
            case wire.Error(code="not_found"):
                if self.welcomed:
                    self.say_hello()
            case wire.WorkerWelcome():
                if request == self.hello:
                    self.welcomed = True
                    self.lease_end = self.hello_at + message.lease_s
                    for number in message.revoke:
                        self.batches.pop(number, None)
                    self.reported = 0
                    self.report()
            case wire.HeartbeatAck():
                if message.number in self.sent_at:
                    self.lease_end = self.sent_at.pop(message.number) + SETTINGS.lease_s
            case wire.Batch():
                if self.welcomed:
                    self.last_batch = max(self.last_batch, message.batch)
                    self.batches[message.batch] = (message.campaign, deque(message.items))
            case wire.OutcomesCommitted():
                forget = max(0, message.upto - self.first)
                del self.log[:forget]
                self.first += forget
                self.reported = max(0, self.reported - forget)

    def report(self) -> None:
        rows = self.log[self.reported :]
        if self.welcomed and (rows or self.done):
            self.send(wire.Outcomes(self.first + self.reported, rows, self.done))
            self.reported = len(self.log)
            self.done = []

    def step(self, rng: random.Random) -> None:
        """A moment of work: one message of one batch, a heartbeat, a new connection."""
        cluster = self.cluster
        if cluster.mono - self.heard_at > 3 * SETTINGS.heartbeat_s and rng.random() < 0.2:
            self.connect()
        if self.welcomed and cluster.mono - self.beat_at >= SETTINGS.heartbeat_s:
            self.beat_at = cluster.mono
            self.heartbeats += 1
            self.sent_at[self.heartbeats] = cluster.mono
            busy = min(len(self.batches), self.connections)
            self.send(wire.Heartbeat(self.heartbeats, busy, busy, 0, self.connections, self.last_batch))
        for number in list(self.batches)[: self.connections]:
            campaign, items = self.batches[number]
            key = next(((n, i) for n, i in self.begun if n == number), None)
            if key is not None:
                self.end(key, rng)
            elif items and cluster.mono < self.lease_end:
                self.begin(number, campaign, items.popleft(), rng)
            elif items:
                while items:
                    self.settle(number, campaign, items.popleft(), "not_sent")
            if not items and not any(n == number for n, _ in self.begun):
                del self.batches[number]
                self.done.append(number)
        if rng.random() < 0.5:
            self.report()

    def begin(self, number: int, campaign: int, item: wire.BatchItem, rng: random.Random) -> None:
        if rng.random() < self.cluster.server_failures:
            self.settle(number, campaign, item, "deferred", scope="server", reply="421 busy")
            return
        outcome = self.outcome(number, campaign, item, "unknown", "recipient", "no answer")
        self.begun[number, item.index] = outcome

    def end(self, key: tuple[int, int], rng: random.Random) -> None:
        begun = self.begun[key]
        kind = rng.choices(["sent", "deferred", "bounced", "wait"], [70, 10 * self.cluster.deferrals, 5, 15])[
            0
        ]
        if kind == "wait":
            # The server has taken it, the answer is under way: a crash now makes it unknown.
            if rng.random() < 0.5 and key not in self.cluster.taken_early:
                self.cluster.taken_early.add(key)
                self.cluster.took(begun)
            return
        del self.begun[key]
        if key in self.cluster.taken_early:
            self.cluster.taken_early.discard(key)
            kind = "sent"
        elif kind == "sent":
            self.cluster.took(begun)
        item = wire.BatchItem(begun.index, begun.attempt, "", b"")
        self.settle(begun.batch, begun.campaign, item, kind)

    def settle(
        self,
        number: int,
        campaign: int,
        item: wire.BatchItem,
        kind: str,
        scope: str = "recipient",
        reply: str = "",
    ) -> None:
        self.log.append(self.outcome(number, campaign, item, kind, scope, reply))

    def outcome(
        self, number: int, campaign: int, item: wire.BatchItem, kind: str, scope: str, reply: str
    ) -> wire.Outcome:
        wall = self.cluster.now().wall
        return wire.Outcome(
            number, campaign, item.index, item.attempt, kind, scope, 250, reply, wall, wall + 1
        )


class Cluster:
    def __init__(self, seed: int, path: Path, workers: int = 3) -> None:
        self.rng = random.Random(seed)
        self.path = path
        self.mono = 100.0
        self.peers = 0
        self.deferrals = 1.0
        self.server_failures = 0.02
        self.links: dict[bytes, SimWorker] = {}
        self.to_broker: deque[tuple[bytes, int, wire.Message]] = deque()
        self.to_workers: deque[tuple[bytes, int, wire.Message]] = deque()
        self.jobs: deque[c.Command] = deque()
        self.replies: list[wire.Message] = []
        self.takes: Counter[int] = Counter()
        self.taken_early: set[tuple[int, int]] = set()
        self.events = 0
        self.blind_recoveries = 0
        """Restarts of the broker after which a worker stayed away longer than a lease."""
        self.core: Dispatcher
        self.start_broker()
        self.workers = [SimWorker(f"w{n}", self) for n in range(workers)]
        for worker in self.workers:
            worker.start()

    def now(self) -> Now:
        return Now(self.mono, int(1_790_000_000_000 + self.mono * 1000))

    def took(self, outcome: wire.Outcome) -> None:
        self.takes[message_id(outcome.campaign, outcome.index)] += 1

    # --- the broker ------------------------------------------------------------------------

    def start_broker(self) -> None:
        self.journal = SqliteJournal(self.path)
        self.core = Dispatcher(
            SETTINGS,
            boot=self.journal.boot,
            broker=f"broker-{self.journal.boot}",
            uniform=self.rng.uniform,
            campaigns=self.journal.campaigns(),
            workers=self.journal.workers(),
            now=self.now(),
        )

    def crash_broker(self) -> None:
        """What wasn't flushed is forgotten, and every connection ends."""
        self.jobs.clear()
        self.journal._db.close()
        for peer in list(self.links):
            self.cut(peer)
        self.to_broker.clear()
        self.to_workers.clear()
        self.start_broker()
        for worker in self.workers:
            if worker.up:
                worker.connect()

    def cut(self, peer: bytes) -> None:
        """The connection ends, with what is under way."""
        self.links.pop(peer, None)
        self.to_broker = deque(x for x in self.to_broker if x[0] != peer)
        self.to_workers = deque(x for x in self.to_workers if x[0] != peer)

    def handle(self, event: e.Event) -> None:
        self.events += 1
        self.execute(self.core.handle(event, self.now()))
        wrong = violations(self.core.state)
        assert not wrong, f"after {type(event).__name__}: {wrong}"

    def execute(self, commands: object) -> None:
        for command in commands:  # type: ignore[attr-defined]  # a list or a tuple of commands
            match command:
                case c.Persist() | c.ReadFresh() | c.ReadRetries() | c.ReadHeld() | c.LookUp():
                    self.jobs.append(command)
                case c.ToWorker():
                    self.to_workers.append((command.peer, command.request, command.message))
                case c.SendBatch():
                    items = [wire.BatchItem(*item) for item in command.items]
                    if command.peer in self.links:
                        batch = wire.Batch(command.batch, command.campaign, items)
                        self.to_workers.append((command.peer, 0, batch))
                    else:
                        self.handle(e.SendFailed(command.peer, command.batch))
                case c.Reply():
                    self.replies.append(command.message)
                case c.Raise():
                    self.handle(command.event)
                case c.Log("info", "broker.recovered", fields):
                    self.blind_recoveries += bool(fields["silent_workers"])
                case c.SendTemplate() | c.Log():
                    pass
                case _:
                    raise AssertionError(command)

    def flush(self) -> None:
        """One group: applied and flushed, then answered."""
        answers: list[object] = []
        group, self.jobs = list(self.jobs), deque()
        for job in group:
            match job:
                case c.Persist():
                    self.journal.apply(job.changes)
                    answers.append(job.then)
                case c.ReadFresh() | c.ReadRetries() | c.ReadHeld() | c.LookUp():
                    self.handle(answer(job, self.journal))
        self.journal.commit()
        for then in answers:
            self.execute(then)

    # --- time ------------------------------------------------------------------------------

    def submit(self, recipients: int, on_unknown: str = "resend") -> str:
        template = wire.Template("a@example.com", "s", text="t")
        options = wire.Options(on_unknown=on_unknown)  # type: ignore[arg-type]  # a test's choice of two
        opened = wire.OpenCampaign(f"s{self.rng.random()}", template, options)
        number = self.journal.next_campaign_number() + len(self.core.state.campaigns)
        event = e.SubmissionOpened(b"client", 1, opened, b"", b"", None, f"c{number}", number)
        self.handle(event)
        for chunk, first in enumerate(range(0, recipients, 25)):
            rows = [wire.Recipient(f"u{i}@example.com") for i in range(first, min(first + 25, recipients))]
            self.handle(e.FromClient(b"client", 2, wire.Recipients(f"c{number}", chunk, rows)))
        self.handle(e.FromClient(b"client", 3, wire.Commit(f"c{number}", -(-recipients // 25), recipients)))
        self.flush()
        return f"c{number}"

    def step(self) -> None:
        rng = self.rng
        self.mono += rng.choice([0.01, 0.05, 0.2])
        for _ in range(rng.randint(0, 6)):
            if self.to_broker:
                peer, request, message = self.to_broker.popleft()
                self.handle(e.FromWorker(peer, request, message))
        for _ in range(rng.randint(0, 6)):
            if self.to_workers:
                peer, request, message = self.to_workers.popleft()
                if (worker := self.links.get(peer)) is not None and worker.up:
                    worker.receive(request, message)
        for worker in self.workers:
            if worker.up:
                worker.step(rng)
        self.handle(e.Tick())
        self.execute(self.core.dispatch(self.now()))
        if rng.random() < 0.4:
            self.flush()

    def fault(self) -> None:
        """One fault, now and then."""
        rng = self.rng
        worker = rng.choice(self.workers)
        match rng.randrange(400):
            case 0:
                self.crash_broker()
            case 1 | 2:
                if worker.up:
                    worker.crash()
            case 3 | 4 | 5:
                if worker.up:
                    worker.connect()
            case 6 | 7:
                self.mono += rng.uniform(1.0, 8.0)
        for worker in self.workers:
            if not worker.up and rng.random() < 0.02:
                worker.start()
