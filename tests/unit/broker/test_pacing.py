"""How much at a time, and how long to wait."""

from broker.core import pacing
from evenpost.wire import limits


def low(a: float, _: float) -> float:
    return a


def high(_: float, b: float) -> float:
    return b


def test_a_batch_is_about_the_target_of_work() -> None:
    assert pacing.batch_size(0.01, 0.2, 100_000, 10) == 20
    assert pacing.batch_size(0.5, 0.2, 100_000, 10) == 1
    assert pacing.batch_size(0.000_01, 0.2, 100_000_000, 10) == limits.BATCH_MESSAGES_MAX


def test_a_far_server_gets_several_at_a_time_but_in_the_tail() -> None:
    assert pacing.batch_size(0.5, 0.2, 100_000, 10, least=4) == 4
    assert pacing.batch_size(0.01, 0.2, 100_000, 10, least=4) == 20
    assert pacing.batch_size(0.5, 0.2, 21, 10, least=4) == 2


def test_the_tail_is_shared_out_in_ever_smaller_parts() -> None:
    assert pacing.batch_size(0.001, 0.2, 100, 10) == 5
    assert pacing.batch_size(0.001, 0.2, 21, 10) == 2
    assert pacing.batch_size(0.001, 0.2, 100, 10, 10_000) == 5  # all ten are as fast
    assert pacing.batch_size(0.008, 0.2, 100, 10, 10_000) == 1  # the others do the rest in the same time
    assert pacing.batch_size(0.001, 0.2, 100, 10, 2_000) == 25
    assert pacing.batch_size(0.001, 0.2, 1, 10) == 1
    assert pacing.batch_size(0.001, 0.2, 0, 0) == 1


def test_a_server_of_unknown_pace_starts_small() -> None:
    assert pacing.batch_size(0.0, 0.2, 100_000, 10) == 10


def test_the_pace_follows_what_is_measured() -> None:
    pace = pacing.pace(0.0, 1.0, 10)
    assert pace == 0.1
    for _ in range(30):
        pace = pacing.pace(pace, 0.1, 10)
    assert 0.01 <= pace < 0.011
    assert pacing.pace(0.0, 0.0, 500) > 0  # all within one tick of the clock


def test_back_off_doubles_up_to_its_limit_and_half_of_it_is_chance() -> None:
    assert [pacing.back_off(n, 10, 60, high) for n in (1, 2, 3, 4, 100)] == [10, 20, 40, 60, 60]
    assert [pacing.back_off(n, 10, 60, low) for n in (1, 2, 3, 4)] == [5, 10, 20, 30]
