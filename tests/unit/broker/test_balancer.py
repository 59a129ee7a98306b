"""Who gets the next batch."""

import pytest

from broker.core.balancer import Balancer, eligible, key, load
from broker.core.state import Batch, Worker


def worker(name: str, number: int, *, limit: int = 10, weight: int = 100, in_flight: int = 0) -> Worker:
    made = Worker(
        name, number, connected=True, welcomed=True, limit=limit, max_connections=limit, weight=weight
    )
    for n in range(in_flight):
        give(made, n)
    return made


def give(to: Worker, number: int) -> None:
    to.batches[number] = Batch(number, to, None, {})  # type: ignore[arg-type]  # no campaign is looked at


def anyone(_: Worker) -> bool:
    return True


def test_load_adds_only_what_the_broker_cannot_know() -> None:
    w = worker("a", 1, in_flight=3)
    w.busy, w.in_flight_at_report = 3, 3
    assert load(w) == 3  # all that it reports are our own batches
    w.external = 4
    assert load(w) == 7
    w.busy, w.in_flight_at_report = 1, 3
    assert load(w) == 3 + 2  # batches that wait inside the worker don't hide what others use


def test_a_heartbeat_older_than_a_dispatch_does_not_count_twice() -> None:
    w = worker("a", 1, in_flight=2)
    w.busy, w.in_flight_at_report = 2, 2
    give(w, 99)
    assert load(w) == 3


def test_the_lowest_key_wins_and_weight_divides() -> None:
    balancer = Balancer()
    small, big = worker("small", 1, weight=100, in_flight=1), worker("big", 2, weight=300, in_flight=3)
    assert key(small) == 2 / 100 and key(big) == 4 / 300
    for w in (small, big):
        balancer.update(w, 0.0)
    assert balancer.pick(anyone) is big


def test_ties_go_to_the_least_recently_used() -> None:
    balancer = Balancer()
    workers = [worker(name, number) for number, name in enumerate("abc", 1)]
    for w in workers:
        balancer.update(w, 0.0)
    picked = []
    for _ in range(6):
        w = balancer.pick(anyone)
        assert w is not None
        picked.append(w.name)
        balancer.update(w, 0.0)  # the batch came and went: loads are equal again
    assert picked == ["a", "b", "c", "a", "b", "c"]


def test_every_dispatch_moves_the_order_at_once() -> None:
    """Between two heartbeats the ledger alone spreads the work: 10, 20 and 30 for weights 1:2:3."""
    balancer = Balancer()
    workers = [worker(f"w{n}", n, limit=1000, weight=100 * n) for n in (1, 2, 3)]
    for w in workers:
        balancer.update(w, 0.0)
    for number in range(60):
        w = balancer.pick(anyone)
        assert w is not None
        give(w, number)
        balancer.update(w, 0.0)
    assert [w.in_flight for w in workers] == [10, 20, 30]


def test_accept_passes_over_without_losing_anyone() -> None:
    balancer = Balancer()
    a, b = worker("a", 1), worker("b", 2)
    for w in (a, b):
        balancer.update(w, 0.0)
    assert balancer.pick(lambda w: w is b) is b
    assert balancer.pick(lambda w: False) is None
    balancer.update(b, 0.0)
    assert balancer.pick(anyone) is a


@pytest.mark.parametrize("change", ["full", "drained", "leaving", "lost", "held"])
def test_who_is_not_eligible(change: str) -> None:
    balancer = Balancer()
    w = worker("a", 1, limit=2)
    balancer.update(w, 0.0)
    assert balancer.pick(anyone) is w
    match change:
        case "full":
            give(w, 1)
            give(w, 2)
        case "drained":
            w.drained = True
        case "leaving":
            w.leaving = True
        case "lost":
            w.connected = w.welcomed = False
        case "held":
            w.failures, w.hold_until = 2, 5.0
    balancer.update(w, 0.0)
    assert balancer.pick(anyone) is None


def test_after_its_hold_a_failing_server_is_probed_by_one_batch() -> None:
    w = worker("a", 1)
    w.failures, w.hold_until = 2, 5.0
    assert not eligible(w, 4.9)
    assert eligible(w, 5.0)
    give(w, 1)
    assert not eligible(w, 6.0)


def test_the_heap_stays_small_however_often_workers_change() -> None:
    balancer = Balancer()
    workers = [worker(f"w{n}", n) for n in range(10)]
    for _ in range(1_000):
        for w in workers:
            balancer.update(w, 0.0)
    assert len(balancer._free) <= 64 + 4 * 10


def test_ahead_of_a_connection_only_when_asked_and_when_nobody_is_free() -> None:
    balancer = Balancer()
    full, free = worker("full", 1, limit=4, in_flight=4), worker("free", 2, limit=4, in_flight=3, weight=1)
    for w in (full, free):
        balancer.update(w, 0.0)
    assert balancer.pick(anyone, ahead=True) is free
    give(free, 99)
    balancer.update(free, 0.0)
    assert balancer.pick(anyone) is None
    assert balancer.pick(anyone, ahead=True) is full
    give(full, 98)
    balancer.update(full, 0.0)
    assert balancer.pick(lambda w: w is full, ahead=True) is None  # a quarter of its connections, not more


def test_connections_are_counted_without_a_scan() -> None:
    balancer = Balancer()
    a, b = worker("a", 1, limit=10), worker("b", 2, limit=5)
    balancer.update(a, 0.0)
    balancer.update(b, 0.0)
    assert balancer.connections == 15
    a.limit = 3
    b.connected = False
    balancer.update(a, 0.0)
    balancer.update(b, 0.0)
    assert balancer.connections == 3
