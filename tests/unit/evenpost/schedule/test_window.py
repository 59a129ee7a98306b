"""Sending windows: when they are open, in every zone, over midnight and over changes of the clock."""

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenpost.schedule.window import Window, WindowError, parse_window

MINUTE = 60_000
HOUR = 60 * MINUTE
DAY = 24 * HOUR


def ms(text: str, zone: str = "Europe/Berlin", fold: int = 0) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold).timestamp() * 1000)


BASE = ms("2025-01-01T00:00", "UTC")


def window(text: str) -> Window:
    parsed = parse_window(text)
    assert parsed is not None
    return parsed


near_a_change = st.builds(
    lambda change, minute: (change - BASE) // MINUTE + minute,
    st.sampled_from(
        [ms("2026-03-29T01:59"), ms("2026-10-25T02:59"), ms("2026-04-05T01:59", "Australia/Lord_Howe")]
    ),
    st.integers(-200, 200),
)


def test_nothing_is_no_window() -> None:
    assert parse_window("") is None
    assert parse_window("  ") is None


def test_the_hours_of_a_day() -> None:
    w = window("08:00-20:00 Europe/Berlin")
    assert not w.is_open(ms("2026-03-10T07:59:59"))
    assert w.is_open(ms("2026-03-10T08:00:00"))
    assert w.is_open(ms("2026-03-10T19:59:59"))
    assert not w.is_open(ms("2026-03-10T20:00:00"))
    assert w.opens_at(ms("2026-03-10T09:00:00")) == ms("2026-03-10T09:00:00")
    assert w.opens_at(ms("2026-03-10T21:00:00")) == ms("2026-03-11T08:00:00")
    assert w.closes_at(ms("2026-03-10T09:00:00")) == ms("2026-03-10T20:00:00")
    assert w.closes_at(ms("2026-03-10T21:00:00")) == ms("2026-03-11T20:00:00")


def test_days_of_the_week() -> None:
    w = window("Mon-Fri 08:00-20:00 Europe/Berlin")
    assert w.opens_at(ms("2026-03-13T20:00:00")) == ms("2026-03-16T08:00:00")
    assert not w.is_open(ms("2026-03-14T12:00:00"))
    assert window("sat, Sun 1:00-2:00 UTC").opens_at(ms("2026-03-13T00:00", "UTC")) == ms(
        "2026-03-14T01:00", "UTC"
    )
    around = window("Fri-Mon 00:00-24:00 UTC")
    assert around.is_open(ms("2026-03-15T12:00", "UTC"))
    assert around.closes_at(ms("2026-03-13T00:00", "UTC")) == ms("2026-03-17T00:00", "UTC")
    weekly = window("Thursday 08:00-09:00 UTC")
    assert weekly.opens_at(ms("2026-03-12T09:00", "UTC")) == ms("2026-03-19T08:00", "UTC")


def test_over_midnight_the_day_is_the_one_on_which_it_opens() -> None:
    w = window("Fri 22:00-06:00 UTC")
    assert not w.is_open(ms("2026-03-13T05:00", "UTC"))
    assert w.is_open(ms("2026-03-13T23:00", "UTC"))
    assert w.is_open(ms("2026-03-14T05:59", "UTC"))
    assert w.closes_at(ms("2026-03-13T23:00", "UTC")) == ms("2026-03-14T06:00", "UTC")
    assert not w.is_open(ms("2026-03-14T06:00", "UTC"))


def test_an_opening_moves_with_the_clock_in_spring() -> None:
    """On 2026-03-29 in Berlin 02:00 CET is 03:00 CEST."""
    w = window("08:00-20:00 Europe/Berlin")
    evening = ms("2026-03-28T20:00")
    assert w.opens_at(evening) - evening == 11 * HOUR
    night = window("22:00-06:00 Europe/Berlin")
    assert night.closes_at(ms("2026-03-28T22:00")) - ms("2026-03-28T22:00") == 7 * HOUR
    skipped = window("02:15-04:00 Europe/Berlin")
    assert skipped.opens_at(ms("2026-03-28T12:00")) == ms("2026-03-29T03:00")
    assert skipped.closes_at(ms("2026-03-28T12:00")) == ms("2026-03-29T04:00")
    assert window("01:00-02:30 Europe/Berlin").closes_at(ms("2026-03-29T01:30")) == ms("2026-03-29T03:00")
    gone = window("02:10-02:50 Europe/Berlin")
    assert gone.opens_at(ms("2026-03-28T03:00")) == ms("2026-03-30T02:10")


def test_an_hour_that_comes_twice_in_autumn_is_open_twice() -> None:
    """On 2026-10-25 in Berlin 03:00 CEST is 02:00 CET."""
    w = window("08:00-20:00 Europe/Berlin")
    evening = ms("2026-10-24T20:00")
    assert w.opens_at(evening) - evening == 13 * HOUR
    night = window("22:00-06:00 Europe/Berlin")
    assert night.closes_at(ms("2026-10-24T22:00")) - ms("2026-10-24T22:00") == 9 * HOUR
    twice = window("02:00-03:00 Europe/Berlin")
    opens = twice.opens_at(ms("2026-10-24T12:00"))
    assert opens == ms("2026-10-25T02:00")
    assert twice.closes_at(opens) - opens == 2 * HOUR
    part = window("01:00-02:30 Europe/Berlin")
    assert part.closes_at(ms("2026-10-25T01:00")) == ms("2026-10-25T02:30", fold=1)
    assert window("02:30-04:00 Europe/Berlin").opens_at(ms("2026-10-24T12:00")) == ms("2026-10-25T02:30")


def test_a_day_that_a_zone_left_out() -> None:
    """Samoa had no 30th of December 2011."""
    w = window("Fri 08:00-09:00 Pacific/Apia")
    assert w.opens_at(ms("2011-12-24T12:00", "Pacific/Apia")) == ms("2012-01-06T08:00", "Pacific/Apia")


def test_all_day_never_closes() -> None:
    w = window("00:00-24:00 Europe/Berlin")
    at = ms("2026-03-28T00:00")
    for hour in range(24 * 40):
        assert w.is_open(at + hour * HOUR)
        assert w.closes_at(at + hour * HOUR) > at + hour * HOUR
    assert w.after(at, 30 * DAY) == at + 30 * DAY


def test_open_time_is_counted_over_closed_time() -> None:
    w = window("Mon-Fri 08:00-20:00 Europe/Berlin")
    assert w.after(ms("2026-03-10T09:00"), HOUR) == ms("2026-03-10T10:00")
    assert w.after(ms("2026-03-10T19:00"), 2 * HOUR) == ms("2026-03-11T09:00")
    assert w.after(ms("2026-03-14T19:00"), 0) == ms("2026-03-16T08:00")
    assert w.after(ms("2026-03-13T08:00"), 12 * HOUR) == ms("2026-03-13T20:00")
    years = w.after(ms("2026-03-09T08:00"), 5_200 * 12 * HOUR)
    assert abs(years - ms("2026-03-09T08:00") - 5_200 / 5 * 7 * DAY) < 60 * DAY


def test_times_beyond_the_calendar_are_no_bug() -> None:
    w = window("08:00-20:00 Europe/Berlin")
    for at in (2**63 - 1, -(2**63)):
        assert w.opens_at(at) == at
        assert w.closes_at(at) > at
        assert w.after(at, HOUR) == at + HOUR


@given(
    st.sampled_from(
        [
            "08:00-20:00",
            "22:00-06:00",
            "Mon-Fri 02:30-03:00",
            "Sun 00:00-24:00",
            "23:30-02:15",
            "Sat,Sun 01:00-02:30",
        ]
    ),
    st.sampled_from(
        ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata", "Africa/Casablanca"]
    ),
    st.lists(st.one_of(st.integers(0, 800 * 24 * 60), near_a_change), min_size=1, max_size=20),
)
def test_every_question_agrees_with_the_clock_on_the_wall(hours: str, zone: str, minutes: list[int]) -> None:
    w = window(f"{hours} {zone}")
    for minute in minutes:
        at = BASE + minute * MINUTE
        assert w.is_open(at) == window(f"{hours} {zone}").is_open(at), "what it remembers changes no answer"
        if not comes_twice(zone, at):
            assert w.is_open(at) == by_wall_clock(hours, zone, at)
        opens, closes = w.opens_at(at), w.closes_at(at)
        assert at <= opens < closes
        assert w.is_open(opens) and w.is_open(closes - 1)
        assert opens == at or not w.is_open(opens - 1)


def comes_twice(zone: str, at: int) -> bool:
    local = datetime.fromtimestamp(at / 1000, ZoneInfo(zone))
    return local.replace(fold=0).timestamp() != local.replace(fold=1).timestamp()


def by_wall_clock(hours: str, zone: str, at: int) -> bool:
    """The same by another way: only what the clock on the wall shows."""
    days, _, clock = hours.rpartition(" ")
    names = {"": range(7), "Mon-Fri": range(5), "Sun": [6], "Sat,Sun": [5, 6]}[days]
    opens, closes = clock.split("-")
    local = datetime.fromtimestamp(at / 1000, ZoneInfo(zone))
    now, today = local.strftime("%H:%M"), local.weekday()
    if opens < closes:
        return today in names and opens <= now < closes
    return (today in names and now >= opens) or ((today - 1) % 7 in names and now < closes)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("08:00-20:00", "doesn't say in which time zone"),
        ("08:00 Europe/Berlin", "is not FROM-TO ZONE"),
        ("8-20 UTC", "is not FROM-TO ZONE"),
        ("08:00-2٣:00 UTC", "is not FROM-TO ZONE"),
        ("25:00-26:00 UTC", "25:00 is no time of day"),
        ("08:60-20:00 UTC", "08:60 is no time of day"),
        ("08:00-08:00 UTC", "has no length"),
        ("24:00-08:00 UTC", "write 00:00"),
        ("08:00-20:00 Europe/Berln", "Did you mean 'Europe/Berlin'?"),
        ("08:00-20:00 berlin", "Did you mean 'Europe/Berlin'?"),
        ("08:00-20:00 ../etc/passwd", "no time zone is called"),
        ("08:00-20:00 Mars/Olympus_Mons", "no time zone is called"),
        ("Mo-Fr 08:00-20:00 UTC", "'mo' is no day of the week"),
        ("Mon- 08:00-20:00 UTC", "'' is no day of the week"),
        ("Mon-Tue-Wed 08:00-20:00 UTC", "is no range of days"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(text: str, said: str) -> None:
    with pytest.raises(WindowError) as caught:
        parse_window(text)
    assert said in str(caught.value)
