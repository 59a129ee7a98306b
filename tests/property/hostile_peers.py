"""Peers that say anything that the protocol can say, to the shipping core on the shipping journal."""

import random
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec

from broker.core import commands as c
from broker.core import events as e
from broker.core.dispatcher import Dispatcher
from broker.core.invariants import violations
from broker.core.message_state import Stored
from broker.core.settings import DomainGroup, Settings
from broker.core.state import Campaign, Phase
from broker.journal.answers import answer
from broker.journal.sqlite import SqliteJournal
from broker.opening import fingerprint_of
from broker.reopening import Reopening
from evenpost.runtime.clock import Now
from evenpost.wire import codec
from evenpost.wire import messages as wire
from evenpost.wire.errors import WireError

WALL = 1_790_000_000_000
HUGE = 2**63 - 1
NUMBERS = (0, 0, 1, 1, 2, 3, 5, 19, 500, 1_000_000, 2**31 - 1, 2**32 - 1, 2**62, HUGE)
WORKERS = ("w0", "w1", "w2", "w3")
PEERS = (b"p0", b"p1", b"p2", b"p3", b"p4")
DOMAINS = ("example.com", "limited.example", "mx.example", "b.example")
SETTINGS = Settings(
    heartbeat_s=1.0, lease_s=5.0, retry_initial_s=0.5, retry_max_s=2.0, page_rows=8, lifetime_s=300.0,
    slow_start_s=2.0, dispatch_log_s=0.0,
    domains=(
        DomainGroup("limited", frozenset({"limited.example"}), connections=1, rate="5/s"),
        DomainGroup("exchanger", frozenset(), ("mx.provider.example",), connections=2),
    ),
)  # fmt: skip


class Queue:
    """The journal's jobs, done one by one and when the test likes."""

    def __init__(self, journal: SqliteJournal) -> None:
        self.journal = journal
        self.jobs: deque[Callable[[], None]] = deque()

    def read(self, run: Callable[[], Any], done: Callable[[Any], None]) -> None:
        self.jobs.append(lambda: done(run()))

    def write_call(self, run: Callable[[], Any], done: Callable[[Any], None], _: int) -> None:
        self.jobs.append(lambda: done(run()))

    def write(self, changes: Iterable[c.Change], then: Callable[[], None]) -> None:
        # As in GroupCommit: written in its turn. What follows from it waits for the flush.
        def run() -> None:
            self.journal.apply(changes)
            then()

        self.jobs.append(run)

    def step(self) -> None:
        if self.jobs:
            self.jobs.popleft()()


class Hostile:
    """One seed. `step` does one thing, and looks whether all that must hold does."""

    def __init__(self, path: Path, seed: int) -> None:
        self.path = path
        self.rng = random.Random(seed)
        self.mono = 10.0
        self.set_by_s = 0.0
        self.last: deque[str] = deque(maxlen=12)
        """What was said, for whoever looks for the reason of a failure."""
        self.given: list[c.SendBatch] = []
        """Of which nobody has told honestly yet."""
        self.batches = 0
        self.asked: list[str] = []
        self.campaigns: list[str] = []
        self.sizes: dict[str, list[int]] = {}
        self.first = 0
        self.next_number = 1
        self.start()

    # --- the broker around the core ----------------------------------------------------------

    @property
    def now(self) -> Now:
        return Now(self.mono, WALL + int((self.mono + self.set_by_s) * 1000))

    def start(self) -> None:
        self.journal = SqliteJournal(self.path)
        self.journal._db.execute("PRAGMA synchronous = OFF")  # nobody cuts the power here
        self.queue = Queue(self.journal)
        self.core = Dispatcher(
            SETTINGS, boot=self.journal.boot, broker=f"b{self.journal.boot}", uniform=self.rng.uniform,
            campaigns=self.journal.campaigns(), workers=self.journal.workers(),
            quotas=self.journal.quotas(), batches=self.journal.batches(), now=self.now,
        )  # fmt: skip

    def restart(self) -> None:
        """kill -9: what the journal's queue still has is lost, what it did is committed."""
        self.journal.close()
        self.start()

    def handle(self, event: e.Event) -> None:
        self.last.append(repr(event)[:400])
        self._execute(self.core.handle(event, self.now))
        self.check()

    def dispatch(self) -> None:
        self._execute(self.core.dispatch(self.now))
        self.core.next_at()
        self.check()

    def check(self) -> None:
        wrong = violations(self.core.state)
        assert not wrong, wrong

    def pass_time(self, seconds: float) -> None:
        self.mono += seconds
        self.handle(e.Tick())
        self.dispatch()

    def settle(self) -> None:
        while self.queue.jobs:
            self.queue.step()

    def _execute(self, commands: Iterable[c.Command]) -> None:
        for command in commands:
            match command:
                case c.Persist(changes, then):
                    self.queue.write(changes, lambda then=then: self._execute(then))  # type: ignore[misc]  # its own
                case c.ReadFresh() | c.ReadRetries() | c.ReadHeld() | c.LookUp():
                    self._read(command)
                case c.ToWorker() | c.Reply():
                    codec.encode(command.message, command.request)
                case c.SendBatch():
                    self.given.append(command)
                    self.batches += 1
                    body = {"batch": command.batch, "campaign": command.campaign, "items": command.items}
                    codec.encode_raw(wire.Type.BATCH, body)
                case c.Raise(event):
                    self.handle(event)
                case c.Reopen():
                    # It wants no more of a queue.
                    Reopening(command, self.journal, self.queue, self.handle, lambda: self.now.wall).start()  # type: ignore[arg-type]
                case c.ResolveMx(domain):
                    self.asked.append(domain)

    def _read(self, command: c.ReadFresh | c.ReadRetries | c.ReadHeld | c.LookUp) -> None:
        self.queue.read(lambda: answer(command, self.journal), self.handle)

    # --- what happens --------------------------------------------------------------------------

    def step(self) -> None:
        rng = self.rng
        match rng.choice("HHHhbbooooogrrrrrrrrdddttttqqqqqqccCRpuxFSXmkKZ"):
            case "H":
                self.honest_hello()
            case "h":
                self.from_worker(self.hello())
            case "b":
                self.from_worker(self.heartbeat())
            case "o":
                self.from_worker(self.outcomes())
            case "g":
                self.from_worker(wire.Goodbye("bye"))
            case "r":
                self.honest_report()
            case "d":
                self.dispatch()
            case "t":
                self.pass_time(rng.choice([0.0, 0.05, 0.1, 0.1, 0.5, 0.5, 1.0, 1.0, 4.0, 6.0, 30.0]))
            case "q":
                for _ in range(rng.randint(1, 6)):
                    self.queue.step()
            case "c":
                self.whole_campaign()
            case "C":
                self.open_campaign(self.options())
            case "R":
                rows = [wire.Recipient(self.address()) for _ in range(rng.randint(1, 5))]
                self.from_client(wire.Recipients(self.campaign(), rng.choice(NUMBERS), rows))
            case "p":
                self.from_client(rng.choice([wire.Pause, wire.Resume])(self.campaign()))
            case "u":
                self.from_client(wire.Commit(self.campaign(), rng.choice([0, 1, 2]), rng.choice(NUMBERS)))
            case "x":
                self.from_client(wire.Cancel(self.campaign()))
            case "F":
                only = rng.sample(["bounced", "expired", "held"], rng.randint(0, 3)) * rng.randint(1, 2)
                self.from_client(wire.RetryFailed(self.campaign(), only))  # type: ignore[arg-type]  # words of it
            case "S":
                self.from_client(self.order())
            case "X":
                if self.given and rng.random() < 0.5:
                    given = rng.choice(self.given)
                    self.handle(e.SendFailed(given.peer, given.batch))
            case "m":
                if self.asked:
                    exchanger = rng.choice(["", "a.mx.provider.example", "elsewhere.example"])
                    self.handle(e.MxFound(self.asked.pop(), exchanger))
            case "k":
                if self.core.state.workers and rng.random() < 0.3:
                    self.handle(e.WorkerRevoked(rng.choice(list(self.core.state.workers))))
            case "K":
                seconds = rng.choice([-3600.0, -1.0, 1.0, 3600.0])
                self.set_by_s += seconds
                self.handle(e.ClockSet(seconds))
            case "Z":
                if rng.random() < 0.2:
                    self.last.append("restart")
                    self.restart()
                    for _ in range(rng.randint(0, 4)):  # before it gives out anything it asks who has what
                        self.from_worker(self.hello())
                        self.queue.step()

    def from_worker(self, message: wire.Message) -> None:
        self.hear(self.rng.choice(PEERS), message)
        if self.rng.random() < 0.5:
            self.dispatch()

    def hear(self, peer: bytes, message: wire.Message) -> None:
        if (heard := well_formed(message, wire.FROM_WORKER)) is not None:
            self.handle(e.FromWorker(peer, self.rng.choice([0, 1, 7]), heard))

    def from_client(self, message: wire.Message) -> None:
        if (heard := well_formed(message, wire.FROM_CLIENT)) is not None:
            self.handle(e.FromClient(b"client", 3, heard))

    def honest_hello(self) -> None:
        which = self.rng.randrange(len(WORKERS))
        known = self.core.state.workers.get(WORKERS[which])
        incarnation = known.incarnation if known is not None else 1
        log = known.log if known is not None else "log"
        self.hear(PEERS[which], wire.WorkerHello(WORKERS[which], incarnation, "relay:25", log or "log", 3))
        self.queue.step()
        self.dispatch()

    def honest_report(self) -> None:
        """Most is as it should be, or the state would never get anywhere."""
        rng = self.rng
        if not self.given:
            return
        given = (
            self.given.pop(rng.randrange(len(self.given))) if rng.random() < 0.7 else rng.choice(self.given)
        )
        kind = rng.choice(["sent", "sent", "deferred", "bounced", "unknown", "not_sent"])
        scope = rng.choice(["recipient", "recipient", "server", "throttled"])
        rows = [
            wire.Outcome(given.batch, given.campaign, index, attempt, kind, scope, 250, "x", WALL, WALL + 9)  # type: ignore[arg-type]  # one of its words
            for index, attempt, _, _ in given.items
        ]
        done = [given.batch] if rng.random() < 0.8 else []
        self.first += len(rows)
        report = wire.Outcomes(self.first - len(rows), rows, done)
        self.handle(e.FromWorker(given.peer if rng.random() < 0.9 else rng.choice(PEERS), 0, report))

    # --- what is said --------------------------------------------------------------------------

    def batch(self) -> int:
        rng = self.rng
        if self.given and rng.random() < 0.6:
            return rng.choice(self.given).batch
        if self.core.state.batches and rng.random() < 0.6:
            return rng.choice(list(self.core.state.batches))
        boot = self.core.state.boot << 32
        near = [boot + self.core.state.batches_made + n for n in (-1, 0, 1, 2)]
        return max(0, rng.choice([*near, boot, (1 << 32) + 7, *NUMBERS]))

    def number(self) -> int:
        """Of a campaign: mostly a new one."""
        newest = self.next_number - 1
        return self.rng.choice([*range(1, max(2, newest)), *[newest] * 5, newest + 1, 0, 2**31 - 1])

    def index(self) -> int:
        return self.rng.choice([0, 1, 2, 3, 4, 5, 9, 2**32 - 1])

    def campaign(self) -> str:
        return self.rng.choice([*self.campaigns[-5:], "nobody", "", "c" * 300])

    def address(self) -> str:
        return f"u{self.rng.randint(0, 9)}@{self.rng.choice(DOMAINS)}"

    def hello(self) -> wire.Message:
        rng = self.rng
        upto = rng.choice(NUMBERS)
        return wire.WorkerHello(
            worker=rng.choice(WORKERS),
            incarnation=rng.choice([1, 1, 2, 3, *NUMBERS]),
            server=rng.choice(["relay:25", "other:25", ""]),
            log=rng.choice(["log", "log", "log", "another"]),
            max_connections=rng.choice([1, 2, 10_000]),
            weight=rng.choice([1, 100, 1_000]),
            rate=rng.choice(["", "", "", "5/s", "1/s, 3/min", "no rate", "1000000000/s"]),
            state=rng.choice(["ready", "ready", "ready", "drain", "maint"]),
            agent_weight=rng.choice([None, 1, 1_000]),
            limit=rng.choice([None, 1, 10_000]),
            pools=rng.choice([[], [], ["fast"], ["fast", "slow", "fast"]]),
            holding=[
                wire.HeldBatch(self.batch(), self.number(), [self.index() for _ in range(rng.randint(0, 4))])
                for _ in range(rng.choice([0, 0, 1, 2, 4]))
            ],
            outcomes_from=rng.choice([0, 0, upto, *NUMBERS]),
            outcomes_upto=rng.choice([0, 0, 0, upto]),
        )

    def heartbeat(self) -> wire.Message:
        rng = self.rng
        some = lambda: rng.choice([0, 1, 2, rng.choice(NUMBERS)])  # noqa: E731
        return wire.Heartbeat(
            number=some(), busy=some(), open=some(), external=some(), limit=some(),
            last_batch=rng.choice([self.batch(), some()]),
            state=rng.choice(["ready", "ready", "ready", "drain", "maint"]),
            weight=rng.choice([None, 1, 1_000]), wall=rng.choice([0, self.now.wall, HUGE, 1]),
        )  # fmt: skip

    def outcomes(self) -> wire.Message:
        rng = self.rng
        times = [0, 1, WALL, WALL + 5, WALL + 10**6, HUGE]
        rows = [
            wire.Outcome(
                self.batch(), self.number(), self.index(), rng.choice([0, 1, 1, 2, 3, 1_000_000]),
                rng.choice(["sent", "deferred", "bounced", "unknown", "not_sent"]),
                rng.choice(["recipient", "server", "throttled"]),
                rng.choice([0, 250, 450, 550, 999]),
                rng.choice(["", "ok", "\0", "x" * 500, "4.2.2 \U0001f600"]),
                rng.choice(times), rng.choice(times),
            )
            for _ in range(rng.randint(0, 5))
        ]  # fmt: skip
        if rows and rng.random() < 0.3:
            rows += rows[: rng.randint(1, len(rows))]
        done = [self.batch() for _ in range(rng.choice([0, 0, 1, 3]))]
        return wire.Outcomes(rng.choice(NUMBERS), rows, done + done[:1])

    def order(self) -> wire.Message:
        rng = self.rng
        return wire.SetServer(
            rng.choice([*WORKERS, "nobody"]), rng.choice([None, "ready", "ready", "ready", "drain", "maint"]),
            rng.choice([None, 0, 1, 1_000]), rng.choice([None, 0, 1, 10_000]),
        )  # fmt: skip

    def options(self) -> wire.Options:
        rng = self.rng
        wall = self.now.wall
        return wire.Options(
            start_at=rng.choice([None, None, None, 0, wall + 2_000, HUGE]),
            expire_at=rng.choice([None, None, None, 0, 1, wall + 20_000, HUGE]),
            priority=rng.choice([0, 4, 9]),
            pool=rng.choice([None, None, "fast", "nobody's"]),
            overflow=rng.choice([None, "slow"]),
            weight=rng.choice([1, 100, 1_000]),
            rate=rng.choice(["", "", "10/s", "1/day", "what"]),
            window=rng.choice(["", "", "08:00-20:00", "00:00-00:01 Europe/Berlin", "what"]),
            on_unknown=rng.choice(["resend", "hold"]),
        )

    def open_campaign(self, options: wire.Options, submission: str = "") -> str:
        senders = ["a@example.com", "News <a@example.com>", "(((", "\0\0\0", "@@@", "(" * 1_000, '"' * 9]
        template = wire.Template(self.rng.choice(senders), "s", text="t")
        message = well_formed(
            wire.OpenCampaign(submission or f"s{self.rng.randint(0, 30)}", template, options),
            wire.FROM_CLIENT,
        )
        assert isinstance(message, wire.OpenCampaign)
        packed = codec.pack_struct(message.template)
        fingerprint = fingerprint_of(message, packed)
        number, self.next_number = self.next_number, self.next_number + 1
        self.campaigns.append(f"c{number}")

        def found(known: Campaign | None) -> None:
            event = e.SubmissionOpened(
                b"client", 1, message, packed, fingerprint, known, f"c{number}", number
            )
            self.handle(event)

        self.queue.read(lambda: self.journal.campaign_by_submission(message.submission), found)
        return f"c{number}"

    def whole_campaign(self) -> None:
        rng = self.rng
        options = self.options()
        if rng.random() < 0.7:
            options = wire.Options(on_unknown=options.on_unknown, priority=options.priority)
        id_ = self.open_campaign(options, f"whole{self.next_number}")
        self.settle()
        total = 0
        for chunk in range(rng.randint(1, 2)):
            rows = [wire.Recipient(self.address()) for _ in range(rng.choice([1, 2, 6, 20]))]
            total += len(rows)
            self.from_client(wire.Recipients(id_, chunk, rows))
            if rng.random() < 0.3:  # workers know more than they can
                self.from_worker(self.outcomes())
            if rng.random() < 0.3:
                self.settle()
        self.from_client(wire.Commit(id_, chunk + 1, total))

    # --- the end ---------------------------------------------------------------------------------

    def balance(self) -> None:
        """The journal's counts are its rows', whatever was said."""
        self.settle()
        self.journal.commit()
        for id_ in self.campaigns:
            campaign = self.journal.campaign(id_)
            if campaign is None or campaign.compacted_at or campaign.phase is Phase.OPEN:
                continue
            lines = self.journal.report(campaign.number, -1, campaign.total, [], campaign.total + 1)
            rows: dict[Stored, int] = {}
            for line in lines:
                rows[Stored(line.state)] = rows.get(Stored(line.state), 0) + 1
            assert sum(rows.values()) == campaign.total, id_
            if campaign.closed_as is not None:
                open_ = rows.pop(Stored.QUEUED, 0) + rows.pop(Stored.DEFERRED, 0)
                if campaign.finished_at:
                    rows[campaign.closed_as] = rows.get(campaign.closed_as, 0) + open_
                else:
                    rows = {}
            rows.pop(Stored.QUEUED, None)
            counted = {state: count for state, count in campaign.counts.items() if count}
            if rows:
                assert counted == {state: count for state, count in rows.items() if count}, (id_, rows)


def well_formed(message: wire.Message, accepted: Any) -> wire.Message | None:
    """As it comes off the wire; None where the codec refuses it."""
    try:
        return codec.decode(codec.encode(message, 1), accepted).message
    except (WireError, msgspec.ValidationError):
        return None
