import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenpost.wire.limits import WEIGHT_MAX
from worker.agent import REASON_CHARS_MAX, AgentState


def after(*lines: str) -> AgentState:
    state = AgentState()
    for line in lines:
        state, _ = state.after(line)
    return state


@pytest.mark.parametrize(
    ("lines", "state"),
    [
        ([], "ready"),
        (["drain"], "drain"),
        (["MAINT\r"], "maint"),
        (["drain", "ready"], "ready"),
        (["drain", "up 50%"], "drain"),
        (["up\tdrain"], "drain"),
        (["down"], "maint"),
        (["fail"], "maint"),
        (["stopped#queue is full"], "maint"),
        (["down", "ready"], "maint"),  # what is down needs `up`
        (["down", "up"], "ready"),
        (["down", "up,drain"], "drain"),
        (["0%"], "drain"),
        (["weight:0"], "drain"),
        (["0%", "100%"], "ready"),
        (["0% maint"], "maint"),
    ],
)
def test_what_the_server_shall_get(lines: list[str], state: str) -> None:
    assert after(*lines).state == state


@pytest.mark.parametrize(
    ("lines", "weight"),
    [
        ([], None),
        (["ready"], None),
        (["50%"], 30),
        (["1%"], 1),
        (["0%"], 1),
        (["weight:150"], 150),
        (["weight:150", "up"], 150),
        (["weight:150", "200%"], 120),
        (["200%", "weight:7"], 7),
        (["99999999%"], WEIGHT_MAX),
        (["weight:999999999"], WEIGHT_MAX),
    ],
)
def test_its_weight_where_60_is_configured(lines: list[str], weight: int | None) -> None:
    assert after(*lines).weight(60) == weight


def test_connections_and_reasons() -> None:
    assert after("maxconn:10").maxconn == 10
    assert after("maxconn:10", "75%").maxconn == 10
    assert after("maxconn:10", "maxconn:0").maxconn is None
    assert after("down # queue is full, 75% maint\r").reason == "queue is full, 75% maint"
    assert after("stopped").reason == "stopped"
    assert after("down#\x1b[31mred").reason == "[31mred"
    assert after("down#x", "up").reason == ""
    assert len(after("down#" + "x" * 5_000).reason) == REASON_CHARS_MAX


def test_words_that_mean_nothing_are_told_and_the_others_count() -> None:
    state, unknown = AgentState().after("drain wieght:5 weight:-1 maxconn:5% 5 weight:1234567890 \u0663%")
    assert state == AgentState(administrative="drain")
    assert unknown == ["wieght:5", "weight:-1", "maxconn:5%", "5", "weight:1234567890", "\u0663%"]


@given(st.lists(st.text() | st.from_regex(r"([a-z]{2,7}:?[0-9%#]{0,12}[ ,\t]){1,5}"), max_size=5))
def test_garbage_never_raises(lines: list[str]) -> None:
    state = after(*lines)
    assert state.state in ("ready", "drain", "maint")
    weight = state.weight(100)
    assert weight is None or 1 <= weight <= WEIGHT_MAX
    assert state.maxconn is None or state.maxconn > 0
