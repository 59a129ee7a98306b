"""A rate's bucket: pace, refunds, what the journal has to know, and changes of the rate."""

import json
from math import inf

import pytest

from broker.core.buckets import Bucket, StoredBucket
from evenpost.runtime.clock import Now
from evenpost.schedule.rate import Quota, parse_rate

WALL = 1_700_000_000_000


def at(seconds: float, wall_off_ms: int = 0) -> Now:
    return Now(1_000 + seconds, WALL + int(seconds * 1_000) + wall_off_ms)


def mono(seconds: float) -> float:
    return 1_000 + seconds


def bucket(rate: str, stored: StoredBucket | None = None, now: Now | None = None) -> Bucket:
    made = Bucket(parse_rate(rate), now or at(0), stored)
    commit(made, now or at(0))
    return made


def commit(it: Bucket, now: Now) -> StoredBucket | None:
    stored = it.promise(now)
    if stored is not None:
        it.promised()
    return stored


def take_all(it: Bucket, now: float) -> int:
    got = it.available(now, 10**9)
    it.take(now, got)
    return got


def test_grants_are_paced() -> None:
    it = bucket("14/s")
    assert take_all(it, mono(0)) == 1
    assert it.available(mono(0), 5) == 0
    assert it.next_at(mono(0)) == pytest.approx(mono(1 / 14))
    assert take_all(it, mono(1 / 14)) == 1
    fast = bucket("1000/s")
    assert take_all(fast, mono(0)) == 1
    assert take_all(fast, mono(60)) == 51, "0.05 s worth after a rest, and the one that is due"


def test_no_more_than_is_wanted() -> None:
    assert bucket("1000/s").available(mono(60), 7) == 7
    assert bucket("1000/s").available(mono(60), 0) == 0


def test_the_long_window_stops_when_it_is_used_up() -> None:
    it = bucket("10/s, 20/min")
    for tick in range(600):
        take_all(it, mono(tick / 10))
        commit(it, at(tick / 10))
    assert it.left(mono(59.9)) == [(Quota(10, 1), 10), (Quota(20, 60), 0)]
    back = it.next_at(mono(59.9))
    assert mono(60) <= back <= mono(60 + 60 / 128), "merged with what went a little later"
    assert it.available(back - 0.001, 1) == 0
    assert take_all(it, back) == 1


def test_what_is_used_says_when_it_comes_back() -> None:
    it = bucket("10/s, 100/min")
    it.take(mono(0), 1)
    it.take(mono(5), 1)
    seconds, minute = it.returns(mono(10))
    assert seconds == (Quota(10, 1), [])
    assert minute == (Quota(100, 60), [(50.0, 1), (55.0, 1)])


def test_a_refund_is_there_again() -> None:
    it = bucket("10/s, 20/min")
    it.take(mono(0), 1)
    it.take(mono(1), 3)
    assert it.next_at(mono(1)) > mono(1.2)
    it.refund(mono(1.1), 3, mono(1))
    commit(it, at(1.1))
    assert dict(it.left(mono(1.1)))[Quota(20, 60)] == 19
    assert it.available(mono(1.1), 1) == 1
    # The oldest was given back: what stays counts until the newer one leaves.
    assert dict(it.left(mono(60.5)))[Quota(20, 60)] == 19
    assert dict(it.left(mono(61)))[Quota(20, 60)] == 20


def test_a_refund_of_what_has_left_the_window_takes_nothing_from_others() -> None:
    it = bucket("10/s, 20/min, 100/2h")
    it.take(mono(0), 2)
    it.take(mono(59), 2)
    it.refund(mono(60), 2, mono(0))
    assert dict(it.left(mono(60)))[Quota(20, 60)] == 18
    assert dict(it.left(mono(60)))[Quota(100, 7_200)] == 98
    it.refund(mono(60), 1)
    assert dict(it.left(mono(60)))[Quota(20, 60)] == 18, "nobody says when it was taken"
    assert dict(it.left(mono(60)))[Quota(100, 7_200)] == 99


def test_a_refund_can_give_back_a_part_of_an_entry() -> None:
    it = bucket("1000/s, 5000/10s")
    for tick in range(5):
        it.take(mono(tick), 10)
    it.refund(mono(5), 25, mono(4))
    assert [n for _, n in it.returns(mono(5))[1][1]] == [5, 10, 10]
    it.refund(mono(5), 10**6, mono(4))
    assert dict(it.left(mono(5)))[Quota(5_000, 10)] == 5_000


# --- the journal ----------------------------------------------------------------------------------


def test_nothing_goes_before_the_journal_knows() -> None:
    it = Bucket(parse_rate("14/s"), at(0))
    assert it.available(mono(0), 1) == 0
    assert it.next_at(mono(0)) == inf
    assert it.promise(at(0)) == StoredBucket((), 0)
    assert it.available(mono(0), 1) == 0
    assert it.promise(at(0)) is None, "one is under way"
    it.promised()
    assert it.available(mono(0), 1) == 1


def test_a_word_about_the_bucket_before_changes_nothing() -> None:
    it = Bucket(parse_rate("14/s, 50000/day"), at(0))
    it.promised()
    assert it.available(mono(0), 1) == 0
    commit(it, at(0))
    it.promised()
    assert it.available(mono(0), 1) == 1


def test_a_short_window_tells_the_journal_only_once() -> None:
    it = bucket("1000/s")
    for tick in range(1_000):
        take_all(it, mono(tick))
        assert it.promise(at(tick)) is None


def test_an_allowance_ahead_is_renewed_when_half_of_it_is_left() -> None:
    it = Bucket(parse_rate("14/s, 50000/day"), at(0))
    first = it.promise(at(0))
    assert first is not None and first.allowance == 28
    it.promised()
    tick, second = 0, None
    while second is None:
        tick += 1
        it.take(mono(tick), 1)
        second = it.promise(at(tick))
    assert tick == 14
    log = second.windows[0][1]
    assert sum(count for _, count in log) == 14
    assert log[-1][0] - (WALL + 14_000) in (0, 1), "up to a millisecond later, never earlier"
    for n in range(14):
        assert it.available(mono(100 + n), 1) == 1
        it.take(mono(100 + n), 1)
    assert it.available(mono(200), 1) == 0, (
        "the rest of the first allowance is used, the second isn't on disk"
    )
    assert it.next_at(mono(200)) == inf
    it.promised()
    assert it.available(mono(200), 50) == 1


@pytest.mark.parametrize(
    ("rate", "allowance"),
    [("14/s, 50000/day", 28), ("1000/s, 50000/day", 250), ("5/2h", 1), ("100/10s", 2), ("10000/10s", 200)],
)
def test_the_allowance_is_small_beside_the_window(rate: str, allowance: int) -> None:
    stored = Bucket(parse_rate(rate), at(0)).promise(at(0))
    assert stored is not None and stored.allowance == allowance


def test_while_a_smaller_promise_is_under_way_both_hold() -> None:
    """After a crash either may be what is on disk."""
    it = bucket("1000/s, 50000/day")
    it.change(parse_rate("14/s, 50000/day"), at(0))
    stored = it.promise(at(0))
    assert stored is not None and stored.allowance == 28
    got = 0
    for tick in range(100):
        got += take_all(it, mono(tick))
    assert got == 28


def test_a_day_s_quota_is_not_granted_twice() -> None:
    it = bucket("100/day")
    stored = None
    for tick in range(50):
        assert take_all(it, mono(tick * 864)) == 1
        stored = commit(it, at(tick * 864)) or stored
    for later in (50 * 864, 60 * 864):
        again = Bucket(parse_rate("100/day"), at(later), stored)
        left = dict(again.left(mono(later)))[Quota(100, 86_400)]
        assert left in (49, 50), "what was used, and at most the allowance of one"
    next_day = Bucket(parse_rate("100/day"), at(86_400 + 10 * 864 + 1), stored)
    assert dict(next_day.left(at(86_400 + 10 * 864 + 1).mono))[Quota(100, 86_400)] in (59, 60)


def test_after_a_restart_a_short_window_counts_as_used_up() -> None:
    it = bucket("14/s", StoredBucket((), 0), at(0))
    assert it.available(mono(0.99), 1) == 0
    assert it.next_at(mono(0)) == mono(1)
    assert it.available(mono(1), 1) == 1


def test_a_clock_set_back_makes_old_grants_count_for_longer() -> None:
    stored = StoredBucket(((Quota(10, 60.0), ((WALL + 3_600_000, 7),)),), 0)
    it = Bucket(parse_rate("10/min"), at(0), stored)
    assert it.left(mono(59)) == [(Quota(10, 60), 3)]
    assert it.left(mono(61)) == [(Quota(10, 60), 10)]


def test_a_clock_that_was_set_is_written_anew() -> None:
    it = bucket("14/s, 50000/day")
    it.take(mono(0), 1)
    assert it.promise(at(1)) is None
    assert it.promise(at(1, 999)) is None, "clocks drift"
    stored = it.promise(at(1, 3_600_000))
    assert stored is not None
    assert stored.windows[0][1] == ((WALL + 3_600_001, 1),)
    it.promised()
    assert it.promise(at(2, 3_600_000)) is None
    assert bucket("14/s").promise(at(1, 3_600_000)) is None, "there is no time of the clock in it"


def test_what_is_stored_survives_any_format() -> None:
    it = bucket("14/s, 50000/day, 1000/h")
    for tick in range(600):
        it.take(mono(tick), 2)
    it.change(it.quotas, at(600))
    stored = it.promise(at(600))
    assert stored is not None and len(stored.windows) == 2
    assert StoredBucket.from_plain(json.loads(json.dumps(stored.to_plain()))) == stored
    assert all(len(log) <= 130 for _, log in stored.windows)


@pytest.mark.parametrize("plain", [[], [1], [[[1]], 2], [[[1, 2, [[3]]]], 4], [None, 1]])
def test_what_isn_t_stored_is_refused(plain: list[object]) -> None:
    with pytest.raises((TypeError, ValueError)):
        StoredBucket.from_plain(plain)


def test_many_restarts_don_t_let_the_log_grow() -> None:
    it = Bucket(parse_rate("100/s, 1000000/day"), at(0))
    for life in range(1_000):
        stored = it.promise(at(life * 20))
        assert stored is not None and len(stored.windows[0][1]) <= 130
        it = Bucket(parse_rate("100/s, 1000000/day"), at(life * 20 + 10), stored)


# --- another rate ---------------------------------------------------------------------------------


def test_a_changed_rate_keeps_what_was_used() -> None:
    it = bucket("14/s, 50000/day")
    for tick in range(20):
        it.take(mono(tick), 1)
        commit(it, at(tick))
    it.change(parse_rate("30/s, 1000/h, 30/day"), at(20))
    assert [left for _, left in it.left(mono(20))] == [30, 980, 10]
    it.change(parse_rate("5/day"), at(20))
    assert it.left(mono(20)) == [(Quota(5, 86_400), 0)]
    assert it.available(mono(20_000), 1) == 0
    assert it.next_at(mono(20_000)) >= mono(86_400 + 15), "sixteen of the twenty have to leave"


def test_a_rate_that_got_its_first_long_window_asks_the_journal_first() -> None:
    it = bucket("14/s")
    it.take(mono(0), 1)
    it.change(parse_rate("14/s, 100/day"), at(1))
    assert it.available(mono(1), 1) == 0
    assert it.next_at(mono(1)) == inf
    stored = commit(it, at(1))
    assert stored is not None and stored.windows[0][0] == Quota(100, 86_400)
    assert it.available(mono(1), 1) == 1
    under_way = Bucket(parse_rate("14/s"), at(0))
    under_way.promise(at(0))
    under_way.change(parse_rate("14/s, 100/day"), at(0))
    under_way.promised()
    assert under_way.available(mono(1), 1) == 0, "what is on disk is of the rate before"


def test_a_faster_rate_is_faster_at_once() -> None:
    it = bucket("1/h")
    assert take_all(it, mono(0)) == 1
    it.change(parse_rate("10/s"), at(1))
    commit(it, at(1))
    assert it.next_at(mono(1)) <= mono(1.1)


def test_another_rate_after_a_restart_counts_what_was_used() -> None:
    it = bucket("14/s, 50000/day")
    for tick in range(28):
        it.take(mono(tick), 1)
    stored = it.promise(at(28))
    again = Bucket(parse_rate("100/h"), at(30), stored)
    assert again.left(mono(30)) == [(Quota(100, 3_600), 100 - 28 - 28)]
    plain = Bucket(parse_rate("14/s, 100/day"), at(30), StoredBucket((), 0))
    assert plain.left(mono(31)) == [(Quota(14, 1), 14), (Quota(100, 86_400), 100)]
