"""Whole messages by BDAT, several in the pipeline, as playbooks."""

import pytest

from worker.smtp.config import ServerConfig, Timeouts
from worker.smtp.content import WireContent, checked
from worker.smtp.events import Closed, Completed, ContentWanted, Envelope, Event
from worker.smtp.outbox import WRITE_BYTES_MAX
from worker.smtp.outcome import Cause, Stage
from worker.smtp.protocol import CHUNK_BYTES_MAX, REFUSALS_MAX, SmtpClient

A, B, C, D = [
    Envelope("f@example.com", f"{name}@example.org", 100, key) for key, name in enumerate("abcd", 1)
]
BODY = checked(b"Subject: x\r\n\r\nMAIL FROM:<no@example.net>\r\nQUIT\r\n")
LARGE = WireContent((b"x" * 70 + b"\r\n") * (3 * WRITE_BYTES_MAX // 72))
OK = b"250 2.0.0 ok\r\n"
TAKEN = OK * 3
"""The answers to a message without RSET."""


def whole(envelope: Envelope, body: bytes = BODY) -> bytes:
    commands = f"MAIL FROM:<f@example.com>\r\nRCPT TO:<{envelope.rcpt_to}>\r\nBDAT {len(body)} LAST\r\n"
    return commands.encode() + body


def session(*capabilities: bytes, depth: int = 3, discard: frozenset[str] = frozenset()) -> SmtpClient:
    client = SmtpClient(ServerConfig("h", tls="none", pipeline_depth=depth, discard_ehlo_keywords=discard))
    client.start("me")
    client.receive_data(b"220 hi\r\n")
    client.data_to_send()
    client.receive_data(
        b"".join(b"250-" + name + b"\r\n" for name in (b"mx", *capabilities)) + b"250 HELP\r\n"
    )
    return client


@pytest.fixture
def client() -> SmtpClient:
    return session(b"PIPELINING", b"CHUNKING")


def send(client: SmtpClient, *envelopes: Envelope) -> bytes:
    for envelope in envelopes:
        assert client.send_message(envelope, BODY) is None
    return client.data_to_send()


def results(events: list[Event]) -> list[tuple[int, str, str, int]]:
    return [
        (event.envelope.key, event.result.kind, event.result.stage.value, event.result.code)
        for event in events
        if isinstance(event, Completed)
    ]


def closed(events: list[Event]) -> Closed:
    assert isinstance(events[-1], Closed)
    return events[-1]


def test_messages_leave_whole_and_several_before_the_first_answer(client: SmtpClient) -> None:
    assert client.room == 3
    assert send(client, A) == whole(A)
    assert client.room == 2
    assert send(client, B, C) == b"RSET\r\n" + whole(B) + b"RSET\r\n" + whole(C)
    assert client.room == 0
    with pytest.raises(RuntimeError):
        client.send_message(D, BODY)
    assert results(client.receive_data(TAKEN)) == [(1, "sent", "bdat", 250)]
    assert client.room == 1
    assert not client.is_idle
    assert results(client.receive_data(OK + TAKEN + OK + TAKEN)) == [
        (2, "sent", "bdat", 250),
        (3, "sent", "bdat", 250),
    ]
    assert client.is_idle
    assert send(client, D) == whole(D), "nothing to reset"


@pytest.mark.parametrize(
    "capabilities", [(b"PIPELINING",), (b"CHUNKING",), (), (b"PIPELINING", b"BINARYMIME")]
)
def test_without_both_extensions_there_is_no_room(capabilities: tuple[bytes, ...]) -> None:
    client = session(*capabilities)
    assert (client.chunks, client.room) == (False, 0)
    assert client.ready_for_envelope


@pytest.mark.parametrize("keyword", ["CHUNKING", "PIPELINING"])
def test_what_is_discarded_is_not_used(keyword: str) -> None:
    client = session(b"PIPELINING", b"CHUNKING", discard=frozenset({keyword}))
    assert client.room == 0
    client.send_envelope(A)
    assert client.data_to_send().endswith(b"DATA\r\n") == (keyword == "CHUNKING")


def test_a_depth_of_one_is_one_message_at_a_time() -> None:
    client = session(b"PIPELINING", b"CHUNKING", depth=1)
    assert send(client, A) == whole(A)
    assert client.room == 0
    client.receive_data(TAKEN)
    assert send(client, B) == whole(B)


def test_a_refused_recipient_is_one_result_and_leaves_the_others_alone(client: SmtpClient) -> None:
    send(client, A, B, C)
    events = client.receive_data(TAKEN + OK + OK + b"550 5.1.1 who\r\n")
    assert results(events) == [(1, "sent", "bdat", 250), (2, "bounced", "rcpt", 550)]
    assert results(client.receive_data(b"503-no recipients\r\n503 at all\r\n")) == [], "it has its result"
    assert results(client.receive_data(OK + TAKEN)) == [(3, "sent", "bdat", 250)]


def test_after_a_refused_recipient_the_next_message_is_reset(client: SmtpClient) -> None:
    """Exim keeps the transaction, and would put the next recipient into it."""
    send(client, A)
    client.receive_data(OK + b"550 5.1.1 who\r\n503 no valid recipients\r\n")
    assert client.is_idle
    assert send(client, B) == b"RSET\r\n" + whole(B)
    assert results(client.receive_data(OK + TAKEN)) == [(2, "sent", "bdat", 250)]
    assert send(client, C) == whole(C)


def test_a_refused_sender(client: SmtpClient) -> None:
    send(client, A, B)
    events = client.receive_data(b"550 5.7.1 not yours\r\n503 no\r\n503 no\r\n" + OK + TAKEN)
    assert results(events) == [(1, "bounced", "mail", 550), (2, "sent", "bdat", 250)]


def test_a_refused_content_is_a_result_and_the_next_message_is_reset(client: SmtpClient) -> None:
    send(client, A)
    assert results(client.receive_data(OK + OK + b"554 5.7.1 spam\r\n")) == [(1, "bounced", "bdat", 554)]
    assert send(client, B) == b"RSET\r\n" + whole(B)


@pytest.mark.parametrize(
    ("answer", "kind", "scope"),
    [
        (b"503 5.5.1 out of sequence\r\n", "not_sent", "server"),
        (b"500 what\r\n", "not_sent", "server"),
        (b"552 5.3.4 too big\r\n", "bounced", "server"),
        (b"451 4.3.0 queue file write error\r\n", "not_sent", "server"),
        (b"454 4.7.0 Throttling failure: Maximum sending rate exceeded\r\n", "not_sent", "throttled"),
        (b"450 4.7.1 greylisted\r\n", "deferred", "recipient"),
    ],
)
def test_what_an_answer_to_bdat_means(client: SmtpClient, answer: bytes, kind: str, scope: str) -> None:
    send(client, A)
    [event] = client.receive_data(OK + OK + answer)
    assert isinstance(event, Completed)
    assert (event.result.kind, event.result.scope, event.result.stage) == (kind, scope, Stage.BDAT)


def test_a_lost_connection_leaves_unknown_what_was_out(client: SmtpClient) -> None:
    send(client, A, B)
    client.send_message(C, BODY)
    events = client.receive_data(TAKEN) + client.receive_eof()
    assert results(events) == [(1, "sent", "bdat", 250), (2, "unknown", "bdat", 0)]
    assert closed(events).unsent == (C,), "nothing of it was handed out"
    assert not client.has_data_to_send


@pytest.mark.parametrize("answered", range(8))
def test_421_is_the_answer_to_the_first_and_what_is_behind_it_was_not_looked_at(
    client: SmtpClient, answered: int
) -> None:
    send(client, A, B, C)
    events = client.receive_data(OK * answered + b"421 4.7.0 enough\r\n")
    done = [1, 2, 3][: (answered + 1) // 4]
    assert [key for key, *_ in results(events)] == done
    assert [envelope.key for envelope in closed(events).unsent] == [1, 2, 3][len(done) :]


def test_a_refused_one_is_no_more_unsent(client: SmtpClient) -> None:
    send(client, A, B)
    events = client.receive_data(OK + b"550 5.1.1 who\r\n421 bye\r\n")
    assert results(events) == [(1, "bounced", "rcpt", 550)]
    assert closed(events).unsent == (B,)


@pytest.mark.parametrize("data", [b"354 go\r\n", b"nonsense\r\n", b"250-yes\r\n550 no\r\n"])
def test_nonsense_in_place_of_an_answer_leaves_all_unknown(client: SmtpClient, data: bytes) -> None:
    send(client, A, B)
    events = client.receive_data(OK + OK + data)
    assert results(events) == [(1, "unknown", "bdat", 0), (2, "unknown", "bdat", 0)]
    assert closed(events).unsent == ()


def test_a_refused_reset_leaves_unknown_what_is_behind_it(client: SmtpClient) -> None:
    send(client, A, B)
    events = client.receive_data(TAKEN + b"554 Too many nonmail commands\r\n")
    assert results(events) == [(1, "sent", "bdat", 250), (2, "unknown", "bdat", 0)]


def test_an_answer_to_an_address_is_none_to_a_content(client: SmtpClient) -> None:
    """The server has said one thing twice: its answer to RCPT comes where that to BDAT is due."""
    send(client, A)
    events = client.receive_data(b"250 2.1.0 ok\r\n250 2.1.0 ok\r\n250 2.1.5 ok\r\n")
    assert results(events) == [(1, "unknown", "bdat", 0)]
    reason = closed(events).reason
    assert reason is not None
    assert "makes no sense" in reason.text


@pytest.mark.parametrize(("unwritten", "kinds"), [(0, ["sent"]), (1, ["unknown"])])
def test_a_yes_before_the_content_has_left_is_none(
    client: SmtpClient, unwritten: int, kinds: list[str]
) -> None:
    send(client, A)
    events = client.receive_data(TAKEN, unwritten)
    assert [kind for _, kind, *_ in results(events)] == kinds


def test_a_no_before_the_content_has_left_is_one(client: SmtpClient) -> None:
    send(client, A)
    assert results(client.receive_data(OK + OK + b"552 5.3.4 too much\r\n", 5)) == [
        (1, "bounced", "bdat", 552)
    ]
    assert client.is_idle


def test_a_connection_with_many_refusals_narrows_and_is_worn() -> None:
    """Exim hangs up after ten RSETs that don't follow a message: what is in the pipeline would be unknown."""
    client = session(b"PIPELINING", b"CHUNKING", depth=4)
    rooms = []
    for _ in range(REFUSALS_MAX):
        assert not client.is_worn
        rooms.append(client.room)
        send(client, A)
        client.receive_data((OK if len(rooms) > 1 else b"") + OK + b"550 who\r\n503 no\r\n")
    assert rooms == [4, 4, 4, 4, 4, 4, 3, 2, 1]
    assert client.is_worn
    assert client.room == 0


def test_a_large_content_goes_by_data_between_others(client: SmtpClient) -> None:
    send(client, A)
    client.send_envelope(B)
    assert client.room == 0, "its content comes first"
    assert client.data_to_send().startswith(b"RSET\r\nMAIL"), "whether A had a recipient isn't known"
    assert client.receive_data(TAKEN + OK + OK + OK + b"354 go\r\n")[1:] == [ContentWanted(B)]
    client.send_content(LARGE)
    client.data_to_send()
    assert client.room == 0, "what would be written now wouldn't leave at once"
    while client.has_data_to_send:
        assert client.stage is Stage.CONTENT
        client.data_to_send()
    assert client.room == 2
    assert send(client, C) == whole(C), "B's recipient was taken: its transaction ends with its dot"
    assert results(client.receive_data(OK + TAKEN)) == [(2, "sent", "dot", 250), (3, "sent", "bdat", 250)]


def test_a_large_content_is_broken_off_alone(client: SmtpClient) -> None:
    client.send_envelope(A)
    client.data_to_send()
    client.receive_data(OK + OK + b"354 go\r\n")
    client.send_content(LARGE)
    while not client.ends_content_next:
        client.data_to_send()
    assert results(client.break_off_content()) == [(1, "not_sent", "content", 0)]
    assert not client.has_data_to_send


def test_what_cannot_be_said_is_refused_here() -> None:
    client = session(b"PIPELINING", b"CHUNKING", b"SIZE 50")
    too_big = client.send_message(A, BODY)
    assert too_big is not None
    assert too_big.enhanced == "5.3.4"
    assert client.refusal(A) == too_big
    assert not client.has_data_to_send
    assert client.is_idle


def test_size_counts_what_is_sent() -> None:
    client = session(b"PIPELINING", b"CHUNKING", b"SIZE")
    client.send_message(A, BODY)
    assert client.data_to_send().startswith(b"MAIL FROM:<f@example.com> SIZE=100\r\n")


def test_time_outs_follow_the_first_that_waits(client: SmtpClient) -> None:
    limits = Timeouts()
    client.send_message(A, BODY)
    assert client.timeout == limits.data_block
    send(client, B)
    assert (client.stage, client.timeout) == (Stage.MAIL, limits.mail)
    client.receive_data(OK)
    assert (client.stage, client.timeout) == (Stage.RCPT, limits.rcpt)
    client.receive_data(OK)
    assert (client.stage, client.timeout) == (Stage.BDAT, limits.final_dot)
    client.receive_data(OK)
    assert (client.stage, client.timeout) == (Stage.RSET, limits.command)
    end = closed(client.connection_failed(Cause.TIMEOUT, "nothing"))
    assert end.reason is not None
    assert end.reason.stage is Stage.RSET


def test_misuse_is_an_error(client: SmtpClient) -> None:
    with pytest.raises(ValueError, match="CRLF"):
        client.send_message(A, WireContent(b"no end"))
    send(client, A)
    with pytest.raises(RuntimeError):
        client.quit()


def test_one_write_holds_any_message_that_goes_whole(client: SmtpClient) -> None:
    body = WireContent(b"x" * (CHUNK_BYTES_MAX - 2) + b"\r\n")
    client.send_message(A, body)
    assert client.data_to_send() == whole(A, body)
