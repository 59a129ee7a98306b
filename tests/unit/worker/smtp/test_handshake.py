"""From the greeting to Ready, played against the whole core: server's lines in, our lines out."""

import base64

import pytest

from evenpost.runtime.secret import Secret
from worker.smtp.config import ServerConfig
from worker.smtp.events import Closed, Event, Ready, StartTls
from worker.smtp.outcome import Result, Stage
from worker.smtp.protocol import SmtpClient

EHLO = b"EHLO me.example\r\n"
TLS_ONLY = b"250-mx\r\n250 STARTTLS\r\n"
FULL = b"250-mx\r\n250-PIPELINING\r\n250-SIZE 1000\r\n250-AUTH LOGIN PLAIN XOAUTH2\r\n250 SMTPUTF8\r\n"


def play(
    config: ServerConfig, *script: tuple[bytes, bytes], tls_active: bool = False
) -> tuple[SmtpClient, list[Event]]:
    """Feeds each server's line, expects what is sent for it; does what StartTls asks for."""
    client = SmtpClient(config)
    client.start("me.example", tls_active=tls_active)
    events: list[Event] = []
    for data, expected in script:
        new = client.receive_data(data)
        if StartTls() in new:
            client.tls_established()
        events += new
        assert client.data_to_send() == expected
    return client, events


def failed(events: list[Event]) -> Result:
    closed = events[-1]
    assert isinstance(closed, Closed)
    assert closed.unsent == ()
    assert closed.reason is not None
    assert (closed.reason.kind, closed.reason.scope) == ("not_sent", "server")
    return closed.reason


def with_user(tls: str, **options: object) -> ServerConfig:
    return ServerConfig("127.0.0.1", tls=tls, username="me", password=Secret("pass"), **options)  # type: ignore[arg-type]


def test_plain() -> None:
    client, events = play(ServerConfig("h", tls="none"), (b"220 hi\r\n", EHLO), (FULL, b""))
    assert events == [Ready()]
    assert client.is_idle
    assert client.capabilities.pipelining
    assert client.capabilities.size_bytes_max == 1000
    assert client.capabilities.auth == {"LOGIN", "PLAIN", "XOAUTH2"}


def test_helo_when_ehlo_is_unknown() -> None:
    client, events = play(
        ServerConfig("h"),
        (b"220 hi\r\n", EHLO),
        (b"502 what?\r\n", b"HELO me.example\r\n"),
        (b"250 hello\r\n", b""),
    )
    assert events == [Ready()]
    assert not client.capabilities.pipelining


@pytest.mark.parametrize("mode", ["required", "opportunistic"])
def test_starttls_and_all_is_asked_again(mode: str) -> None:
    client, events = play(
        ServerConfig("h", tls=mode),  # type: ignore[arg-type]
        (b"220 hi\r\n", EHLO),
        (b"250-mx\r\n250-PIPELINING\r\n250 STARTTLS\r\n", b"STARTTLS\r\n"),
        (b"220 go\r\n", EHLO),
        (b"250 mx\r\n", b""),
    )
    assert events == [StartTls(), Ready()]
    assert not client.capabilities.pipelining, "learnt in clear"


def test_nothing_learnt_before_tls_outlives_it() -> None:
    client, events = play(
        ServerConfig("h", tls="required"),
        (b"220 hi\r\n", EHLO),
        (b"250-mx\r\n250-PIPELINING\r\n250 STARTTLS\r\n", b"STARTTLS\r\n"),
        (b"220 go\r\n", EHLO),
        (b"502 what?\r\n", b"HELO me.example\r\n"),
        (b"250 hello\r\n", b""),
    )
    assert events == [StartTls(), Ready()]
    assert not client.capabilities.pipelining


def test_starttls_stripped() -> None:
    _, events = play(ServerConfig("h", tls="required"), (b"220 hi\r\n", EHLO), (FULL, b"QUIT\r\n"))
    assert failed(events).stage is Stage.STARTTLS
    assert "smtps://" in failed(events).text


def test_starttls_refused() -> None:
    start = (b"220 hi\r\n", EHLO), (TLS_ONLY, b"STARTTLS\r\n")
    _, events = play(ServerConfig("h", tls="required"), *start, (b"454 4.7.0 no\r\n", b"QUIT\r\n"))
    assert failed(events).code == 454
    _, events = play(ServerConfig("h", tls="opportunistic"), *start, (b"454 4.7.0 no\r\n", b""))
    assert events == [Ready()]


@pytest.mark.parametrize("injected", [b"250 evil\r\n", b"2", b"\r\n", b"250-EVIL\r\n"])
def test_injection_after_the_answer_to_starttls(injected: bytes) -> None:
    start = (b"220 hi\r\n", EHLO), (TLS_ONLY, b"STARTTLS\r\n")
    _, events = play(ServerConfig("h", tls="required"), *start, (b"220 go\r\n" + injected, b""))
    assert "injected" in failed(events).text
    assert StartTls() not in events

    client = SmtpClient(ServerConfig("h", tls="required"))
    client.start("me.example")
    client.receive_data(b"220 hi\r\n")
    client.receive_data(TLS_ONLY)
    assert client.receive_data(b"220 go\r\n") == [StartTls()]
    assert "injected" in failed(client.receive_data(injected)).text
    client.tls_established()
    client.data_to_send()
    assert client.receive_data(b"250 ok\r\n") == []


def b64(text: str) -> bytes:
    return base64.b64encode(text.encode())


def test_auth_plain_with_initial_response() -> None:
    plain = b64("\0me\0pass")
    config = with_user("none", cleartext_auth=True)
    start = (b"220 hi\r\n", EHLO), (FULL, b"AUTH PLAIN " + plain + b"\r\n")
    _, events = play(config, *start, (b"235 2.7.0 ok\r\n", b""))
    assert events == [Ready()]
    # one that overlooks the initial response
    _, events = play(config, *start, (b"334 \r\n", plain + b"\r\n"), (b"235 ok\r\n", b""))
    assert events == [Ready()]
    # one that never stops asking
    _, events = play(
        config,
        *start,
        (b"334 \r\n", plain + b"\r\n"),
        (b"334 \r\n", b"*\r\n"),
        (b"501 5.7.0 cancelled\r\n", b"QUIT\r\n"),
    )
    assert failed(events).stage is Stage.AUTH


def test_auth_login() -> None:
    _, events = play(
        with_user("implicit"),
        (b"220 hi\r\n", EHLO),
        (b"250-mx\r\n250 AUTH=LOGIN\r\n", b"AUTH LOGIN\r\n"),
        (b"334 VXNlcm5hbWU6\r\n", b64("me") + b"\r\n"),
        (b"334 UGFzc3dvcmQ6\r\n", b64("pass") + b"\r\n"),
        (b"235 ok\r\n", b""),
        tls_active=True,
    )
    assert events == [Ready()]


def test_auth_xoauth2_shows_its_error() -> None:
    _, events = play(
        with_user("implicit", auth=("XOAUTH2",)),
        (b"220 hi\r\n", EHLO),
        (FULL, b"AUTH XOAUTH2 " + b64("user=me\x01auth=Bearer pass\x01\x01") + b"\r\n"),
        (b"334 eyJzdGF0dXMiOiI0MDEifQ==\r\n", b"\r\n"),
        (b"535 5.7.8 token expired\r\n", b"QUIT\r\n"),
        tls_active=True,
    )
    assert (failed(events).code, failed(events).enhanced) == (535, "5.7.8")


def test_the_password_never_goes_out_in_clear() -> None:
    # opportunistic, and no STARTTLS on offer
    _, events = play(with_user("opportunistic"), (b"220 hi\r\n", EHLO), (FULL, b"QUIT\r\n"))
    assert "without TLS" in failed(events).text
    # nor when STARTTLS is offered and then refused
    _, events = play(
        with_user("opportunistic"),
        (b"220 hi\r\n", EHLO),
        (FULL.replace(b"SIZE 1000", b"STARTTLS"), b"STARTTLS\r\n"),
        (b"454 no\r\n", b"QUIT\r\n"),
    )
    assert "without TLS" in failed(events).text


def test_no_common_mechanism() -> None:
    _, events = play(
        with_user("implicit"),
        (b"220 hi\r\n", EHLO),
        (b"250-mx\r\n250 AUTH CRAM-MD5 GSSAPI\r\n", b"QUIT\r\n"),
        tls_active=True,
    )
    assert "CRAM-MD5, GSSAPI" in failed(events).text


@pytest.mark.parametrize(
    ("script", "code", "stage"),
    [
        ([(b"554 5.7.1 go away\r\n", b"QUIT\r\n")], 554, "greeting"),
        ([(b"421 busy\r\n", b"")], 421, "greeting"),
        ([(b"450 busy\r\n", b"QUIT\r\n")], 450, "greeting"),
        ([(b"354 what\r\n", b"QUIT\r\n")], 354, "greeting"),
        ([(b"220 hi\r\n", EHLO), (b"450 wait\r\n", b"QUIT\r\n")], 450, "ehlo"),
        (
            [(b"220 hi\r\n", EHLO), (b"550 no\r\n", b"HELO me.example\r\n"), (b"550 no\r\n", b"QUIT\r\n")],
            550,
            "helo",
        ),
        ([(b"HTTP/1.1 400 Bad Request\r\n", b"")], 0, "greeting"),
    ],
)
def test_no_session(script: list[tuple[bytes, bytes]], code: int, stage: str) -> None:
    client, events = play(ServerConfig("h"), *script)
    assert (failed(events).code, failed(events).stage) == (code, stage)
    assert client.is_closed
    assert client.timeout is None


def test_a_secret_is_in_no_repr() -> None:
    from worker.smtp.auth import begin

    assert b64("\0me\0pass").decode() not in repr(begin("PLAIN", "me", "pass"))
