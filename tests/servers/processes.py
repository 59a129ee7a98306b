"""Start a server, know every process that came from it, and end exactly those.

Each server is the leader of a session of its own, so its processes are found in /proc by their
session, and those that left the session (mail delivery often does) by the jail they run in. The
leader is reaped last: until then the kernel can't give its number to another process.
"""

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

STOP_TIMEOUT_S = 5.0  # for a clean end; what is left then is killed
KILL_TIMEOUT_S = 5.0
POLL_S = 0.02


class Family:
    """One started program with all its descendants."""

    def __init__(
        self,
        command: Sequence[str | os.PathLike[str]],
        *,
        log: Path,
        cwd: Path,
        jail: Path | None = None,
        user: int | None = None,
        env: Mapping[str, str] | None = None,
        stdin: int | IO[bytes] = subprocess.DEVNULL,
        stdout: int | IO[bytes] | None = None,
    ) -> None:
        self._jail = str(jail.resolve()) if jail else None
        with log.open("ab") as output:
            # setpriv: were the tests killed, the kernel would tell the server.
            self.process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "TERM", *command],
                stdin=stdin,
                stdout=output if stdout is None else stdout,
                stderr=output,
                cwd=cwd,
                env=env,
                user=user,
                group=user,
                extra_groups=None if user is None else [],
                start_new_session=True,
            )

    def ended(self) -> bool:
        # WNOWAIT leaves the zombie, and so the number, in place.
        flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return self.process.returncode is not None or os.waitid(os.P_PID, self.process.pid, flags) is not None

    def pids(self) -> list[int]:
        """Every living process of the family."""
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                state, session = _state_and_session(entry)
                if state == "Z":
                    continue
                if self.process.pid in (session, int(entry.name)) or self._is_jailed(entry):
                    found.append(int(entry.name))
            except OSError:
                continue  # it ended while we looked
        return found

    def stop(self) -> None:
        """End the family: politely, then by force. Returns with nothing left of it."""
        if self.process.returncode is not None:
            return
        if not self.ended():
            self.process.terminate()
        deadline = time.monotonic() + STOP_TIMEOUT_S
        while time.monotonic() < deadline and not (self.ended() and not self.pids()):
            time.sleep(POLL_S)
        deadline = time.monotonic() + KILL_TIMEOUT_S
        while pids := self.pids():
            for pid in pids:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            if time.monotonic() > deadline:
                raise RuntimeError(f"processes {pids} survive SIGKILL")
            time.sleep(POLL_S)
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe:
                pipe.close()

    def _is_jailed(self, entry: Path) -> bool:
        if self._jail is None:
            return False
        root = str((entry / "root").readlink())
        return root == self._jail or root.startswith(self._jail + "/")


def _state_and_session(entry: Path) -> tuple[str, int]:
    # "pid (name) state ppid pgrp session ...": the name may hold spaces and brackets.
    fields = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
    return fields[0], int(fields[3])
