"""Broker and workers as real processes, which a test may kill."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from client import Campaign, Client
from tests.servers.ports import free_port

ROOT = Path(__file__).resolve().parents[2]


def wait_until(true: Callable[[], bool], what: str, seconds: float = 30.0) -> None:
    """Polls; fails with `what` after `seconds`."""
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(0.02)


class Cluster:
    """A broker and its workers in one folder; leaving it ends what is left, and nothing else."""

    def __init__(self, folder: Path, *broker_options: str) -> None:
        self.folder = folder
        self.clients = f"tcp://127.0.0.1:{free_port()}"
        self.workers = f"tcp://127.0.0.1:{free_port()}"
        self.broker_options = broker_options
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.commands: dict[str, list[str]] = {}
        self.failpoints: dict[str, str] = {}
        """By process: EVENPOST_FAILPOINTS of its next start, and of that one only."""
        self.prefixes: dict[str, list[str]] = {}
        """What a process is started under, by its name: a network namespace, a clock of its own."""
        self.environments: dict[str, dict[str, str]] = {}
        self.environment: dict[str, str] = {}
        """On top of what processes get otherwise."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait(10)
        if error is not None:
            for name in self.commands:
                print(f"--- {name}\n{self.log(name)[-6_000:]}")

    def start_broker(self) -> None:
        options = ["--clients", self.clients, "--workers", self.workers, *self.broker_options]
        journal = str(self.folder / "journal.db")
        self.start("broker", ["-m", "broker", *options, "--journal", journal])

    def start_worker(self, name: str, url: str, *options: str, tls: str = "none") -> None:
        log = str(self.folder / f"{name}.outcomes")
        command = ["-m", "worker", "--broker", self.workers, "--smtp", url, "--name", name, "--tls", tls]
        self.start(name, [*command, "--outcome-log", log, *options])

    def start(self, name: str, command: list[str]) -> None:
        self.commands[name] = command
        environment = {k: v for k, v in os.environ.items() if not k.startswith("EVENPOST_")}
        environment |= {"PYTHONPATH": str(ROOT)} | self.environment | self.environments.get(name, {})
        if points := self.failpoints.pop(name, ""):
            environment["EVENPOST_FAILPOINTS"] = points
        self.processes[name] = self.spawn(name, command, environment)

    def spawn(self, name: str, command: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
        prefix = self.prefixes.get(name, [])
        with (self.folder / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                [*prefix, sys.executable, *command], cwd=self.folder, env=environment, stdout=log, stderr=log
            )

    def kill(self, name: str) -> None:
        """SIGKILL: the process gets no chance to do anything."""
        self.processes[name].kill()
        self.processes[name].wait(10)

    def restart(self, name: str) -> None:
        self.start(name, self.commands[name])

    def terminate(self, name: str, seconds: float = 20.0) -> int:
        self.processes[name].send_signal(signal.SIGTERM)
        return self.processes[name].wait(seconds)

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    def client(self) -> Client:
        return Client(self.clients, timeout=30, connect_timeout=20)

    def wait_for_workers(self, client: Client, count: int) -> None:
        wait_until(
            lambda: sum(w.state == "ready" for w in client.servers()) == count, f"{count} workers are ready"
        )


def newsletter(recipients: int, domain: str = "example.com", **fields: object) -> Campaign:
    given: dict[str, object] = {
        "sender": "News <news@example.com>",
        "subject": "Hello {{ name }}",
        "html": "<p>Hello {{ name }}, this is <b>number {{ n }}</b>.</p>",
        "text": "Hello {{ name }},\n.this is number {{ n }}.\n",
        "recipients": [
            {"email": f"user{n}@{domain}", "name": f"Žofie {n}", "n": n} for n in range(recipients)
        ],
    }
    return Campaign(**(given | fields))  # type: ignore[arg-type]  # a test's own
