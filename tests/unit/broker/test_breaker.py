"""What a server's failures do to it."""

import pytest

from broker.core.breaker import Breaker


def most(low: float, high: float) -> float:
    return high


def test_it_opens_after_two_failures_in_a_row_and_longer_each_time() -> None:
    breaker = Breaker()
    assert breaker.failed(0.0, 0.0, most) == 0.0
    assert not breaker.is_open
    waits = [breaker.failed(n, n, most) for n in range(1, 9)]
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]
    assert breaker.is_open


def test_a_success_between_keeps_it_closed() -> None:
    breaker = Breaker()
    for _ in range(5):
        breaker.failed(0.0, 0.0, most)
        assert not breaker.succeeded(0.0, 0.0)
    assert not breaker.is_open


def test_half_open_then_closed_with_a_slow_start() -> None:
    breaker = Breaker()
    breaker.failed(0.0, 0.0, most)
    breaker.failed(0.0, 0.0, most)
    assert not breaker.lets_probe(0.9)
    assert breaker.lets_probe(1.0)
    assert breaker.succeeded(1.0, 2.0)
    assert not breaker.is_open
    assert [breaker.ramp(t, 10.0) for t in (2.0, 7.0, 12.0, 12.1)] == [0.0, 0.5, 1.0, 1.0]


def test_at_a_cold_start_there_is_no_ramp() -> None:
    assert Breaker().ramp(0.0, 10.0) == 1.0
    breaker = Breaker()
    breaker.succeeded(0.0, 0.0)
    assert breaker.ramp(0.0, 10.0) == 1.0


def test_throttling_pauses_longer_until_the_server_takes_something() -> None:
    def throttled(breaker: Breaker, at: float, *, took: bool = False, last: bool = False) -> float:
        return breaker.throttled(at, at, most, took=took, last=last)

    breaker = Breaker()
    waits = [throttled(breaker, n) for n in range(12)]
    assert waits[:4] == [0.05, 0.1, 0.2, 0.4]
    assert waits[-1] == 1.0
    assert not breaker.is_open
    assert throttled(breaker, 20, last=True) == 30.0
    assert throttled(breaker, 21, took=True) == 0.05


def test_what_was_under_way_when_a_pause_began_does_not_lengthen_it() -> None:
    breaker = Breaker()
    waits = [breaker.throttled(0.0, 1.0 + n / 100, most, took=False, last=False) for n in range(20)]
    assert waits == [0.05] + 19 * [0.0]
    assert breaker.paused_until == 1.05


def test_the_failure_rate_follows_and_fades() -> None:
    breaker = Breaker()
    for _ in range(50):
        breaker.failed(0.0, 0.0, most)
    assert breaker.failure_rate(0.0) == pytest.approx(1.0, abs=0.01)
    assert breaker.failure_rate(30.0) == pytest.approx(0.37, abs=0.01)
    for _ in range(50):
        breaker.ended_well(30.0)
    assert breaker.failure_rate(30.0) < 0.01


def test_what_was_answered_before_it_failed_does_not_close_it() -> None:
    breaker = Breaker()
    for _ in range(2):
        breaker.failed(4.0, 5.0, most)
    assert not breaker.succeeded(4.5, 5.1)
    assert breaker.is_open
    assert breaker.succeeded(6.0, 6.1)
