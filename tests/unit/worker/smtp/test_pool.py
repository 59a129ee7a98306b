"""How a pool's limit follows its server, over real sockets."""

import asyncio
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from worker.smtp import connection
from worker.smtp.config import ServerConfig
from worker.smtp.connection import Later
from worker.smtp.content import checked
from worker.smtp.events import Envelope
from worker.smtp.outcome import Result
from worker.smtp.pool import WORKS_S, Pool

DEADLINE_S = 20
TOO_FAST = b"454 4.7.0 Throttling failure: Maximum sending rate exceeded\r\n"
CONTENT = checked(b"Subject: hello\r\n\r\nhello\r\n")


class Messages:
    """A batch."""

    def __init__(self, count: int) -> None:
        self.left = list(range(count))
        self.results: list[Result] = []

    def next(self) -> Envelope | None:
        return Envelope("from@example.com", "to@example.org", 100, self.left.pop(0)) if self.left else None

    def content(self, _: Envelope) -> Any:
        return CONTENT

    def may_end(self) -> bool:
        return True

    def before_write(self) -> None:
        pass

    def result(self, _: Envelope, result: Result) -> None:
        self.results.append(result)

    @property
    def told(self) -> set[tuple[str, str]]:
        return {(result.kind, result.scope) for result in self.results}


class Server:
    """Takes `cap` connections at once, greets the others with `refusal` (None: hangs up)."""

    def __init__(self, cap: int, refusal: bytes | None = b"421 4.3.2 not now\r\n") -> None:
        self.cap = cap
        self.refusal = refusal
        self.greet = asyncio.Event()
        self.greet.set()
        """Those that are taken are greeted once it is set; refusals come at once."""
        self.take = asyncio.Event()
        self.take.set()
        """Messages are answered once it is set."""
        self.dot: Callable[[int], bytes] = lambda _: b"250 ok\r\n"
        """The answer to the message of this number; it waits for `take` where that is empty."""
        self.greets_all = False
        """Refuses at MAIL only."""
        self.messages = 0
        self.now = 0
        self.total = 0
        self.refused = 0

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.now += 1
        self.total += 1
        is_over = self.now > self.cap
        try:
            if is_over and not self.greets_all:
                self.refused += 1
                if self.refusal is not None:
                    writer.write(self.refusal)
                return
            await self.greet.wait()
            writer.write(b"220 hi\r\n")
            while line := await reader.readuntil(b"\r\n"):
                match line[:4].upper():
                    case b"EHLO":
                        writer.write(b"250-mx\r\n250 PIPELINING\r\n")
                    case b"DATA":
                        writer.write(b"354 go\r\n")
                        await reader.readuntil(b"\r\n.\r\n")
                        await self.take.wait()
                        self.messages += 1
                        answer = self.dot(self.messages)
                        if not answer:
                            self.take.clear()
                            await self.take.wait()
                        writer.write(answer or b"250 ok\r\n")
                        if answer.startswith(b"421"):
                            return
                    case b"MAIL" if is_over:
                        self.refused += 1
                        writer.write(b"421 4.3.2 not now\r\n")
                        return
                    case b"QUIT":
                        writer.write(b"221 bye\r\n")
                        return
                    case _:
                        writer.write(b"250 ok\r\n")
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self.now -= 1
            writer.close()


class Watcher:
    def __init__(self) -> None:
        self.limits: list[tuple[int, int]] = []
        self.reasons: list[str] = []

    def opened(self, seconds: float, *, tls: bool) -> None:
        pass

    def closed(self, messages: int, reason: Result | None) -> None:
        if reason is not None:
            self.reasons.append(reason.scope)

    def limited(self, limit: int, max_connections: int) -> None:
        self.limits.append((limit, max_connections))


@asynccontextmanager
async def pool_for(server: Server, most: int, watcher: Watcher | None = None) -> AsyncIterator[Pool]:
    listening = await asyncio.start_server(server.talk, "127.0.0.1", 0, backlog=100)
    port = listening.sockets[0].getsockname()[1]
    pool = Pool(ServerConfig("127.0.0.1", port, "none", max_connections=most), watcher=watcher)
    try:
        yield pool
        await asyncio.wait_for(pool.close(), DEADLINE_S)
    finally:
        pool.abort()
        listening.close()


async def send(pool: Pool, *batches: Messages) -> None:
    await asyncio.wait_for(asyncio.gather(*(pool.run(batch) for batch in batches)), DEADLINE_S)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110  # what is waited for has no event of its own
            await asyncio.sleep(0.001)


async def test_it_comes_down_at_once_to_what_the_server_takes() -> None:
    server, watcher = Server(3), Watcher()
    server.take.clear()
    batches = [Messages(2) for _ in range(12)]
    async with pool_for(server, 12, watcher) as pool:
        running = asyncio.get_running_loop().create_task(send(pool, *batches))
        await until(lambda: sum(bool(batch.results) for batch in batches) == 9)
        assert pool.limit == 3
        server.take.set()
        await running
        assert watcher.limits[-1] == (3, 12)
        # What is sent now uses the three connections there are, and no other one is tried.
        refused = server.refused
        more = [Messages(1) for _ in range(12)]
        await send(pool, *more)
        assert [batch.told for batch in more] == [{("sent", "recipient")}] * 12
        assert server.refused == refused
    told = Counter(kind for batch in batches for kind in batch.told)
    assert told == {("sent", "recipient"): 3, ("not_sent", "throttled"): 9}
    assert "server" not in watcher.reasons


async def test_refusals_that_overtake_the_greetings() -> None:
    """A server that forks for those it takes refuses the others before it greets the first one."""
    server = Server(3)
    server.greet.clear()
    server.take.clear()
    batches = [Messages(1) for _ in range(8)]
    async with pool_for(server, 8) as pool:
        running = asyncio.get_running_loop().create_task(send(pool, *batches))
        await until(lambda: len(pool._undecided) == 5)
        server.greet.set()
        await until(lambda: pool.limit == 3)
        server.take.set()
        await running
    told = Counter(kind for batch in batches for kind in batch.told)
    assert told == {("sent", "recipient"): 3, ("not_sent", "throttled"): 5}
    assert server.total == 8, "no good connection is closed, and none is made anew"


async def test_a_server_that_hangs_up_on_one_too_many() -> None:
    server = Server(1, refusal=None)
    server.take.clear()
    first, second = Messages(1), Messages(1)
    async with pool_for(server, 2) as pool:
        running = asyncio.get_running_loop().create_task(send(pool, first))
        await until(lambda: len(pool._established) == 1)
        await send(pool, second)
        server.take.set()
        await running
        assert pool.limit == 1
    assert (first.told, second.told) == ({("sent", "recipient")}, {("not_sent", "throttled")})


async def test_a_dead_server_is_no_slow_one() -> None:
    """All connections fail at once: nobody waits to hear of the others, and the limit stays."""
    server, watcher = Server(0, refusal=None), Watcher()
    batches = [Messages(2) for _ in range(6)]
    async with pool_for(server, 6, watcher) as pool:
        began = asyncio.get_running_loop().time()
        await send(pool, *batches)
        assert asyncio.get_running_loop().time() - began < 0.9
        assert pool.limit == 6
    assert {kind for batch in batches for kind in batch.told} == {("not_sent", "server")}
    assert (watcher.limits, set(watcher.reasons)) == ([], {"server"})


async def test_a_refusal_does_not_wait_for_ever_for_a_connection_that_hangs() -> None:
    server = Server(1)
    server.greet.clear()
    batches = [Messages(1), Messages(1)]
    async with pool_for(server, 2) as pool:
        running = asyncio.get_running_loop().create_task(send(pool, *batches))
        await until(lambda: any(batch.results for batch in batches))
        assert [batch.told for batch in batches if batch.results] == [{("not_sent", "server")}]
        server.greet.set()
        await running
        assert pool.limit == 2


async def test_a_server_that_is_full_of_others_gets_one() -> None:
    server = Server(0, refusal=b"421 4.7.0 Too many connections\r\n")
    batches = [Messages(1) for _ in range(4)]
    async with pool_for(server, 4) as pool:
        await send(pool, *batches)
        assert pool.limit == 1
    assert {kind for batch in batches for kind in batch.told} == {("not_sent", "throttled")}


async def test_a_word_about_the_rate_ends_the_batch_and_lowers_the_limit_by_one() -> None:
    server = Server(9)
    server.dot = lambda number: b"250 ok\r\n" if number <= 3 else TOO_FAST
    batch = Messages(10)
    async with pool_for(server, 4) as pool:
        await send(pool, batch)
        assert pool.limit == 3
        assert pool.open == 1, "the connection is good"
    kinds = Counter((result.kind, result.scope) for result in batch.results)
    assert kinds == {("sent", "recipient"): 3, ("not_sent", "throttled"): 7}
    assert server.messages <= 5, "the rest isn't even offered, but for the one that is on its way"


async def test_the_limit_rises_again_with_batches_that_end_well() -> None:
    server = Server(9)
    server.dot = lambda number: b"250 ok\r\n" if number > 1 else TOO_FAST
    async with pool_for(server, 2) as pool:
        await send(pool, Messages(1))
        assert pool.limit == 1
        await send(pool, Messages(5))
        assert pool.limit == 2, "one good batch at a limit of one, however many messages"


async def test_a_cap_closes_idle_connections_and_is_followed() -> None:
    server = Server(9)
    server.take.clear()
    async with pool_for(server, 4) as pool:
        running = asyncio.get_running_loop().create_task(send(pool, *(Messages(1) for _ in range(4))))
        await until(lambda: len(pool._established) == 4)
        server.take.set()
        await running
        assert len(pool.addresses) == 4
        pool.set_max(2)
        assert pool.limit == 2
        await until(lambda: pool.open == 2)
        pool.close_idle()
        await until(lambda: pool.open == 0)
        pool.set_max(4)
        assert pool.limit == 4


async def test_waiting_batches_get_connections_when_the_limit_rises() -> None:
    server = Server(9)
    server.take.clear()
    async with pool_for(server, 3) as pool:
        pool.set_max(1)
        running = asyncio.get_running_loop().create_task(send(pool, *(Messages(1) for _ in range(3))))
        await until(lambda: len(pool._established) == 1)
        pool.set_max(3)
        await until(lambda: len(pool._established) == 3)
        server.take.set()
        await running


async def test_a_batch_that_lost_its_connection_gets_one_when_the_limit_rises() -> None:
    server = Server(9)
    answers = {3: b"421 4.3.2 enough\r\n", 4: b""}
    server.dot = lambda number: answers.get(number, b"250 ok\r\n")
    server.take.clear()
    batches = [Messages(1), Messages(1)]
    async with pool_for(server, 2) as pool:
        running = asyncio.get_running_loop().create_task(send(pool, Messages(1), Messages(1)))
        await until(lambda: len(pool._established) == 2)
        server.take.set()
        await running
        server.take.clear()
        running = asyncio.get_running_loop().create_task(send(pool, *batches))
        await until(lambda: not len(pool._spare))
        pool.set_max(1)
        server.take.set()
        await until(lambda: pool.open == 1 and pool._spare.wanted == 1)
        pool.set_max(2)
        await until(lambda: server.total == 3)
        server.take.set()
        await running
    assert [batch.told for batch in batches] == [{("sent", "recipient")}] * 2


async def test_a_server_that_refuses_at_mail_is_asked_once() -> None:
    server = Server(1)
    server.greets_all = True
    server.take.clear()
    first, second = Messages(1), Messages(3)
    async with pool_for(server, 4) as pool:
        running = asyncio.get_running_loop().create_task(send(pool, first))
        await until(lambda: len(pool._established) == 1)
        await send(pool, second)
        assert (server.refused, pool.limit) == (1, 1)
        server.take.set()
        await running
    assert second.told == {("not_sent", "throttled")}


async def test_connections_on_which_nothing_moves_are_no_sign_of_life() -> None:
    server = Server(1)
    server.take.clear()
    first, second = Messages(1), Messages(1)
    async with pool_for(server, 2) as pool:
        running = asyncio.get_running_loop().create_task(send(pool, first))
        await until(lambda: len(pool._established) == 1)
        [only] = pool._established
        only._progress_at -= WORKS_S + 1
        await send(pool, second)
        assert (second.told, pool.limit) == ({("not_sent", "server")}, 2)
        server.take.set()
        await running


async def test_a_name_that_is_not_found_says_nothing_about_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(_: str, __: int) -> None:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    server = Server(9)
    server.take.clear()
    first, second = Messages(1), Messages(1)
    async with pool_for(server, 2) as pool:
        running = asyncio.get_running_loop().create_task(send(pool, first))
        await until(lambda: len(pool._established) == 1)
        monkeypatch.setattr(connection, "dial", fail)
        await send(pool, second)
        assert (second.told, pool.limit) == ({("not_sent", "server")}, 2)
        server.take.set()
        await running


async def test_a_cap_ends_the_connections_that_are_being_made() -> None:
    server = Server(9)
    server.greet.clear()
    batches = [Messages(1) for _ in range(4)]
    async with pool_for(server, 4) as pool:
        running = asyncio.get_running_loop().create_task(send(pool, *batches))
        await until(lambda: server.now == 4)
        pool.set_max(1)
        await until(lambda: pool.open == 1)
        server.greet.set()
        await running
        assert server.total == 4
    assert [batch.told for batch in batches] == [{("sent", "recipient")}] * 4


class Slow(Messages):
    """Each message takes until the next turn of the loop to be ready."""

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self.is_ready = False
        self.hurried = False
        self.later = Later(self.hurry)
        self.told_later = 0

    def hurry(self) -> None:
        self.hurried = True

    def next(self) -> Envelope | Later | None:
        if self.left and not self.is_ready and not self.hurried:
            self.told_later += 1
            asyncio.get_running_loop().call_soon(self.make_ready)
            return self.later
        self.is_ready = False
        return super().next()

    def make_ready(self) -> None:
        if self.is_ready or (wake := self.later.wake) is None:
            return
        self.is_ready, self.later.wake = True, None
        wake()


async def test_a_connection_waits_for_messages_that_are_not_ready() -> None:
    batch, after = Slow(20), Slow(3)
    server = Server(1)
    async with pool_for(server, 1) as pool:
        await send(pool, batch, after)
    assert [result.kind for result in batch.results] == ["sent"] * 20
    assert [result.kind for result in after.results] == ["sent"] * 3
    assert server.total == 1
    assert 20 <= batch.told_later <= 22, "nobody asks again and again"
    assert not batch.hurried


async def test_a_connection_that_is_worn_while_it_waits_is_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    server, batch = Server(1), Slow(6)
    async with pool_for(server, 1) as pool:
        monkeypatch.setattr(connection.Connection, "is_worn", property(lambda c: c.messages >= 2))
        await send(pool, batch)
    assert [result.kind for result in batch.results] == ["sent"] * 6
    assert server.total == 3


async def test_what_is_not_ready_is_not_waited_for_where_it_only_goes_back() -> None:
    batch = Slow(5)
    async with pool_for(Server(0), 1) as pool:
        await send(pool, batch)
    assert batch.hurried
    assert [result.kind for result in batch.results] == ["not_sent"] * 5


async def test_a_batch_that_fails_when_it_wakes_ends_its_connection() -> None:
    class Broken(Slow):
        def next(self) -> Envelope | Later | None:
            if len(self.results) == 1 and self.is_ready:
                raise ZeroDivisionError
            return super().next()

    async with pool_for(Server(1), 1) as pool:
        with pytest.raises(ZeroDivisionError):
            await send(pool, Broken(3))
        assert pool.busy == 0
