"""Postfix's smtp-sink: takes mail faster than anything else, and forgets it unless told not to."""

import os
import pwd
import re
from collections import Counter
from collections.abc import Iterator

from tests.servers.base import Server
from tests.servers.packages import SMTP_SINK, program, require
from tests.servers.processes import Family

END = b"\n\n"
COUNTERS_TAIL_BYTES = 200
RCPT = re.compile(rb"^X-Rcpt-Args: *<?([^>\s]*)", re.MULTILINE)


class SmtpSink(Server):
    """smtp-sink on a port of its own.

    `dump=True` keeps each message in a file, so that `messages()` and `recipients()` work; without
    it only `count()` does, from the sink's counters. `delay_s` is waited before the answer to DATA,
    as the sink's -w does (whole seconds); `delays` is its -W: {"RCPT": 1}. Connections above
    `max_sessions` wait in the listen queue: the sink has no way to refuse them.
    """

    name = SMTP_SINK

    def __init__(
        self,
        *,
        port: int | None = None,
        dump: bool = True,
        delay_s: int = 0,
        delays: dict[str, int] | None = None,
        max_sessions: int = 256,
        backlog: int = 1024,
        options: tuple[str, ...] = (),
    ) -> None:
        super().__init__(port=port)
        self._dump = dump
        self._whole: set[str] = set()
        self._options = ["-m", str(max_sessions), *options]
        if delay_s:
            self._options += ["-w", str(delay_s)]
        for command, seconds in (delays or {}).items():
            self._options += ["-W", f"{command}:{seconds}"]
        self._backlog = backlog

    def _launch(self) -> Family:
        require(SMTP_SINK)
        binary = program(SMTP_SINK)
        assert binary is not None
        mail = self.folder / "mail"
        mail.mkdir()
        # It won't run as root, and its own -u would make it forget who its parent is.
        user = pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else None
        if user is not None:
            os.chown(mail, user, user)
        keep = ["-d", "message"] if self._dump else ["-c"]
        return Family(
            [binary, *keep, *self._options, f"{self.host}:{self.port}", str(self._backlog)],
            log=self.folder / "sink.log",
            cwd=mail,
            user=user,
        )

    def count(self) -> int:
        if not self._dump:
            return self._counter()
        # A file appears when its message begins, and its last line is empty once it is whole.
        for path in (self.folder / "mail").iterdir():
            if path.name not in self._whole and path.read_bytes().endswith(END):
                self._whole.add(path.name)
        return len(self._whole)

    def messages(self) -> Iterator[bytes]:
        if not self._dump:
            raise RuntimeError("this sink keeps no messages: SmtpSink(dump=True)")
        for path in sorted((self.folder / "mail").iterdir()):
            raw = path.read_bytes()
            if raw.endswith(END):
                yield raw[:-1]

    def recipients(self) -> Counter[str]:
        return Counter(
            address.decode()
            for raw in self.messages()
            for address in RCPT.findall(raw.partition(b"\nReceived:")[0])
        )

    def _counter(self) -> int:
        with (self.folder / "sink.log").open("rb") as counters:
            counters.seek(max(0, counters.seek(0, os.SEEK_END) - COUNTERS_TAIL_BYTES))
            found = re.findall(rb"mesg=(\d+)", counters.read())
        return int(found[-1]) if found else 0
