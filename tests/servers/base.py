"""What every test server has in common: a folder, a port, an end, and the mail it took.

A server is a context manager. It owns one temporary folder, which holds its configuration, its
queue and its mail, and one family of processes; both are gone when the context ends.
"""

import shutil
import socket
import tempfile
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.servers.ports import HOST, free_port
from tests.servers.processes import Family

START_TIMEOUT_S = 15.0
POLL_S = 0.02
LOG_TAIL_BYTES = 4_000


class Server(ABC):
    """One real SMTP server on a loopback port. Start it with `with`."""

    name: str
    host = HOST

    def __init__(self, *, port: int | None = None) -> None:
        self.port = port or free_port()
        self.folder = Path()
        self._family: Family | None = None

    # -- what each server fills in ------------------------------------------------------------

    @abstractmethod
    def _launch(self) -> Family:
        """Write the configuration into `self.folder` and start the processes."""

    @abstractmethod
    def count(self) -> int:
        """How many messages were delivered so far."""

    @abstractmethod
    def messages(self) -> Iterator[bytes]:
        """Each delivered message as it was stored, with the headers that the server added."""

    @abstractmethod
    def recipients(self) -> Counter[str]:
        """How many messages each envelope recipient got."""

    def log(self) -> str:
        """Everything that the server logged."""
        return "".join(path.read_text(errors="replace") for path in sorted(self.folder.rglob("*.log")))

    # -- what they share ----------------------------------------------------------------------

    @property
    def url(self) -> str:
        return f"smtp://{self.host}:{self.port}"

    def message_ids(self) -> Counter[str]:
        """How many copies of each Message-ID arrived: anything above one is a duplicate."""
        return Counter(header(raw, "Message-ID") for raw in self.messages())

    def wait_for(self, count: int, timeout_s: float = 30.0) -> None:
        """Return once `count` messages were delivered; fail with the log when time runs out."""
        deadline = time.monotonic() + timeout_s
        while (seen := self.count()) < count:
            if time.monotonic() > deadline:
                raise AssertionError(
                    f"{self.name} delivered {seen} of {count} messages in {timeout_s:g} s\n"
                    + self.log()[-LOG_TAIL_BYTES:]
                )
            time.sleep(POLL_S)

    def pids(self) -> list[int]:
        """The processes of this server that live now."""
        return self._family.pids() if self._family else []

    def start(self) -> None:
        # 0711: the servers drop privileges and must still pass through to their own folders.
        self.folder = Path(tempfile.mkdtemp(prefix=f"evenpost-{self.name}-"))
        self.folder.chmod(0o711)
        try:
            self._family = self._launch()
            self._wait_until_listening(self._family)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        if self._family is not None:
            self._family.stop()
            self._family = None
        if self.folder != Path():
            shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _wait_until_listening(self, family: Family) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                with socket.create_connection((self.host, self.port), timeout=5) as probe:
                    if probe.recv(4):
                        probe.sendall(b"QUIT\r\n")
                        return
            except OSError:
                pass  # not yet
            if family.ended() or time.monotonic() > deadline:
                why = "ended at once" if family.ended() else f"not up in {START_TIMEOUT_S:g} s"
                raise RuntimeError(f"{self.name}: {why}\n{self.log()[-LOG_TAIL_BYTES:]}")
            time.sleep(POLL_S)


def header(raw: bytes, name: str) -> str:
    """The first header called `name`, unfolded; empty where there is none."""
    head = raw.replace(b"\r\n", b"\n").partition(b"\n\n")[0]
    wanted = name.lower().encode() + b":"
    lines = iter(head.split(b"\n"))
    for line in lines:
        if line.lower().startswith(wanted):
            value = line[len(wanted) :]
            for folded in lines:
                if not folded.startswith((b" ", b"\t")):
                    break
                value += folded
            return value.strip().decode("utf-8", "replace")
    return ""


# What the servers put on top of a message; nothing that Evenpost writes itself.
TRACE_HEADERS = frozenset(
    {
        b"return-path",
        b"x-original-to",
        b"delivered-to",
        b"envelope-to",
        b"delivery-date",
        b"received",
        b"x-client-addr",
        b"x-client-proto",
        b"x-helo-args",
        b"x-mail-args",
        b"x-rcpt-args",
    }
)


def untraced(raw: bytes) -> bytes:
    """The message as the client sent it: without the leading trace headers, lines in CRLF.

    Only the block on top goes. A trace header further down was the client's own.
    """
    lines = raw.replace(b"\r\n", b"\n").split(b"\n")
    start, tracing = 0, False
    for start, line in enumerate(lines):  # noqa: B007 - its last value is the result
        folded = tracing and line.startswith((b" ", b"\t"))
        tracing = folded or line.partition(b":")[0].lower() in TRACE_HEADERS
        if not tracing:
            break
    return b"\r\n".join(lines[start:])
