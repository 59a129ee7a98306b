"""The test servers themselves: mail arrives as it was sent, and nothing stays behind."""

import base64
import smtplib
import ssl
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.servers import (
    EximServer,
    OpenSmtpdServer,
    PostfixServer,
    RecordingServer,
    Rule,
    Server,
    SmtpSink,
    self_signed,
    untraced,
)

pytestmark = pytest.mark.servers

SENDER = "news@sender.test"
BODIES = {
    "plain": b"Hello\r\n",
    "dots": b".\r\n..\r\n.hidden\r\nFrom here on\r\n.\r\nend\r\n",
    "quoted": b"caf=C3=A9 =E2=82=AC =\r\nsoft\r\n",
    "empty": b"",
    "long": b"x" * 998 + b"\r\n",
}


def message(name: str) -> bytes:
    return (
        f"From: {SENDER}\r\nTo: {name}@somewhere.test\r\nSubject: {name}\r\n"
        f"Message-ID: <{name}@sender.test>\r\nDate: Mon, 01 Jan 2024 00:00:00 +0000\r\n"
        "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n"
        "Content-Transfer-Encoding: quoted-printable\r\n\r\n"
    ).encode() + BODIES[name]


def send(client: smtplib.SMTP, name: str) -> None:
    client.sendmail(SENDER, [f"{name}@somewhere.test"], message(name))


@contextmanager
def running(server: Server) -> Iterator[Server]:
    """The server, and afterwards the proof that none of its processes and files is left."""
    with server:
        pids = server.pids()
        assert pids
        yield server
        pids = sorted({*pids, *server.pids()})
    deadline = time.monotonic() + 5
    while left := [pid for pid in pids if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < deadline, f"processes {left} outlived {server.name}"
        time.sleep(0.02)
    assert not server.folder.exists()


@pytest.mark.parametrize("make", [SmtpSink, PostfixServer, EximServer, OpenSmtpdServer, RecordingServer])
def test_mail_arrives_as_it_was_sent(make: Callable[[], Server]) -> None:
    with running(make()) as server:
        with smtplib.SMTP(server.host, server.port, timeout=20) as client:
            for name in BODIES:
                send(client, name)
        server.wait_for(len(BODIES))
        delivered = {untraced(raw) for raw in server.messages()}
        assert delivered == {message(name) for name in BODIES}
        assert server.recipients() == Counter(f"{name}@somewhere.test" for name in BODIES)
        assert server.message_ids() == Counter(f"<{name}@sender.test>" for name in BODIES)


def test_two_servers_of_a_kind_run_side_by_side() -> None:
    with running(PostfixServer()) as first, running(PostfixServer()) as second:
        for server in (first, second):
            with smtplib.SMTP(server.host, server.port, timeout=20) as client:
                send(client, "plain")
            server.wait_for(1)
        assert (first.count(), second.count()) == (1, 1)


def test_a_sink_without_dump_counts() -> None:
    with running(SmtpSink(dump=False)) as server:
        with smtplib.SMTP(server.host, server.port, timeout=20) as client:
            send(client, "plain")
            send(client, "dots")
        server.wait_for(2)
        assert server.count() == 2


@pytest.mark.parametrize("make", [PostfixServer, EximServer])
def test_starttls_with_a_certificate_of_our_own(
    make: type[PostfixServer] | type[EximServer], tmp_path: Path
) -> None:
    certificate = self_signed(tmp_path)
    context = ssl.create_default_context(cafile=str(certificate.chain))
    with running(make(certificate=certificate)) as server:
        with smtplib.SMTP(server.host, server.port, timeout=20) as client:
            client.starttls(context=context)
            send(client, "plain")
        server.wait_for(1)


def test_exim_asks_for_a_password_behind_tls(tmp_path: Path) -> None:
    certificate = self_signed(tmp_path)
    context = ssl.create_default_context(cafile=str(certificate.chain))
    exim = EximServer(certificate=certificate, auth=("mailer", "correct horse"))
    with running(exim) as server, smtplib.SMTP(server.host, server.port, timeout=20) as client:
        client.ehlo()
        assert not client.has_extn("auth")
        client.starttls(context=context)
        client.ehlo()
        wrong = base64.b64encode(b"\0mailer\0wrong").decode()
        assert client.docmd("AUTH", f"PLAIN {wrong}")[0] == 535
        client.login("mailer", "correct horse")
        send(client, "plain")
        server.wait_for(1)


def test_opensmtpd_ends_its_patience_at_the_limit() -> None:
    with running(OpenSmtpdServer(session_messages=2)) as server:
        with smtplib.SMTP(server.host, server.port, timeout=20) as client:
            send(client, "plain")
            send(client, "dots")
            with pytest.raises(smtplib.SMTPResponseException) as refused:
                send(client, "quoted")
        assert 400 <= refused.value.smtp_code < 500
        server.wait_for(2)


def test_a_server_that_cannot_start_says_why_and_leaves_nothing() -> None:
    broken = EximServer(settings={"no_such_option": "1"})
    with pytest.raises(RuntimeError, match="no_such_option"):
        broken.start()
    assert not broken.pids()
    assert not broken.folder.exists()


# -- the recording server's behaviour ---------------------------------------------------------


def test_a_rule_holds_as_often_as_it_says() -> None:
    rules = [
        Rule("rcpt", "450 4.2.0 Greylisted", match="dots@*", times=1),
        Rule("rcpt", "550 5.1.1 No such user", match="quoted@*"),
    ]
    with running(RecordingServer(rules=rules)) as server:
        with smtplib.SMTP(server.host, server.port, timeout=20) as client:
            for name, code in (("dots", 450), ("quoted", 550)):
                with pytest.raises(smtplib.SMTPRecipientsRefused) as refused:
                    send(client, name)
                assert refused.value.recipients[f"{name}@somewhere.test"][0] == code
            send(client, "dots")
            with pytest.raises(smtplib.SMTPRecipientsRefused):
                send(client, "quoted")
        assert server.recipients() == Counter({"dots@somewhere.test": 1})


def test_a_message_can_be_taken_without_an_answer() -> None:
    with running(RecordingServer(rules=[Rule("message", action="drop", accept=True)])) as server:
        client = smtplib.SMTP(server.host, server.port, timeout=20)
        with pytest.raises(smtplib.SMTPServerDisconnected):
            send(client, "plain")
        client.close()
        server.wait_for(1)


def test_a_hanging_answer_hangs_one_connection_only() -> None:
    rules = [Rule("message", match="dots@*", action="hang")]
    with running(RecordingServer(rules=rules)) as server:
        stuck = smtplib.SMTP(server.host, server.port, timeout=0.5)
        with pytest.raises(smtplib.SMTPServerDisconnected, match="timed out"):
            send(stuck, "dots")
        with smtplib.SMTP(server.host, server.port, timeout=20) as client:
            send(client, "plain")
        stuck.close()
        assert server.recipients() == Counter({"plain@somewhere.test": 1})


def test_connections_above_the_limit_get_421() -> None:
    with running(RecordingServer(max_sessions=1)) as server:
        # The port answered, so the server's start left no connection behind; ask until it says so.
        assert isinstance(server, RecordingServer)
        while server.sessions().open:
            time.sleep(0.01)
        with smtplib.SMTP(server.host, server.port, timeout=20):
            with pytest.raises(smtplib.SMTPConnectError) as refused:
                smtplib.SMTP(server.host, server.port, timeout=20)
            assert refused.value.smtp_code == 421


def test_rules_change_while_it_runs() -> None:
    with running(RecordingServer()) as server:
        assert isinstance(server, RecordingServer)
        with smtplib.SMTP(server.host, server.port, timeout=20) as client:
            send(client, "plain")
            server.set_rules([Rule("mail", "451 4.3.0 Not now")])
            with pytest.raises(smtplib.SMTPSenderRefused):
                send(client, "plain")
            server.set_rules([])
            send(client, "plain")
        assert server.message_ids() == Counter({"<plain@sender.test>": 2})


def test_the_answer_to_a_message_is_delayed() -> None:
    with running(RecordingServer(delay_s=0.3)) as server:
        with smtplib.SMTP(server.host, server.port, timeout=20) as client:
            started = time.monotonic()
            send(client, "plain")
            assert time.monotonic() - started >= 0.3
        assert server.count() == 1
