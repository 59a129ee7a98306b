"""A link of a certain length: what goes through it comes out so much later, in both directions.

Runs as a program of its own (`python -m scripts.benches.wan_proxy ONE_WAY_S TO_PORT`): it prints its port and
ends when its standard input closes. Bandwidth has no limit and nothing is lost; each connection's bytes, and
its end, keep their order. A connection reaches the server after three ways, as SYN, SYN-ACK and ACK take.
"""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

from scripts.benches.processes import ROOT
from scripts.smtp_sink import standard_input

_HANDSHAKE_WAYS = 3


class _End(asyncio.Protocol):
    """One end of a connection: what it hears, the other end says later."""

    def __init__(self, one_way_s: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._one_way_s = one_way_s
        self._transport: asyncio.Transport | None = None
        self._early: list[bytes] = []  # arrived before there was a connection to the server
        self._is_over = False
        self.other: _End | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's isn't a subclass
        if self._is_over:
            self._transport.close()
            return
        for data in self._early:
            self._transport.write(data)

    def data_received(self, data: bytes) -> None:
        assert self.other is not None
        self._loop.call_later(self._one_way_s, self.other.say, data)

    def connection_lost(self, exc: Exception | None) -> None:
        assert self.other is not None
        self._loop.call_later(self._one_way_s, self.other.close)

    def say(self, data: bytes) -> None:
        if self._transport is None:
            self._early.append(data)
        elif not self._transport.is_closing():
            self._transport.write(data)

    def close(self) -> None:
        self._is_over = True
        if self._transport is not None:
            self._transport.close()


class _Near(_End):
    """The client's."""

    def __init__(self, one_way_s: float, port: int) -> None:
        super().__init__(one_way_s)
        self._port = port
        self._connecting: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.other = _End(self._one_way_s)
        self.other.other = self
        self._connecting = self._loop.create_task(self._connect(self.other), name="connect")

    async def _connect(self, far: _End) -> None:
        await asyncio.sleep(_HANDSHAKE_WAYS * self._one_way_s)
        try:
            await self._loop.create_connection(lambda: far, "127.0.0.1", self._port)
        except OSError:
            self.close()


async def _serve(one_way_s: float, port: int) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Near(one_way_s, port), "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await (await standard_input()).read()
    server.close()


@contextmanager
def link(one_way_s: float, port: int) -> Iterator[int]:
    """The port of a process that is so far away from `port`."""
    command = [sys.executable, "-m", "scripts.benches.wan_proxy", str(one_way_s), str(port)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.stdin.close()
            process.wait(10)


if __name__ == "__main__":
    import uvloop

    uvloop.run(_serve(float(sys.argv[1]), int(sys.argv[2])))
