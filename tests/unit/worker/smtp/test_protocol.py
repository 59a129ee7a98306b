"""Transactions, as playbooks: what the server says, what we write, what comes out."""

import pytest

from worker.smtp.config import ServerConfig, Timeouts
from worker.smtp.content import WireContent, checked
from worker.smtp.events import Closed, Completed, ContentWanted, Envelope, Event
from worker.smtp.outbox import WRITE_BYTES_MAX
from worker.smtp.outcome import Cause, Stage
from worker.smtp.protocol import SmtpClient

A = Envelope("from@example.com", "a@example.org", 100, 1)
B = Envelope("from@example.com", "b@example.org", 200, 2)
BODY = checked(b"Subject: x\r\n\r\ndot.\r\n")
END = b"dot.\r\n.\r\n"
ACCEPT = b"250 ok\r\n250 ok\r\n354 go\r\n"


def mail(envelope: Envelope, extra: bytes = b"") -> bytes:
    return b"MAIL FROM:<from@example.com>" + extra + b"\r\n"


def rcpt(envelope: Envelope) -> bytes:
    return f"RCPT TO:<{envelope.rcpt_to}>\r\n".encode()


def group(envelope: Envelope) -> bytes:
    return mail(envelope) + rcpt(envelope) + b"DATA\r\n"


def session(*capabilities: bytes) -> SmtpClient:
    client = SmtpClient(ServerConfig("h", tls="none"))
    client.start("me")
    client.receive_data(b"220 hi\r\n")
    client.data_to_send()
    client.receive_data(
        b"".join(b"250-" + name + b"\r\n" for name in (b"mx", *capabilities)) + b"250 HELP\r\n"
    )
    assert client.is_idle
    return client


@pytest.fixture
def piped() -> SmtpClient:
    return session(b"PIPELINING")


@pytest.fixture
def stepped() -> SmtpClient:
    return session()


def results(events: list[Event]) -> list[tuple[int, str, str, int]]:
    return [
        (event.envelope.key, event.result.kind, event.result.stage.value, event.result.code)
        for event in events
        if isinstance(event, Completed)
    ]


def closed(events: list[Event]) -> Closed:
    assert isinstance(events[-1], Closed)
    return events[-1]


def with_content_out(client: SmtpClient) -> SmtpClient:
    """A's content and B's envelope are out."""
    client.send_envelope(A)
    client.data_to_send()
    client.receive_data(ACCEPT)
    client.send_content(BODY)
    client.send_envelope(B)
    client.data_to_send()
    return client


def test_one_round_trip_a_message(piped: SmtpClient) -> None:
    assert piped.send_envelope(A) is None
    assert not piped.ready_for_envelope
    assert piped.data_to_send() == group(A)
    assert piped.receive_data(ACCEPT) == [ContentWanted(A)]
    piped.send_content(BODY)
    assert piped.ready_for_envelope
    piped.send_envelope(B)
    assert piped.data_to_send() == BODY + b".\r\n" + group(B)
    events = piped.receive_data(b"250 2.0.0 queued as 1\r\n" + ACCEPT)
    assert results(events) == [(1, "sent", "dot", 250)]
    assert events[1:] == [ContentWanted(B)]
    piped.send_content(BODY)
    assert piped.data_to_send() == BODY + b".\r\n"
    assert not piped.is_idle
    assert results(piped.receive_data(b"250 ok\r\n")) == [(2, "sent", "dot", 250)]
    assert piped.is_idle


def test_step_by_step_without_pipelining(stepped: SmtpClient) -> None:
    stepped.send_envelope(A)
    for expected, answer in ((mail(A), b"250 ok\r\n"), (rcpt(A), b"250 ok\r\n")):
        assert stepped.data_to_send() == expected
        assert stepped.receive_data(answer) == []
    assert stepped.data_to_send() == b"DATA\r\n"
    assert stepped.receive_data(b"354 go\r\n") == [ContentWanted(A)]
    stepped.send_content(BODY)
    assert not stepped.ready_for_envelope
    assert stepped.data_to_send() == BODY + b".\r\n"
    assert results(stepped.receive_data(b"250 ok\r\n")) == [(1, "sent", "dot", 250)]
    assert stepped.ready_for_envelope


def test_mail_refused(piped: SmtpClient, stepped: SmtpClient) -> None:
    piped.send_envelope(A)
    piped.data_to_send()
    events = piped.receive_data(b"550 5.7.1 not yours\r\n503 no\r\n503 no\r\n")
    assert results(events) == [(1, "bounced", "mail", 550)]
    piped.send_envelope(B)
    assert piped.data_to_send() == group(B), "nothing to reset"

    stepped.send_envelope(A)
    stepped.data_to_send()
    assert results(stepped.receive_data(b"550 5.7.1 not yours\r\n")) == [(1, "bounced", "mail", 550)]
    assert stepped.data_to_send() == b""
    assert stepped.is_idle
    stepped.send_envelope(B)
    assert stepped.data_to_send() == mail(B)


def test_rcpt_refused(piped: SmtpClient, stepped: SmtpClient) -> None:
    piped.send_envelope(A)
    piped.data_to_send()
    events = piped.receive_data(b"250 ok\r\n550 5.1.1 who\r\n554 5.5.1 no valid recipients\r\n")
    assert results(events) == [(1, "bounced", "rcpt", 550)]
    piped.send_envelope(B)
    assert piped.data_to_send() == b"RSET\r\n" + group(B)
    assert piped.receive_data(b"250 flushed\r\n" + ACCEPT) == [ContentWanted(B)]

    stepped.send_envelope(A)
    stepped.receive_data(b"250 ok\r\n")
    stepped.data_to_send()
    assert results(stepped.receive_data(b"550 5.1.1 who\r\n")) == [(1, "bounced", "rcpt", 550)]
    stepped.send_envelope(B)
    assert stepped.data_to_send() == b"RSET\r\n"
    stepped.receive_data(b"250 flushed\r\n")
    assert stepped.data_to_send() == mail(B)


def test_rcpt_refused_and_data_taken_ends_with_a_lone_dot(piped: SmtpClient) -> None:
    piped.send_envelope(A)
    piped.data_to_send()
    events = piped.receive_data(b"250 ok\r\n450 4.2.0 later\r\n354 go\r\n")
    assert results(events) == [(1, "deferred", "rcpt", 450)]
    piped.send_envelope(B)
    # RSET: a server that keeps the transaction would send an empty message to B.
    assert piped.data_to_send() == b".\r\nRSET\r\n" + group(B)
    assert piped.receive_data(b"554 no recipients\r\n250 reset\r\n" + ACCEPT) == [ContentWanted(B)]


def test_closed_after_a_refusal(piped: SmtpClient) -> None:
    piped.send_envelope(A)
    piped.data_to_send()
    assert results(piped.receive_data(b"250 ok\r\n550 5.1.1 who\r\n")) == [(1, "bounced", "rcpt", 550)]
    assert closed(piped.receive_eof()).unsent == (), "it has its result"


def test_data_refused(piped: SmtpClient) -> None:
    piped.send_envelope(A)
    piped.data_to_send()
    events = piped.receive_data(b"250 ok\r\n250 ok\r\n451 4.7.1 later\r\n")
    assert results(events) == [(1, "deferred", "data", 451)]
    piped.send_envelope(B)
    assert piped.data_to_send() == b"RSET\r\n" + group(B)


def test_reset_refused(piped: SmtpClient) -> None:
    piped.send_envelope(A)
    piped.data_to_send()
    piped.receive_data(b"250 ok\r\n550 who\r\n554 no\r\n")
    piped.send_envelope(B)
    piped.data_to_send()
    end = closed(piped.receive_data(b"500 what?\r\n"))
    assert end.unsent == (B,)
    assert end.reason is not None
    assert end.reason.stage is Stage.RSET


def test_final_dot_refused_leaves_the_next_alone(piped: SmtpClient) -> None:
    events = with_content_out(piped).receive_data(b"554 5.7.1 spam\r\n" + ACCEPT)
    assert results(events) == [(1, "bounced", "dot", 554)]
    assert events[1:] == [ContentWanted(B)]


@pytest.mark.parametrize("answered", range(3))
def test_421_to_an_envelope(piped: SmtpClient, answered: int) -> None:
    piped.send_envelope(A)
    piped.data_to_send()
    end = closed(piped.receive_data(b"250 ok\r\n" * answered + b"421 4.3.2 bye\r\n"))
    assert end.unsent == (A,)
    assert end.reason is not None
    assert end.reason.code == 421
    assert piped.data_to_send() == b""


def test_421_to_the_final_dot_is_a_refusal(piped: SmtpClient) -> None:
    events = with_content_out(piped).receive_data(b"421 4.7.0 bye\r\n")
    assert results(events) == []
    assert closed(events).unsent == (A, B)


def test_421_while_the_content_is_wanted(piped: SmtpClient) -> None:
    piped.send_envelope(A)
    piped.data_to_send()
    events = piped.receive_data(ACCEPT + b"421 too late\r\n")
    assert closed(events).unsent == (A,)
    with pytest.raises(RuntimeError):
        piped.send_content(BODY)


def test_closed_after_the_last_byte_is_unknown_and_the_next_is_not_sent(piped: SmtpClient) -> None:
    events = with_content_out(piped).receive_eof()
    assert results(events) == [(1, "unknown", "dot", 0)]
    assert closed(events).unsent == (B,)
    assert piped.receive_eof() == []
    assert piped.receive_data(b"250 ok\r\n") == []
    assert not piped.ready_for_envelope


def test_closed_before_the_last_byte_is_not_sent(piped: SmtpClient) -> None:
    piped.send_envelope(A)
    piped.data_to_send()
    piped.receive_data(ACCEPT)
    piped.send_content(WireContent(b"x" * 70 + b"\r\n" + BODY * 40_000))
    assert len(piped.data_to_send()) == WRITE_BYTES_MAX
    assert piped.timeout == Timeouts().data_block
    assert piped.stage is Stage.CONTENT
    end = closed(piped.connection_failed(Cause.TIMEOUT, "nothing"))
    assert end.unsent == (A,)


def test_a_large_message_comes_in_pieces(piped: SmtpClient) -> None:
    content = WireContent(BODY * 60_000)
    piped.send_envelope(A)
    piped.data_to_send()
    piped.receive_data(ACCEPT)
    piped.send_content(content)
    piped.send_envelope(B)
    pieces = []
    while piped.has_data_to_send:
        pieces.append(piped.data_to_send())
    assert max(map(len, pieces)) == WRITE_BYTES_MAX
    assert b"".join(pieces) == content + b".\r\n" + group(B)
    assert piped.timeout == Timeouts().final_dot


def test_refused_in_the_middle_of_the_content(piped: SmtpClient) -> None:
    piped.send_envelope(A)
    piped.data_to_send()
    piped.receive_data(ACCEPT)
    piped.send_content(WireContent(BODY * 60_000))
    piped.data_to_send()
    events = piped.receive_data(b"552 5.3.4 too much\r\n")
    assert results(events) == [(1, "bounced", "content", 552)]
    assert closed(events).unsent == ()
    assert piped.data_to_send() == b""


def test_accepted_in_the_middle_of_the_content_is_a_lie(piped: SmtpClient) -> None:
    piped.send_envelope(A)
    piped.data_to_send()
    piped.receive_data(ACCEPT)
    piped.send_content(WireContent(BODY * 60_000))
    piped.data_to_send()
    events = piped.receive_data(b"250 ok\r\n")
    assert results(events) == []
    assert closed(events).unsent == (A,)


@pytest.mark.parametrize("data", [b"250 surprise\r\n", b"nonsense\r\n"])
def test_a_reply_that_nothing_asked_for(piped: SmtpClient, data: bytes) -> None:
    end = closed(piped.receive_data(data))
    assert end.reason is not None
    assert (end.reason.kind, end.reason.scope) == ("not_sent", "server")
    assert data.split()[-1].decode() in end.reason.text


def test_a_reply_before_the_content_is_never_taken_for_its_answer(piped: SmtpClient) -> None:
    piped.send_envelope(A)
    piped.data_to_send()
    events = piped.receive_data(ACCEPT + b"250 queued\r\n")
    assert results(events) == []
    assert closed(events).unsent == (A,)


@pytest.mark.parametrize(
    "data", [b"354 go\r\n", b"250 ok\r\n354 go\r\n", b"250 ok\r\n250 ok\r\n250 ok\r\n", b"?\r\n"]
)
def test_nonsense_in_an_envelope(piped: SmtpClient, data: bytes) -> None:
    piped.send_envelope(A)
    piped.data_to_send()
    assert closed(piped.receive_data(data)).unsent == (A,)


@pytest.mark.parametrize("data", [b"354 go\r\n", b"???\r\n"])
def test_nonsense_to_the_final_dot_is_unknown(piped: SmtpClient, data: bytes) -> None:
    events = with_content_out(piped).receive_data(data)
    assert results(events) == [(1, "unknown", "dot", 0)]
    assert closed(events).unsent == (B,)


def test_given_up(piped: SmtpClient) -> None:
    piped.send_envelope(A)
    piped.data_to_send()
    piped.receive_data(ACCEPT)
    events = piped.give_up_content()
    assert results(events) == [(1, "not_sent", "content", 0)]
    assert closed(events).unsent == ()
    assert piped.data_to_send() == b"", "a final dot would send it"


def test_size() -> None:
    client = session(b"PIPELINING", b"SIZE 150")
    assert client.send_envelope(A) is None
    assert client.data_to_send() == mail(A, b" SIZE=100") + rcpt(A) + b"DATA\r\n"
    client.receive_data(b"550 no\r\n503 no\r\n503 no\r\n")
    refusal = client.send_envelope(B)
    assert refusal is not None
    assert (refusal.kind, refusal.enhanced) == ("bounced", "5.3.4")
    assert client.data_to_send() == b""
    assert client.ready_for_envelope


def test_smtputf8(piped: SmtpClient) -> None:
    envelope = Envelope("from@example.com", "jörg@example.org")
    refusal = piped.send_envelope(envelope)
    assert refusal is not None
    assert (refusal.kind, refusal.scope, refusal.enhanced) == ("bounced", "server", "5.6.7")
    client = session(b"PIPELINING", b"SMTPUTF8")
    assert client.send_envelope(envelope) is None
    assert client.data_to_send() == mail(A, b" SMTPUTF8") + "RCPT TO:<jörg@example.org>\r\nDATA\r\n".encode()


@pytest.mark.parametrize(
    "address", ["a\r\nDATA", "a>b@c", "<a@b", "a b@c", "a\n", "\ud800@c", "", "x" * 255, "a\0@b", "a\x7f@b"]
)
def test_no_address_breaks_out_of_its_command(address: str) -> None:
    client = session(b"PIPELINING", b"SMTPUTF8")
    refusal = client.send_envelope(Envelope("ok@example.com", address))
    assert refusal is not None
    assert (refusal.kind, refusal.scope) == ("bounced", "recipient")
    if address:
        assert client.send_envelope(Envelope(address, "ok@example.com")) is not None
    assert client.data_to_send() == b""


def test_the_null_sender(piped: SmtpClient) -> None:
    assert piped.send_envelope(Envelope("", "a@example.org")) is None
    assert piped.data_to_send().startswith(b"MAIL FROM:<>\r\n")


@pytest.mark.parametrize("answer", [b"221 bye\r\n", b"421 bye\r\n", b"nonsense\r\n", None])
def test_quit(piped: SmtpClient, answer: bytes | None) -> None:
    piped.quit()
    assert piped.data_to_send() == b"QUIT\r\n"
    assert piped.timeout == Timeouts().quit
    assert not piped.ready_for_envelope
    events = piped.receive_eof() if answer is None else piped.receive_data(answer)
    assert events == [Closed(None, ())]


def test_time_outs_follow_the_stages(stepped: SmtpClient) -> None:
    limits = Timeouts()
    client = SmtpClient(ServerConfig("h", tls="none"))
    client.start("me")
    assert client.timeout == limits.greeting
    client.receive_data(b"220 hi\r\n")
    client.data_to_send()
    assert client.timeout == limits.command
    assert stepped.timeout is None
    stepped.send_envelope(A)
    for expected in (limits.mail, limits.rcpt, limits.data):
        stepped.data_to_send()
        assert stepped.timeout == expected
        stepped.receive_data(b"354 go\r\n" if expected == limits.data else b"250 ok\r\n")
    assert stepped.timeout is None, "it's on us"
    stepped.send_content(BODY)
    assert stepped.timeout == limits.data_block
    stepped.data_to_send()
    assert stepped.timeout == limits.final_dot


def test_misuse_is_an_error(piped: SmtpClient) -> None:
    with pytest.raises(RuntimeError):
        piped.send_content(BODY)
    with pytest.raises(RuntimeError):
        piped.give_up_content()
    piped.send_envelope(A)
    with pytest.raises(RuntimeError):
        piped.send_envelope(B)
    with pytest.raises(RuntimeError):
        piped.quit()
    piped.data_to_send()
    piped.receive_data(ACCEPT)
    with pytest.raises(ValueError, match="CRLF"):
        piped.send_content(WireContent(b"no end"))


def test_a_large_content_can_be_broken_off_before_its_final_dot(piped: SmtpClient) -> None:
    large = WireContent(b"x" * 70 + b"\r\n")
    content = WireContent(large * (2 * WRITE_BYTES_MAX // len(large)))
    piped.send_envelope(A)
    piped.data_to_send()
    piped.receive_data(ACCEPT)
    piped.send_content(content)
    assert not piped.ends_content_next, "nothing of it is gone: who gave the content knows that it may go"
    sent = piped.data_to_send()
    piped.send_envelope(B)
    while not piped.ends_content_next:
        sent += piped.data_to_send()
    assert 0 < len(content) - len(sent) <= WRITE_BYTES_MAX
    events = piped.break_off_content()
    assert results(events) == [(1, "not_sent", "content", 0)]
    assert closed(events).unsent == (B,)
    assert not piped.has_data_to_send


def test_a_small_content_goes_at_once(piped: SmtpClient) -> None:
    piped.send_envelope(A)
    piped.data_to_send()
    piped.receive_data(ACCEPT)
    piped.send_content(BODY)
    assert not piped.ends_content_next
    assert piped.data_to_send().endswith(END)
    assert not piped.ends_content_next
