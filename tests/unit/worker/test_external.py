"""Counting others' connections: the rule by itself, and with real sockets."""

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from worker import external
from worker.external import ExternalConnections, Socket, count, plain

MX, LOOPBACK, OTHER = "192.0.2.1", "127.0.0.1", "192.0.2.9"
DEADLINE_S = 20


def accepted(local: str, remote: str, number: int, port: int = 25) -> Socket:
    return Socket((local, port), (remote, number))


def listens(local: str, port: int = 25) -> Socket:
    return Socket((local, port), None)


def test_our_own_connections_and_other_ports_do_not_count() -> None:
    sockets = [
        listens(LOOPBACK),
        accepted(LOOPBACK, LOOPBACK, 1_001),
        accepted(LOOPBACK, LOOPBACK, 1_002),
        accepted(LOOPBACK, LOOPBACK, 1_003, port=26),
        Socket((LOOPBACK, 1_001), (LOOPBACK, 25)),  # the client's end
    ]
    assert count(sockets, 25, {LOOPBACK}, set()) == 2
    assert count(sockets, 25, {LOOPBACK}, {(LOOPBACK, 1_001)}) == 1
    assert count(sockets, 25, {LOOPBACK}, {(MX, 1_001)}) == 2


def test_a_wildcard_is_reached_by_each_address() -> None:
    others = [accepted(MX, OTHER, 1_001), accepted("2001:db8::1", "2001:db8::9", 1_002)]
    assert count([listens("0.0.0.0"), *others], 25, {LOOPBACK}, set()) == 2
    assert count([listens("::"), *others], 25, {LOOPBACK}, set()) == 2
    assert count([listens(LOOPBACK), *others], 25, {LOOPBACK}, set()) == 0
    # On its other address another server listens alone.
    assert count([listens("0.0.0.0"), listens(MX), *others], 25, {LOOPBACK}, set()) == 1


def test_addresses_are_compared_without_their_disguise() -> None:
    assert plain("::ffff:127.0.0.1") == "127.0.0.1"
    assert plain("FE80::1%eth0") == "fe80::1"
    assert plain("0:0:0:0:0:0:0:1") == "::1"
    assert plain("") == ""


@pytest.fixture(params=["127.0.0.1", "127.0.0.9", "0.0.0.0", "::1", "::"])
def server(request: pytest.FixtureRequest) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in request.param else socket.AF_INET
    try:
        made = socket.create_server((request.param, 0), family=family, dualstack_ipv6=request.param == "::")
    except OSError as error:
        pytest.skip(f"no {request.param} here: {error}")
    with made:
        yield made


@contextlib.contextmanager
def connections(server: socket.socket, count: int) -> Iterator[list[socket.socket]]:
    address, port = server.getsockname()[:2]
    target = {"0.0.0.0": "127.0.0.1", "::": "127.0.0.1"}.get(address, address)
    with contextlib.ExitStack() as stack:
        made = []
        for _ in range(count):
            made.append(stack.enter_context(socket.create_connection((target, port))))
            stack.enter_context(server.accept()[0])
        yield made


async def read(one: ExternalConnections) -> int:
    reading = one.read()
    assert reading is not None
    await asyncio.wait_for(reading, DEADLINE_S)
    return one.count


async def test_with_real_sockets(server: socket.socket, logger: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(external, "SHARE_MAX", float("inf"))
    own: set[tuple[str, int]] = set()
    address, port = server.getsockname()[:2]
    host = {"0.0.0.0": "localhost", "::": "127.0.0.1"}.get(address, address)
    seen = ExternalConnections(host, port, lambda: own, logger)
    assert await read(seen) == 0
    with connections(server, 5) as made:
        assert await read(seen) == 5
        own.update((plain(one.getsockname()[0]), one.getsockname()[1]) for one in made[:2])
        assert await read(seen) == 3
    assert await read(seen) == 0
    assert logger.events == []


async def test_connections_of_the_same_workers_other_processes_do_not_count(
    logger: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(external, "SHARE_MAX", float("inf"))
    code = (
        "import socket, sys; s = socket.create_connection(('127.0.0.1', int(sys.argv[1]))); sys.stdin.read()"
    )
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        child = subprocess.Popen(  # noqa: ASYNC220  # it takes a moment, and nobody else waits
            [sys.executable, "-c", code, str(port)], stdin=subprocess.PIPE
        )
        with child, server.accept()[0], connections(server, 2):
            mine = ExternalConnections("127.0.0.1", port, set, logger, siblings_of=os.getpid())
            assert await read(mine) == 2, "the child's is a sibling's, ours are of somebody else"
            alone = ExternalConnections("127.0.0.1", port, set, logger)
            assert await read(alone) == 3
            child.communicate()
    assert logger.events == []


async def test_a_server_on_another_host_shows_nothing(logger: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(_: str) -> None:
        raise AssertionError("it reads in vain")

    monkeypatch.setattr(psutil, "net_connections", never)
    seen = ExternalConnections("192.0.2.77", 25, set, logger)
    assert await read(seen) == 0
    assert logger.events == []


@pytest.mark.parametrize("error", [psutil.AccessDenied(), PermissionError("no")])
async def test_what_may_not_be_seen_counts_as_nothing(
    logger: Any, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def refuse(_: str) -> None:
        raise error

    monkeypatch.setattr(external, "SHARE_MAX", float("inf"))
    monkeypatch.setattr(psutil, "net_connections", refuse)
    seen = ExternalConnections("127.0.0.1", 25, set, logger)
    for _ in range(3):
        assert await read(seen) == 0
    assert logger.names == ["server.others_unseen"]


async def test_it_never_blocks_the_loop_and_reads_one_at_a_time(
    logger: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()
    own: set[tuple[str, int]] = set()

    def wait(_: str) -> list[Any]:
        assert go_on.wait(DEADLINE_S)
        mx, status = ("127.0.0.1", 25), psutil.CONN_ESTABLISHED
        return [
            SimpleNamespace(laddr=mx, raddr=("127.0.0.1", number), status=status)
            for number in (1_001, 1_002, 1_003)
        ]

    monkeypatch.setattr(psutil, "net_connections", wait)
    seen = ExternalConnections("127.0.0.1", 25, lambda: set(own), logger)
    own.add(("127.0.0.1", 1_001))
    reading = seen.read()
    assert reading is not None
    assert seen.read() is None
    assert not reading.done()
    own.clear()
    own.add(("127.0.0.1", 1_002))
    go_on.set()
    await asyncio.wait_for(reading, DEADLINE_S)
    assert seen.count == 1, "ours that came or went meanwhile aren't others'"
    assert seen.read() is None, "reading takes no more than a small part of the time"
