"""A server that does something wrong at one stage: what becomes of the messages.

Each cell of the table is one server and one pool of the worker's, over real sockets. All of them run side by
side: with PIPELINING under uvloop, without under asyncio's own loop, and with CHUNKING under both.
"""

import asyncio
import ssl
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import uvloop

from client import Client, Receipt
from evenpost.runtime.secret import Secret
from tests.integration.cluster import Cluster, newsletter, wait_until
from tests.servers import RecordingServer, Rule
from tests.servers.certificates import Certificate, self_signed
from tests.servers.faulty import FaultyServer
from worker.smtp.config import ServerConfig, Timeouts
from worker.smtp.content import WireContent, checked
from worker.smtp.events import Envelope
from worker.smtp.outcome import Result
from worker.smtp.pool import Pool

OUTCOMES = {
    "S": ("sent", "recipient"),
    "D": ("deferred", "recipient"),
    "B": ("bounced", "recipient"),
    "b": ("bounced", "server"),
    "N": ("not_sent", "server"),
    "U": ("unknown", "server"),
}
# What becomes of the message that meets it. "." says that there is no such thing.
TABLE = """
            banner  ehlo  starttls  auth  mail  rcpt  data  content  dot
reset       N       N     N         N     N     N     N     N        U
close       N       N     N         N     N     N     N     N        U
hang        N       N     N         N     N     N     N     N        U
half        N       N     N         N     N     N     N     N        U
huge        N       N     N         N     N     N     N     N        U
endless     N       N     N         N     N     N     N     N        U
nonsense    N       N     N         N     N     N     N     N        U
199         N       N     N         N     N     N     N     N        U
mixed       N       N     N         N     N     N     N     N        U
354         N       N     N         N     N     N     .     N        U
334         N       N     N         N     N     N     .     N        U
421         N       N     N         N     N     N     N     N        N
451         N       N     N         N     N     D     D     D        D
550         N       S     N         N     b     B     B     B        B
early       N       N     N         N     N     N     N     N        S
twice       N       N     N         N     N     N     N     N        S
long        S       S     S         S     S     S     S     .        S
tiny        S       S     S         S     S     S     S     .        S
binary      S       S     S         S     S     S     S     .        S
slow        S       S     S         S     S     S     S     .        S
"""
AT_ONCE = {
    "mail": "UUUUUUUUUUUNNbUUSSSS",
    "rcpt": "UUUUUUUUUUUNDBSUSSSS",
}
"""What differs with CHUNKING, from the top down: the last byte is out when MAIL is answered."""
MESSAGES = 3
AFTERWARDS = 2


def patience(seconds: float) -> Timeouts:
    return Timeouts(
        greeting=seconds, command=seconds, mail=seconds, rcpt=seconds, data=seconds, data_block=seconds,
        final_dot=seconds, quit=seconds,
    )  # fmt: skip


SILENT = {"hang", "half", "huge", "endless"}
"""Behaviours that only a time-out ends: it is short for them, for others as long as a busy machine needs."""
SMALL = checked(b"Subject: hello\r\n\r\nno dot at all.\r\n")
LARGE = checked((b"x" * 76 + b"\r\n") * 80_000)  # 6 MB: more than the kernel's buffers hold


def cells() -> dict[tuple[str, str], str]:
    stages, *rows = [line.split() for line in TABLE.strip().splitlines()]
    return {
        (stage, row[0]): code
        for row in rows
        for stage, code in zip(stages, row[1:], strict=True)
        if code != "."
    }


CELLS = cells()


def cells_at_once() -> dict[tuple[str, str], str]:
    """With CHUNKING there is no DATA, but for a large content."""
    behaviours = [line.split()[0] for line in TABLE.strip().splitlines()[1:]]
    differing = {
        (stage, behaviour): code
        for stage, column in AT_ONCE.items()
        for behaviour, code in zip(behaviours, column, strict=True)
    }
    return {cell: code for cell, code in (CELLS | differing).items() if cell[0] != "data"}


CELLS_AT_ONCE = cells_at_once()


@dataclass
class Messages:
    """A batch; each of its messages has one result in the end."""

    first: int
    count: int
    content_: WireContent = SMALL
    results: dict[int, Result] = field(default_factory=dict)
    given: int = 0

    def next(self) -> Envelope | None:
        if self.given == self.count:
            return None
        self.given += 1
        key = self.first + self.given - 1
        return Envelope("from@example.com", f"{key}@example.org", 100, key)

    def content(self, envelope: Envelope) -> WireContent | None:
        return self.content_

    def before_write(self) -> None: ...

    def may_end(self) -> bool:
        return True

    def result(self, envelope: Envelope, result: Result) -> None:
        assert envelope.key not in self.results, "two results for one message"
        self.results[envelope.key] = result


@dataclass
class Seen:
    """One cell: what was told, what the server took, and whether the pool was of use afterwards."""

    told: dict[int, Result]
    taken: Counter[int]
    afterwards: list[str]


async def meet(stage: str, behaviour: str, mode: str, certificate: Certificate) -> Seen:
    timeouts = patience(1.2 if behaviour in SILENT or stage == "content" else 20)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.chain, certificate.key)
    extensions = {"pipelining": mode != "one-by-one", "chunking": mode == "chunking"}
    async with FaultyServer(stage, behaviour, **extensions, context=context) as server:
        config = ServerConfig("127.0.0.1", server.port, tls="none", timeouts=timeouts)
        if stage == "starttls":
            config = ServerConfig(
                "127.0.0.1", server.port, tls="required", ca_file=str(certificate.chain), timeouts=timeouts
            )
        elif stage == "auth":
            config = ServerConfig(
                "127.0.0.1", server.port, tls="none", username="me", password=Secret("hunter2"),
                cleartext_auth=True, timeouts=timeouts,
            )  # fmt: skip
        batch = Messages(1, MESSAGES, LARGE if stage == "content" else SMALL)
        later = Messages(1 + MESSAGES, AFTERWARDS)
        pool = Pool(config)
        try:
            await asyncio.wait_for(pool.run(batch), 30)
            server.heal()
            await asyncio.wait_for(pool.run(later), 30)
            await asyncio.wait_for(pool.close(), 30)
        finally:
            pool.abort()
        return Seen(batch.results, +server.taken, [result.kind for result in later.results.values()])


Table = dict[tuple[str, str], Seen | BaseException]
LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "uvloop": uvloop.new_event_loop,
    "asyncio": asyncio.SelectorEventLoop,
}


async def meet_all(mode: str, certificate: Certificate) -> Table:
    cells = CELLS_AT_ONCE if mode == "chunking" else CELLS
    found = await asyncio.gather(
        *(meet(stage, behaviour, mode, certificate) for stage, behaviour in cells), return_exceptions=True
    )
    return dict(zip(cells, found, strict=True))


def play(mode: str, loop: str, tmp_path_factory: pytest.TempPathFactory) -> Table:
    certificate = self_signed(tmp_path_factory.mktemp("tls"))
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        return runner.run(meet_all(mode, certificate))


@pytest.fixture(scope="module", params=[("pipelining", "uvloop"), ("one-by-one", "asyncio")], ids="-".join)
def seen(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Table:
    return play(*request.param, tmp_path_factory)


@pytest.fixture(scope="module", params=LOOPS)
def seen_at_once(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Table:
    return play("chunking", request.param, tmp_path_factory)


@pytest.mark.parametrize(("stage", "behaviour"), CELLS)
def test_each_fault_has_its_outcome(seen: Table, stage: str, behaviour: str) -> None:
    check(seen[stage, behaviour], CELLS[stage, behaviour])


@pytest.mark.parametrize(("stage", "behaviour"), CELLS_AT_ONCE)
def test_each_fault_has_its_outcome_with_chunking(seen_at_once: Table, stage: str, behaviour: str) -> None:
    check(seen_at_once[stage, behaviour], CELLS_AT_ONCE[stage, behaviour])


def check(found: Seen | BaseException, expected: str) -> None:
    if isinstance(found, BaseException):
        raise found
    assert sorted(found.told) == list(range(1, 1 + MESSAGES)), "no message is lost"
    first = found.told[1]
    assert (first.kind, first.scope) == OUTCOMES[expected], first
    for key, result in found.told.items():
        if result.kind == "sent":
            assert found.taken[key] == 1, "sent means that the server took it"
            assert 200 <= result.code < 300
        elif result.kind != "unknown":
            assert found.taken[key] == 0, f"taken, and told as {result}"
        assert result.text.isprintable(), "nothing of a reply may steer a terminal"
        assert "hunter2" not in result.text
    assert found.afterwards == ["sent"] * AFTERWARDS, "the pool goes on when the server is well again"


# -- the whole cluster ------------------------------------------------------------------------------

MESSAGES_ALL = 30


@pytest.mark.parametrize(
    ("rule", "held"),
    [
        (Rule("connect", action="drop"), False),
        (Rule("mail", action="hang"), False),
        (Rule("message", action="drop", times=1), False),
        (Rule("message", action="hang", accept=True, times=1), True),
    ],
    ids=["drop", "mail-hangs", "dot-dropped", "dot-hangs-and-is-held"],
)
def test_the_next_server_gets_what_a_bad_one_did_not_take(tmp_path: Path, rule: Rule, held: bool) -> None:
    """Broker and workers as processes: nothing is lost, nothing counts as sent that no server took."""
    with RecordingServer() as bad, RecordingServer() as good, Cluster(tmp_path) as cluster:
        bad.set_rules([rule])
        cluster.start_broker()
        for name, server in (("bad", bad), ("good", good)):
            cluster.start_worker(
                name,
                server.url,
                "--command-timeout",
                "0.5",
                "--data-timeout",
                "0.5",
                "--max-connections",
                "2",
            )
        with cluster.client() as client:
            cluster.wait_for_workers(client, 2)
            policy = {"on_unknown": "hold"} if held else {}
            receipt = client.submit(newsletter(MESSAGES_ALL, **policy))
            wait_until(
                lambda: (
                    sum(v for k, v in counts(client, receipt).items() if k in ("sent", "held"))
                    == MESSAGES_ALL
                ),
                "each message has its end",
            )
            found = counts(client, receipt)
        taken = bad.recipients() + good.recipients()
        assert len(taken) == MESSAGES_ALL, "no message is lost"
        assert found.get("sent", 0) <= len(taken)
        if held:
            assert found["held"] >= 1 and max(taken.values()) == 1, "what is held isn't sent again"
        for name in ("bad", "good"):
            assert cluster.processes[name].poll() is None, "the worker survives"


def counts(client: Client, receipt: Receipt) -> dict[str, int]:
    return client.status(receipt.campaign).counts
