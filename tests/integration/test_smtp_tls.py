"""TLS against those who lie about it: what is said in clear, whose certificate is taken, who gets a login."""

import asyncio
import contextlib
import hashlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from evenpost.runtime.secret import Secret
from tests.servers.certificates import Certificate, self_signed
from worker.smtp.config import ConfigError, ServerConfig, Timeouts
from worker.smtp.content import WireContent, checked
from worker.smtp.events import Envelope
from worker.smtp.outcome import Result, Stage
from worker.smtp.pins import pins_of
from worker.smtp.pool import Pool
from worker.smtp.tls import tls_context

PATIENCE = Timeouts(connect=5, tls=2, greeting=5, command=5, quit=0.2)
PASSWORD = "correct-horse"


class One:
    """A batch of one message."""

    def __init__(self) -> None:
        self.result_: Result | None = None
        self.left = 1

    def next(self) -> Envelope | None:
        self.left -= 1
        return Envelope("from@example.com", "to@example.org", 100, 1) if self.left == 0 else None

    def content(self, envelope: Envelope) -> WireContent | None:
        return checked(b"Subject: secret plans\r\n\r\nhello\r\n")

    def before_write(self) -> None: ...

    def may_end(self) -> bool:
        return True

    def result(self, envelope: Envelope, result: Result) -> None:
        self.result_ = result


Talk = Callable[["Liar", asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Liar:
    """What it heard in clear, and what inside TLS."""

    def __init__(self, certificate: Certificate | None = None) -> None:
        self.clear = b""
        self.hidden = b""
        self.is_inside = False
        self.certificate = certificate
        self.context: ssl.SSLContext | None = None
        if certificate is not None:
            self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.context.load_cert_chain(certificate.chain, certificate.key)

    async def hear(self, reader: asyncio.StreamReader) -> bytes:
        line = await reader.readuntil(b"\r\n")
        if self.is_inside:
            self.hidden += line
        else:
            self.clear += line
        return line

    async def secure(self, writer: asyncio.StreamWriter) -> None:
        assert self.context is not None
        await writer.start_tls(self.context)
        self.is_inside = True

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """As a good server does from here on."""
        in_content = False
        while True:
            line = await self.hear(reader)
            verb = line[:4].upper()
            if in_content:
                in_content = line != b".\r\n"
                if not in_content:
                    writer.write(b"250 taken\r\n")
            elif verb == b"EHLO":
                writer.write(b"250-mx\r\n250 AUTH PLAIN\r\n")
            elif verb == b"STAR":
                writer.write(b"220 go\r\n")
                await self.secure(writer)
            elif verb == b"AUTH":
                writer.write(b"235 hello\r\n")
            elif verb == b"DATA":
                in_content = True
                writer.write(b"354 go\r\n")
            else:
                writer.write(b"250 ok\r\n")


@asynccontextmanager
async def listening(liar: Liar, talk: Talk) -> AsyncIterator[int]:
    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, ValueError):
            await talk(liar, reader, writer)
        writer.close()

    server = await asyncio.start_server(converse, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def send(config: ServerConfig) -> Result:
    pool, batch = Pool(config), One()
    try:
        await asyncio.wait_for(pool.run(batch), 20)
        await asyncio.wait_for(pool.close(), 20)
    finally:
        pool.abort()
    assert batch.result_ is not None
    return batch.result_


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return self_signed(tmp_path_factory.mktemp("tls"))


# -- stripping and injection ----------------------------------------------------------------------


async def strips(liar: Liar, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Somebody in between blanks the word out, as some firewalls do."""
    writer.write(b"220 mx\r\n")
    await liar.hear(reader)
    writer.write(b"250-mx\r\n250-XXXXXXXA\r\n250 AUTH PLAIN\r\n")
    await liar.serve(reader, writer)


def refuses(answer: bytes) -> Talk:
    async def talk(liar: Liar, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mx\r\n")
        await liar.hear(reader)
        writer.write(b"250-mx\r\n250-STARTTLS\r\n250 AUTH PLAIN\r\n")
        await liar.hear(reader)
        writer.write(answer)
        await liar.serve(reader, writer)

    return talk


def injects(*parts: bytes) -> Talk:
    """Plain text behind the 220, to be taken as if it had come through TLS."""

    async def talk(liar: Liar, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mx\r\n")
        await liar.hear(reader)
        writer.write(b"250-mx\r\n250 STARTTLS\r\n")
        await liar.hear(reader)
        for number, part in enumerate(parts):
            if number:
                await asyncio.sleep(0.05)  # a packet of its own
            writer.write(part)
            await writer.drain()
        await liar.secure(writer)
        await liar.serve(reader, writer)

    return talk


async def helo_only(liar: Liar, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """EHLO is refused, so that the client falls back to HELO, which has no STARTTLS."""
    writer.write(b"220 mx\r\n")
    await liar.hear(reader)
    writer.write(b"502 no\r\n")
    await liar.serve(reader, writer)


STRIPPING = {
    "stripped": strips,
    "454": refuses(b"454 4.7.0 TLS not available\r\n"),
    "502": refuses(b"502 5.5.1 what\r\n"),
    "250": refuses(b"250 2.0.0 yes but no TLS here\r\n"),
    "helo": helo_only,
    "same packet": injects(b"220 go\r\n250-mx\r\n250 AUTH PLAIN\r\n"),
    "half a line": injects(b"220 go\r\n25"),
    "next packet": injects(b"220 go\r\n", b"250 mx\r\n250 ok\r\n250 ok\r\n354 go\r\n"),
    "before the question": injects(b"", b"220 go\r\n220 go\r\n"),
}


@pytest.mark.parametrize("user", [False, True])
@pytest.mark.parametrize("lie", STRIPPING)
async def test_with_tls_required_nothing_is_said_in_clear(
    certificate: Certificate, lie: str, user: bool
) -> None:
    liar = Liar(certificate)
    login: dict[str, Any] = {"username": "me", "password": Secret(PASSWORD)} if user else {}
    async with listening(liar, STRIPPING[lie]) as port:
        config = ServerConfig(
            "localhost", port, "required", ca_file=str(certificate.chain), timeouts=PATIENCE, **login
        )
        result = await send(config)
    assert (result.kind, result.scope) == ("not_sent", "server")
    assert result.stage in (Stage.STARTTLS, Stage.TLS), result
    for word in (b"MAIL", b"RCPT", b"AUTH", b"secret"):
        assert word not in liar.clear + liar.hidden


@pytest.mark.parametrize("lie", ["stripped", "454", "502", "helo"])
async def test_a_password_is_never_said_in_clear_where_tls_is_a_maybe(
    certificate: Certificate, lie: str
) -> None:
    liar = Liar(certificate)
    async with listening(liar, STRIPPING[lie]) as port:
        config = ServerConfig(
            "localhost", port, "opportunistic", "me", Secret(PASSWORD), ca_file=str(certificate.chain),
            timeouts=PATIENCE,
        )  # fmt: skip
        result = await send(config)
    assert (result.kind, result.stage) == ("not_sent", Stage.AUTH)
    assert b"AUTH" not in liar.clear and b"MAIL" not in liar.clear


async def test_what_a_server_says_of_a_login_is_not_shown_with_the_password(certificate: Certificate) -> None:
    """Some repeat the line that they didn't understand."""

    async def echo(liar: Liar, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mx\r\n")
        await liar.hear(reader)
        writer.write(b"250-mx\r\n250 AUTH PLAIN\r\n")
        line = await liar.hear(reader)
        writer.write(b"501 5.5.4 bad: " + line[:-2] + b" (" + PASSWORD.encode() + b")\r\n")
        await reader.read()

    liar = Liar()
    async with listening(liar, echo) as port:
        config = ServerConfig(
            "127.0.0.1", port, "none", "me", Secret(PASSWORD), cleartext_auth=True, timeouts=PATIENCE
        )
        result = await send(config)
    assert result.code == 501
    assert "bad: AUTH PLAIN *** (***)" in result.text


async def test_a_server_that_asks_for_ever_is_given_up(certificate: Certificate) -> None:
    async def ask(liar: Liar, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mx\r\n")
        await liar.hear(reader)
        writer.write(b"250-mx\r\n250 AUTH LOGIN\r\n")
        while True:
            await liar.hear(reader)
            writer.write(b"334 VXNlcm5hbWU6\r\n")

    liar = Liar()
    async with listening(liar, ask) as port:
        config = ServerConfig(
            "127.0.0.1", port, "none", "me", Secret(PASSWORD), cleartext_auth=True, timeouts=PATIENCE
        )
        result = await send(config)
    assert (result.kind, result.stage) == ("not_sent", Stage.AUTH)
    assert "goes on asking" in result.text
    assert liar.clear.count(b"\r\n*\r\n") == 1


# -- certificates ----------------------------------------------------------------------------------


async def honest(liar: Liar, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"220 mx\r\n")
    await liar.hear(reader)
    writer.write(b"250-mx\r\n250 STARTTLS\r\n")
    await liar.serve(reader, writer)


async def implicit(liar: Liar, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await liar.secure(writer)
    writer.write(b"220 mx\r\n")
    await liar.serve(reader, writer)


TALKS = {"required": honest, "implicit": implicit}
MODES = pytest.mark.parametrize("mode", TALKS)


async def try_tls(mode: Any, certificate: Certificate, **options: Any) -> tuple[Result, Liar]:
    liar = Liar(certificate)
    async with listening(liar, TALKS[mode]) as port:
        result = await send(ServerConfig("localhost", port, mode, timeouts=PATIENCE, **options))
    return result, liar


@MODES
async def test_an_authority_of_ones_own_is_trusted_where_it_is_named(
    certificate: Certificate, mode: str
) -> None:
    trusted, _ = await try_tls(mode, certificate, ca_file=str(certificate.chain))
    unnamed, liar = await try_tls(mode, certificate)
    assert trusted.kind == "sent"
    assert (unnamed.kind, unnamed.stage) == ("not_sent", Stage.TLS if mode == "required" else Stage.CONNECT)
    assert "self-signed" in unnamed.text and liar.hidden == b""


@MODES
@pytest.mark.parametrize(
    ("name", "expired", "said"),
    [("other.example", False, "Hostname mismatch"), ("localhost", True, "expired")],
)
async def test_a_certificate_that_is_not_good_is_refused(
    tmp_path: Path, mode: str, name: str, expired: bool, said: str
) -> None:
    bad = self_signed(tmp_path, name, expired=expired)
    result, liar = await try_tls(mode, bad, ca_file=str(bad.chain))
    assert (result.kind, result.scope) == ("not_sent", "server")
    assert said in result.text and liar.hidden == b""


@MODES
async def test_tls_1_1_is_none(certificate: Certificate, mode: str) -> None:
    config = ServerConfig("localhost", 25, mode, ca_file=str(certificate.chain))  # type: ignore[arg-type]
    context = tls_context(config)
    assert context is not None and context.minimum_version == ssl.TLSVersion.TLSv1_2
    liar = Liar(certificate)
    assert liar.context is not None
    liar.context.set_ciphers("DEFAULT:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning):
        liar.context.minimum_version = ssl.TLSVersion.TLSv1
        liar.context.maximum_version = ssl.TLSVersion.TLSv1_1
    async with listening(liar, TALKS[mode]) as port:
        result = await send(
            ServerConfig("localhost", port, mode, ca_file=str(certificate.chain), timeouts=PATIENCE)  # type: ignore[arg-type]
        )
    assert result.kind == "not_sent" and liar.hidden == b""


# -- pinning ---------------------------------------------------------------------------------------


def pins(certificate: Certificate) -> tuple[str, str]:
    return pins_of(ssl.PEM_cert_to_DER_cert(certificate.chain.read_text()))


@MODES
@pytest.mark.parametrize("which", [0, 1], ids=["certificate", "key"])
async def test_a_pin_that_fits_is_enough_without_an_authority(
    certificate: Certificate, mode: str, which: int
) -> None:
    other = "sha256:" + hashlib.sha256(b"the next one").hexdigest()
    result, _ = await try_tls(mode, certificate, verify=False, tls_pins=(other, pins(certificate)[which]))
    assert result.kind == "sent"


@MODES
@pytest.mark.parametrize("verify", [True, False])
async def test_a_pin_that_does_not_fit_stops_all(
    tmp_path: Path, certificate: Certificate, mode: str, verify: bool
) -> None:
    """Also where the certificate is good: its authority was talked into it."""
    pinned = pins(self_signed(tmp_path))
    result, liar = await try_tls(
        mode, certificate, ca_file=str(certificate.chain), verify=verify, tls_pins=pinned
    )
    assert (result.kind, result.scope) == ("not_sent", "server")
    assert "none of those in tls_pin" in result.text and pins(certificate)[1] in result.text
    assert liar.hidden == b"", "nothing was said to it"


@MODES
async def test_a_pin_does_not_make_a_bad_certificate_good(certificate: Certificate, mode: str) -> None:
    result, liar = await try_tls(mode, certificate, tls_pins=pins(certificate))
    assert result.kind == "not_sent" and "self-signed" in result.text and liar.hidden == b""


@pytest.mark.parametrize("mode", ["none", "opportunistic"])
def test_a_pin_without_tls_is_refused(certificate: Certificate, mode: Any) -> None:
    with pytest.raises(ConfigError, match="nobody has to show the certificate"):
        ServerConfig("localhost", 25, mode, tls_pins=pins(certificate))
