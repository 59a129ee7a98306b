"""A rate is read as it was meant, or refused with what is wrong."""

import pytest

from evenpost.schedule.rate import Quota, RateError, parse_rate, rate_text, strictest


@pytest.mark.parametrize(
    ("text", "quotas"),
    [
        ("", ()),
        ("  ", ()),
        ("14/s", [(14, 1)]),
        ("14/s, 50000/day", [(14, 1), (50_000, 86_400)]),
        ("50000/d,14/sec", [(14, 1), (50_000, 86_400)]),
        ("100/10s", [(100, 10)]),
        ("5/2h", [(5, 7_200)]),
        (" 1 / min ", [(1, 60)]),
        ("1000/Hour", [(1_000, 3_600)]),
        ("3 per 2 hours", [(3, 7_200)]),
        ("1/s, 100/min", [(1, 1), (100, 60)]),
    ],
)
def test_what_people_write(text: str, quotas: list[tuple[int, float]]) -> None:
    assert parse_rate(text) == tuple(Quota(*quota) for quota in quotas)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("14", "'14' is not MESSAGES/TIME"),
        ("14/s,", "the rate '14/s,': '' is not MESSAGES/TIME"),
        ("1.5/s", "is not MESSAGES/TIME"),
        ("-1/s", "is not MESSAGES/TIME"),
        ("14/week", "no unit of time is called 'week'"),
        ("14/s, 3/fortnight", "'3/fortnight': no unit"),
        ("0/s", "to send nothing, pause the campaign"),
        ("1/0s", "must be 1 second to 366 days"),
        ("1/400d", "must be 1 second to 366 days"),
        (f"1/{'9' * 5_000}s", "must be 1 second to 366 days"),
        (f"{'9' * 5_000}/s", "must allow 1 to"),
        ("60/min, 2/60s", "two limits for a window of 60 s"),
        (",".join(f"{n}/{n}s" for n in range(1, 10)), "has 9 windows; at most 8"),
        ("१४/s", "is not MESSAGES/TIME"),
        ("1_000/s", "is not MESSAGES/TIME"),
        ("1__0/s", "is not MESSAGES/TIME"),
        ("1/٣s", "is not MESSAGES/TIME"),
    ],
)
def test_what_is_wrong_is_said(text: str, said: str) -> None:
    with pytest.raises(RateError, match="rate") as caught:
        parse_rate(text)
    assert said in str(caught.value)


@pytest.mark.parametrize("text", ["x", "1/x", "0/s", "1/0s"])
def test_an_error_shows_how_it_is_done(text: str) -> None:
    with pytest.raises(RateError, match="14/s, 50000/day"):
        parse_rate(text)


@pytest.mark.parametrize("text", ["14/s, 50000/day", "100/10s", "5/2h, 7/day", "3/90s", "1/min"])
def test_a_rate_is_written_as_it_is_read(text: str) -> None:
    assert rate_text(parse_rate(text)) == text


def test_the_strictest_keeps_to_all() -> None:
    assert strictest(["14/s, 500/day", "20/s, 100/day", ""]) == "14/s, 100/day"
    assert strictest([]) == ""
    many = [f"{n}/{n}s" for n in range(1, 20)]
    assert len(parse_rate(strictest(many))) <= 8
