"""Campaigns that hold what is unknown: batches are on disk before they leave, and never sent on a guess."""

import random
from pathlib import Path

import pytest

from broker.core import commands as c
from broker.core import events as e
from broker.core.buckets import Bucket
from broker.core.dispatcher import Dispatcher
from broker.core.message_state import Stored
from broker.core.settings import DomainGroup, Settings
from broker.journal.answers import answer
from broker.journal.sqlite import SqliteJournal
from evenpost.runtime.clock import Now
from evenpost.schedule.rate import Quota
from evenpost.wire import messages as wire
from tests.unit.broker.playbook import WALL, Playbook, only

HOLD = wire.Options(on_unknown="hold")
LEASE_S = Settings().lease_s


class Durable(Playbook):
    """A playbook on the journal that ships. While `slow` is set, batches wait for their flush."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.slow = False
        self.held_back: list[c.Persist] = []
        self.journal = SqliteJournal(path)
        super().__init__()

    def _carry_out(self, commands: object) -> None:
        for command in commands:  # type: ignore[attr-defined]  # a list or a tuple of commands
            if isinstance(command, c.Persist):
                self.journal.apply(command.changes)
                if self.slow and any(isinstance(change, c.AddBatch) for change in command.changes):
                    self.seen.append(command)
                    self.held_back.append(command)
                    continue
                self.journal.commit()
            if isinstance(command, c.ReadFresh | c.ReadRetries | c.LookUp | c.ReadHeld):
                self.seen.append(command)
                self._carry_out(self.core.handle(answer(command, self.journal), self.now))
                self._carry_out(self.core.dispatch(self.now))
                continue
            super()._carry_out([command])

    def flush(self) -> list[c.Command]:
        """The disk has it all now."""
        before = len(self.seen)
        self.slow = False
        self.journal.commit()
        waiting, self.held_back = self.held_back, []
        for persist in waiting:
            self._carry_out(persist.then)
        self.pass_time(0.0)
        return self.seen[before:]

    def die(self) -> None:
        """kill -9, and a start."""
        self.journal._db.close()
        self.journal = SqliteJournal(self.path)
        self.start()

    def start(self) -> None:
        """What a broker that starts makes of its journal."""
        self.core = Dispatcher(
            self.settings,
            boot=self.journal.boot,
            broker="again",
            uniform=lambda a, b: b,
            campaigns=self.journal.campaigns(),
            workers=self.journal.workers(),
            batches=self.journal.batches(),
            now=self.now,
        )
        self.seen.clear()

    def states(self) -> list[Stored]:
        return [Stored(line.state) for line in self.journal.report(1, -1, 500, [], 500)]


@pytest.fixture
def book(tmp_path: Path) -> Durable:
    book = Durable(tmp_path / "journal.db")
    book.hello("a", max_connections=1)
    return book


def test_a_batch_leaves_when_it_is_on_disk_and_not_before(book: Durable) -> None:
    book.submit(2, HOLD)
    (batch,) = only(book.seen, c.SendBatch)
    assert [(b.number, b.attempts) for b in book.journal.batches()] == [(batch.batch, [1])]
    book.slow = True
    book.outcomes(batch, "sent")
    (after,) = book.held_back
    assert len(only(book.seen, c.SendBatch)) == 1 and after.may_wait_s == 0
    (second,) = only(book.flush(), c.SendBatch)
    book.outcomes(second, "sent", first=1)
    assert book.journal.batches() == [] and book.states() == [Stored.SENT] * 2


def test_a_campaign_that_sends_again_writes_no_batches(book: Durable) -> None:
    book.submit(2)
    assert only(book.seen, c.SendBatch)
    assert not [p for p in only(book.seen, c.Persist) for x in p.changes if isinstance(x, c.AddBatch)]


def test_broker_and_worker_die_together_and_the_worker_stays_away(book: Durable) -> None:
    """The gap that there was: what it had begun was sent again after a lease."""
    book.submit(3, HOLD)
    (batch,) = only(book.seen, c.SendBatch)
    begun = batch.items[0][0]
    book.die()
    book.hello("b", max_connections=3)
    book.pass_time(2.0)
    assert not only(book.seen, c.SendBatch) and book.states() == [Stored.QUEUED] * 3
    book.mono += LEASE_S
    book.say(e.FromWorker(b"b", 0, wire.Heartbeat(1, 0, 0, 0, 3, 0)))
    book.pass_time(0.0)
    assert book.states()[begun] is Stored.HELD
    others = {item[0] for sent in only(book.seen, c.SendBatch) for item in sent.items}
    assert others and begun not in others
    (campaign,) = book.journal.campaigns()
    assert campaign.unknown == campaign.attempts == len(batch.items)
    assert batch.batch not in [b.number for b in book.journal.batches()]
    # Its word counts, though it comes late.
    out = book.hello("a", incarnation=2, outcomes_from=0, outcomes_upto=1)
    out = book.outcomes(batch, "sent", done=False)
    assert only(out, c.LookUp)
    assert book.states()[begun] is Stored.SENT


def test_a_worker_that_comes_back_in_time_tells_what_became_of_it(book: Durable) -> None:
    book.submit(2, HOLD)
    (batch,) = only(book.seen, c.SendBatch)
    begun = batch.items[0][0]
    book.die()
    held = [wire.HeldBatch(batch.batch, 1, [begun])]
    out = book.hello("a", holding=held)
    assert not only(out, c.ReadHeld)  # the journal has told already
    book.outcomes(batch, "sent")
    book.pass_time(1.0)
    assert book.states()[begun] is Stored.SENT
    (other,) = only(book.seen, c.SendBatch)
    assert other.items[0][0] != begun


def test_what_a_workers_log_never_heard_of_was_never_begun(book: Durable) -> None:
    book.submit(1, HOLD)
    book.die()
    book.hello("a", incarnation=2)
    book.pass_time(1.0)
    (again,) = only(book.seen, c.SendBatch)
    assert again.items[0][1] == 1 and book.states() == [Stored.QUEUED]
    assert [b.number for b in book.journal.batches()] == [again.batch]


def test_a_worker_whose_log_is_lost_vouches_for_nothing(book: Durable) -> None:
    book.submit(1, HOLD)
    book.die()
    book.hello("a", incarnation=2, log="another")
    book.pass_time(LEASE_S + 1)
    assert book.states() == [Stored.HELD] and not only(book.seen, c.SendBatch)


def test_batches_of_a_release_that_did_not_write_them_down_are_written_when_they_are_told_of(
    book: Durable,
) -> None:
    book.submit(1, HOLD)
    (batch,) = only(book.seen, c.SendBatch)
    book.journal.apply([c.EndBatches([batch.batch])])
    book.die()
    book.hello("a", holding=[wire.HeldBatch(batch.batch, 1, [0])])
    assert [(b.number, b.attempts) for b in book.journal.batches()] == [(batch.batch, [1])]
    book.die()
    book.pass_time(LEASE_S + 1)
    assert book.states() == [Stored.HELD]


def test_what_is_known_of_a_part_of_a_batch_stays(book: Durable) -> None:
    """One message of it was deferred before the broker died: it is tried again, only the others are held."""
    book.core.state.workers["a"].seconds_a_message = 0.001
    book.submit(400, HOLD)
    (batch,) = only(book.seen, c.SendBatch)
    assert len(batch.items) > 1
    told = c.SendBatch(batch.peer, batch.batch, batch.campaign, batch.items[:1])
    book.outcomes(told, "deferred", done=False, code=450, reply="later")
    book.die()
    book.pass_time(LEASE_S + 1)
    states = book.states()
    assert states[batch.items[0][0]] is Stored.DEFERRED
    assert {states[item[0]] for item in batch.items[1:]} == {Stored.HELD}
    (campaign,) = book.journal.campaigns()
    assert campaign.unknown == len(batch.items) - 1


def test_a_message_of_two_batches_is_in_the_newer_one(book: Durable) -> None:
    """Its worker gave it back, another one got it, and that the older batch has ended isn't on disk."""
    book.hello("b", max_connections=1)
    book.submit(1, HOLD)
    (first,) = only(book.seen, c.SendBatch)
    other = "b" if first.peer == b"a" else "a"
    number = book.core.state.workers[other].number
    book.journal.apply([c.AddBatch(first.batch + 1, 1, number, [(0, 1)])])
    book.journal.commit()
    book.die()
    (batch,) = book.core.state.batches.values()
    assert (batch.number, batch.worker.name) == (first.batch + 1, other)
    book.pass_time(0.1)
    assert [b.number for b in book.journal.batches()] == [first.batch + 1]


def test_a_retry_that_was_under_way_is_one_after_a_restart(book: Durable) -> None:
    book.submit(1, HOLD)
    (first,) = only(book.seen, c.SendBatch)
    book.outcomes(first, "deferred", code=450, reply="later")
    book.hello("b", max_connections=1)
    book.mono += 3_600.0
    for name in ("a", "b"):
        book.hello(name, max_connections=1)
    for _ in range(12):
        book.pass_time(0.1)
    second = only(book.seen, c.SendBatch)[-1]
    assert second.items[0][1] == 2
    book.die()
    book.pass_time(LEASE_S + 1)
    (campaign,) = book.journal.campaigns() or [book.journal.campaign("c1")]
    assert campaign is not None and book.states() == [Stored.HELD]
    assert {state: n for state, n in campaign.counts.items() if n} == {Stored.HELD: 1}


def test_a_batch_that_was_under_way_uses_its_domains_connection(book: Durable) -> None:
    book.submit(1, HOLD)
    book.settings = Settings(domains=(DomainGroup("example", frozenset({"example.com"}), connections=1),))
    book.die()
    book.pass_time(0.1)  # the invariants are looked at
    (group,) = book.core.state.groups.all
    assert group.in_flight == 1


@pytest.mark.parametrize("what", ["pause", "cancel", "maint", "hello", "lost"])
def test_what_changed_while_it_was_written_counts(book: Durable, what: str) -> None:
    """The worker wouldn't know of a batch that is called back before it has left, and would send it."""
    book.slow = True
    book.submit(1, HOLD)
    assert len(book.held_back) == 1
    match what:
        case "pause":
            out = book.say(e.FromClient(b"client", 9, wire.Pause("c1")))
        case "cancel":
            out = book.say(e.FromClient(b"client", 9, wire.Cancel("c1")))
        case "maint":
            out = book.say(e.FromClient(b"client", 9, wire.SetServer("a", state="maint")))
        case "hello":
            out = book.hello("a", peer="elsewhere")
        case "lost":
            out = book.pass_time(4.0)
    assert not [m for m in only(out, c.ToWorker) if isinstance(m.message, wire.Revoke)] or what == "maint"
    out += book.flush()
    assert not [s for s in only(out, c.SendBatch) if s.peer != b"elsewhere"]
    assert not book.core.state.batches or what == "hello"
    assert len(book.journal.batches()) == len(book.core.state.batches)


def test_a_server_that_failed_while_a_batch_was_written_doesnt_get_it(book: Durable) -> None:
    worker = book.core.state.workers["a"]
    worker.seconds_a_message = 0.001
    book.slow = True
    book.submit(400, HOLD)
    (batch,) = book.core.state.batches.values()
    assert len(batch.messages) > 1, "one alone would be a probe"
    while not worker.breaker.is_open:
        worker.breaker.failed(book.mono, book.mono, lambda a, b: b)
    assert not only(book.flush(), c.SendBatch) and not book.core.state.batches


def test_a_server_that_asked_for_less_while_a_batch_was_written_doesnt_get_it(book: Durable) -> None:
    book.hello("b", max_connections=8)
    worker = book.core.state.workers["b"]
    book.slow = True
    for number in range(1, 7):
        book.submit(1, HOLD, id_=f"c{number}", number=number)
    assert worker.in_flight > 3
    worker.reported_limit = 2
    sent = only(book.flush(), c.SendBatch)
    assert len([s for s in sent if s.peer == b"b"]) == worker.in_flight == 3


def test_a_rate_counts_a_batch_from_when_it_leaves() -> None:
    for seed in range(20):
        rng = random.Random(seed)
        bucket = Bucket((Quota(10, 1.0), Quota(25, 5.0)), Now(0.0, WALL))
        bucket.promise(Now(0.0, WALL))
        bucket.promised()
        left: list[float] = []
        waiting: list[tuple[float, float]] = []
        now = 0.0
        for _ in range(2_000):
            now += 0.01
            if bucket.available(now, 1):
                bucket.take(now, 1)
                waiting.append((now + rng.choice([0.0, 0.3, 1.7]), now))
            for due, taken in [w for w in waiting if w[0] <= now]:
                waiting.remove((due, taken))
                if bucket.postpone(now, 1, taken):
                    left.append(now)
                else:
                    bucket.refund(now, 1, now)
        for count, seconds in [(10, 1.0), (25, 5.0)]:
            for n in range(len(left) - count):
                assert left[n + count] - left[n] >= seconds - 1e-6, (seed, n)
        assert len(left) > 50, seed
