"""Whose turn it is."""

from collections import Counter

import pytest

from broker.core.state import Campaign
from broker.core.turns import Turns
from evenpost.wire.messages import Options


def campaign(number: int, **options: object) -> Campaign:
    return Campaign(number, f"c{number}", f"s{number}", b"", b"", Options(**options), 0, 0)  # type: ignore[arg-type]  # a test's own


def serve(turns: Turns, priority: int, rounds: int, messages: dict[int, int] | None = None) -> Counter[int]:
    """Messages that each campaign got."""
    got: Counter[int] = Counter()
    for _ in range(rounds):
        first = turns.first(priority, set())
        assert first is not None
        size = (messages or {}).get(first.number, 10)
        turns.served(first, size)
        got[first.number] += size
    return got


def test_campaigns_share_in_messages_not_in_batches() -> None:
    turns = Turns()
    for number in (1, 2):
        turns.add(campaign(number))
    got = serve(turns, 4, 1_100, {1: 1, 2: 10})
    assert abs(got[1] - got[2]) <= 10


def test_weights_divide_the_share() -> None:
    turns = Turns()
    turns.add(campaign(1, weight=300))
    turns.add(campaign(2, weight=100))
    got = serve(turns, 4, 400)
    assert abs(got[1] - 3 * got[2]) <= 40


def test_who_comes_later_begins_now_and_does_not_catch_up() -> None:
    turns = Turns()
    turns.add(campaign(1))
    serve(turns, 4, 100)
    turns.add(campaign(2))
    got = serve(turns, 4, 100)
    assert abs(got[1] - got[2]) <= 10


def test_who_was_away_does_not_catch_up() -> None:
    turns = Turns()
    away = campaign(1)
    turns.add(away)
    turns.add(campaign(2))
    serve(turns, 4, 2)
    while turns.first(4, set()) is not away:
        serve(turns, 4, 1)
    turns.leave(away)
    serve(turns, 4, 100)
    turns.add(away)
    got = serve(turns, 4, 100)
    assert abs(got[1] - got[2]) <= 20


def test_a_full_pool_holds_up_only_its_own() -> None:
    turns = Turns()
    turns.add(campaign(1, pool="x"))
    turns.add(campaign(2))
    assert turns.first(4, {("x", None)}).number == 2  # type: ignore[union-attr]
    assert turns.first(4, {("x", None), (None, None)}) is None
    assert turns.first(3, set()) is None


def test_adding_twice_is_adding_once() -> None:
    turns = Turns()
    one = campaign(1)
    turns.add(one)
    turns.add(one)
    assert turns.first(4, set()) is one
    turns.leave(one)
    assert turns.first(4, set()) is None
    turns.add(one)
    assert turns.first(4, set()) is one


def test_weights_divide_between_campaigns_of_different_pools_too() -> None:
    """Two of pool x and one without a pool, where the same servers can serve them all."""
    turns = Turns()
    turns.add(campaign(1, weight=100, pool="x"))
    turns.add(campaign(2, weight=300, pool="x"))
    turns.add(campaign(3, weight=100))
    got = serve(turns, 4, 1_000)
    assert [got[n] / 10_000 for n in (1, 2, 3)] == pytest.approx([0.2, 0.6, 0.2], abs=0.01)
