"""A far server: the next batch follows on a connection before the last one's answers are in.

Over real sockets, with every server counting as far."""

import asyncio
import random
from collections import Counter

import pytest

from worker.smtp import connection
from worker.smtp.config import ServerConfig
from worker.smtp.content import WireContent, checked
from worker.smtp.events import Envelope
from worker.smtp.outcome import Result
from worker.smtp.pool import Pool

DEADLINE_S = 30


@pytest.fixture(autouse=True)
def _all_are_far(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "FAR_S", 0.0)


class Messages:
    """A batch whose recipients nobody else has."""

    def __init__(self, number: int, count: int) -> None:
        self.left = [
            Envelope("a@example.com", f"{number}-{key}@example.org", 40, key) for key in range(count)
        ]
        self.count = count
        self.results: dict[str, Result] = {}

    def next(self) -> Envelope | None:
        return self.left.pop(0) if self.left else None

    def content(self, envelope: Envelope) -> WireContent:
        return checked(b"Subject: %s\r\n\r\nx\r\n" % envelope.rcpt_to.encode())

    def before_write(self) -> None: ...

    def may_end(self) -> bool:
        return True

    def result(self, envelope: Envelope, result: Result) -> None:
        assert envelope.rcpt_to not in self.results, "two results for one message"
        self.results[envelope.rcpt_to] = result

    @property
    def kinds(self) -> Counter[str]:
        return Counter(result.kind for result in self.results.values())


class Server:
    """Takes messages; `says` has the answer to a recipient or a content, and None hangs up."""

    def __init__(self, *, chunking: bool) -> None:
        self.offers = b"250-mx\r\n" + (b"250-CHUNKING\r\n" if chunking else b"") + b"250 PIPELINING\r\n"
        self.taken: Counter[str] = Counter()
        self.sessions = 0
        self.answers = asyncio.Event()
        self.answers.set()
        """Contents are answered once it is set."""
        self.waiting = 0

    def says(self, verb: bytes, recipient: str) -> bytes | None:
        return b"250 2.0.0 ok\r\n"

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.sessions += 1
        writer.write(b"220 hi\r\n")
        recipient = ""
        try:
            while line := await reader.readuntil(b"\r\n"):
                verb = line[:4]
                answer: bytes | None = b"250 2.0.0 ok\r\n"
                if verb == b"EHLO":
                    answer = self.offers
                elif verb == b"RCPT":
                    answer = self.says(verb, line[9:-3].decode())
                    recipient = line[9:-3].decode() if answer is not None and answer[:1] == b"2" else ""
                elif verb in (b"DATA", b"BDAT"):
                    if verb == b"BDAT":
                        content = await reader.readexactly(int(line.split()[1]))
                    elif recipient:
                        writer.write(b"354 go\r\n")
                        content = await reader.readuntil(b"\r\n.\r\n")
                    if not recipient:
                        writer.write(b"503 no recipient\r\n")
                        continue
                    assert content.startswith(b"Subject: %s\r\n" % recipient.encode())
                    self.waiting += 1
                    await self.answers.wait()
                    self.waiting -= 1
                    answer = self.says(verb, recipient)
                    self.taken[recipient] += answer is None or answer[:1] == b"2"
                    recipient = ""
                elif verb == b"QUIT":
                    writer.write(b"221 bye\r\n")
                    return
                if answer is None:
                    return
                writer.write(answer)
                if answer.startswith(b"421"):
                    return
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


async def listen(server: Server, most: int) -> tuple[asyncio.Server, Pool]:
    listening = await asyncio.start_server(server.talk, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    return listening, Pool(ServerConfig("127.0.0.1", port, "none", max_connections=most, pipeline_depth=4))


async def begun(pool: Pool, messages: int) -> None:
    """Waits until so many messages were begun on its one connection."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            if next(iter(pool._connections)).messages >= messages:
                return
            await asyncio.sleep(0)


@pytest.mark.parametrize("chunking", [False, True])
async def test_the_next_batch_leaves_before_the_answers_to_the_last(chunking: bool) -> None:
    server = Server(chunking=chunking)
    listening, pool = await listen(server, 1)
    server.answers.clear()
    batches = [Messages(number, 1) for number in range(2)]
    room = asyncio.Event()
    first = asyncio.get_running_loop().create_task(pool.run(batches[0], room.set))
    await asyncio.wait_for(room.wait(), DEADLINE_S)
    second = asyncio.get_running_loop().create_task(pool.run(batches[1]))
    await begun(pool, 2)
    assert not first.done()
    # The second has the first one's slot, and with CHUNKING is out as a whole, too.
    assert pool.busy == (0 if chunking else 1)
    server.answers.set()
    await asyncio.wait_for(asyncio.gather(first, second), DEADLINE_S)
    assert [batch.kinds for batch in batches] == [{"sent": 1}] * 2
    assert (server.sessions, pool.busy) == (1, 0)
    await asyncio.wait_for(pool.close(), DEADLINE_S)
    listening.close()


async def test_a_near_server_gets_one_batch_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "FAR_S", 1_000.0)
    server = Server(chunking=True)
    listening, pool = await listen(server, 1)
    rooms: list[None] = []
    batches = [Messages(number, 3) for number in range(4)]
    runs = (pool.run(batch, lambda: rooms.append(None)) for batch in batches)
    await asyncio.wait_for(asyncio.gather(*runs), DEADLINE_S)
    assert rooms == []
    await asyncio.wait_for(pool.close(), DEADLINE_S)
    listening.close()


class Fickle(Server):
    """Refuses, hangs up and has enough, by chance."""

    def __init__(self, seed: int, *, chunking: bool) -> None:
        super().__init__(chunking=chunking)
        self.rng = random.Random(seed)

    def says(self, verb: bytes, recipient: str) -> bytes | None:
        dice = self.rng.random()
        if verb == b"RCPT":
            return b"550 5.1.1 nobody\r\n" if dice < 0.1 else b"250 2.1.5 ok\r\n"
        if dice < 0.02:
            return None
        return b"421 4.3.2 enough\r\n" if dice < 0.06 else b"250 2.0.0 ok\r\n"


@pytest.mark.parametrize("chunking", [False, True])
@pytest.mark.parametrize("seed", range(6))
async def test_each_message_has_its_own_result_whatever_the_server_does(seed: int, chunking: bool) -> None:
    server = Fickle(seed, chunking=chunking)
    listening, pool = await listen(server, 3)
    rng = random.Random(seed)
    batches = [Messages(number, rng.randint(1, 9)) for number in range(60)]
    left = list(batches)

    async def runner() -> None:
        while left:
            await pool.run(left.pop())

    await asyncio.wait_for(asyncio.gather(*(runner() for _ in range(7))), DEADLINE_S)
    assert (pool.busy, pool.open <= 3) == (0, True)
    for batch in batches:
        assert len(batch.results) == batch.count
        for recipient, result in batch.results.items():
            if result.kind == "sent":
                assert server.taken[recipient] == 1
            elif result.kind != "unknown":
                assert server.taken[recipient] == 0, result
    kinds = sum((batch.kinds for batch in batches), Counter())
    assert kinds["sent"] > kinds["unknown"] + kinds["not_sent"]
    await asyncio.wait_for(pool.close(), DEADLINE_S)
    listening.close()


@pytest.mark.parametrize("chunking", [False, True])
async def test_a_cancelled_batch_accounts_for_its_own_messages_and_the_others_go_on(chunking: bool) -> None:
    server = Server(chunking=chunking)
    listening, pool = await listen(server, 1)
    server.answers.clear()
    batches = [Messages(number, 1) for number in range(3)]
    room = asyncio.Event()
    first = asyncio.get_running_loop().create_task(pool.run(batches[0], room.set))
    await asyncio.wait_for(room.wait(), DEADLINE_S)
    others = [asyncio.get_running_loop().create_task(pool.run(batch)) for batch in batches[1:]]
    await begun(pool, 2)
    first.cancel()
    await asyncio.wait([first], timeout=DEADLINE_S)
    server.answers.set()
    await asyncio.wait_for(asyncio.gather(*others), DEADLINE_S)
    assert batches[0].kinds == {"unknown": 1}
    # With CHUNKING the second was out, too, when its connection ended.
    assert batches[1].kinds == ({"unknown": 1} if chunking else {"sent": 1})
    assert batches[2].kinds == {"sent": 1}
    await asyncio.wait_for(pool.close(), DEADLINE_S)
    listening.close()
