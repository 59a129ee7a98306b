"""Clients that are connected, have been answered, and say nothing more.

Runs as a program of its own (`python -m scripts.benches.idle_clients ENDPOINT COUNT`): COUNT of the very
sockets that a client has, with their heartbeats. It says HELLO on each and prints, as JSON, how many were
answered and how long that took; then it does so again for each line on its standard input, and ends when
that closes.
"""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass

import click
import zmq

from broker.cli_limits import raise_descriptors
from evenpost.runtime.sockets import Dealer
from evenpost.wire import codec
from evenpost.wire import messages as wire
from scripts.benches.processes import ROOT

A_PROCESS = 2_500
"""Each has four descriptors: its connection, its mailbox, and two for the monitor of its handshake."""
_ANSWERED_WITHIN_S = 60.0
_CONNECTING_MAX = 250
"""Of a process at once: the others come when these are answered."""
_SOCKETS_A_CLIENT = 3
_NICE = 10
"""What clients cost their own machines shall not count: here they share it with the broker."""


@dataclass(frozen=True, slots=True)
class Answered:
    clients: int
    seconds: float
    """Until the last of them had its answer."""


class _Idle:
    """One client: it has asked `asked` times, and has had `answers`."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], endpoint: str) -> None:
        self.answers = 0
        self._asked = 0
        self._dealer = Dealer(context, endpoint, self._received)

    def _received(self, _: list[bytes]) -> None:
        self.answers += 1

    def ask(self, number: int) -> bool:
        """HELLO number `number`, unless it has been sent; false while there is no connection for it."""
        if self._asked < number and self._dealer.send(codec.encode(wire.Hello("idle"), number)):
            self._asked = number
        return self._asked >= number

    def close(self) -> None:
        self._dealer.close()


async def _run(endpoint: str, count: int) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    context.set(zmq.MAX_SOCKETS, _SOCKETS_A_CLIENT * count + 100)
    began = time.monotonic()
    clients: list[_Idle] = []
    while len(clients) < count and time.monotonic() - began < _ANSWERED_WITHIN_S:
        come = [_Idle(context, endpoint) for _ in range(min(_CONNECTING_MAX, count - len(clients)))]
        clients += come
        await _ask(come, 1, began)
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    number = 1
    while True:
        print(json.dumps(asdict(await _ask(clients, number, began))), flush=True)
        if not await lines.readline():
            break
        began = time.monotonic()
        number += 1
    for client in clients:
        client.close()
    context.destroy(0)


async def _ask(clients: list[_Idle], number: int, began: float) -> Answered:
    waiting = clients
    while waiting and time.monotonic() - began < _ANSWERED_WITHIN_S:
        waiting = [client for client in waiting if not client.ask(number) or client.answers < number]
        await asyncio.sleep(0.01)
    return Answered(len(clients) - len(waiting), time.monotonic() - began)


class IdleClients:
    """One such process, from outside."""

    def __init__(self, endpoint: str, count: int) -> None:
        self.count = count
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, endpoint, str(count)],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def answered(self) -> Answered:
        """Waits for what the last question came to."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise click.ClickException(f"the idle clients ended with status {self._process.wait()}")
        return Answered(**json.loads(line))

    def ask(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def stop(self) -> None:
        self._process.communicate()


class Crowd:
    """All of them, in as many processes as they need."""

    def __init__(self, processes: list[IdleClients]) -> None:
        self._processes = processes
        self.connected = self._answered()

    def ask(self) -> Answered:
        """Each asks once more."""
        for process in self._processes:
            process.ask()
        return self._answered()

    def _answered(self) -> Answered:
        each = [process.answered() for process in self._processes]
        return Answered(sum(found.clients for found in each), max(found.seconds for found in each))


@contextmanager
def idle_clients(endpoint: str, count: int) -> Iterator[Crowd]:
    """`count` clients at an endpoint, all of which have said hello."""
    with ExitStack() as stack:
        processes = []
        for first in range(0, count, A_PROCESS):
            processes.append(IdleClients(endpoint, min(A_PROCESS, count - first)))
            stack.callback(processes[-1].stop)
        yield Crowd(processes)


if __name__ == "__main__":
    raise_descriptors()
    os.nice(_NICE)
    asyncio.run(_run(sys.argv[1], int(sys.argv[2])))
