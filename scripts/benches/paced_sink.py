"""A server that takes a fixed time for each message of a connection, and keeps to it.

Runs as a program of its own (`python -m scripts.benches.paced_sink SERVICE_S [CERTIFICATE KEY]`): it prints
its port, answers each line on its standard input with what it has seen so far as JSON, and ends when that
closes. It offers PIPELINING, with a certificate STARTTLS too, and has no opinion on what it is sent.
"""

import asyncio
import json
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field

from evenpost.runtime.tasks import Tasks
from scripts.benches.processes import ROOT
from scripts.benches.usage import cpu_s
from scripts.smtp_sink import BYE, EHLO, OK, SinkConnection, standard_input
from tests.servers.certificates import Certificate

STAMPED_DOMAIN = "stamped.example"
"""For recipients in this domain the sink keeps when it read RCPT and when it said 250 to the message."""
_STAMPED = f"@{STAMPED_DOMAIN}>".encode()
_EHLO_TLS = EHLO.replace(b"250-PIPELINING", b"250-STARTTLS\r\n250-PIPELINING")


@dataclass(slots=True)
class Seen:
    messages: int = 0
    service_s: float = 0.0
    """All messages' time from the final dot to the 250, as measured."""
    last_at: float = 0.0
    """The last 250. All times are of CLOCK_MONOTONIC, which all processes of a machine share."""
    stamps: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Of each recipient in STAMPED_DOMAIN: its RCPT and the 250 to its message."""


class _Connection(SinkConnection):
    def __init__(self, seen: Seen, service_s: float, tls: ssl.SSLContext | None, tasks: Tasks) -> None:
        super().__init__()
        self._seen = seen
        self._service_s = service_s
        self._tls = tls
        self._tasks = tasks
        self._recipient = b""
        self._recipient_at = 0.0
        self._late_s = 0.0
        """What the timer has been late so far: the next message gets it back, so that the mean is exact."""

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_waiting = True  # no message of it is finished any more

    def _command(self, line: bytes) -> None:
        verb = line[:4].upper()
        if verb == b"RCPT":
            self._recipient = line[line.index(b"<") + 1 :] if _STAMPED in line else b""
            self._recipient_at = time.monotonic()
        self._in_data = verb == b"DATA"
        if verb == b"STAR":
            self._is_waiting = True
            self._out.append(b"220 2.0.0 Ready to start TLS\r\n")
            self._loop.call_soon(lambda: self._tasks.start("STARTTLS", self._start_tls()))
            return
        answers = {b"DATA": b"354 Go on\r\n", b"EHLO": _EHLO_TLS if self._tls else EHLO, b"QUIT": BYE}
        self._out.append(answers.get(verb, OK))

    async def _start_tls(self) -> None:
        assert self._tls is not None
        with suppress(ConnectionError):  # it has gone meanwhile
            transport = await self._loop.start_tls(self._transport, self, self._tls, server_side=True)
            if transport is not None:
                self._transport = transport
        self._tls = None  # it isn't offered again
        self._is_waiting = False

    def _message(self, head: bytes) -> None:
        began_at = time.monotonic()
        if not self._service_s:
            self._finish(began_at)
            return
        self._is_waiting = True
        due_at = began_at + self._service_s - self._late_s
        self._loop.call_later(max(0.0, due_at - began_at), self._finish_late, began_at, due_at)

    def _finish_late(self, began_at: float, due_at: float) -> None:
        if self._transport.is_closing():
            return
        self._is_waiting = False
        self._late_s = time.monotonic() - due_at
        self._finish(began_at)
        self._advance()

    def _finish(self, began_at: float) -> None:
        seen, now = self._seen, time.monotonic()
        self._out.append(OK)
        seen.messages += 1
        seen.service_s += now - began_at
        seen.last_at = now
        if self._recipient:
            seen.stamps[self._recipient.partition(b">")[0].decode()] = (self._recipient_at, now)


class PacedSink:
    """The process, from outside."""

    def __init__(self, service_s: float, certificate: Certificate | None = None) -> None:
        self.service_s = service_s
        tls = [str(certificate.chain), str(certificate.key)] if certificate else []
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, repr(service_s), *tls],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.port = int(self._read())

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def cpu_s(self) -> float:
        return cpu_s(self.pid)

    def seen(self) -> Seen:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return Seen(**json.loads(self._read()))

    def stop(self) -> None:
        self._process.communicate()

    def _read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the sink ended with status {self._process.wait()}")
        return line


@contextmanager
def paced_sinks(
    services_s: Sequence[float], certificate: Certificate | None = None
) -> Iterator[list[PacedSink]]:
    """A sink for each time that a message takes on a connection, in seconds; 0: it answers at once."""
    with ExitStack() as stack:
        sinks = []
        for service_s in services_s:
            sinks.append(PacedSink(service_s, certificate))
            stack.callback(sinks[-1].stop)
        yield sinks


async def _serve(service_s: float, certificate: list[str]) -> None:
    seen = Seen()
    tls = None
    if certificate:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(*certificate)
    loop, tasks = asyncio.get_running_loop(), Tasks(_failed)
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    server = await loop.create_server(lambda: _Connection(seen, service_s, tls, tasks), sock=listener)
    print(listener.getsockname()[1], flush=True)
    lines = await standard_input()
    while await lines.readline():
        print(json.dumps(asdict(seen)), flush=True)
    server.close()
    await tasks.cancel()


def _failed(name: str, error: BaseException) -> None:
    print(f"{name}: {error!r}", file=sys.stderr)


if __name__ == "__main__":
    import uvloop

    uvloop.run(_serve(float(sys.argv[1]), sys.argv[2:]))
