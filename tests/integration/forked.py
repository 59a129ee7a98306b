"""Brokers and workers that start at once: they are forked off a process that has loaded all they need.

They are processes like any other, with their own pid, signals and exit status; only the half second in which
Python loads its modules is saved. For tests that start hundreds of them.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.integration.cluster import ROOT, Cluster

LOADED = (
    "apsw", "uvloop", "zmq", "broker.cli", "broker.failpoints", "broker.takeover", "broker.mx", "worker.cli",
    "worker.failpoints",
)  # fmt: skip


class Nursery:
    """The process that the others are forked off. Its own memory holds nothing of a test."""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.integration.forked"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()

    def ask(self, **request: object) -> Any:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


class Forked(subprocess.Popen[bytes]):
    """What Cluster does with a subprocess.Popen, for a process that is the nursery's child."""

    def __init__(
        self, nursery: Nursery, command: list[str], cwd: Path, env: dict[str, str], log: Path
    ) -> None:
        self._nursery = nursery
        self.returncode = None
        self.pid = nursery.ask(command=command, cwd=str(cwd), env=env, log=str(log))

    def __del__(self) -> None:
        """Nothing of Popen's is there to be cleared away."""

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = self._nursery.ask(poll=self.pid)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        end = time.monotonic() + (timeout or 60.0)
        while (status := self.poll()) is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired("a forked process", timeout or 60.0)
            time.sleep(0.01)
        return status

    def send_signal(self, sig: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, sig)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class QuickCluster(Cluster):
    def __init__(self, nursery: Nursery, folder: Path, *broker_options: str) -> None:
        super().__init__(folder, *broker_options)
        self._nursery = nursery

    def spawn(self, name: str, command: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
        log = self.folder / f"{name}.log"
        log.touch()
        return Forked(self._nursery, command, self.folder, environment, log)


def _become(request: dict[str, Any]) -> None:
    """In the child: `python -m MODULE ...` as from a shell. Doesn't return."""
    import runpy

    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    null = os.open(os.devnull, os.O_RDONLY)
    for old, new in ((null, 0), (log, 1), (log, 2)):
        os.dup2(old, new)
    _, module, *arguments = request["command"]
    sys.argv = [module, *arguments]
    status = 70
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as exit_:
        status = exit_.code if isinstance(exit_.code, int) else 1
    finally:
        sys.stderr.flush()
        os._exit(status)


def main() -> None:
    import importlib

    for name in LOADED:
        importlib.import_module(name)
    while line := sys.stdin.readline():
        request = json.loads(line)
        if "poll" in request:
            pid, status = os.waitpid(request["poll"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        else:
            answer = os.fork()
            if not answer:
                _become(request)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
