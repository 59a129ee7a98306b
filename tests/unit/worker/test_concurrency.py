"""The live limit: Postfix's 1/N feedback, and what a refusal beside others says."""

import random

import pytest

from worker.concurrency import PATIENCE_MAX, PATIENCE_MIN, ConcurrencyLimit


def good(limit: ConcurrencyLimit, count: int = 1) -> None:
    """So many batches end well while the limit is used up."""
    for _ in range(count):
        limit.batch_ended(throttled=False, others_open=limit.limit - 1)


def throttled(limit: ConcurrencyLimit, count: int = 1) -> None:
    for _ in range(count):
        limit.batch_ended(throttled=True, others_open=limit.limit - 1)


def test_it_starts_at_the_most_and_stays_there() -> None:
    limit = ConcurrencyLimit(4)
    assert limit.limit == 4
    good(limit, 1_000)
    assert limit.limit == 4


def test_the_decrement_is_at_the_beginning_of_a_sequence() -> None:
    limit = ConcurrencyLimit(10)
    throttled(limit)
    assert limit.limit == 9
    # 1 - 1/10 is left of that step; each further one takes 1/9 of it: the ninth is one too many.
    throttled(limit, 8)
    assert limit.limit == 9
    throttled(limit)
    assert limit.limit == 8


def test_the_increment_is_at_the_end_of_a_sequence() -> None:
    limit = ConcurrencyLimit(10)
    throttled(limit)
    good(limit, 8)
    assert limit.limit == 9
    good(limit)
    assert limit.limit == 10


def test_good_batches_do_not_restart_the_negative_sequence_but_a_rise_does() -> None:
    limit = ConcurrencyLimit(10)
    throttled(limit)
    good(limit, 5)
    throttled(limit)
    assert limit.limit == 9, "a bad batch among good ones mustn't cost a connection each time"
    good(limit, 4)
    assert limit.limit == 10
    throttled(limit)
    assert limit.limit == 9


def test_a_fall_restarts_the_positive_sequence() -> None:
    limit = ConcurrencyLimit(10)
    throttled(limit)
    good(limit, 8)
    throttled(limit, 9)
    assert limit.limit == 8
    good(limit, 7)
    assert limit.limit == 8
    good(limit)
    assert limit.limit == 9


def test_a_limit_that_is_not_used_does_not_rise() -> None:
    limit = ConcurrencyLimit(10)
    throttled(limit)
    for _ in range(100):
        limit.batch_ended(throttled=False, others_open=7)
    assert limit.limit == 9
    for _ in range(9):
        limit.batch_ended(throttled=False, others_open=8)
    assert limit.limit == 10


def test_it_never_falls_below_one() -> None:
    limit = ConcurrencyLimit(3)
    throttled(limit, 100)
    assert limit.limit == 1
    good(limit)
    assert limit.limit == 2


def test_a_refusal_beside_others_says_how_many_the_server_takes() -> None:
    limit = ConcurrencyLimit(20)
    limit.refused(others_open=3)
    assert limit.limit == 3
    limit.refused(others_open=4)  # it had been begun before
    assert limit.limit == 3
    limit.refused(others_open=0)
    assert limit.limit == 1


def test_refusals_that_overtake_the_greetings_of_the_others() -> None:
    """Twenty connections are begun at once; seventeen are refused before three are greeted."""
    limit = ConcurrencyLimit(20)
    for _ in range(17):
        limit.refused(others_open=0)
    assert limit.limit == 1
    for now_open in (1, 2, 3):
        limit.opened(now_open)
    assert limit.limit == 3
    good(limit, 3 * PATIENCE_MIN - 1)
    assert limit.limit == 3
    good(limit)
    assert limit.limit == 4, "a burst of refusals counts as one attempt"


def probes(limit: ConcurrencyLimit, cap: int, batches: int) -> int:
    """How often one connection more is refused, in so many good batches."""
    refused = 0
    for _ in range(batches):
        good(limit)
        if limit.limit > cap:
            refused += 1
            limit.refused(others_open=cap)
    return refused


def test_a_fixed_cap_is_tried_ever_more_seldom() -> None:
    limit = ConcurrencyLimit(20)
    limit.refused(others_open=3)
    sequence = [PATIENCE_MIN * 2**n for n in range(6)]
    assert probes(limit, 3, 3 * sum(sequence)) == 6
    assert probes(limit, 3, 3 * PATIENCE_MAX * 10) == 10


def test_a_cap_that_is_gone_is_forgotten() -> None:
    limit = ConcurrencyLimit(20)
    limit.refused(others_open=3)
    probes(limit, 3, 3 * PATIENCE_MIN)
    batches = 0
    while limit.limit < 20 and batches < 10_000:
        good(limit)
        limit.opened(limit.limit)
        batches += 1
    assert batches < 3 * 2 * PATIENCE_MIN + sum(range(4, 21))


def test_the_agents_word_bounds_it() -> None:
    limit = ConcurrencyLimit(20)
    limit.set_max(5)
    assert (limit.limit, limit.max_connections) == (5, 5)
    limit.set_max(8)
    assert limit.limit == 8
    throttled(limit)
    limit.set_max(20)
    assert limit.limit == 7, "the server had slowed it down: it rises by feedback"
    limit.set_max(0)
    assert (limit.limit, limit.max_connections) == (1, 1)


def test_the_agent_lifts_no_ceiling() -> None:
    limit = ConcurrencyLimit(20)
    limit.refused(others_open=3)
    limit.set_max(3)
    limit.set_max(20)
    assert limit.limit == 3


@pytest.mark.parametrize("seed", range(20))
def test_it_keeps_its_bounds_whatever_comes(seed: int) -> None:
    rng = random.Random(seed)
    limit, most = ConcurrencyLimit(12), 12
    for _ in range(2_000):
        match rng.randrange(5):
            case 0 | 1:
                limit.batch_ended(throttled=rng.random() < 0.3, others_open=rng.randrange(15))
            case 2:
                limit.refused(others_open=rng.randrange(15))
            case 3:
                limit.opened(rng.randrange(1, 16))
            case _:
                most = rng.randrange(1, 20)
                limit.set_max(most)
        assert 1 <= limit.limit <= most
