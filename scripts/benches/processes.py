"""Processes under measurement: a sink, a broker, workers, and what they send."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from client import Campaign, Client
from evenpost.runtime.curve import Role, SecretKey, new_key
from evenpost.runtime.curve_files import write_new
from scripts.benches.usage import cpu_s, memory_mb
from tests.servers.ports import free_port

ROOT = Path(__file__).resolve().parents[2]


def tool(name: str) -> str:
    """The path of one of Postfix's test tools, or an error that says what to install."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/lib/postfix/sbin")
    if not found:
        raise click.ClickException(f"{name} is missing: apt-get install postfix")
    return found


class Process:
    def __init__(self, command: list[str], folder: Path, name: str) -> None:
        self.log = folder / f"{name}.log"
        with self.log.open("ab") as log:
            environment = {k: v for k, v in os.environ.items() if not k.startswith("EVENPOST_")}
            environment["PYTHONPATH"] = str(ROOT)
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, cwd=folder, env=environment, start_new_session=True
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def cpu_s(self) -> float:
        return cpu_s(self.pid)

    @property
    def rss_mb(self) -> float:
        return memory_mb(self.pid, "VmRSS")

    @property
    def peak_rss_mb(self) -> float:
        return memory_mb(self.pid, "VmHWM")

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(15)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


@contextmanager
def sink() -> Iterator[int]:
    """Debian's smtp-sink: its port."""
    with smtp_sink() as (port, _):
        yield port


@contextmanager
def smtp_sink() -> Iterator[tuple[int, Process]]:
    """Debian's smtp-sink on a free port, and its process."""
    port = free_port()
    command = [tool("smtp-sink"), f"127.0.0.1:{port}", "1024"]
    if os.geteuid() == 0:  # it insists on being someone else
        command = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", *command]
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        process = Process(command, Path(folder), "sink")
        try:
            wait_for_port(port)
            yield port, process
        finally:
            process.stop()


def wait_for_port(port: int, seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            if time.monotonic() > end:
                raise click.ClickException(f"nothing listens on port {port}") from None
            time.sleep(0.02)


def make_keys(folder: Path, workers: int) -> tuple[SecretKey, str]:
    """Writes the keys of a cluster: the client's, and the broker's public one."""
    for name in ("clients", "workers", "admins"):
        (folder / "keys" / name).mkdir(parents=True)
    write_new(broker := new_key(Role.BROKER, "broker"), folder)
    write_new(client := new_key(Role.CLIENT, "client"), folder / "keys/clients")
    for number in range(workers):
        secret, _ = write_new(new_key(Role.WORKER, f"w{number}"), folder / "keys/workers")
        secret.rename(folder / secret.name)
    return client, broker.public


def worker_keys(number: int, curve: bool) -> list[str]:
    return ["--curve-key", f"w{number}.key", "--broker-key", "broker.pub"] if curve else []


class Cluster:
    """A broker with its journal on disk, a worker for each SMTP port, and a client in this process."""

    def __init__(
        self,
        folder: Path,
        smtp_ports: list[int],
        connections: int = 16,
        broker: tuple[str, ...] = (),
        curve: bool = False,
        worker: tuple[str, ...] = (),
        worker_options: tuple[str, ...] = ("--tls", "none"),
    ) -> None:
        """`broker`, `worker`: the arguments that start one, `-m broker` and `-m worker` if none are given."""
        clients, workers = (f"tcp://127.0.0.1:{free_port()}" for _ in range(2))
        self.clients, self.worker_endpoint = clients, workers
        quiet = ["--log-level", "warning"]
        keys = make_keys(folder, len(smtp_ports)) if curve else None
        broker_keys = ["--curve-key", "broker.key", "--keys", "keys"] if keys else []
        self.folder = folder
        self._broker_command = [
            sys.executable, *(broker or ("-m", "broker")), "--clients", clients, "--workers", workers,
            "--journal", str(folder / "journal.db"), *broker_keys, *quiet,
        ]  # fmt: skip
        self.start_broker()
        self.workers = [
            Process(
                [sys.executable, *(worker or ("-m", "worker")), "--broker", workers,
                 "--smtp", f"smtp://127.0.0.1:{port}", "--name", f"w{n}",
                 "--max-connections", str(connections), *worker_options, *worker_keys(n, curve), *quiet],
                folder, f"w{n}",
            )
            for n, port in enumerate(smtp_ports)
        ]  # fmt: skip
        key, broker_key = keys or (None, None)
        self.client = Client(clients, key=key, broker_key=broker_key, connect_timeout=20, timeout=120)
        end = time.monotonic() + 20
        while sum(w.state == "ready" for w in self.client.servers()) < len(smtp_ports):
            if time.monotonic() > end:
                raise click.ClickException("the workers didn't come up")
            time.sleep(0.05)

    @property
    def pids(self) -> dict[str, int | list[int]]:
        """For a round of a Cost: broker, workers, and the client, which is this process."""
        return {
            "broker": self.broker.pid,
            "worker" if len(self.workers) == 1 else "workers": [each.pid for each in self.workers],
            "client": os.getpid(),
        }

    def start_broker(self) -> None:
        self.broker = Process(self._broker_command, self.folder, "broker")

    def stop(self) -> None:
        self.client.close()
        for process in [*self.workers, self.broker]:
            process.stop()


@contextmanager
def cluster(
    smtp_ports: list[int],
    connections: int = 16,
    broker: tuple[str, ...] = (),
    *,
    curve: bool = False,
    prepare: Callable[[Path], None] | None = None,
    worker: tuple[str, ...] = (),
    worker_options: tuple[str, ...] = ("--tls", "none"),
) -> Iterator[Cluster]:
    """`prepare` is called with the folder of the journal before the broker starts."""
    # Under the checkout, not in /tmp: that may be memory, and a journal belongs on a disk.
    with tempfile.TemporaryDirectory(dir=ROOT, prefix=".bench-") as folder:
        if prepare is not None:
            prepare(Path(folder))
        made = Cluster(Path(folder), smtp_ports, connections, broker, curve, worker, worker_options)
        try:
            yield made
        finally:
            made.stop()


def newsletter(recipients: int) -> Campaign:
    """About 5,000 bytes a message: HTML and text, merge fields in both, as a newsletter has them."""
    paragraph = "<p>{}</p>\n"
    words = "A line of news that is neither long nor short, as newsletters have them. "
    html = (
        "<html><body><h1>Hello {{ first_name }}</h1>\n"
        + paragraph.format(words * 2) * 15
        + '<p>{{ city }}: <a href="https://example.com/u/{{ token }}">unsubscribe</a></p></body></html>\n'
    )
    text = (
        "Hello {{ first_name }},\n\n"
        + (words + "\n") * 22
        + "{{ city }}: https://example.com/u/{{ token }}\n"
    )

    def rows() -> Iterator[dict[str, str]]:
        for n in range(recipients):
            yield {
                "email": f"user{n}@example{n % 97}.com",
                "first_name": f"Anna{n % 1000}",
                "city": "Hamburg",
                "token": f"{n:08x}",
            }

    return Campaign(
        sender="News <news@example.com>",
        subject="Hello {{ first_name }}, the news",
        html=html,
        text=text,
        recipients=Repeatable(rows),
    )


class Repeatable:
    """An iterable that can be read twice and is never held."""

    def __init__(self, make: Callable[[], Iterator[dict[str, str]]]) -> None:
        self._make = make

    def __iter__(self) -> Iterator[dict[str, str]]:
        return self._make()


def message_bytes(campaign: Campaign) -> int:
    """The size of the first message as it is sent."""
    from evenpost.compose import compile_template

    fields = ("first_name", "city", "token")
    composer = compile_template(campaign.template(fields), campaign_id="x", created_at_ms=0)
    return len(composer.compose(1, "user1@example1.com", ["Anna1", "Hamburg", "00000001"], 0.0))
