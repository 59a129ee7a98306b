"""Connections whose servers are ready in the same turn: noted together, each before its content goes."""

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from evenpost.wire import codec
from evenpost.wire.messages import BatchItem, CampaignTemplate, Template
from worker import outcome_log_file
from worker.batch_run import BatchRun
from worker.outcome_log import OutcomeLog, OutcomeLogError
from worker.smtp.config import ServerConfig
from worker.smtp.connection import Connection
from worker.smtp.content import WireContent
from worker.smtp.events import Closed
from worker.smtp.turn import TOGETHER_MAX, Turn
from worker.templates import CampaignComposer
from worker.vocabulary import Held

EHLO = b"250-mx\r\n250 PIPELINING\r\n"
ENVELOPE_TAKEN = b"250 ok\r\n250 ok\r\n354 go\r\n"


class Steps:
    def __init__(self, name: int, seen: list[tuple[str, int]]) -> None:
        self.name, self.seen, self.fd = name, seen, -1
        self.heard: list[bool] = []
        self.contents = 1

    def load(self, hears_more: bool) -> int:
        self.seen.append(("load", self.name))
        self.heard.append(hears_more)
        return self.contents

    def depart(self) -> None:
        self.seen.append(("depart", self.name))


async def test_all_are_loaded_before_the_first_departs() -> None:
    seen: list[tuple[str, int]] = []
    turn = Turn(asyncio.get_running_loop())
    turn.join(Steps(1, seen))
    turn.join(Steps(2, seen))
    assert seen == []
    await asyncio.sleep(0)
    assert seen == [("load", 1), ("load", 2), ("depart", 1), ("depart", 2)]
    await asyncio.sleep(0)
    assert len(seen) == 4
    turn.join(Steps(3, seen))
    await asyncio.sleep(0)
    assert seen[4:] == [("load", 3), ("depart", 3)]


async def test_one_turn_holds_only_so_many() -> None:
    seen: list[tuple[str, int]] = []
    turn = Turn(asyncio.get_running_loop())
    for number in range(TOGETHER_MAX + 1):
        turn.join(Steps(number, seen))
    await asyncio.sleep(0)
    assert [step for step, _ in seen[TOGETHER_MAX:]] == ["depart"] * TOGETHER_MAX + ["load", "depart"]


async def test_it_is_contents_that_are_counted() -> None:
    seen: list[tuple[str, int]] = []
    turn = Turn(asyncio.get_running_loop())
    for number in range(3):
        turn.join(steps := Steps(number, seen))
        steps.contents = TOGETHER_MAX // 2
    await asyncio.sleep(0)
    assert [step for step, _ in seen] == ["load", "load", "depart", "depart", "load", "depart"]


async def test_who_has_heard_more_is_told_and_the_others_are_not() -> None:
    turn = Turn(asyncio.get_running_loop())
    pairs = [socket.socketpair() for _ in range(3)]
    steps = [Steps(number, []) for number in range(3)]
    for step, (ours, _) in zip(steps, pairs, strict=True):
        step.fd = ours.fileno()
        turn.listen(step.fd)

    async def end() -> list[bool]:
        for step in steps:
            turn.join(step)
        await asyncio.sleep(0)
        return [step.heard[-1] for step in steps]

    assert await end() == [False, False, False]
    pairs[1][1].sendall(b"250 too early\r\n")
    assert await end() == [False, True, False]
    pairs[2][1].close()
    assert await end() == [False, True, True]
    turn.forget(steps[1].fd)
    pairs[2][0].close()
    turn.forget(steps[2].fd)  # it has gone by itself
    assert await end() == [False, False, False]
    for pair in pairs:
        for end_ in pair:
            end_.close()


class Owner:
    hears_sent = False

    def __init__(self, log: OutcomeLog) -> None:
        self.log = log
        self.failed: list[str] = []

    def has_lease(self, mono: float) -> bool:
        return True

    def may_begin(self, mono: float) -> bool:
        return not self.failed

    def outcome(self, held: Held, item: BatchItem, kind: str, code: int, reply: str) -> None: ...

    def noted(self) -> None: ...

    def log_failed(self, error: OutcomeLogError) -> None:
        self.failed.append(str(error))

    def composing_failed(self, held: Held, error: Exception) -> None:
        raise error


class Wire:
    """A transport that only remembers, and calls `looks` for each write."""

    def __init__(self, looks: Callable[[bytes], None]) -> None:
        self.looks = looks
        self.written = b""

    def write(self, data: bytes) -> None:
        self.looks(data)
        self.written += data

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0

    def get_extra_info(self, name: str) -> None: ...

    def close(self) -> None: ...

    def abort(self) -> None: ...


class Cluster:
    """Connections to servers that are played by hand, with a batch each."""

    def __init__(self, log: OutcomeLog, count: int, each: int, looks: Callable[[bytes], None]) -> None:
        self.owner = Owner(log)
        template = CampaignTemplate(
            7, "c7", 1, Template(sender="a@example.com", subject="x", text="Dear {{ name }}", fields=["name"])
        )
        composer = CampaignComposer(template, 100)
        turn = Turn(asyncio.get_running_loop())
        self.connections: list[Connection] = []
        self.wires: list[Wire] = []
        self.tasks: list[asyncio.Task[Closed | None]] = []
        for number in range(count):
            config = ServerConfig("h", tls="none", helo_name="me")
            connection, wire = Connection(config, turn=turn), Wire(looks)
            connection.connection_made(cast(Any, wire))
            connection.data_received(b"220 hi\r\n" + EHLO)
            packed = codec.pack_values(["Ann"])
            items = [
                BatchItem(index, 1, f"r{index}@example.org", packed)
                for index in range(number * each, (number + 1) * each)
            ]
            run = BatchRun(self.owner, Held(number, 7, items), composer)
            self.tasks.append(asyncio.get_running_loop().create_task(connection.send_batch(run)))
            self.connections.append(connection)
            self.wires.append(wire)

    async def say(self, reply: bytes) -> None:
        for connection in self.connections:
            connection.data_received(reply)
        await asyncio.sleep(0)

    def close(self) -> None:
        for connection in self.connections:
            connection.abort("over")
            connection.connection_lost(None)


@pytest.fixture
def log_path(tmp_path: Path) -> Path:
    return tmp_path / "log"


def begun(path: Path) -> set[int]:
    records = outcome_log_file.records(path.read_bytes())
    return {
        row.index
        for record, _ in records
        if isinstance(record, outcome_log_file.Block)
        for row in record.begun
    }


def records(path: Path) -> int:
    return sum(1 for _ in outcome_log_file.records(path.read_bytes()))


async def test_a_note_is_in_the_file_before_the_first_byte_and_once_a_turn(log_path: Path) -> None:
    log = OutcomeLog.open(log_path, now_ms=1)
    seen: list[int] = []

    def looks(data: bytes) -> None:
        for index in range(12):
            if b"<c7.%d@" % index in data:
                assert index in begun(log_path)
                seen.append(index)

    cluster = Cluster(log, 4, 3, looks)
    await asyncio.sleep(0)
    blocks = []
    for _ in range(3):
        await cluster.say(ENVELOPE_TAKEN)
        blocks.append(records(log_path))
        for connection in cluster.connections:
            connection.data_received(b"250 2.0.0 Ok\r\n")
    await asyncio.gather(*cluster.tasks)
    assert sorted(seen) == list(range(12))
    assert [blocks[1] - blocks[0], blocks[2] - blocks[1]] == [1, 1]
    assert len(log.rows) == 12
    cluster.close()
    log.close()


async def test_when_the_log_fails_no_content_leaves_and_each_message_has_a_result(
    log_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = OutcomeLog.open(log_path, now_ms=1)
    cluster = Cluster(log, 3, 1, lambda data: None)
    await asyncio.sleep(0)

    def full(fd: int, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(outcome_log_file, "write", full)
    await cluster.say(ENVELOPE_TAKEN)
    await asyncio.gather(*cluster.tasks)
    assert not any(b"Dear" in wire.written for wire in cluster.wires)
    rows = [row for _, run in log.rows.runs() for row in run]
    assert sorted((row[2], row[4]) for row in rows) == [(0, "not_sent"), (1, "not_sent"), (2, "not_sent")]
    assert "No space left" in cluster.owner.failed[0]
    cluster.close()
    monkeypatch.undo()
    log.close()


async def test_a_connection_that_ends_before_the_end_of_the_turn_takes_no_content(log_path: Path) -> None:
    log = OutcomeLog.open(log_path, now_ms=1)
    cluster = Cluster(log, 2, 1, lambda data: None)
    await asyncio.sleep(0)
    first, second = cluster.connections
    first.data_received(ENVELOPE_TAKEN)
    second.data_received(ENVELOPE_TAKEN)
    first.data_received(b"421 bye\r\n")
    await asyncio.sleep(0)
    assert b"Dear" not in cluster.wires[0].written
    assert b"Dear" in cluster.wires[1].written
    assert begun(log_path) == {1}
    closed = await cluster.tasks[0]
    assert closed is not None
    assert [envelope.key for envelope in closed.unsent] == [0]
    cluster.close()
    log.close()


async def test_a_batch_that_raises_breaks_its_own_connection_only(
    log_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = OutcomeLog.open(log_path, now_ms=1)
    cluster = Cluster(log, 2, 1, lambda data: None)
    await asyncio.sleep(0)
    real = BatchRun.content

    def content(run: BatchRun, envelope: Any) -> WireContent | None:
        if envelope.key == 0:
            raise ZeroDivisionError
        return real(run, envelope)

    monkeypatch.setattr(BatchRun, "content", content)
    await cluster.say(ENVELOPE_TAKEN)
    with pytest.raises(ZeroDivisionError):
        await cluster.tasks[0]
    assert b"Dear" in cluster.wires[1].written
    cluster.close()
    log.close()
