"""When a campaign will end, as far as that can be told."""

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.core.buckets import Bucket
from broker.core.forecast import Cap, caps_of, eta, pooled
from evenpost.runtime.clock import Now
from evenpost.schedule.rate import parse_rate
from evenpost.schedule.window import parse_window

NOW = 1_773_100_800_000  # 2026-03-10 00:00 UTC
HOUR = 3_600
DAY = 24 * HOUR


def seconds(left: int, per_second: float, *caps: Cap, window: str = "", start_in: float = 0) -> float | None:
    at = eta(left, per_second, caps, parse_window(window), NOW, NOW + int(start_in * 1000))
    return None if at is None else (at - NOW) / 1000


def full(messages: int, per: float) -> Cap:
    return Cap(messages, per, messages)


def test_the_present_pace() -> None:
    assert seconds(1_000, 10) == 100
    assert seconds(0, 10) == 0
    assert seconds(1_000, 10, start_in=50) == 150
    assert eta(1_000, 10, (), None, NOW, NOW - 5_000) == NOW + 100_000


def test_nothing_tells() -> None:
    assert seconds(1_000, 0) is None
    assert seconds(10**12, 0.001) is None, "not in ten years"


def test_a_short_window_holds_the_pace() -> None:
    assert seconds(1_400, 1_000, full(14, 1)) == 100
    assert seconds(1_400, 0, full(14, 1)) == 100
    assert seconds(1_400, 7, full(14, 1)) == 200


def test_a_day_s_quota_that_comes_back_as_it_went() -> None:
    day = full(50_000, DAY)
    assert seconds(28_000, 14, day) == pytest.approx(2_000)
    assert seconds(50_000 + 14 * 60, 14, day) == pytest.approx(DAY + 60)
    assert seconds(120_000, 14, full(14, 1), day) == pytest.approx(2 * DAY + 20_000 / 14, abs=1)
    assert seconds(5_000, 0, full(1_000, HOUR)) == pytest.approx(5 * HOUR, rel=0.01)


def test_what_is_used_comes_back_when_the_bucket_says_so() -> None:
    used_up = Cap(100, DAY, 0, ((2 * HOUR, 60), (3 * HOUR, 40)))
    assert seconds(50, 10, used_up) == pytest.approx(2 * HOUR + 5, abs=2)
    assert seconds(100, 10, used_up) == pytest.approx(3 * HOUR + 4, abs=2)
    assert seconds(110, 10, used_up) == pytest.approx(DAY + 2 * HOUR + 1, abs=2)
    assert seconds(50, 10, used_up, start_in=4 * HOUR) == pytest.approx(4 * HOUR + 5, abs=1)
    evenly = Cap(100, HOUR, 0)
    assert seconds(50, 10, evenly) == pytest.approx(HOUR / 2, abs=1)


def test_the_narrowest_of_all() -> None:
    assert seconds(3_000, 100, full(1_000, HOUR), full(10_000, DAY)) == pytest.approx(2 * HOUR + 10, abs=1)
    assert seconds(11_000, 100, full(1_000, HOUR), full(10_000, DAY)) == pytest.approx(DAY + 10, abs=1)


def test_only_while_the_window_is_open() -> None:
    window = "08:00-20:00 UTC"
    assert seconds(1_000, 10, window=window) == 8 * HOUR + 100
    assert seconds(12 * HOUR + 60, 1, window=window) == pytest.approx(DAY + 8 * HOUR + 60)
    # The quota fills up while it is closed.
    filling = Cap(2_400, 12 * HOUR, 0)
    assert seconds(1_500, 10, filling, window=window) == pytest.approx(8 * HOUR + 150, abs=5)
    assert seconds(2_400, 10, filling, window=window) == pytest.approx(12 * HOUR, abs=5)
    berlin = eta(10, 1, (), parse_window("08:00-20:00 Europe/Berlin"), NOW, 0)
    assert berlin == datetime(2026, 3, 10, 8, 0, 10, tzinfo=ZoneInfo("Europe/Berlin")).timestamp() * 1000


def test_what_several_servers_allow_together() -> None:
    one = [full(10, 1), full(1_000, HOUR)]
    two = [Cap(20, 1, 5), Cap(500, DAY, 100, ((5.0, 400),))]
    assert pooled([one, two]) == [Cap(30, 1, 15)]
    assert pooled([two, two])[1] == Cap(1_000, DAY, 200, ((5.0, 400), (5.0, 400)))
    assert pooled([one, []]) == [], "who has no rate takes the rest"
    assert pooled([]) == []


def test_from_a_bucket() -> None:
    it = Bucket(parse_rate("10/s, 100/h"), Now(0.0, NOW))
    it.promise(Now(0.0, NOW))
    it.promised()
    it.take(0.0, 1)
    caps = caps_of(it.left(10.0), it.returns(10.0))
    assert caps == [Cap(10, 1, 10), Cap(100, HOUR, 99, ((HOUR - 10.0, 1),))]


def cap_of(messages: int, per: float, share: float, back: int) -> Cap:
    returns = tuple((per * n / 10, max(1, messages // 50)) for n in range(back))
    return Cap(messages, per, int(messages * share), returns)


@settings(max_examples=200, deadline=None)
@given(
    st.integers(0, 10**9),
    st.floats(0, 10**5),
    st.lists(
        st.builds(
            cap_of,
            st.integers(1, 10**6),
            st.sampled_from([1.0, 60.0, 3_600.0, 86_400.0]),
            st.floats(-0.1, 1),
            st.integers(0, 10),
        ),
        max_size=4,
    ),
    st.sampled_from(["", "08:00-20:00 Europe/Berlin", "Mon 00:00-00:01 UTC"]),
    st.integers(0, 2**63 - 1),
)  # fmt: skip
def test_it_always_ends_and_never_before_it_could(
    left: int, per_second: float, caps: list[Cap], window: str, start_at: int
) -> None:
    at = eta(left, per_second, caps, parse_window(window), NOW, start_at)
    if at is not None:
        assert at >= max(NOW, start_at)
        if per_second:
            assert at - NOW >= left / per_second * 1000 * 0.99 - 2
