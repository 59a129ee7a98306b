"""Who gets the next batch."""

import pytest

from broker.core.balancer import Balancer, batches_ahead, load
from broker.core.batches import batches_a_connection
from broker.core.settings import Settings
from broker.core.state import Batch
from broker.core.worker_state import Worker


def worker(
    name: str, number: int, *, limit: int = 10, weight: int = 100, in_flight: int = 0, pools: str = ""
) -> Worker:
    made = Worker(
        name,
        number,
        connected=True,
        welcomed=True,
        reported_limit=limit,
        max_connections=limit,
        hello_weight=weight,
        pools=frozenset(pools.split()),
    )
    for n in range(in_flight):
        give(made, n)
    return made


def give(to: Worker, number: int) -> None:
    to.batches[number] = Batch(number, to, None, {})  # type: ignore[arg-type]  # no campaign is looked at


class Bench:
    """A balancer at a time that the test sets."""

    def __init__(self, *workers: Worker, **settings: object) -> None:
        self.balancer = Balancer(Settings(**settings))  # type: ignore[arg-type]  # a test's own
        self.now = 0.0
        self.update(*workers)

    def update(self, *workers: Worker) -> None:
        for w in workers:
            self.balancer.update(w, self.now)

    def pick(self, tag: str | None = None, **how: object) -> str | None:
        """The name of the picked one, which stays as loaded as it was."""
        found = self.balancer.pick(tag, self.now, **how)  # type: ignore[arg-type]  # a test's own
        if found is None:
            return None
        self.update(found[0])
        return found[0].name


def test_load_adds_only_what_the_broker_cannot_know() -> None:
    w = worker("a", 1, in_flight=3)
    w.busy, w.in_flight_at_report = 3, 3
    assert load(w) == 3  # all that it reports are our own batches
    w.external = 4
    assert load(w) == 7
    w.busy, w.in_flight_at_report = 1, 3
    assert load(w) == 3 + 4  # batches that wait inside the worker don't hide what others use
    w.busy, w.in_flight_at_report = 5, 3
    assert load(w) == 3 + 2 + 4


def test_a_heartbeat_older_than_a_dispatch_does_not_count_twice() -> None:
    w = worker("a", 1, in_flight=2)
    w.busy, w.in_flight_at_report = 2, 2
    give(w, 99)
    assert load(w) == 3


def test_the_lowest_key_wins_and_weight_divides() -> None:
    small, big = worker("small", 1, weight=100, in_flight=1), worker("big", 2, weight=300, in_flight=3)
    bench = Bench(small, big)
    assert bench.balancer.key(small, 0.0) == 2 / 100 and bench.balancer.key(big, 0.0) == 4 / 300
    assert bench.pick() == "big"


def test_ties_go_to_the_least_recently_used() -> None:
    bench = Bench(*(worker(name, number) for number, name in enumerate("abc", 1)))
    assert [bench.pick() for _ in range(6)] == ["a", "b", "c", "a", "b", "c"]


def test_every_dispatch_moves_the_order_at_once() -> None:
    """Between two heartbeats the ledger alone spreads the work: 10, 20 and 30 for weights 1:2:3."""
    workers = [worker(f"w{n}", n, limit=1000, weight=100 * n) for n in (1, 2, 3)]
    bench = Bench(*workers)
    for number in range(60):
        found = bench.balancer.pick(None, 0.0)
        assert found is not None
        give(found[0], number)
        bench.update(found[0])
    assert [w.in_flight for w in workers] == [10, 20, 30]


def test_a_choice_names_its_runner_up() -> None:
    bench = Bench(worker("a", 1, in_flight=1), worker("b", 2, in_flight=3), worker("c", 3, in_flight=2))
    found = bench.balancer.pick(None, 0.0)
    assert found is not None
    assert found[1] == ("a", 2 / 100, "c", 3 / 100)
    assert Bench(worker("a", 1)).balancer.pick(None, 0.0)[1].runner_up == ""  # type: ignore[index]


def test_accept_passes_over_without_losing_anyone() -> None:
    a, b = worker("a", 1), worker("b", 2)
    bench = Bench(a, b)
    assert bench.pick(accept=lambda w: w is b) == "b"
    assert bench.pick(accept=lambda w: False) is None
    assert bench.pick() == "a"


@pytest.mark.parametrize("change", ["full", "operator", "own", "maint", "lost", "breaker", "paused"])
def test_who_is_not_eligible(change: str) -> None:
    w = worker("a", 1, limit=2)
    bench = Bench(w)
    assert bench.pick() == "a"
    match change:
        case "full":
            give(w, 1)
            give(w, 2)
        case "operator":
            w.operator_state = "drain"
        case "own":
            w.own_state = "drain"
        case "maint":
            w.own_state, w.operator_state = "maint", "drain"
        case "lost":
            w.connected = w.welcomed = False
        case "breaker":
            w.breaker.failures, w.breaker.open_until = 2, 5.0
        case "paused":
            w.breaker.paused_until = 5.0
    bench.update(w)
    assert bench.pick() is None


def test_after_its_back_off_a_failing_server_is_probed_by_one_batch() -> None:
    w = worker("a", 1)
    w.breaker.failures, w.breaker.open_until = 2, 5.0
    bench = Bench(w)
    assert bench.balancer.next_at() == 5.0
    for bench.now, wanted in ((4.9, None), (5.0, "a")):
        bench.balancer.refresh(bench.now)
        assert bench.pick() == wanted
    give(w, 1)
    bench.update(w)
    bench.now = 6.0
    bench.balancer.refresh(6.0)
    assert bench.pick() is None


def test_a_pause_ends_by_itself() -> None:
    w = worker("a", 1, in_flight=1)
    w.breaker.paused_until = 0.3
    bench = Bench(w)
    bench.now = 0.3
    bench.balancer.refresh(bench.now)
    assert bench.pick() == "a"


def test_the_heaps_stay_small_however_often_workers_change() -> None:
    workers = [worker(f"w{n}", n, pools="x") for n in range(10)]
    bench = Bench(*workers)
    for _ in range(1_000):
        bench.update(*workers)
    for order in bench.balancer._free.values():
        assert len(order._heap) <= 64 + 4 * 10


def test_ahead_of_a_connection_only_when_asked_and_when_nobody_is_free() -> None:
    full, free = worker("full", 1, limit=4, in_flight=4), worker("free", 2, limit=4, in_flight=3, weight=1)
    bench = Bench(full, free)
    assert bench.pick(ahead=True) == "free"
    give(free, 99)
    bench.update(free)
    assert bench.pick() is None
    assert bench.pick(ahead=True) == "full"
    give(full, 98)
    bench.update(full)
    assert bench.pick(ahead=True, accept=lambda w: w is full) is None  # a quarter of its connections, no more


def test_behind_batches_that_wait_for_a_far_servers_answers_as_many_may_follow() -> None:
    far = worker("far", 1, limit=4, in_flight=4)
    assert batches_ahead(far) == 1
    far.begun = 3
    bench = Bench(far)
    for number in range(3):
        assert bench.pick(ahead=True) == "far"
        give(far, 90 + number)
        bench.update(far)
    assert bench.pick(ahead=True) is None
    far.begun = 1_000
    assert batches_ahead(far) == 4, "never more than two a connection"


def test_a_batch_that_shares_its_connection_is_no_slower_for_it() -> None:
    far = worker("far", 1, limit=4, in_flight=4)
    assert batches_a_connection(far) == 1.0
    for number in range(4):
        give(far, 90 + number)
    assert batches_a_connection(far) == 1.0, "those wait in the worker"
    far.begun = 2
    assert batches_a_connection(far) == 1.5
    far.begun = 1_000
    assert batches_a_connection(far) == 2.0


def test_connections_are_counted_without_a_scan() -> None:
    a, b = worker("a", 1, limit=10, pools="x"), worker("b", 2, limit=5)
    bench = Bench(a, b)
    assert (bench.balancer.connections(), bench.balancer.connections("x")) == (15, 10)
    a.reported_limit = 3
    b.welcomed = False
    bench.update(a, b)
    assert (bench.balancer.connections(), bench.balancer.connections("x")) == (3, 3)


def test_a_pool_has_its_own_order() -> None:
    a, b, c = worker("a", 1, in_flight=1, pools="x"), worker("b", 2, pools="y"), worker("c", 3, pools="x y")
    bench = Bench(a, b, c)
    assert (bench.pick("x"), bench.pick("y")) == ("c", "b")
    assert bench.pick("z") is None
    b.pools = frozenset("x")
    bench.update(b)
    assert bench.pick("y") == "c"


def test_the_last_connections_are_for_urgent_campaigns() -> None:
    a, b = worker("a", 1, limit=20, in_flight=20), worker("b", 2, limit=20, in_flight=18)
    bench = Bench(a, b, reserved_share=0.05)
    assert bench.balancer.reserve() == 2
    assert bench.pick() is None
    assert bench.pick(urgent=True) == "b"
    b.batches.pop(0)
    bench.update(b)
    assert bench.pick() == "b"


def test_a_pools_reserve_is_not_eaten_by_campaigns_without_a_pool() -> None:
    small = worker("small", 1, limit=20, in_flight=19, pools="x")
    bench = Bench(small, worker("other", 2, limit=100, in_flight=50), reserved_share=0.01)
    assert bench.pick() == "other"
    assert bench.pick(accept=lambda w: w is small) is None
    assert bench.pick("x", urgent=True) == "small"


def test_a_pool_does_not_eat_the_reserve_of_all() -> None:
    """Ten of twenty connections are in the pool, too few for a reserve of its own."""
    small = worker("small", 1, limit=10, in_flight=9, pools="x")
    bench = Bench(small, worker("other", 2, limit=10, in_flight=10))
    assert bench.balancer.reserve() == 1
    assert bench.pick("x") is None
    assert bench.pick(urgent=True) == "small"


def test_few_connections_have_no_reserve() -> None:
    bench = Bench(worker("a", 1, limit=10, in_flight=9))
    assert bench.balancer.reserve() == 0
    assert bench.pick() == "a"


def test_failures_weigh_on_the_key_and_fade() -> None:
    flaky, busy = worker("flaky", 1), worker("busy", 2, in_flight=1)
    for _ in range(10):
        flaky.breaker.failed(0.0, 0.0, lambda a, b: b)
        flaky.breaker.succeeded(0.0, 0.0)
    flaky.breaker.returned_at = None
    bench = Bench(flaky, busy)
    assert bench.pick() == "busy"
    bench.now = 120.0
    bench.update(flaky)
    assert bench.pick() == "flaky"


def test_a_server_that_returns_gets_its_share_little_by_little() -> None:
    w = worker("a", 1, limit=20)
    w.breaker.returned_at = 100.0
    bench = Bench(w, slow_start_s=20.0)
    for bench.now, limit in ((100.0, 1), (101.0, 1), (105.0, 5), (110.0, 10), (119.0, 19), (120.0, 20)):
        assert bench.balancer.limit(w, bench.now) == limit
    w.breaker.end_ramp(119.0, 20.0)
    assert w.breaker.returned_at == 100.0
    w.breaker.end_ramp(120.0, 20.0)
    assert w.breaker.returned_at is None


def test_least_time_multiplies_by_the_servers_pace() -> None:
    slow, fast = worker("slow", 1), worker("fast", 2, in_flight=3)
    slow.seconds_a_message, fast.seconds_a_message = 0.16, 0.02
    bench = Bench(slow, fast, policy="least-time")
    assert bench.balancer.key(slow, 0.0) == pytest.approx(0.16 / 100)
    assert bench.pick() == "fast"
    assert Bench(slow, fast).pick() == "slow"


def test_without_history_a_server_counts_as_the_mean_of_the_others() -> None:
    slow, fast, new = worker("slow", 1), worker("fast", 2), worker("new", 3)
    slow.seconds_a_message, fast.seconds_a_message = 0.3, 0.1
    bench = Bench(slow, fast, new, policy="least-time")
    assert bench.balancer.key(new, 0.0) == pytest.approx(0.2 / 100)
    slow.welcomed = False
    bench.update(slow)
    assert bench.balancer.key(new, 0.0) == pytest.approx(0.1 / 100)


def test_an_operators_limit_and_weight_beat_the_workers_own() -> None:
    w = worker("a", 1, limit=20, weight=100)
    w.own_weight = 50
    assert (w.limit, w.weight) == (20, 50)
    w.operator_limit, w.operator_weight = 5, 10
    assert (w.limit, w.weight) == (5, 10)
    w.operator_limit = 50
    assert w.limit == 20  # it never raises what the server can take
