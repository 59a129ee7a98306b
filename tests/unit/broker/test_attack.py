"""What an attacker found in the engine. An `xfail` names the cause; it goes with its cause."""

from pathlib import Path
from typing import Any

import pytest

from broker.core import commands as c
from broker.core import events as e
from broker.core import sending
from broker.core.dispatcher import Dispatcher
from broker.core.events import StoredRow
from broker.core.message_state import Stored, message_id
from broker.core.settings import DomainGroup, Settings
from broker.core.state import Campaign, Phase
from broker.core.worker_state import Worker
from broker.journal.sqlite import SqliteJournal
from evenpost.wire import messages as wire
from tests.unit.broker.playbook import WALL, Playbook, only
from tests.unit.broker.test_limits import addresses, most_in, run


def beat(book: Playbook, *names: str, limit: int = 1_000) -> list[c.Command]:
    out: list[c.Command] = []
    for name in names:
        out += book.say(e.FromWorker(name.encode(), 0, wire.Heartbeat(1, 0, 0, 0, limit, 0)))
    return out


def restarted(settings: Settings, campaigns: list[Campaign], workers: list[Worker]) -> Playbook:
    """A broker that starts with what a journal has."""
    book = Playbook(settings)
    book.core = Dispatcher(
        settings,
        boot=2,
        broker="b",
        uniform=lambda a, b: b,
        campaigns=campaigns,
        workers=workers,
        now=book.now,
    )
    book.seen.clear()
    return book


def kept(total: int, *, phase: Phase = Phase.ACTIVE, options: wire.Options | None = None) -> Campaign:
    """A campaign as the journal has it."""
    return Campaign(
        1, "c1", "sub-c1", b"T", b"F", options or wire.Options(), WALL, WALL + 10**9, phase, 1, total
    )


def queued(number: int, addresses: list[str]) -> dict[int, StoredRow]:
    ids = [message_id(number, n) for n in range(len(addresses))]
    return {
        id_: StoredRow(id_, a, b"", 0, 0, None, 0, "", "", 0) for id_, a in zip(ids, addresses, strict=True)
    }


def revoked(out: list[c.Command]) -> set[int]:
    found: set[int] = set()
    messages = [m.message for m in only(out, c.ToWorker)]
    messages += [m.message for p in only(out, c.Persist) for m in p.then if isinstance(m, c.ToWorker)]
    for message in messages:
        if isinstance(message, wire.Revoke):
            found |= set(message.batches)
        elif isinstance(message, wire.WorkerWelcome):
            found |= set(message.revoke)
    return found


# --- what kills the broker, or fills its memory --------------------------------------------------


def test_a_retried_campaign_that_waits_for_the_same_token_as_before() -> None:
    """`sleeping` compares two Campaigns: TypeError, and the broker is gone."""
    limited = DomainGroup("g", frozenset({"gmail.com"}), rate="1/day")
    book = Playbook(Settings(domains=(limited,)))
    book.hello("a", max_connections=5)
    book.submit_to([f"{n}@gmail.com" for n in range(3)])
    (batch,) = only(book.seen, c.SendBatch)
    book.outcomes(batch, "sent")
    assert book.core.state.sleeping
    book.core.state.by_id["c1"].expire_at = book.now.wall
    book.pass_time(0.1)
    assert not book.core.state.campaigns
    ended = kept(3)
    ended.counts = {Stored.SENT: 1, Stored.EXPIRED: 2}
    ended.phase, ended.closed_as, ended.finished_at = Phase.FINISHED, Stored.EXPIRED, book.now.wall
    book.say(e.Reopened(b"k", 1, ended, {Stored.EXPIRED: 2}))
    rows = [r._replace(state=int(Stored.DEFERRED)) for r in list(queued(1, ["0@gmail.com"] * 3).values())[1:]]
    book.say(e.RetriesRead(1, rows, (book.now.wall, rows[-1].id), None))
    book.pass_time(0.1)


def test_a_campaign_that_waits_long_for_a_token_waits_once() -> None:
    book = Playbook(Settings())
    book.hello("a", max_connections=5)
    book.submit(10, wire.Options(rate="1/day"))
    for _ in range(300):
        book.pass_time(0.1)
        beat(book, "a")
    assert len(book.core.state.sleeping) < 10


def test_a_worker_that_waits_long_for_a_token_waits_once() -> None:
    book = Playbook(Settings())
    book.hello("a", max_connections=5, rate="1/day")
    book.submit(10)
    for _ in range(300):
        book.pass_time(0.1)
        beat(book, "a")
    assert len(book.core.balancer._later) < 100


def test_retries_for_a_limited_domain_do_not_fill_the_memory() -> None:
    limited = DomainGroup("g", frozenset({"gmail.com"}), rate="1/min")
    settings = Settings(domains=(limited,), page_rows=20)
    campaign = kept(1_000)
    campaign.counts = {Stored.DEFERRED: 1_000}
    campaign.marks = (message_id(1, 999),)
    book = restarted(settings, [campaign], [])
    book.hello("a", max_connections=5)
    left = [
        r._replace(state=1, attempts=1, history=b"\x91\x95\x01\xa1w\xa8deferred\xcd\x01\xc2\xa1x")
        for r in queued(1, ["u@gmail.com"] * 1_000).values()
    ]
    before = len(book.seen)
    book.pass_time(0.1)
    while reads := only(book.seen[before:], c.ReadRetries):
        before = len(book.seen)
        page, left = left[: reads[0].limit], left[reads[0].limit :]
        if not page:
            break
        book.say(e.RetriesRead(1, page, (1, page[-1].id), 2 if left else None))
        book.pass_time(0.1)
    live = len(book.core.state.live)
    assert live <= 4 * settings.page_rows


def test_domains_hosted_by_a_limited_provider_do_not_fill_the_memory() -> None:
    limited = DomainGroup("g", mx=("google.com",), rate="1/min")
    book = Playbook(Settings(domains=(limited,), page_rows=20))
    book.hello("a", max_connections=5)
    todo = only(book.submit_to([f"u@d{n}.example" for n in range(1_000)]), c.ResolveMx)
    while todo:
        todo += only(book.say(e.MxFound(todo.pop().domain, "mx.google.com")), c.ResolveMx)
    live = len(book.core.state.live)
    assert live <= 100


def test_a_refused_hello_does_not_use_up_a_workers_number() -> None:
    """Two workers with one number: the journal refuses the second, and a journal's error ends the broker."""
    book = Playbook(Settings())
    book.hello("bad", rate="fast")
    out = book.hello("good")
    stored = [change for p in only(out, c.Persist) for change in p.changes if isinstance(change, c.SetWorker)]
    again = restarted(Settings(), [], [Worker("good", stored[0].number, "good:25", "log-good", 1)])
    out = again.hello("new")
    more = [change for p in only(out, c.Persist) for change in p.changes if isinstance(change, c.SetWorker)]
    assert more[0].number != stored[0].number


# --- rates ---------------------------------------------------------------------------------------


def test_a_worker_that_says_no_rate_shares_its_servers() -> None:
    """docs/protocol.md: one rate a server, whichever of its workers says it."""
    book = Playbook(Settings())
    for name, rate in (("a", "10/s"), ("b", "")):
        message = wire.WorkerHello(name, 1, "one:25", f"log-{name}", 5, rate=rate)
        book.say(e.FromWorker(name.encode(), 7, message))
    book.submit(100)
    times = [at for at, _ in run(book, 2.0)]
    assert most_in(times, 0.999_999) <= 10


def test_what_a_worker_took_from_one_servers_rate_is_not_given_back_to_anothers() -> None:
    book = Playbook(Settings())
    hello = wire.WorkerHello("v", 1, "small:25", "log-v", 1, rate="100/day", pools=["small"])
    book.say(e.FromWorker(b"v", 7, hello))
    book.submit(50, wire.Options(pool="small"), id_="c1", number=1)
    book.mono += 1.0
    bucket = book.core.state.workers["v"].bucket
    assert bucket is not None
    left = bucket.left(book.mono)[0][1]
    assert left < 100
    book.say(e.FromWorker(b"w", 7, wire.WorkerHello("w", 1, "big:25", "log-w", 1)))
    book.submit(50, id_="c2", number=2)
    assert book.core.state.workers["w"].batches
    # It is started anew in front of the other server, with the same name and log.
    book.say(e.FromWorker(b"w2", 8, wire.WorkerHello("w", 2, "small:25", "log-w", 1, rate="100/day")))
    given = sum(len(b.items) for b in only(book.seen, c.SendBatch) if b.peer in (b"v", b"w2"))
    assert bucket.left(book.mono)[0][1] <= 100 - given


def test_a_retried_campaign_keeps_to_the_rate_that_it_had_used_up() -> None:
    book = Playbook(Settings())
    book.hello("a", max_connections=5)
    book.submit(3, wire.Options(rate="3/day"))
    for _ in range(2_000):
        for batch in list(book.core.state.batches.values()):
            sent = next(b for b in only(book.seen, c.SendBatch) if b.batch == batch.number)
            book.outcomes(sent, "bounced", code=550)
        if not book.core.state.campaigns:
            break
        book.pass_time(60)
        book.hello("a", max_connections=5)
    assert not book.core.state.campaigns
    ended = kept(3, options=wire.Options(rate="3/day"))
    ended.phase, ended.finished_at, ended.counts = Phase.FINISHED, book.now.wall, {Stored.BOUNCED: 3}
    before = len(book.seen)
    book.say(e.Reopened(b"k", 1, ended, {Stored.BOUNCED: 3}))
    rows = [r._replace(state=1) for r in queued(1, ["a@b.example"] * 3).values()]
    book.say(e.RetriesRead(1, rows, (book.now.wall, rows[-1].id), None))
    assert not only(book.seen[before:], c.SendBatch)


def test_a_domains_connections_count_after_a_restart_too() -> None:
    settings = Settings(domains=(DomainGroup("g", frozenset({"gmail.com"}), connections=1),))
    to = [f"{n}@gmail.com" for n in range(4)]
    book = restarted(settings, [kept(4)], [Worker("a", 1, "a:25", "log-a", 1)])
    book.stored[1] = [(row.id, row.address, b"", 0) for row in queued(1, to).values()]
    book.hello("a", max_connections=10, holding=[wire.HeldBatch(5, 1, [0])])
    book.say(e.HeldRead("a", b"a", 7, [wire.HeldBatch(5, 1, [0])], queued(1, to[:1])))
    book.pass_time(0.1)
    book.say(e.RetriesRead(1, [], (0, 0), None))
    assert len(book.core.state.batches) == 1


def test_a_message_that_comes_back_after_a_restart_waits_for_its_domain() -> None:
    settings = Settings(domains=(DomainGroup("g", frozenset({"gmail.com"}), connections=1),))
    to = [f"{n}@gmail.com" for n in range(4)]
    book = restarted(settings, [kept(4)], [Worker("a", 1, "a:25", "log-a", 1)])
    book.stored[1] = [(row.id, row.address, b"", 0) for row in queued(1, to).values()]
    held = wire.HeldBatch(5, 1, [0, 1, 2])
    book.hello("a", max_connections=10, holding=[held])
    book.say(e.HeldRead("a", b"a", 7, [held], queued(1, to[:3])))
    book.pass_time(0.1)
    book.say(e.RetriesRead(1, [], (0, 0), None))
    book.say(e.FromWorker(b"a", 0, wire.Outcomes(0, [], [5])))
    assert len(book.core.state.batches) == 1


# --- what is put off -----------------------------------------------------------------------------


def test_an_urgent_message_is_not_put_off_behind_a_newsletter() -> None:
    limited = DomainGroup("g", frozenset({"gmail.com"}), rate="10/s")
    book = Playbook(Settings(domains=(limited,), page_rows=20))
    book.hello("a", max_connections=5)
    book.submit_to([f"{n}@gmail.com" for n in range(1_000)])
    out = book.submit_to(["me@gmail.com"], wire.Options(priority=9), id_="c2", number=2)
    sent = addresses(out) + [address for _, address in run(book, 1.0)]
    assert "me@gmail.com" in sent


def test_a_domain_limited_by_connections_goes_as_fast_as_they_do() -> None:
    """Two connections that take 100 messages a second each: the guess of 10 isn't a limit."""
    limited = DomainGroup("g", frozenset({"gmail.com"}), connections=2)
    book = Playbook(Settings(domains=(limited,), page_rows=20))
    book.hello("a", max_connections=5)
    worker = book.core.state.workers["a"]
    worker.seconds_a_message = 0.01
    book.core.balancer.update(worker, book.mono)
    book.submit_to([f"{n}@gmail.com" for n in range(400)])
    dues = sorted(
        int(str(row[8]))
        for p in only(book.seen, c.Persist)
        for change in p.changes
        if isinstance(change, c.SetMessages)
        for row in change.rows
    )
    # 380 messages that two such connections take in 1.9 s; half as fast would do.
    assert not dues or dues[-1] - book.now.wall <= 4_000


# --- words, pauses and cancels while a worker is away --------------------------------------------


@pytest.mark.parametrize("what", ["pause", "cancel", "maint"])
def test_a_worker_that_was_away_hears_what_it_must_not_begin(what: str) -> None:
    book = Playbook(Settings())
    book.hello("a", max_connections=1)
    book.submit(20)
    (batch,) = only(book.seen, c.SendBatch)
    book.pass_time(4)
    assert not book.core.state.workers["a"].connected
    words: dict[str, wire.Message] = {
        "pause": wire.Pause("c1"),
        "cancel": wire.Cancel("c1"),
        "maint": wire.SetServer("a", "maint"),
    }
    book.say(e.FromClient(b"k", 1, words[what]))
    indices = [item[0] for item in batch.items]
    out = book.hello("a", peer="a2", max_connections=1, holding=[wire.HeldBatch(batch.batch, 1, indices)])
    assert batch.batch in revoked(out)


@pytest.mark.parametrize("what", ["pause", "maint"])
def test_a_restarted_broker_calls_back_what_must_not_begin(what: str) -> None:
    worker = Worker("a", 1, "a:25", "log-a", 1)
    campaign = kept(4)
    if what == "pause":
        campaign.phase = Phase.PAUSED
    else:
        worker.operator_state = "maint"
    book = restarted(Settings(), [campaign], [worker])
    held = wire.HeldBatch(5, 1, [0])
    out = book.hello("a", holding=[held])
    out += book.say(e.HeldRead("a", b"a", 7, [held], queued(1, ["a@b.example"])))
    assert 5 in revoked(out)


def test_what_an_older_hello_held_is_not_believed_after_a_newer_one() -> None:
    """Between them it ended; now it would be in flight for ever."""
    book = restarted(Settings(), [kept(4)], [Worker("a", 1, "a:25", "log-a", 1)])
    held = wire.HeldBatch(5, 1, [0])
    book.hello("a", holding=[held])
    book.hello("a", peer="a2", incarnation=2)
    book.say(e.HeldRead("a", b"a", 7, [held], queued(1, ["a@b.example"])))
    assert not book.core.state.workers["a"].batches


def test_a_new_process_is_not_welcome_before_its_own_hello_is_stored() -> None:
    """Each process counts its hellos from 1: the number alone doesn't say whose it is."""
    book = Playbook(Settings())
    hellos = [
        book.core.handle(e.FromWorker(peer, 1, wire.WorkerHello("a", n, "a:25", "log-a", 1)), book.now)
        for n, peer in ((1, b"a1"), (2, b"a2"))
    ]
    first = next(p for p in hellos[0] if isinstance(p, c.Persist))
    (raised,) = [then.event for then in first.then if isinstance(then, c.Raise)]
    book.core.handle(raised, book.now)
    assert not book.core.state.workers["a"].welcomed


# --- whose turn it is ----------------------------------------------------------------------------


def test_the_reserve_comes_back_after_an_urgent_message() -> None:
    book = Playbook(Settings())
    book.hello("a", max_connections=20)
    book.submit(60_000)
    book.submit(1, wire.Options(priority=9), id_="c2", number=2)
    urgent = next(b for b in only(book.seen, c.SendBatch) if b.campaign == 2)
    book.outcomes(urgent, "sent")
    for _ in range(10):
        number = next(iter(book.core.state.batches))
        batch = next(b for b in only(book.seen, c.SendBatch) if b.batch == number)
        book.outcomes(batch, "sent")
    book.submit(1, wire.Options(priority=9), id_="c3", number=3)
    assert any(b.campaign == 3 for b in only(book.seen, c.SendBatch))


def test_the_reserve_is_of_connections_that_can_be_used() -> None:
    book = Playbook(Settings())
    book.hello("spent", max_connections=20, rate="1/day")
    book.submit(1)
    assert only(book.seen, c.SendBatch)[0].peer == b"spent"
    book.outcomes(only(book.seen, c.SendBatch)[0], "sent")
    book.hello("b", max_connections=20)
    book.submit(5_000, id_="c2", number=2)
    out = book.submit(1, wire.Options(priority=9), id_="c3", number=3)
    assert only(out, c.SendBatch)


def test_weights_hold_beside_a_faster_pool() -> None:
    book = Playbook(Settings())
    book.hello("a", max_connections=1, pools=["slow"])
    book.hello("x", max_connections=1, pools=["fast"])
    for name in "ax":
        book.core.state.workers[name].seconds_a_message = 0.02
    book.submit(60_000, wire.Options(pool="fast", weight=1), id_="c9", number=9)
    for number, weight in ((1, 100), (2, 300)):
        book.submit(4_000, wire.Options(weight=weight, pool="slow"), id_=f"c{number}", number=number)
    got = {1: 0, 2: 0}

    def next_of(peer: bytes) -> c.SendBatch:
        return next(b for b in reversed(only(book.seen, c.SendBatch)) if b.peer == peer)

    for _ in range(60):
        for _ in range(3):
            book.outcomes(next_of(b"x"), "sent", began_at=WALL, ended_at=WALL + 20)
        book.outcomes(next_of(b"a"), "sent", began_at=WALL, ended_at=WALL + 200)
        batch = next_of(b"a")
        got[batch.campaign] += len(batch.items)
    assert got[2] == pytest.approx(3 * got[1], rel=0.25)


@pytest.mark.parametrize("limited", [False, True])
def test_messages_that_look_for_another_server_do_not_hold_up_those_that_need_not(limited: bool) -> None:
    """`a` failed the first ones; `b` is busy; `a` would take what only `b` has tried, or nobody has."""
    domains = (DomainGroup("g", frozenset({"gmail.com"}), rate="1000/s"),) if limited else ()
    book = Playbook(Settings(domains=domains))
    book.hello("a", max_connections=1)
    book.hello("b", max_connections=1, pools=["b"])
    book.submit(1_000, wire.Options(pool="b", priority=9), id_="c9", number=9)  # b is busy for good
    book.say(e.FromClient(b"k", 1, wire.Pause("c1")))
    campaign = kept(40)
    campaign.counts = {Stored.DEFERRED: 40}
    campaign.phase, campaign.finished_at = Phase.FINISHED, 1
    book.say(e.Reopened(b"k", 1, campaign, {}))
    book.core.state.by_id["c1"].next_due = 1
    book.pass_time(0.01)
    # history of one attempt, by worker a or b
    history = {w: b"\x91\x95\x01\xa1" + w + b"\xa8deferred\xcd\x01\xc2\xa1x" for w in (b"a", b"b")}
    rows = [
        r._replace(state=1, attempts=1, history=history[b"a" if n < 20 else b"b"])
        for n, r in enumerate(queued(1, ["u@gmail.com"] * 40).values())
    ]
    out = book.say(e.RetriesRead(1, rows, (1, rows[-1].id), None))
    out += book.pass_time(0.2)
    assert [b.peer for b in only(out, c.SendBatch) if b.campaign == 1] == [b"a"]


@pytest.mark.parametrize("limit", [{"connections": 1}, {"rate": "20/s"}])
def test_one_place_in_a_domain_does_not_wake_everybody(
    limit: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """5,000 campaigns that wait for one domain cost 24 ms a batch, and 14 ms a token."""
    book = Playbook(Settings(domains=(DomainGroup("g", frozenset({"gmail.com"}), **limit),)))
    book.hello("a", max_connections=50)
    for number in range(1, 101):
        book.submit_to(["u@gmail.com"], id_=f"c{number}", number=number)
    looked = counted(monkeypatch)
    batch = next(b for b in only(book.seen, c.SendBatch) if b.batch in book.core.state.batches)
    book.mono = max(book.mono, book.core.next_at()) if "rate" in limit else book.mono
    out = book.outcomes(batch, "sent")
    assert only(out, c.SendBatch)
    assert len(looked) <= 10


def test_the_end_of_a_batch_does_not_wake_all_that_look_for_another_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """5,000 such campaigns cost 68 ms a batch of whatever campaign."""
    book = Playbook(Settings())
    book.hello("a", max_connections=1)
    book.hello("b", max_connections=1, pools=["b"])
    book.submit(100, wire.Options(pool="b", priority=9), id_="c999", number=999)
    busy = next(b for b in only(book.seen, c.SendBatch) if b.peer == b"b")
    for number in range(1, 61):
        book.submit(1, id_=f"c{number}", number=number)
        batch = next(b for b in reversed(only(book.seen, c.SendBatch)) if b.campaign == number)
        book.outcomes(batch, "deferred", scope="server", code=451)
        book.core.state.workers["a"].breaker.reset()
    looked = counted(monkeypatch)
    book.outcomes(busy, "sent")
    assert len(looked) <= 10


def test_the_journals_word_on_one_rate_does_not_wake_everybody(monkeypatch: pytest.MonkeyPatch) -> None:
    """5,000 campaigns with a rate of their own: each promise looks at all of them, 3 to 8 ms."""
    book = Playbook(Settings())
    book.hello("a", max_connections=50)
    for number in range(1, 101):
        book.submit(2, wire.Options(rate="1/day"), id_=f"c{number}", number=number)
    looked = counted(monkeypatch)
    key = "campaign:c1"
    book.say(e.QuotaStored(key, book.core.state.quotas.numbers[key]))
    assert len(looked) <= 10


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The campaigns that the dispatcher looks at from now on."""
    looked: list[int] = []
    look = sending._next

    def count(state: Any, balancer: Any, campaign: Campaign, now: Any) -> Any:
        looked.append(campaign.number)
        return look(state, balancer, campaign, now)

    monkeypatch.setattr(sending, "_next", count)
    return looked


# --- the breaker ---------------------------------------------------------------------------------


def test_all_connections_failing_at_once_are_one_failure_not_twenty() -> None:
    book = Playbook(Settings())
    book.hello("a", max_connections=20)
    book.submit(5_000)
    for batch in only(book.seen, c.SendBatch):
        book.outcomes(batch, "deferred", scope="server", code=0)
    breaker = book.core.state.workers["a"].breaker
    assert breaker.is_open
    assert breaker.open_until - book.mono <= 2.0


@pytest.mark.parametrize("kind, code", [("deferred", 450), ("bounced", 550)])
def test_a_server_that_answers_about_recipients_is_well(kind: str, code: int) -> None:
    """It greylists all, or the list is bad: it is up, and one message at a time isn't its share."""
    book = Playbook(Settings())
    book.hello("a", max_connections=2)
    book.submit(5_000)
    while batches := list(book.core.state.batches):
        batch = next(b for b in only(book.seen, c.SendBatch) if b.batch == batches[0])
        book.outcomes(batch, "deferred", scope="server", code=0)
    assert book.core.state.workers["a"].breaker.is_open
    book.mono += 60
    beat(book, "a")
    probe = only(book.seen, c.SendBatch)[-1]
    assert len(probe.items) == 1
    book.outcomes(probe, kind, code=code, reply="greylisted")
    assert not book.core.state.workers["a"].breaker.is_open


# --- low-water marks, retries and the journal ----------------------------------------------------


def test_a_clock_set_back_while_retries_are_read_hides_nothing() -> None:
    book = Playbook(Settings())
    book.hello("a", max_connections=1)
    book.submit(2)
    first, *_ = only(book.seen, c.SendBatch)
    book.outcomes(first, "deferred", code=450, reply="later")
    second = next(b for b in only(book.seen, c.SendBatch) if b.batch != first.batch)
    book.mono += 120
    beat(book, "a")
    book.pass_time(0)
    (read,) = only(book.seen, c.ReadRetries)
    campaign = book.core.state.by_id["c1"]
    book.mono -= 110  # only Now.wall matters here: the clock is set back
    out = book.outcomes(second, "deferred", code=450, reply="later")
    row = next(
        r for p in only(out, c.Persist) for ch in p.changes if isinstance(ch, c.SetMessages) for r in ch.rows
    )
    book.mono += 110
    upto = (read.due_upto, message_id(1, 0))  # the first one was due just then
    stored = queued(1, ["a@b.example"])[message_id(1, 0)]._replace(state=1, attempts=1)
    book.say(e.RetriesRead(1, [stored], upto, None))
    assert row[8] is not None
    assert (int(row[8]), row[0]) > campaign.retries_read


def test_a_paused_campaign_whose_retry_is_cut_short_is_counted_anew(tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path / "j")
    campaign = kept(1)
    journal.apply([c.AddCampaign(campaign), c.AddRecipients(1, 0, [wire.Recipient("a@b.example")])])
    campaign.phase, campaign.counts = Phase.PAUSED, {Stored.BOUNCED: 1}
    row = (message_id(1, 0), Stored.BOUNCED, 1, 550, "no", 1, 1, 1, None, None)
    journal.apply([c.SetCampaign.of(campaign), c.SetMessages([row])])
    journal.reopen(1)
    journal.restate(1, 0, 1, [Stored.BOUNCED], WALL)
    journal.close()  # as a crash would: the pieces are on disk, Reopened has not come
    again = SqliteJournal(tmp_path / "j")
    (found,) = again.campaigns()
    again.close()
    assert found.phase is Phase.PAUSED
    assert found.unfinished == 1


def test_a_cancel_that_came_before_the_first_piece_of_a_retry_stays(tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path / "j")
    campaign = kept(1)
    journal.apply([c.AddCampaign(campaign), c.AddRecipients(1, 0, [wire.Recipient("a@b.example")])])
    campaign.phase, campaign.closed_as = Phase.CANCELLED, Stored.CANCELLED
    journal.apply([c.SetCampaign.of(campaign)])  # CANCEL, between RETRY_FAILED's look and its first piece
    journal.reopen(1)
    journal.close()
    again = SqliteJournal(tmp_path / "j")
    found = again.campaign("c1")
    again.close()
    assert found is not None and found.phase is Phase.CANCELLED
