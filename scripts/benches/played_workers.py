"""Many workers in one process, each with a connection of its own to the broker, and no server behind it.

Runs as a program of its own (`python -m scripts.benches.played_workers ENDPOINT COUNT CONNECTIONS`): it says
HELLO on COUNT sockets of the kind that workers have, prints `ready` when all were welcomed, and ends when its
standard input closes. Each sends a heartbeat as often as the broker asks, takes batches, a connection for
each, on which a message takes MESSAGE_S, and tells their outcomes, all of them `sent`, when a worker would.
It has no lease, no outcome log, and waits for no confirmation.
"""

import asyncio
import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import click
import uvloop
import zmq

from broker.cli_limits import raise_descriptors
from evenpost.runtime.sockets import Dealer
from evenpost.wire import codec
from evenpost.wire import messages as wire
from scripts.benches.processes import ROOT
from scripts.smtp_sink import standard_input
from worker.reporting import INTERVAL_S, interval_s

MESSAGE_S = 0.004
"""What a message takes on a connection: a batch, which is about 200 ms of work, has 50."""
_SOCKETS_A_WORKER = 3
_CONNECTING_MAX = 250
"""At once: the others come when these were welcomed."""
_HELLO_AGAIN_S = 0.05
_NICE = 10
"""What workers cost their own machines shall not count: here they share it with the broker."""


@dataclass(slots=True)
class _Running:
    batch: wire.Batch
    began: float
    """Of the loop's clock."""
    began_wall: int
    told: int = 0
    """So many of its messages have been reported."""

    def sent(self, now: float) -> int:
        """So many of its messages are through."""
        return min(len(self.batch.items), int((now - self.began) / MESSAGE_S))


class _Worker:
    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], endpoint: str, number: int, connections: int
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.welcomed: asyncio.Future[None] = self._loop.create_future()
        self._number = number
        self._connections = connections
        self._waiting: deque[wire.Batch] = deque()
        self._running: dict[int, _Running] = {}
        self._reporting = False
        self._rows_told = self._heartbeats = self._newest = 0
        self._reported_at = 0.0
        self._dealer = Dealer(context, endpoint, self._receive)
        self._hello()

    def close(self) -> None:
        self._dealer.close()

    def _hello(self) -> None:
        name = f"played{self._number}"
        hello = wire.WorkerHello(name, 1, f"{name}:25", f"log of {name}", self._connections)
        if not self._dealer.send(codec.encode(hello, 1)):
            self._loop.call_later(_HELLO_AGAIN_S, self._hello)

    def _receive(self, frames: list[bytes]) -> None:
        message = codec.decode(frames, wire.TO_WORKER).message
        if isinstance(message, wire.Batch):
            self._newest = message.batch
            self._waiting.append(message)
            self._start()
        elif isinstance(message, wire.WorkerWelcome):
            self.welcomed.set_result(None)
            self._loop.call_later(message.heartbeat_s, self._heartbeat, message.heartbeat_s)
        elif isinstance(message, wire.Error | wire.Revoke):
            raise RuntimeError(f"the broker says {message}")

    def _heartbeat(self, every_s: float) -> None:
        self._loop.call_later(every_s, self._heartbeat, every_s)
        self._heartbeats += 1
        busy, connections = len(self._running), self._connections
        beat = wire.Heartbeat(
            self._heartbeats, busy, busy, 0, connections, self._newest, wall=time.time_ns() // 1_000_000
        )
        self._dealer.send(codec.encode(beat))

    def _start(self) -> None:
        while self._waiting and len(self._running) < self._connections:
            batch = self._waiting.popleft()
            running = _Running(batch, self._loop.time(), time.time_ns() // 1_000_000)
            self._running[batch.batch] = running
            self._loop.call_later(len(batch.items) * MESSAGE_S, self._ended, running)
            if not self._reporting:
                self._reporting = True
                self._loop.call_later(INTERVAL_S, self._interval)

    def _interval(self) -> None:
        self._reporting = bool(self._running)
        if self._reporting:
            now = self._loop.time()
            self._loop.call_later(INTERVAL_S, self._interval)
            untold = sum(running.sent(now) - running.told for running in self._running.values())
            if now - self._reported_at >= interval_s(untold):
                self._report([])

    def _ended(self, running: _Running) -> None:
        self._report([running.batch.batch])
        self._start()

    def _report(self, done: list[int]) -> None:
        """OUTCOMES: of the batches that are done all that is left, of the others what is due."""
        now = self._reported_at = self._loop.time()
        rows: list[tuple[object, ...]] = []
        for number, running in self._running.items():
            items = running.batch.items
            upto = len(items) if number in done else running.sent(now)
            for place in range(running.told, upto):
                began = running.began_wall + int(place * MESSAGE_S * 1000)
                item, ended = items[place], began + int(MESSAGE_S * 1000)
                rows.append((number, running.batch.campaign, item.index, item.attempt, "sent", "recipient",
                             250, "2.0.0 Ok", began, ended))  # fmt: skip
            running.told = max(running.told, upto)
        for number in done:
            del self._running[number]
        if rows or done:
            body = {"first": self._rows_told, "rows": rows, "done": done}
            if not self._dealer.send(codec.encode_raw(wire.Type.OUTCOMES, body)):
                raise RuntimeError("the broker doesn't read")
            self._rows_told += len(rows)


async def _play(endpoint: str, count: int, connections: int) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    context.set(zmq.MAX_SOCKETS, _SOCKETS_A_WORKER * count + 100)
    workers: list[_Worker] = []
    while len(workers) < count:
        first, upto = len(workers), min(count, len(workers) + _CONNECTING_MAX)
        workers += [_Worker(context, endpoint, number, connections) for number in range(first, upto)]
        await asyncio.gather(*(worker.welcomed for worker in workers[first:]))
    print("ready", flush=True)
    await (await standard_input()).read()
    for worker in workers:
        worker.close()
    context.destroy(0)


@contextmanager
def played_workers(endpoint: str, count: int, connections: int) -> Iterator[int]:
    """The process; all of its workers are welcome. Gives its id."""
    process = subprocess.Popen(
        [sys.executable, "-m", __name__, endpoint, str(count), str(connections)],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        if process.stdout.readline() != "ready\n":
            raise click.ClickException(f"the played workers ended with status {process.wait()}")
        yield process.pid
    finally:
        process.communicate()


if __name__ == "__main__":
    raise_descriptors()
    os.nice(_NICE)
    uvloop.run(_play(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
