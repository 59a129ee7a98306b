"""Clients as real processes: `evenpost submit`, killed in the middle, and started again with the same id."""

import json
import subprocess
import time
from pathlib import Path

from scripts.chaoslab.ledger import Told
from scripts.chaoslab.sink import BOUNCE
from tests.integration.cluster import Cluster

TRIES_MAX = 50
BOUNCED_EVERY = 100
RESTARTED_DELAY_S = 0.2
"""A client that had ended before it could be killed is started again, and killed so soon after that."""
_TEXT = "Hello {{ name }},\n\nthis is the news, in a few lines as they are.\n" + "A line of news.\n" * 30


class Submission:
    """One list, and the client process that submits it just now."""

    def __init__(self, cluster: Cluster, number: int, first: int, recipients: int, seed: int) -> None:
        self.id = f"chaos-{seed}-{number}"
        self.recipients = recipients
        self.told: list[Told] = []
        self.process: subprocess.Popen[bytes] | None = None
        self.kill_at: float | None = None
        self.tries = 0
        self.started = False
        self.unread = 0
        """Lines of its output that were looked at."""
        self._cluster = cluster
        self._name = f"client{number}"
        self._first = first

    @property
    def is_told(self) -> bool:
        return bool(self.told)

    def start(self) -> None:
        if not self.started:
            self._write_files()
        self.started = True
        self.tries += 1
        if self.tries > TRIES_MAX:
            raise RuntimeError(f"submission {self.id} isn't accepted after {TRIES_MAX} tries")
        self._cluster.start(
            self._name,
            ["-m", "client", "submit", "--from", "News <news@example.com>", "--subject", "Hello {{ name }}",
             "--text", str(self._cluster.folder / "text.txt"), "--recipients", str(self._list),
             "--submission-id", self.id, "--broker", self._cluster.clients, "--timeout", "20", "--json"],
        )  # fmt: skip
        self.process = self._cluster.processes[self._name]

    def kill_in(self, seconds: float, now: float) -> None:
        """SIGKILL that long from now; it is started for that, if it doesn't run."""
        if self.process is None:
            self.start()
        self.kill_at = now + seconds

    def step(self) -> bool:
        """Looks at the process. True: it was killed just now."""
        if self.process is None:
            return False
        status = self.process.poll()
        if status is not None:
            self._read()
            self.process = None
            if self.kill_at is not None:
                self.kill_in(RESTARTED_DELAY_S, time.monotonic())
            elif status != 0 or not self.is_told:
                self.start()
            return False
        if self.kill_at is None or time.monotonic() < self.kill_at:
            return False
        self.kill_at = None
        self._cluster.kill(self._name)
        self._read()  # it may have told and not ended yet
        self.start()
        return True

    @property
    def _list(self) -> Path:
        return self._cluster.folder / f"{self._name}.csv"

    def _write_files(self) -> None:
        (self._cluster.folder / "text.txt").write_text(_TEXT)
        with self._list.open("w") as file:
            file.write("email,name\n")
            for n in range(self._first, self._first + self.recipients):
                bounces = BOUNCE.decode() if n % BOUNCED_EVERY == BOUNCED_EVERY - 1 else ""
                file.write(f"{bounces}user{n}@example{n % 97}.com,Anna {n}\n")

    def _read(self) -> None:
        lines = self._cluster.log(self._name).splitlines()
        for line in lines[self.unread :]:
            if line.startswith("{") and line.endswith("}") and "recipients" in line:
                facts = json.loads(line)
                self.told.append(Told(self.id, facts["campaign"], facts["recipients"]))
        self.unread = len(lines)
