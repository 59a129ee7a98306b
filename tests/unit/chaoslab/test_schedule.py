"""The schedule of scripts/chaos: the same seed, the same faults."""

import itertools

import pytest

from scripts.chaoslab.schedule import BROKER, CLIENT, kills_of, schedule, worker_names


def test_the_same_seed_gives_the_same_schedule_and_another_another() -> None:
    assert schedule(7, 50, 4) == schedule(7, 50, 4)
    assert schedule(7, 50, 4) != schedule(8, 50, 4)


@pytest.mark.parametrize("seed", range(1, 21))
@pytest.mark.parametrize("kills", [0, 1, 6, 50, 51])
def test_it_has_exactly_the_kills_that_were_asked_for(seed: int, kills: int) -> None:
    assert kills_of(schedule(seed, kills, 4)) == kills


def test_faults_of_each_kind_are_spread_over_the_whole_campaign() -> None:
    faults = schedule(1, 50, 4)
    times = [fault.at for fault in faults]
    assert times == sorted(times)
    assert 0 < times[0] < 0.1
    assert 0.9 < times[-1] < 1
    assert max(later - earlier for earlier, later in itertools.pairwise(times)) < 0.05
    hit = [fault.victims for fault in faults if fault.kind == "kill"]
    assert {(BROKER,), (CLIENT,)} < set(hit)
    assert {name for victims in hit for name in victims} == {BROKER, CLIENT, *worker_names(4)}
    assert any(len(victims) == 2 for victims in hit)
    assert {fault.kind for fault in faults} == {"kill", "freeze", "upgrade"}


def test_a_freeze_outlasts_the_lease() -> None:
    freezes = [fault for seed in range(20) for fault in schedule(seed, 50, 4) if fault.kind == "freeze"]
    assert min(fault.hold for fault in freezes) > 1
