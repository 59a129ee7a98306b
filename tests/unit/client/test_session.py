"""Playbooks for the client's session: what is asked, what comes, and what shall happen when."""

import pytest

from client.errors import ClientError
from client.session import WATCH_RENEW_S, Answer, Command, Fail, Send, Session, Timing
from evenpost.wire.errors import Code
from evenpost.wire.messages import (
    Done,
    Error,
    Message,
    OpenCampaign,
    Pause,
    Status,
    StatusReply,
    Template,
    Watch,
    WatchUpdate,
)

TIMING = Timing(timeout_s=30, retry_s=2, retry_s_max=8, busy_s=0.1, unsent_s=0.05)


def sent(commands: list[Command]) -> list[int]:
    assert all(isinstance(c, Send) for c in commands), commands
    return [c.request for c in commands]


def times_sent(session: Session, until: float) -> list[float]:
    """When a session sends, if nobody answers: follows its own alarm clock."""
    times = []
    while (at := session.wake_at) is not None and at <= until:
        for command in session.tick(at):
            assert isinstance(command, Send)
            times.append(round(at, 3))
    return times


def error_of(commands: list[Command]) -> ClientError:
    [command] = commands
    assert isinstance(command, Fail)
    return command.error


def test_an_answer_goes_to_its_request_and_its_duplicate_to_nobody() -> None:
    session = Session(TIMING)
    first, commands = session.ask(Pause("a"), 0.0)
    second, _ = session.ask(Pause("b"), 0.0)
    assert sent(commands) == [first] and first != second
    assert session.receive(second, Done(2), 0.1) == [Answer(second, Done(2))]
    assert session.receive(second, Done(2), 0.2) == []
    assert session.receive(first, Done(1), 0.3) == [Answer(first, Done(1))]
    assert session.wake_at is None


def test_a_request_without_an_answer_is_said_again_with_growing_pauses_until_its_time_is_up() -> None:
    session = Session(TIMING)
    session.ask(Status(), 0.0)
    assert times_sent(session, 29.9) == [2, 6, 14, 22]
    error = error_of(session.tick(30.1))
    assert error.code == Code.UNAVAILABLE
    assert "30 s" in error.message
    assert session.wake_at is None


def test_what_found_no_connection_is_tried_again_soon() -> None:
    session = Session(TIMING)
    request, _ = session.ask(Status(), 0.0)
    session.unsent(request, 0.0)
    assert session.wake_at == pytest.approx(0.05)
    assert sent(session.tick(0.05)) == [request]


def test_what_found_no_connection_is_sent_as_soon_as_there_is_one() -> None:
    session = Session(TIMING)
    first, _ = session.ask(Status(), 0.0)
    second, _ = session.ask(Status(), 0.0)
    session.unsent(second, 0.0)
    assert sent(session.connected(0.01)) == [second]
    assert sent(session.connected(0.02)) == []
    assert first != second


@pytest.mark.parametrize("code", [Code.BUSY, Code.UNAVAILABLE])
def test_busy_means_try_later_and_in_the_end_says_why(code: Code) -> None:
    session = Session(TIMING)
    request, _ = session.ask(Status(), 0.0)
    assert session.receive(request, Error(code, "the queue is full"), 1.0) == []
    assert times_sent(session, 1.15) == [1.1]
    assert session.receive(request, Error(code, "the queue is full"), 1.2) == []
    assert times_sent(session, 1.45) == [1.4]
    error = error_of(session.tick(30.1))
    assert error.code == Code.UNAVAILABLE and "the queue is full" in error.message


def test_a_refusal_becomes_an_error_with_code_and_message() -> None:
    session = Session(TIMING)
    request, _ = session.ask(Pause("x"), 0.0)
    error = error_of(session.receive(request, Error(Code.NOT_FOUND, "no campaign x"), 0.1))
    assert (error.code, error.message) == ("not_found", "no campaign x")


def test_an_answer_of_the_wrong_kind_is_an_error_and_not_a_crash() -> None:
    session = Session(TIMING)
    request, _ = session.ask(Pause("x"), 0.0)
    error = error_of(session.receive(request, StatusReply([]), 0.1))
    assert error.code == Code.BAD_MESSAGE and "PAUSE" in error.message and "STATUS_REPLY" in error.message


def test_a_watch_goes_on_and_is_renewed_before_it_lapses() -> None:
    session = Session(TIMING)
    request, _ = session.ask(Watch("c", interval_s=0.5), 0.0)
    update = WatchUpdate([], [])
    said = []
    now = 0.0
    for _ in range(100):
        now += 0.5
        assert session.receive(request, update, now) == [Answer(request, update)]
        said += [now for c in session.tick(now) if isinstance(c, Send)]
    assert said == [10.0, 20.0, 30.0, 40.0, 50.0]
    assert WATCH_RENEW_S * 2 < 30


def test_a_watch_that_falls_silent_is_said_again_and_in_the_end_given_up() -> None:
    session = Session(TIMING)
    request, _ = session.ask(Watch("c", interval_s=1.0), 0.0)
    session.receive(request, WatchUpdate([], []), 5.0)
    assert times_sent(session, 9) == [8.0]
    assert session.receive(request, WatchUpdate([], []), 9.0) != []
    assert error_of([c for t in (20.0, 39.5) for c in session.tick(t) if isinstance(c, Fail)]).code == (
        Code.UNAVAILABLE
    )


def test_a_large_request_gets_the_time_that_its_bytes_take() -> None:
    session = Session(TIMING)
    large: Message = OpenCampaign("s", Template("a@b.example", "x", html="x" * 5_000_000))
    session.ask(large, 0.0)
    assert times_sent(session, 39) == pytest.approx([12.0, 24.0, 36.0], abs=0.1)


def test_nothing_is_left_of_a_request_that_was_forgotten_or_failed() -> None:
    session = Session(TIMING)
    request, _ = session.ask(Status(), 0.0)
    session.forget(request)
    assert session.tick(100.0) == []
    request, _ = session.ask(Status(), 0.0)
    assert error_of(session.fail_all(ClientError("closed", "closed"))).code == "closed"
    assert session.receive(request, StatusReply([]), 1.0) == []
    assert session.reject(request, ClientError("x", "x")) == []
