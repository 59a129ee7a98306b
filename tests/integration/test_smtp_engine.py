"""The engine over real sockets: honest servers, servers that lie, and servers that go away."""

import asyncio
import dataclasses
import functools
import inspect
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest
import uvloop
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword, Session
from aiosmtpd.smtp import Envelope as Received

from evenpost.runtime.secret import Secret
from tests.servers.certificates import Certificate, self_signed
from tests.servers.ports import free_port
from tests.servers.sink import SmtpSink
from worker.smtp.config import ServerConfig, Timeouts
from worker.smtp.connection import Connection
from worker.smtp.content import WireContent, checked
from worker.smtp.events import Envelope
from worker.smtp.outcome import Result, Stage
from worker.smtp.pool import Pool

SHORT = Timeouts(
    connect=5,
    tls=5,
    greeting=0.2,
    command=0.2,
    mail=0.2,
    rcpt=0.2,
    data=0.2,
    data_block=0.2,
    final_dot=0.2,
    quit=0.2,
)
CONTENT = checked(b"Subject: hello\r\n\r\nno dot at all.\r\n")


def on_both_loops(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Runs a test under asyncio's own loop and under uvloop."""

    @pytest.mark.parametrize("loop_factory", [asyncio.SelectorEventLoop, uvloop.new_event_loop])
    @functools.wraps(test)
    def run(*args: Any, loop_factory: Callable[[], asyncio.AbstractEventLoop], **kwargs: Any) -> None:
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(test(*args, **kwargs))

    signature = inspect.signature(test)
    loop = inspect.Parameter("loop_factory", inspect.Parameter.KEYWORD_ONLY)
    run.__signature__ = signature.replace(parameters=[*signature.parameters.values(), loop])  # type: ignore[attr-defined]
    return run


class Messages:
    """A batch that notes everything, in its order."""

    def __init__(self, count: int, content: WireContent | None = CONTENT) -> None:
        self.count = count
        self.body = content
        self.given = 0
        self.results: dict[int, Result] = {}
        self.log: list[str] = []

    def next(self) -> Envelope | None:
        if self.given == self.count:
            return None
        self.given += 1
        return Envelope("from@example.com", f"{self.given}@example.org", 100, self.given)

    def content(self, envelope: Envelope) -> WireContent | None:
        self.log.append(f"content {envelope.key}")
        return self.body

    def may_end(self) -> bool:
        return True

    def before_write(self) -> None:
        self.log.append("write")

    def result(self, envelope: Envelope, result: Result) -> None:
        assert envelope.key not in self.results, "two results for one message"
        self.results[envelope.key] = result
        self.log.append(f"result {envelope.key}")

    @property
    def kinds(self) -> Counter[str]:
        return Counter(result.kind for result in self.results.values())


# -- aiosmtpd -----------------------------------------------------------------------------------


class Inbox:
    def __init__(self) -> None:
        self.received: list[Received] = []

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Received) -> str:
        self.received.append(envelope)
        return "250 2.0.0 taken"


def only_me(server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
    good = isinstance(data, LoginPassword) and (data.login, data.password) == (b"me", b"secret")
    return AuthResult(success=good, handled=False)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return self_signed(tmp_path_factory.mktemp("tls"))


def server_context(certificate: Certificate) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.chain, certificate.key)
    return context


@contextmanager
def aiosmtpd_server(**options: Any) -> Iterator[tuple[int, Inbox]]:
    inbox = Inbox()
    controller = Controller(
        inbox, hostname="127.0.0.1", port=0, loop=asyncio.SelectorEventLoop(), ready_timeout=10, **options
    )
    # It connects to the port it was given to see that it runs, so it has to be a real one.
    controller.port = free_port()
    controller.start()
    try:
        yield controller.port, inbox
    finally:
        controller.stop()


async def send(config: ServerConfig, batch: Messages) -> None:
    pool = Pool(config)
    try:
        await asyncio.wait_for(pool.run(batch), 20)
        assert pool.busy == 0
        await asyncio.wait_for(pool.close(), 20)
        assert pool.open == 0
    finally:
        pool.abort()


@on_both_loops
async def test_plain() -> None:
    batch = Messages(5)
    with aiosmtpd_server() as (port, inbox):
        await send(ServerConfig("127.0.0.1", port, tls="none"), batch)
    assert batch.kinds == {"sent": 5}
    assert [one.rcpt_tos for one in inbox.received] == [[f"{key}@example.org"] for key in range(1, 6)]
    assert {one.original_content for one in inbox.received} == {b"Subject: hello\r\n\r\nno dot at all.\r\n"}


@pytest.mark.parametrize("auth", [("PLAIN",), ("LOGIN",)])
@on_both_loops
async def test_starttls_and_login(certificate: Certificate, auth: tuple[str, ...]) -> None:
    batch = Messages(3)
    options = {
        "tls_context": server_context(certificate),
        "require_starttls": True,
        "authenticator": only_me,
        "auth_required": True,
    }
    with aiosmtpd_server(**options) as (port, inbox):
        config = ServerConfig(
            "localhost", port, "required", "me", Secret("secret"), auth=auth, ca_file=str(certificate.chain)
        )
        await send(config, batch)
    assert batch.kinds == {"sent": 3}
    assert len(inbox.received) == 3


@on_both_loops
async def test_implicit_tls(certificate: Certificate) -> None:
    batch = Messages(3)
    with aiosmtpd_server() as (port, inbox):
        inbox.received.clear()

        async def through(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            back, forth = await asyncio.open_connection("127.0.0.1", port)
            await asyncio.gather(copy(reader, forth), copy(back, writer))

        async with serving(through, context=server_context(certificate)) as tls_port:
            await send(ServerConfig("localhost", tls_port, "implicit", ca_file=str(certificate.chain)), batch)
    assert batch.kinds == {"sent": 3}
    assert len(inbox.received) == 3


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
    writer.close()


@on_both_loops
async def test_a_wrong_password_fails_the_server_and_not_the_message(certificate: Certificate) -> None:
    batch = Messages(3)
    options = {"tls_context": server_context(certificate), "authenticator": only_me, "auth_required": True}
    with aiosmtpd_server(**options) as (port, _):
        config = ServerConfig(
            "localhost", port, "required", "me", Secret("wrong"), ca_file=str(certificate.chain)
        )
        await send(config, batch)
    assert {(one.kind, one.scope, one.stage, one.code) for one in batch.results.values()} == {
        ("not_sent", "server", Stage.AUTH, 535)
    }


@on_both_loops
async def test_an_untrusted_certificate(certificate: Certificate) -> None:
    batch, trusting = Messages(1), Messages(1)
    with aiosmtpd_server(tls_context=server_context(certificate)) as (port, _):
        await send(ServerConfig("localhost", port, "required"), batch)
        await send(ServerConfig("localhost", port, "required", verify=False), trusting)
    assert batch.results[1].kind == "not_sent"
    assert batch.results[1].stage is Stage.TLS
    assert "ca_file" in batch.results[1].text
    assert trusting.kinds == {"sent": 1}


# -- smtp-sink ----------------------------------------------------------------------------------


@on_both_loops
async def test_many_over_few_connections() -> None:
    with SmtpSink(dump=False) as sink:
        pool = Pool(ServerConfig(sink.host, sink.port, tls="none", max_connections=4, max_messages=70))
        batches = [Messages(50) for _ in range(40)]
        opens: list[int] = []
        await asyncio.gather(*(pool.run(batch) for batch in batches))
        opens.append(pool.open)
        await pool.close()
    assert sum((batch.kinds for batch in batches), Counter()) == {"sent": 2000}
    assert max(opens) <= 4


# -- servers with a script ----------------------------------------------------------------------

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
GREETING = b"220 hi\r\n"
EHLO = b"250-mx\r\n250 PIPELINING\r\n"
ACCEPT = b"250 ok\r\n250 ok\r\n354 go\r\n"


@asynccontextmanager
async def serving(*talks: Talk, context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Each connection gets the next talk, the last one again and again."""
    left = list(talks)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        current = left.pop(0) if len(left) > 1 else left[0]
        try:
            await current(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass  # the client hung up, as it may
        finally:
            writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


def script(*lines: bytes | None) -> Talk:
    """Says a line, then waits for a group of commands; at the end it closes. None: waits for ever."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for line in lines:
            if line is None:
                await reader.read()  # until the client hangs up
                return
            writer.write(line)
            await reader.read(65536)

    return talk


def taking(count: int, then: bytes | None, *, next_envelope: bool = True) -> Talk:
    """Takes `count` messages, answers the next final dot with `then`, or closes without an answer.
    `next_envelope=False`: closes when it gets one more envelope."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(GREETING)
        await reader.readuntil(b"\r\n")
        writer.write(EHLO)
        await reader.readuntil(b"DATA\r\n")
        writer.write(ACCEPT)
        for number in range(count + 1):
            await reader.readuntil(b"\r\n.\r\n")
            if number == count:
                if then is not None:
                    writer.write(then)
                return
            writer.write(b"250 ok\r\n")
            line = await reader.readuntil(b"\r\n")
            if line == b"QUIT\r\n":
                return
            await reader.readuntil(b"DATA\r\n")
            if number == count - 1 and not next_envelope:
                return
            writer.write(ACCEPT)

    return talk


def config(port: int, **options: Any) -> ServerConfig:
    return ServerConfig("127.0.0.1", port, **({"tls": "none", "timeouts": SHORT} | options))


@on_both_loops
async def test_the_order_of_the_calls() -> None:
    batch = Messages(3)
    async with serving(taking(9, None)) as port:
        pool = Pool(config(port))
        await pool.run(batch)
        pool.abort()
    assert batch.log == [
        "content 1",
        "write",
        "result 1",
        "content 2",
        "write",
        "result 2",
        "content 3",
        "write",
        "result 3",
    ]


@on_both_loops
async def test_refused_connection() -> None:
    async with serving(script()) as port:
        pass
    batch = Messages(3)
    await send(config(port), batch)
    assert batch.kinds == {"not_sent": 3}
    assert "refused" in batch.results[1].text.lower()


@on_both_loops
async def test_unknown_name() -> None:
    batch = Messages(1)
    await send(ServerConfig("nowhere.invalid", 25, "none"), batch)
    assert batch.results[1].stage is Stage.CONNECT


@on_both_loops
async def test_stripped_starttls() -> None:
    batch = Messages(2)
    async with serving(script(GREETING, EHLO)) as port:
        await send(config(port, tls="required"), batch)
    assert batch.kinds == {"not_sent": 2}
    assert batch.results[1].stage is Stage.STARTTLS


@on_both_loops
async def test_injection_at_starttls() -> None:
    batch = Messages(1)
    async with serving(
        script(GREETING, b"250-mx\r\n250 STARTTLS\r\n", b"220 go\r\n250 evil\r\n", None)
    ) as port:
        await send(config(port, tls="required"), batch)
    assert batch.kinds == {"not_sent": 1}
    assert "injected" in batch.results[1].text


@pytest.mark.parametrize("answer", [b"220 go\r\n", b"220 go\r\nnot a handshake"])
@on_both_loops
async def test_no_tls_after_starttls(answer: bytes) -> None:
    batch = Messages(1)
    async with serving(script(GREETING, b"250-mx\r\n250 STARTTLS\r\n", answer)) as port:
        await send(config(port, tls="required"), batch)
    assert batch.kinds == {"not_sent": 1}
    assert batch.results[1].scope == "server"


@on_both_loops
async def test_silence_in_the_tls_handshake() -> None:
    batch = Messages(1)
    async with serving(script(GREETING, b"250-mx\r\n250 STARTTLS\r\n", b"220 go\r\n", None)) as port:
        await send(config(port, tls="required", timeouts=dataclasses.replace(SHORT, tls=0.2)), batch)
    assert batch.kinds == {"not_sent": 1}


@on_both_loops
async def test_cancelled_in_the_tls_handshake() -> None:
    started = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await script(GREETING, b"250-mx\r\n250 STARTTLS\r\n")(reader, writer)
        writer.write(b"220 go\r\n")
        await reader.read(1)  # of the client's first TLS record
        started.set()
        await reader.read()

    async with serving(silent) as port:
        batch, pool = Messages(1), Pool(config(port, tls="required"))
        run = asyncio.get_running_loop().create_task(pool.run(batch))
        await asyncio.wait_for(started.wait(), 10)
        run.cancel()
        await asyncio.wait([run], timeout=10)
        await asyncio.wait_for(pool.close(), 10)
    assert batch.kinds == {"not_sent": 1}


@on_both_loops
async def test_smtps_to_a_plain_port() -> None:
    batch = Messages(1)
    async with serving(script(GREETING * 20, None)) as port:
        await send(config(port, tls="implicit"), batch)
    assert batch.results[1].stage in (Stage.CONNECT, Stage.TLS)
    assert "doesn't speak TLS" in batch.results[1].text


@pytest.mark.parametrize(
    ("lines", "stage"),
    [
        ([None], Stage.GREETING),
        ([GREETING, None], Stage.EHLO),
        ([GREETING, EHLO, None], Stage.MAIL),
        ([GREETING, EHLO, b"250 ok\r\n", None], Stage.RCPT),
    ],
)
@on_both_loops
async def test_silence_times_out(lines: list[bytes | None], stage: Stage) -> None:
    batch = Messages(2)
    async with serving(script(*lines)) as port:
        await send(config(port), batch)
    assert batch.kinds == {"not_sent": 2}
    assert batch.results[1].stage is stage
    assert "nothing came" in batch.results[1].text


@on_both_loops
async def test_silence_after_the_final_dot_is_unknown_and_the_rest_goes_back() -> None:
    """A server that doesn't say what it took gets no more of the batch: one time-out, not one a message."""
    batch = Messages(4)
    async with serving(script(GREETING, EHLO, ACCEPT, None), taking(9, None)) as port:
        await send(config(port), batch)
    assert batch.kinds == {"unknown": 1, "not_sent": 3}
    assert batch.results[1].kind == "unknown"
    assert batch.results[4].scope == "server"


@on_both_loops
async def test_a_connection_without_a_greeting_holds_up_nobody_who_has_another() -> None:
    """The second batch's own connection is never greeted (the server's accept queue is full, say)."""
    first, second = Messages(2), Messages(2)
    async with serving(taking(9, None), script(None)) as port:
        pool = Pool(config(port, max_connections=2, timeouts=Timeouts(greeting=300)))
        running = asyncio.gather(pool.run(first), pool.run(second))
        await asyncio.wait_for(running, 20)
        assert first.kinds == second.kinds == {"sent": 2}
        assert pool.open == 2  # it is still waited for, and would serve the next
        await asyncio.wait_for(pool.close(), 20)
        assert pool.open == 0


@on_both_loops
async def test_closed_after_the_last_byte_sends_the_rest_back() -> None:
    batch = Messages(6)
    async with serving(taking(2, None), taking(9, None)) as port:
        await send(config(port), batch)
    assert batch.kinds == {"unknown": 1, "sent": 2, "not_sent": 3}
    assert batch.results[3].kind == "unknown"
    assert batch.log.count("content 4") == 0


@on_both_loops
async def test_421_in_mid_batch_loses_nothing() -> None:
    batch = Messages(6)
    async with serving(taking(2, b"421 4.7.0 enough\r\n"), taking(9, None)) as port:
        await send(config(port), batch)
    assert batch.kinds == {"sent": 6}
    asked = [line for line in batch.log if line.startswith("content")]
    assert asked == [f"content {key}" for key in (1, 2, 3, 3, 4, 5, 6)]


@on_both_loops
async def test_a_server_that_only_greets_is_given_up() -> None:
    seen = 0

    async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal seen
        seen += 1
        await script(GREETING, EHLO, b"421 4.7.0 no\r\n")(reader, writer)

    batch = Messages(5)
    async with serving(count) as port:
        await send(config(port), batch)
    assert batch.kinds == {"not_sent": 5}
    assert batch.results[5].code == 421
    assert seen == 3


@on_both_loops
async def test_dead_idle_connections_are_replaced_unseen() -> None:
    """More of them than a batch may have reconnects: they say nothing about the server."""
    first, second = [Messages(2) for _ in range(4)], Messages(3)
    all_here = asyncio.Barrier(len(first))

    def together(talk: Talk) -> Talk:
        async def wait_for_all(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await all_here.wait()  # else the first to be greeted might serve a second batch
            await talk(reader, writer)

        return wait_for_all

    talks = [together(taking(2, None, next_envelope=False)) for _ in first]
    async with serving(*talks, taking(9, None)) as port:
        pool = Pool(config(port))
        await asyncio.gather(*(pool.run(batch) for batch in first))
        assert pool.open == 4
        await pool.run(second)
        assert pool.open == 1
        await pool.close()
    assert [batch.kinds for batch in first] == [{"sent": 2}] * 4
    assert second.kinds == {"sent": 3}
    assert second.log.count("content 1") == 1


@on_both_loops
async def test_idle_and_worn_connections_are_closed() -> None:
    async with serving(taking(99, None)) as port:
        pool = Pool(config(port, idle_s=0.05))
        await pool.run(Messages(2))
        [connection] = pool._connections
        await asyncio.wait_for(connection.gone, 10)
        assert pool.open == 0
    seen: list[str] = []

    class Watcher:
        def opened(self, seconds: float, *, tls: bool) -> None:
            seen.append("opened")

        def closed(self, messages: int, reason: Result | None) -> None:
            seen.append("closed")

    async with serving(taking(99, None)) as port:
        pool = Pool(config(port, max_messages=2), watcher=Watcher())
        batch = Messages(5)
        await pool.run(batch)
        await pool.close()
    assert batch.kinds == {"sent": 5}
    assert seen == ["opened", "closed"] * 3, "never two at once"


@on_both_loops
async def test_a_new_connection_waits_for_the_end_of_the_worn_one() -> None:
    now = peak = 0

    async def slow_to_part(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal now, peak
        now += 1
        peak = max(peak, now)
        await taking(99, None)(reader, writer)  # ends at QUIT
        await reader.read()
        now -= 1

    batch = Messages(4)
    async with serving(slow_to_part) as port:
        await send(config(port, max_messages=2), batch)
    assert batch.kinds == {"sent": 4}
    assert peak == 1


@on_both_loops
async def test_an_idle_connection_grows_too_old() -> None:
    async with serving(taking(99, None)) as port:
        pool = Pool(config(port))
        await pool.run(Messages(1))
        [old] = pool._connections
        old._progress_at += 301
        await pool.run(Messages(1))
        await pool.close()
    assert old.messages == 1


@on_both_loops
async def test_waiting_runs_and_a_pool_that_ends() -> None:
    for end in ("close", "abort"):
        pool = Pool(config(25))
        pool.limit = 0
        waiting, late = Messages(2), Messages(2)
        run = asyncio.get_running_loop().create_task(pool.run(waiting))
        await asyncio.sleep(0)
        if end == "close":
            await pool.close()
        else:
            pool.abort()
        await asyncio.wait_for(run, 10)
        await asyncio.wait_for(pool.run(late), 10)
        assert waiting.kinds == late.kinds == {"not_sent": 2}
        assert pool.busy == 0


@on_both_loops
async def test_a_slot_given_to_a_run_that_is_cancelled_goes_on_to_the_next() -> None:
    async with serving(taking(99, None)) as port:
        pool = Pool(config(port))
        pool.limit = 0
        batches = [Messages(2), Messages(2)]
        first, second = [asyncio.get_running_loop().create_task(pool.run(batch)) for batch in batches]
        await asyncio.sleep(0)
        pool.limit = 1
        first.cancel()
        await asyncio.wait_for(second, 10)
        await pool.close()
    assert [batch.kinds for batch in batches] == [{"not_sent": 2}, {"sent": 2}]


@on_both_loops
async def test_given_up_content_never_gets_a_final_dot() -> None:
    got = b""

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal got
        writer.write(GREETING)
        got += await reader.readuntil(b"\r\n")
        writer.write(EHLO)
        got += await reader.readuntil(b"DATA\r\n")
        writer.write(ACCEPT)
        got += await reader.read()

    batch = Messages(1, content=None)
    async with serving(listen) as port:
        await send(config(port), batch)
    assert batch.kinds == {"not_sent": 1}
    assert batch.results[1].scope == "recipient"
    assert b"\r\n.\r\n" not in got
    assert batch.log == ["content 1", "result 1"]


@on_both_loops
async def test_a_broken_batch_breaks_its_run_only() -> None:
    class Broken(Messages):
        def content(self, envelope: Envelope) -> WireContent | None:
            raise ZeroDivisionError

    good = Messages(2)
    async with serving(taking(9, None)) as port:
        pool = Pool(config(port))
        with pytest.raises(ZeroDivisionError):
            await pool.run(Broken(2))
        assert pool.busy == 0
        await pool.run(good)
        await pool.close()
    assert good.kinds == {"sent": 2}


@on_both_loops
async def test_cancelled_and_aborted_runs_account_for_every_message() -> None:
    for end in ("cancel", "abort"):
        batch, waiting = Messages(5), Messages(2)
        async with serving(script(GREETING, EHLO, ACCEPT, None)) as port:
            pool = Pool(config(port, max_connections=1, timeouts=Timeouts()))
            wrote = asyncio.Event()
            batch.before_write = wrote.set  # type: ignore[method-assign]
            runs = [asyncio.get_running_loop().create_task(pool.run(one)) for one in (batch, waiting)]
            await asyncio.wait_for(wrote.wait(), 10)
            if end == "cancel":
                for run in runs:
                    run.cancel()
            else:
                pool.abort()
            await asyncio.wait(runs, timeout=10)
            await asyncio.wait_for(pool.close(), 10)
        assert batch.kinds == {"unknown": 1, "not_sent": 4}, end
        assert waiting.kinds == {"not_sent": 2}, end
        assert batch.results[2].scope == "recipient"
        assert (pool.busy, pool.open) == (0, 0)


@on_both_loops
async def test_aborted_while_it_connects() -> None:
    async with serving(script(GREETING, EHLO, None)) as port:
        batch, pool = Messages(2), Pool(config(port))
        run = asyncio.get_running_loop().create_task(pool.run(batch))
        await asyncio.sleep(0)
        assert pool.open == 1
        pool.abort()
        await asyncio.wait_for(run, 10)
        await asyncio.wait_for(pool.close(), 10)
    assert batch.kinds == {"not_sent": 2}


@on_both_loops
async def test_a_closed_connection_takes_no_batch() -> None:
    batch = Messages(2)
    async with serving(script(GREETING, b"250-mx\r\n250 PIPELINING\r\n421 bye\r\n")) as port:
        connection = Connection(config(port))
        await connection.open()
        await connection.gone
        closed = await connection.send_batch(batch)
    assert closed is not None
    assert closed.reason is not None
    assert (closed.reason.code, closed.unsent, batch.given) == (421, (), 0)


@on_both_loops
async def test_a_large_message_to_a_slow_reader() -> None:
    size = 20 * 1024 * 1024
    content = checked((b"x" * 76 + b"\r\n") * (size // 78))
    taken = 0

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal taken
        writer.write(GREETING)
        await reader.readuntil(b"\r\n")
        writer.write(EHLO)
        await reader.readuntil(b"DATA\r\n")
        writer.write(ACCEPT)
        tail = b""
        while not tail.endswith(b"\r\n.\r\n"):
            data = await reader.read(65536)
            taken += len(data)
            tail = (tail + data)[-5:]
        writer.write(b"250 ok\r\n")
        await reader.read()

    batch, stuck = Messages(1, content), Messages(1, content)
    async with serving(slow) as port:
        await send(config(port, timeouts=Timeouts(quit=0.2)), batch)
    assert batch.kinds == {"sent": 1}
    assert taken == len(content) + 3

    async def never_reads(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await script(GREETING, EHLO)(reader, writer)
        writer.write(ACCEPT)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await released.wait()

    released = asyncio.Event()
    async with serving(never_reads) as port:
        await send(config(port), stuck)
        released.set()
    assert stuck.kinds == {"not_sent": 1}, "its last byte never left"
    assert stuck.results[1].stage is Stage.CONTENT

    async def refuses_and_reads_no_more(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await script(GREETING, EHLO, ACCEPT)(reader, writer)
        writer.write(b"552 5.3.4 too much\r\n")
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await released.wait()

    refused = Messages(1, content)
    released.clear()
    async with serving(refuses_and_reads_no_more) as port:
        await send(config(port, timeouts=Timeouts(quit=0.2)), refused)
        released.set()
    assert refused.kinds == {"bounced": 1}
    assert refused.results[1].stage is Stage.CONTENT


@on_both_loops
async def test_the_limit_holds_and_may_change() -> None:
    async with serving(taking(99, None)) as port:
        pool = Pool(config(port, max_connections=2))
        batches = [Messages(3) for _ in range(8)]
        runs = [asyncio.get_running_loop().create_task(pool.run(batch)) for batch in batches]
        await asyncio.sleep(0)
        assert (pool.busy, pool.open) == (2, 2)
        pool.limit = 5
        await asyncio.sleep(0)
        assert pool.busy == 5
        pool.limit = 3
        await asyncio.gather(*runs)
        assert pool.open == 3
        pool.limit = 1
        while pool.open > 1:
            await asyncio.wait(
                [connection.gone for connection in pool._connections], return_when="FIRST_COMPLETED"
            )
        await pool.close()
    assert sum((batch.kinds for batch in batches), Counter()) == {"sent": 24}


# -- CHUNKING -----------------------------------------------------------------------------------

CHUNKING = b"250-mx\r\n250-PIPELINING\r\n250 CHUNKING\r\n"


def chunks(
    answer: Callable[[int], bytes | None], heard: list[bytes], after: Callable[[int], None] | None = None
) -> Talk:
    """Takes whole messages. `answer` has what BDAT gets, by the number in the address; None: hangs up."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(GREETING)
        await reader.readuntil(b"\r\n")
        writer.write(CHUNKING)
        number = 0
        while line := await reader.readuntil(b"\r\n"):
            heard.append(line)
            if line.startswith(b"RCPT"):
                number = int(line[9:].split(b"@")[0])
            if line.startswith(b"BDAT"):
                heard.append(await reader.readexactly(int(line.split()[1])))
                said = answer(number)
                if after is not None:
                    after(number)
                if said is None:
                    return
                writer.write(said)
                if said.startswith(b"421"):
                    return
            elif line.startswith(b"QUIT"):
                writer.write(b"221 bye\r\n")
                return
            elif line.startswith(b"DATA"):
                writer.write(b"354 go\r\n")
                lines = [await reader.readuntil(b"\r\n")]
                while lines[-1] != b".\r\n":
                    lines.append(await reader.readuntil(b"\r\n"))
                heard.append(b"".join(lines))
                writer.write(b"250 ok\r\n")
            else:
                writer.write(b"250 ok\r\n")

    return talk


@on_both_loops
async def test_chunks_arrive_whole_and_in_order() -> None:
    heard: list[bytes] = []
    batch = Messages(20)
    async with serving(chunks(lambda number: b"250 ok\r\n", heard)) as port:
        await send(config(port, pipeline_depth=5), batch)
    assert batch.kinds == {"sent": 20}
    assert [line for line in heard if line == CONTENT] == [CONTENT] * 20
    named = [int(line[9:].split(b"@")[0]) for line in heard if line.startswith(b"RCPT")]
    assert named == list(range(1, 21))


@on_both_loops
async def test_the_order_of_the_calls_with_chunking() -> None:
    """The first has as many contents as the pipeline holds, noted by one write, before any answer."""
    batch = Messages(4)
    heard: list[bytes] = []

    def hold(number: int) -> None:
        assert batch.log[:4] == ["content 1", "content 2", "content 3", "write"]

    async with serving(chunks(lambda number: b"250 ok\r\n", heard, hold)) as port:
        await send(config(port, pipeline_depth=3), batch)
    assert batch.kinds == {"sent": 4}
    content_4, write_4 = batch.log.index("content 4"), len(batch.log) - 1 - batch.log[::-1].index("write")
    assert batch.log.index("result 1") < content_4 < write_4


@on_both_loops
async def test_a_near_server_gets_two_at_a_time_where_nobody_said_how_many() -> None:
    """More would only be more that is unknown when something dies."""
    batch = Messages(6)
    async with serving(chunks(lambda number: b"250 ok\r\n", [])) as port:
        await send(config(port), batch)
    assert batch.kinds == {"sent": 6}
    assert batch.log[:3] == ["content 1", "content 2", "write"]
    assert batch.log.index("result 1") < batch.log.index("content 3")


@on_both_loops
async def test_a_server_that_dies_in_the_middle_of_a_pipeline() -> None:
    """Two are answered; four were out; what wasn't begun goes back."""
    batch = Messages(9)

    async def dies(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(GREETING)
        await reader.readuntil(b"\r\n")
        writer.write(CHUNKING)
        for _ in range(4):
            await reader.readuntil(b"BDAT %d LAST\r\n" % len(CONTENT))
            await reader.readexactly(len(CONTENT))
        writer.write(b"250 ok\r\n" * 3 + b"250 ok\r\n" * 4)
        writer.close()

    async with serving(dies) as port:
        await send(config(port, pipeline_depth=4), batch)
    kinds = [batch.results[key].kind for key in range(1, 10)]
    assert kinds[:2] == ["sent", "sent"]
    # Its answers and its end may have come together, or one after the other: then two more had left.
    unknown = kinds.count("unknown")
    assert unknown in (2, 4)
    assert kinds == ["sent"] * 2 + ["unknown"] * unknown + ["not_sent"] * (7 - unknown)


@on_both_loops
async def test_421_in_a_pipeline_loses_nothing_and_sends_nothing_twice() -> None:
    first: list[bytes] = []
    second: list[bytes] = []
    batch = Messages(9)
    talks = (
        chunks(lambda number: b"250 ok\r\n" if number < 3 else b"421 4.7.0 enough\r\n", first),
        chunks(lambda number: b"250 ok\r\n", second),
    )

    async with serving(*talks) as port:
        await send(config(port, pipeline_depth=4), batch)
    assert batch.kinds == {"sent": 9}
    named = [int(line[9:].split(b"@")[0]) for line in second if line.startswith(b"RCPT")]
    assert named == [3, 4, 5, 6, 7, 8, 9]


@on_both_loops
async def test_a_large_content_among_chunks_goes_by_data() -> None:
    large = checked((b"x" * 76 + b"\r\n") * 5_000)
    heard: list[bytes] = []

    class Mixed(Messages):
        def content(self, envelope: Envelope) -> WireContent | None:
            super().content(envelope)
            return large if envelope.key % 3 == 0 else CONTENT

    batch = Mixed(9)
    async with serving(chunks(lambda number: b"250 ok\r\n", heard)) as port:
        await send(config(port, pipeline_depth=4), batch)
    assert batch.kinds == {"sent": 9}
    assert [line for line in heard if line.startswith((b"Subject", b"x"))] == [
        CONTENT, CONTENT, large + b".\r\n",
    ] * 3  # fmt: skip


@on_both_loops
async def test_a_message_given_up_before_it_is_written_costs_no_connection() -> None:
    heard: list[bytes] = []

    class Lapsed(Messages):
        def content(self, envelope: Envelope) -> WireContent | None:
            super().content(envelope)
            return None if envelope.key in (2, 5) else CONTENT

    batch = Lapsed(5)
    async with serving(chunks(lambda number: b"250 ok\r\n", heard)) as port:
        pool = Pool(config(port, pipeline_depth=2))
        await pool.run(batch)
        assert pool.open == 1
        await pool.close()
    assert [batch.results[key].kind for key in range(1, 6)] == [
        "sent",
        "not_sent",
        "sent",
        "sent",
        "not_sent",
    ]
    assert batch.results[2].scope == "recipient"
    assert [int(line[9:].split(b"@")[0]) for line in heard if line.startswith(b"RCPT")] == [1, 3, 4]


@on_both_loops
async def test_a_cancelled_run_with_a_full_pipeline_accounts_for_every_message() -> None:
    batch = Messages(9)
    all_out = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(GREETING)
        await reader.readuntil(b"\r\n")
        writer.write(CHUNKING)
        for _ in range(4):
            await reader.readuntil(CONTENT)
        all_out.set()
        await reader.read()

    async with serving(silent) as port:
        pool = Pool(config(port, pipeline_depth=4, timeouts=Timeouts()))
        run = asyncio.get_running_loop().create_task(pool.run(batch))
        await asyncio.wait_for(all_out.wait(), 10)
        run.cancel()
        await asyncio.wait([run], timeout=10)
        await asyncio.wait_for(pool.close(), 10)
    assert batch.kinds == {"unknown": 4, "not_sent": 5}


@on_both_loops
async def test_many_refusals_wear_a_connection_out() -> None:
    """As Exim's smtp_accept_max_nonmail would have it: it hangs up at the eleventh RSET that follows none."""
    sessions = 0

    async def exim(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sessions
        sessions += 1
        writer.write(GREETING)
        await reader.readuntil(b"\r\n")
        writer.write(CHUNKING)
        nonmail, is_first, rcpt, mail = 0, True, 0, False
        while line := await reader.readuntil(b"\r\n"):
            if line == b"QUIT\r\n":
                return
            if line == b"RSET\r\n":
                nonmail += not is_first
                is_first, mail, rcpt = False, False, 0
                if nonmail > 10:
                    writer.write(b"554 Too many nonmail commands\r\n")
                    return
                writer.write(b"250 Reset OK\r\n")
            elif line.startswith(b"MAIL"):
                writer.write(b"503 sender already given\r\n" if mail else b"250 OK\r\n")
                mail = True
            elif line.startswith(b"RCPT"):
                key = int(line[9:].split(b"@")[0])
                rcpt = key if key % 3 == 0 else 0
                writer.write(b"250 Accepted\r\n" if rcpt else b"550 nobody\r\n")
            else:
                await reader.readexactly(int(line.split()[1]))
                writer.write(b"250 OK id=%d\r\n" % rcpt if rcpt else b"503 no valid RCPT\r\n")
                if rcpt:
                    is_first, rcpt, mail = True, 0, False

    batch = Messages(60)
    async with serving(exim) as port:
        await send(config(port, pipeline_depth=4, timeouts=Timeouts()), batch)
    assert {key: result.kind for key, result in batch.results.items()} == {
        key: "bounced" if key % 3 else "sent" for key in range(1, 61)
    }
    assert sessions == 5, "nine refused ones a connection"
