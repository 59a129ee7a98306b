"""A crash, a stall, an I/O error at each named place of broker and worker: three books are compared afterwards.

What the client was told, what the journal's report says, and what the SMTP server took, by address and
Message-ID: nothing that was accepted is missing, and every copy is counted.
"""

import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from client import Client
from client.session import Timing
from evenpost.runtime.failpoints import IO_POINTS, POINTS
from tests.integration.cluster import Cluster, newsletter, wait_until
from tests.servers import RecordingServer, Rule
from worker.vocabulary import EXIT_LOG

MESSAGES = 60
LEASE_S = 5.0
"""Longer than a restart takes: what a worker did while the broker was away is told before anything is sent."""


@pytest.fixture(scope="module")
def server() -> Iterator[RecordingServer]:
    with RecordingServer(delay_s=0.004, keep=False) as server:
        yield server


class Run:
    """One campaign through a broker and workers, of which some are made to fail."""

    def __init__(self, cluster: Cluster, server: RecordingServer, case: str) -> None:
        self.cluster = cluster
        self.server = server
        self.domain = f"{case.replace('_', '-')}.example.com"
        self.campaign = ""
        self._pool = ThreadPoolExecutor(4)

    def client(self) -> Client:
        client = Client(self.cluster.clients, timeout=30, connect_timeout=20)
        # The default of 2 s until a request is made again is right for people, and most of such a test.
        client._client._timing = Timing(retry_s=0.2)
        return client

    def start_worker(self, name: str = "w", connections: int = 1, *options: str) -> None:
        self.cluster.start_worker(name, self.server.url, "--max-connections", str(connections), *options)

    def ask(self, call: Callable[[Client], object]) -> "Future[object]":
        """In a thread: it has its answer when the broker is back."""

        def asked() -> object:
            with self.client() as client:
                return call(client)

        return self._pool.submit(asked)

    def submit(self, messages: int = MESSAGES) -> "Future[object]":
        campaign = newsletter(messages, domain=self.domain)
        return self.ask(lambda client: client.submit(campaign))

    def wait_for_death(self, name: str, status: int = -signal.SIGKILL) -> None:
        process = self.cluster.processes[name]
        try:
            ended = process.wait(20)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{name} never reached its fail point") from None
        assert ended == status, (ended, self.cluster.log(name)[-2_000:])
        assert "failpoint.reached" in self.cluster.log(name)

    def dies(self, name: str, status: int = -signal.SIGKILL) -> None:
        """It dies at its fail point, and is started again without one."""
        self.wait_for_death(name, status)
        self.cluster.restart(name)

    def copies(self) -> int:
        """Copies that the server took of any message; each has the Message-ID of the first."""
        ours = [r for r in self.server.recorded() if r.recipients[0].endswith("@" + self.domain)]
        addresses = Counter(r.recipients[0] for r in ours)
        ids = Counter(r.message_id for r in ours)
        assert len(ids) == len(addresses)
        return sum(addresses.values()) - len(addresses)

    def balance(self, receipt: object, copies: int | None, messages: int = MESSAGES) -> None:
        """Waits for the end and compares the books. `copies`: exactly so many; None: no more than counted."""
        told = str(receipt.campaign)  # type: ignore[attr-defined]  # a Receipt
        with self.client() as client:
            final = client.wait(told, interval=0.05)
            rows = list(client.report(told))
        assert receipt.recipients == messages  # type: ignore[attr-defined]  # as above
        assert final.state == "finished" and final.counts == {"sent": messages}
        assert {row.address for row in rows} == {f"user{n}@{self.domain}" for n in range(messages)}
        assert len(rows) == messages and {row.state for row in rows} == {"sent"}
        taken = {r.recipients[0] for r in self.server.recorded() if r.recipients[0].endswith(self.domain)}
        assert taken == {row.address for row in rows}
        found = self.copies()
        print(f"{found} copies; counted: {final.unknown} unknown, {final.duplicates} duplicates")
        assert found <= final.unknown + final.duplicates
        if copies is not None:
            assert found == copies


@contextmanager
def running(folder: Path, server: RecordingServer, case: str, *options: str) -> Iterator[Run]:
    given = options or ("--heartbeat", "0.1", "--lease", str(LEASE_S), "--retry-initial", "0.05")
    with Cluster(folder, *given) as cluster:
        yield Run(cluster, server, case)


# --- a broker that dies --------------------------------------------------------------------------------

SUBMISSION = [
    "broker.opening", "broker.before_submission_insert", "broker.after_submission_insert",
    "broker.before_recipients_insert", "broker.after_recipients_insert", "broker.before_commit@2",
    "broker.after_commit@2", "broker.before_recipients_stored", "broker.after_recipients_stored",
    "broker.before_submit_ok", "broker.after_submit_ok", "broker.before_welcome", "broker.after_welcome",
]  # fmt: skip
SENDING = [
    "broker.before_batch@2", "broker.after_batch@2", "broker.outcomes_received@2",
    "broker.before_outcomes_commit@2", "broker.after_outcomes_commit@2",
    "broker.before_outcomes_committed@2", "broker.after_outcomes_committed@2",
    "broker.before_finish", "broker.after_finish",
]  # fmt: skip


def killed(point: str) -> str:
    name, _, count = point.partition("@")
    return f"{name}=kill@{count or 1}"


def name_of(value: object) -> str:
    return str(value).partition("@")[0]


@pytest.mark.parametrize("point", [*SUBMISSION, *SENDING], ids=name_of)
def test_a_broker_that_dies_loses_nothing_and_sends_no_copy(
    tmp_path: Path, server: RecordingServer, point: str
) -> None:
    with running(tmp_path, server, name_of(point)) as run:
        run.cluster.failpoints["broker"] = killed(point)
        run.cluster.start_broker()
        run.start_worker(connections=3)
        receipt = run.submit()
        run.dies("broker")
        run.balance(receipt.result(30), copies=0)
