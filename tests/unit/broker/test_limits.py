"""Rates, domains, windows, pools and priorities, as the dispatcher keeps to them."""

from collections import Counter

import pytest

from broker.core import commands as c
from broker.core import events as e
from broker.core.message_state import Stored
from broker.core.settings import DomainGroup, SenderPool, Settings
from evenpost.wire import messages as wire
from tests.unit.broker.playbook import WALL, Playbook, answers, only

GMAIL = DomainGroup("gmail.com", frozenset({"gmail.com", "googlemail.com"}))


def addresses(out: list[c.Command]) -> list[str]:
    return [item[2] for batch in only(out, c.SendBatch) for item in batch.items]


def run(book: Playbook, seconds: float, step: float = 0.01) -> list[tuple[float, str]]:
    """Time goes by and every batch is sent at once: when each message was given out, and to whom."""
    given: list[tuple[float, str]] = []
    end = book.mono + seconds
    todo = [command for command in only(book.seen, c.SendBatch) if command.batch in book.core.state.batches]
    given += [(book.mono, item[2]) for batch in todo for item in batch.items]
    while book.mono < end:
        while todo:
            batch = todo.pop()
            out = only(book.outcomes(batch, "sent"), c.SendBatch)
            given += [(book.mono, item[2]) for one in out for item in one.items]
            todo += out
        out = only(book.pass_time(step), c.SendBatch)
        given += [(book.mono, item[2]) for one in out for item in one.items]
        todo += out
    return given


def pass_time_alive(book: Playbook, seconds: float) -> list[c.Command]:
    """Time goes by, and worker `a` is there at its end."""
    book.mono += seconds
    book.say(e.FromWorker(b"a", 0, wire.Heartbeat(1, 0, 0, 0, 20, 0)))
    return book.pass_time(0)


def most_in(times: list[float], seconds: float) -> int:
    """The most that any stretch of time of this length saw."""
    return max((sum(t <= u < t + seconds for u in times) for t in times), default=0)


@pytest.mark.parametrize("where", ["server", "campaign", "domain"])
def test_a_rate_is_used_evenly_and_never_exceeded(where: str) -> None:
    rate = "20/s"
    book = Playbook(
        Settings(domains=(DomainGroup("all", frozenset({"example.com"}), rate=rate),) * (where == "domain"))
    )
    book.hello("a", max_connections=5, rate=rate if where == "server" else "")
    book.submit(200, wire.Options(rate=rate if where == "campaign" else ""))
    times = [at for at, _ in run(book, 5.0)]
    assert most_in(times, 0.999_999) <= 20
    assert most_in(times, 0.1) <= 4  # not a second's worth at once
    assert len(times) >= 0.98 * 20 * 4.9


def test_two_workers_of_one_server_share_its_rate() -> None:
    book = Playbook(Settings())
    for name in "ab":
        message = wire.WorkerHello(name, 1, "one:25", f"log-{name}", 5, rate="10/s")
        book.say(e.FromWorker(name.encode(), 7, message))
    book.submit(100)
    times = [at for at, _ in run(book, 3.0)]
    assert most_in(times, 0.999_999) <= 10
    assert len(times) >= 28


def test_only_the_limited_domain_waits() -> None:
    book = Playbook(Settings(domains=(DomainGroup("gmail.com", frozenset({"gmail.com"}), rate="10/s"),)))
    book.hello("a", max_connections=5)
    book.submit_to([f"{n}@{'gmail.com' if n % 2 else 'example.com'}" for n in range(100)])
    given = run(book, 1.0)
    domains = Counter(address.split("@")[1] for _, address in given)
    assert domains["example.com"] == 50
    assert 10 <= domains["gmail.com"] <= 11  # at both ends of the second


def test_a_domains_connections_are_a_limit_for_all_campaigns_and_workers() -> None:
    book = Playbook(Settings(domains=(DomainGroup("g", frozenset({"gmail.com"}), connections=3),)))
    for name in "ab":
        book.hello(name, max_connections=10)
    for number in (1, 2):
        book.submit_to([f"{n}@gmail.com" for n in range(50)], id_=f"c{number}", number=number)
    flying = list(book.core.state.batches.values())
    assert len(flying) == 3
    assert not only(book.pass_time(1), c.SendBatch)
    batches = only(book.seen, c.SendBatch)
    out = only(book.outcomes(batches[0], "sent"), c.SendBatch)
    assert len(out) == 1
    assert {b.campaign for b in [*batches[1:], *out]} == {1, 2}  # they take turns


def test_what_waits_long_for_its_domain_goes_back_to_the_journal() -> None:
    """The window stays free for others, and memory stays small."""
    limited = DomainGroup("g", frozenset({"gmail.com"}), rate="10/s")
    book = Playbook(Settings(domains=(limited,), page_rows=20))
    book.hello("a", max_connections=5)
    out = book.submit_to([f"{n}@gmail.com" for n in range(100)] + [f"{n}@example.com" for n in range(20)])
    changes = [change for p in only(out, c.Persist) for change in p.changes]
    put_off = [row for change in changes if isinstance(change, c.PutOff) for row in change.rows]
    assert 76 <= len(put_off) <= 80
    assert book.core.state.by_id["c1"].counts[Stored.DEFERRED] == len(put_off)
    due = sorted(due_at - book.now.wall for _, due_at, _ in put_off)
    assert 1_900 <= due[0] <= 2_200 and 9_500 <= due[-1] <= 10_200
    assert Counter(a.split("@")[1] for a in addresses(book.seen))["example.com"] > 0
    assert book.core.state.groups.all[0].waiting <= 20


def test_mail_exchangers_are_asked_for_once_and_waited_for() -> None:
    group = DomainGroup("google", frozenset({"gmail.com"}), mx=("google.com",), connections=1)
    book = Playbook(Settings(domains=(group,)))
    book.hello("a", max_connections=10)
    out = book.submit_to([f"{n}@{domain}" for n in range(5) for domain in ("own.example", "free.example")])
    assert sorted(command.domain for command in only(out, c.ResolveMx)) == ["free.example", "own.example"]
    assert not addresses(out)
    out = book.say(e.MxFound("free.example", "mx.free.example"))
    assert {a.split("@")[1] for a in addresses(out)} == {"free.example"}
    out = book.say(e.MxFound("own.example", "aspmx.l.google.com"))
    assert {a.split("@")[1] for a in addresses(out)} == {"own.example"}
    assert book.core.state.groups.all[0].in_flight == 1
    assert not only(book.submit_to(["x@own.example"], id_="c2", number=2), c.ResolveMx)


def test_a_window_opens_and_closes() -> None:
    book = Playbook(Settings())
    book.hello("a", max_connections=1)
    hour = (WALL // 3_600_000 + 1) % 24  # the next one, UTC
    book.submit(30, wire.Options(window=f"{hour:02}:00-{(hour + 1) % 24:02}:00 UTC"))
    assert not addresses(book.seen)
    to_go = 3_600 - book.now.wall / 1000 % 3_600
    assert not addresses(pass_time_alive(book, to_go - 1))
    pass_time_alive(book, 1.1)
    out = book.seen
    assert addresses(out)
    pass_time_alive(book, 3_600)
    left = book.outcomes(only(out, c.SendBatch)[0], "sent")
    assert not addresses(left)


@pytest.mark.parametrize(("recipients", "reads"), [(1, 0), (100, 0), (101, 1)])
def test_a_small_campaign_needs_no_read_of_the_journal(recipients: int, reads: int) -> None:
    book = Playbook(Settings())
    book.hello("a", max_connections=20)
    out = book.submit(recipients)
    assert len(only(out, c.ReadFresh)) == reads
    while batches := list(book.core.state.batches):
        book.outcomes(next(b for b in only(book.seen, c.SendBatch) if b.batch == batches[0]), "sent")
    assert not book.core.state.campaigns
    assert len(addresses(book.seen)) == recipients


def test_a_bad_rate_or_window_is_refused_with_words() -> None:
    book = Playbook(Settings())
    for options in (wire.Options(rate="many"), wire.Options(window="always")):
        (refusal,) = answers(book.open(options))
        assert isinstance(refusal, wire.Error) and refusal.code == "bad_message"
    out = book.hello("a", rate="fast")
    assert isinstance(only(out, c.ToWorker)[0].message, wire.Error)
    assert not book.core.state.by_peer


def test_overflow_is_used_while_the_pool_is_full_and_no_longer() -> None:
    book = Playbook(Settings())
    book.hello("own", max_connections=1, pools=["brand"])
    book.hello("shared", max_connections=1, pools=["shared"])
    book.hello("other", max_connections=1)
    book.submit(2, wire.Options(pool="brand", overflow="shared"))
    first = only(book.seen, c.SendBatch)
    assert [b.peer for b in first] == [b"own", b"shared"]
    book.submit(1, wire.Options(pool="brand", overflow="shared"), id_="c2", number=2)
    assert [b.peer for b in only(book.outcomes(first[0], "sent"), c.SendBatch)] == [b"own"]


def test_the_senders_domain_names_the_pool() -> None:
    book = Playbook(Settings(senders=(SenderPool("example.com", "brand", "shared"),)))
    book.submit(1)
    assert (book.core.state.by_id["c1"].options.pool, book.core.state.by_id["c1"].options.overflow) == (
        "brand",
        "shared",
    )
    book.submit(1, wire.Options(pool="mine"), id_="c2", number=2)
    assert book.core.state.by_id["c2"].options.pool == "mine"


def test_an_urgent_message_finds_a_connection_beside_a_newsletter() -> None:
    book = Playbook(Settings())
    book.hello("a", max_connections=20)
    book.submit(5_000)
    assert len(book.core.state.batches) == 19
    out = book.submit(1, wire.Options(priority=6), id_="c2", number=2)
    assert not only(out, c.SendBatch)
    out = book.submit(1, wire.Options(priority=7), id_="c3", number=3)
    assert [b.campaign for b in only(out, c.SendBatch)] == [3]


def test_campaigns_of_one_priority_share_by_weight() -> None:
    book = Playbook(Settings())
    book.hello("a", max_connections=1)
    book.core.state.workers["a"].seconds_a_message = 0.02
    for number, weight in ((1, 100), (2, 300)):
        book.submit(4_000, wire.Options(weight=weight), id_=f"c{number}", number=number)
    got: Counter[int] = Counter()
    batch = only(book.seen, c.SendBatch)[-1]
    for _ in range(100):
        (batch,) = only(book.outcomes(batch, "sent", began_at=WALL, ended_at=WALL + 200), c.SendBatch)
        got[batch.campaign] += len(batch.items)
    assert got[2] == pytest.approx(3 * got[1], rel=0.1)


def test_a_sorted_list_does_not_hit_one_provider_at_once() -> None:
    book = Playbook(Settings(page_rows=100))
    book.hello("a", max_connections=1)
    book.core.state.workers["a"].seconds_a_message = 0.02
    book.submit_to([f"{n}@{domain}.example" for domain in "abcdefgh" for n in range(250)])
    first = addresses(book.seen)
    assert len({a.split("@")[1] for a in first[:10]}) == 8


def test_what_a_rate_granted_is_known_to_the_journal_first() -> None:
    book = Playbook(Settings())
    book.hello("a", max_connections=5, rate="1000/day")
    book.submit(100)
    changes = [change for p in only(book.seen, c.Persist) for change in p.changes]
    quota = next(change for change in changes if isinstance(change, c.SetQuota))
    assert quota.key == "server:a:25" and quota.stored is not None


def test_a_campaigns_bucket_is_forgotten_with_it() -> None:
    book = Playbook(Settings())
    book.hello("a", max_connections=5)
    book.submit(1, wire.Options(rate="10/s"))
    (batch,) = only(book.seen, c.SendBatch)
    book.outcomes(batch, "sent")
    assert not book.core.state.quotas.buckets
    book.submit(1, wire.Options(rate="10/s"), id_="c2", number=2)
    book.mono += 5
    batch = only(book.seen, c.SendBatch)[-1]
    out = book.outcomes(batch, "sent")
    changes = [change for p in only(out, c.Persist) for change in p.changes]
    assert c.SetQuota("campaign:c1", None) in changes  # its windows are over


def test_mail_that_was_never_begun_costs_no_token() -> None:
    book = Playbook(Settings())
    book.hello("a", max_connections=1, rate="100/day")
    book.submit(200)
    used = []
    for _ in range(3):
        batches = [b for b in only(book.seen, c.SendBatch) if b.batch in book.core.state.batches]
        bucket = book.core.state.workers["a"].bucket
        assert bucket is not None
        used.append(bucket.left(book.mono)[0][1])
        if batches:
            book.outcomes(batches[0], "not_sent", code=0)
        book.pass_time(900)
    assert used[0] < 100
    assert used[-1] >= used[0]


def test_status_tells_when_it_will_be_done() -> None:
    from broker.core.views import campaign_status

    book = Playbook(Settings())
    book.hello("a", max_connections=5, rate="10/s")
    book.submit(1_000)
    run(book, 3.0)
    campaign = book.core.state.by_id["c1"]
    status = campaign_status(campaign, book.core.state, book.core.balancer, book.now)
    assert status.eta_at is not None
    assert 90_000 <= status.eta_at - book.now.wall <= 110_000
    book.say(e.FromClient(b"k", 1, wire.Pause("c1")))
    assert campaign_status(campaign, book.core.state, book.core.balancer, book.now).eta_at is None


def test_a_limited_domain_delays_the_end_that_is_forecast() -> None:
    from broker.core.views import campaign_status

    book = Playbook(Settings(domains=(DomainGroup("g", frozenset({"gmail.com"}), rate="2/min"),)))
    book.hello("a", max_connections=5)
    book.submit_to([f"{n}@gmail.com" for n in range(60)])
    worker = book.core.state.workers["a"]
    worker.seconds_a_message = 0.01
    book.core.balancer.update(worker, book.mono)
    status = campaign_status(book.core.state.by_id["c1"], book.core.state, book.core.balancer, book.now)
    assert status.eta_at is not None
    assert 29 * 60_000 <= status.eta_at - book.now.wall <= 31 * 60_000


def test_a_promise_that_was_under_way_when_a_campaign_ended_reaches_its_bucket() -> None:
    """Else the campaign, retried, would wait for it for ever."""
    book = Playbook(Settings())
    quotas = book.core.state.quotas
    book.submit(1, wire.Options(rate="10/min"))
    campaign = book.core.state.by_id["c1"]
    bucket = campaign.bucket
    assert bucket is not None
    bucket.take(book.mono, bucket.available(book.mono, 100))
    quotas.used.add("campaign:c1")
    ((key, _),) = quotas.promises(book.now)
    number = quotas.numbers[key]
    quotas.retire(campaign, book.now)
    quotas.promised(key, number)
    assert quotas.of_campaign(campaign, book.now) is bucket
    assert bucket.available(book.mono + 30, 1) == 1


def test_the_strictest_rate_of_a_servers_workers_counts_whoever_comes_last() -> None:
    for order in ("ab", "ba"):
        book = Playbook(Settings())
        for name in order:
            rate = {"a": "2/s, 20/day", "b": "100/s, 10000/day"}[name]
            hello = wire.WorkerHello(name, 1, "one:25", f"log-{name}", 5, rate=rate)
            out = book.say(e.FromWorker(name.encode(), 7, hello))
        (log,) = [log for log in only(out, c.Log) if log.event == "worker.rates_differ"]
        assert log.fields["rate"] == "2/s, 20/day"
        book.submit(100)
        assert len(run(book, 3.0)) <= 7


def test_a_hello_tells_what_only_heartbeats_told() -> None:
    """Between a restart of the broker and the first heartbeat an agent's maint was forgotten."""
    book = Playbook(Settings())
    book.hello("a", max_connections=10, state="maint")
    assert not addresses(book.submit(5))
    book = Playbook(Settings())
    book.hello("a", max_connections=10, limit=2, agent_weight=50)
    book.submit(500)
    worker = book.core.state.workers["a"]
    assert (worker.limit, worker.weight, worker.in_flight) == (2, 50, 2)


def test_the_forecast_waits_for_deferred_messages() -> None:
    from broker.core.views import campaign_status

    book = Playbook(Settings(retry_initial_s=60))
    book.hello("a", max_connections=5)
    book.submit(1)
    (batch,) = only(book.seen, c.SendBatch)
    book.outcomes(batch, "deferred", code=450, reply="4.2.1 later")
    status = campaign_status(book.core.state.by_id["c1"], book.core.state, book.core.balancer, book.now)
    assert status.eta_at is not None and status.eta_at - book.now.wall >= 30_000


def tail(recipients: int, slow_s: float) -> Playbook:
    """A fast server whose connections are taken, a slow one that is free, and a campaign's last messages."""
    book = Playbook(Settings())
    book.hello("fast", max_connections=10)
    book.hello("slow", max_connections=10)
    workers = book.core.state.workers
    workers["fast"].seconds_a_message, workers["slow"].seconds_a_message = 0.02, slow_s
    book.say(e.FromClient(b"k", 1, wire.SetServer("slow", "drain")))
    book.submit(recipients)
    while len(book.core.state.by_id["c1"].ready) > 5:
        book.outcomes(
            next(b for b in only(book.seen, c.SendBatch) if b.batch in book.core.state.batches), "sent"
        )
        workers["fast"].seconds_a_message = 0.02
    book.say(e.FromClient(b"k", 1, wire.SetServer("slow", "ready")))
    return book


@pytest.mark.parametrize(
    ("recipients", "slow_s", "waits"), [(500, 5.0, True), (500, 0.02, False), (90, 5.0, False)]
)
def test_the_slowest_server_does_not_hold_the_last_messages(
    recipients: int, slow_s: float, waits: bool
) -> None:
    book = tail(recipients, slow_s)
    assert bool(book.core.state.workers["slow"].batches) is not waits


def test_but_it_gets_them_where_the_faster_ones_do_not_come_free() -> None:
    book = tail(500, 5.0)
    for _ in range(40):
        book.pass_time(0.1)
        for name in (b"fast", b"slow"):
            book.say(e.FromWorker(name, 0, wire.Heartbeat(1, 0, 0, 0, 10, 0)))
    assert book.core.state.workers["slow"].batches


def test_a_pace_is_that_of_whole_seconds_of_this_run() -> None:
    """Its first second may be a tenth of one, and what an earlier run of the broker sent took longer."""
    for before, after, pace in ((0, 60, 0.0), (60, 360, 300.0), (500_000, 500_100, 100.0)):
        book = Playbook(Settings())
        book.hello("a", max_connections=5)
        book.submit(200)
        campaign = book.core.state.by_id["c1"]
        campaign.total = 10**6
        campaign.counts[Stored.SENT] = before
        book.pass_time(1.0)
        assert campaign.rate == 0.0
        campaign.counts[Stored.SENT] = after
        book.pass_time(1.0)
        assert campaign.rate == pytest.approx(pace)


def test_a_forecast_is_made_anew_before_it_is_over() -> None:
    from broker.core.views import campaign_status

    book = Playbook(Settings())
    book.hello("a", max_connections=5)
    book.submit(200)
    state, balancer = book.core.state, book.core.balancer
    campaign = state.by_id["c1"]

    def left_s(mono: float, rate: float) -> float:
        book.mono, campaign.rate = mono, rate
        status = campaign_status(campaign, state, balancer, book.now)
        assert status.eta_at is not None
        return (status.eta_at - book.now.wall) / 1000

    began = book.mono
    assert left_s(began, 20.0) == pytest.approx(10.0, abs=0.1)
    assert left_s(began + 0.9, 200.0) == pytest.approx(9.1, abs=0.1), "it is told again for a moment"
    assert left_s(began + 1.1, 200.0) == pytest.approx(1.0, abs=0.1)
    assert left_s(began + 2.0, 1.0) == pytest.approx(200.0, abs=1)
    assert left_s(began + 6.9, 200.0) == pytest.approx(195.1, abs=1)
    assert left_s(began + 7.1, 200.0) == pytest.approx(1.0, abs=0.1)
