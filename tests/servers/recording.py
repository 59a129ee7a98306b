"""An SMTP server of our own that records what it takes and answers as a test tells it to."""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.servers.base import Server
from tests.servers.certificates import Certificate
from tests.servers.ports import HOST
from tests.servers.processes import Family
from tests.servers.recording_protocol import EXTENSIONS, Options
from tests.servers.rules import Rule, dumps

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Recorded:
    """One message that the server accepted."""

    message_id: str
    sender: str
    recipients: tuple[str, ...]
    bytes: int
    session: int  # the connection it came on, counted from 1


@dataclass(frozen=True, slots=True)
class Sessions:
    """Connections: open now, most at once, and all so far; and final dots that came on them."""

    open: int
    peak: int
    total: int
    dots: int


class RecordingServer(Server):
    """Accepts and records all mail, apart from what the `rules` say.

    `delay_s` is waited before the answer to each message's final dot, on its connection only.
    Connections above `max_sessions` get 421. After `session_messages` messages on a connection,
    MAIL gets 421. `keep=False` records no bodies. `certificate` makes it TLS from the first byte.
    `prefix` is a command to run it under, one that enters a network namespace, and `host` its address there.
    """

    name = "recording"

    def __init__(
        self,
        *,
        port: int | None = None,
        rules: Sequence[Rule] = (),
        delay_s: float = 0.0,
        max_sessions: int | None = None,
        session_messages: int | None = None,
        keep: bool = True,
        extensions: Sequence[str] = EXTENSIONS,
        certificate: Certificate | None = None,
        host: str = HOST,
        prefix: Sequence[str] = (),
    ) -> None:
        super().__init__(port=port)
        self.host = host
        self._prefix = list(prefix)
        self._options = Options(
            folder="",
            host=self.host,
            port=self.port,
            rules=dumps(rules),
            delay_s=delay_s,
            max_sessions=max_sessions,
            session_messages=session_messages,
            keep=keep,
            extensions=extensions,
            certificate=(str(certificate.chain), str(certificate.key)) if certificate else None,
        )

    @property
    def url(self) -> str:
        scheme = "smtps" if self._options.certificate else "smtp"
        return f"{scheme}://{self.host}:{self.port}"

    def _launch(self) -> Family:
        self._options.folder = str(self.folder)
        arguments = json.dumps(asdict(self._options))
        family = Family(
            [*self._prefix, sys.executable, "-m", "tests.servers.recording_protocol", arguments],
            log=self.folder / "recording.log",
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._read_line(family)  # the port: it listens
        return family

    def _wait_until_listening(self, family: Family) -> None:
        """It does once it has said its port, and it may be where we can't reach it."""

    def set_rules(self, rules: Sequence[Rule]) -> None:
        """Replace the rules; they hold for every later command once this returns."""
        self._ask(dumps(rules))

    def sessions(self) -> Sessions:
        return Sessions(*(int(number) for number in self._ask("").split()))

    def recorded(self) -> list[Recorded]:
        """Every accepted message, in the order of acceptance."""
        return [
            Recorded(
                message_id=record["id"],
                sender=record["from"],
                recipients=tuple(record["to"]),
                bytes=record["bytes"],
                session=record["session"],
            )
            for record in map(json.loads, self._lines())
        ]

    def auth_lines(self) -> str:
        """All that AUTH said, in its order."""
        path = self.folder / "auth"
        return path.read_text("latin-1") if path.exists() else ""

    def count(self) -> int:
        return len(self._lines())

    def messages(self) -> Iterator[bytes]:
        """Each message byte for byte as it was sent, dots unstuffed: nothing is added."""
        if not self._options.keep:
            raise RuntimeError("this server keeps no messages: RecordingServer(keep=True)")
        with (self.folder / "bodies").open("rb") as bodies:
            for record in self.recorded():
                yield bodies.read(record.bytes)

    def recipients(self) -> Counter[str]:
        return Counter(address for record in self.recorded() for address in record.recipients)

    def message_ids(self) -> Counter[str]:
        return Counter(record.message_id for record in self.recorded())

    def _lines(self) -> list[bytes]:
        try:
            written = (self.folder / "index").read_bytes()
        except FileNotFoundError:
            return []
        return written.split(b"\n")[:-1]  # after the last newline: nothing, or half a line

    def _ask(self, line: str) -> str:
        assert self._family is not None and self._family.process.stdin is not None
        self._family.process.stdin.write(line.encode() + b"\n")
        self._family.process.stdin.flush()
        return self._read_line(self._family)

    def _read_line(self, family: Family) -> str:
        assert family.process.stdout is not None
        line: str = family.process.stdout.readline().decode()
        if not line:
            family.stop()
            raise RuntimeError(f"the recording server ended: {self.log()}")
        return line
