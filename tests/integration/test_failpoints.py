"""A crash, a stall, an I/O error at each named place of broker and worker; then three books are compared.

What the client was told, what the journal's report says, and what the SMTP server took, by address and
Message-ID: nothing that was accepted is missing, and every copy is counted.
"""

import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import apsw
import pytest

from broker.journal import schema
from client import Client
from client.session import Timing
from evenpost.runtime.failpoints import IO_POINTS
from scripts.chaoslab.bound import exposure_of
from tests.integration.cluster import ROOT, Cluster, newsletter, wait_until
from tests.integration.forked import Nursery, QuickCluster
from tests.servers import RecordingServer, Rule
from worker.vocabulary import EXIT_LOG

MESSAGES = 60
LEASE_S = 3.0
"""Longer than a restart takes: what workers did while the broker was away is told before anything is sent."""


@pytest.fixture(scope="module")
def server() -> Iterator[RecordingServer]:
    with RecordingServer(delay_s=0.004, keep=False) as server:
        yield server


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    with Nursery() as nursery:
        yield nursery


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

    def submit(self, messages: int = MESSAGES, **fields: object) -> "Future[object]":
        campaign = newsletter(messages, domain=self.domain, **fields)
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

    def balance(self, receipt: object, copies: int | None, messages: int = MESSAGES) -> int:
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
        assert found <= final.unknown
        if copies is not None:
            assert found == copies
        return found


Running = Callable[..., AbstractContextManager[Run]]


@pytest.fixture
def running(tmp_path: Path, nursery: Nursery, server: RecordingServer) -> Running:
    @contextmanager
    def running(case: str, *options: str) -> Iterator[Run]:
        given = options or ("--heartbeat", "0.1", "--lease", str(LEASE_S), "--retry-initial", "0.05")
        with QuickCluster(nursery, tmp_path, *given) as cluster:
            yield Run(cluster, server, case)

    return running


# --- a broker that dies --------------------------------------------------------------------------------

SUBMISSION = [
    "broker.opening", "broker.before_submission_insert", "broker.after_submission_insert",
    "broker.before_recipients_insert", "broker.after_recipients_insert", "broker.before_commit@2",
    "broker.after_commit@2", "broker.before_recipients_stored", "broker.after_recipients_stored",
    "broker.before_submit_ok", "broker.after_submit_ok", "broker.before_welcome", "broker.after_welcome",
]  # fmt: skip
SENDING = [
    "broker.before_batch@2", "broker.after_batch@2", "broker.outcomes_received@2",
    "broker.before_outcomes_commit", "broker.after_outcomes_commit",
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
    running: Running, server: RecordingServer, point: str
) -> None:
    with running(name_of(point)) as run:
        run.cluster.failpoints["broker"] = killed(point)
        run.cluster.start_broker()
        run.start_worker(connections=3)
        receipt = run.submit()
        run.dies("broker")
        run.balance(receipt.result(30), copies=0)


@pytest.mark.parametrize(
    ("first", "point", "delay_s"),
    [
        ("broker.outcomes_received=kill@1", "broker.held_read", 1.0),
        ("broker.before_outcomes_committed=kill@1", "broker.looked_up", 0.0),
    ],
    ids=name_of,
)
def test_a_broker_that_dies_again_while_it_recovers(
    running: Running, server: RecordingServer, first: str, point: str, delay_s: float
) -> None:
    with running(point) as run:
        if delay_s:  # the worker still has a batch when the broker is back
            server.set_rules([Rule("message", delay_s=delay_s, match=f"user0@{run.domain}")])
        run.cluster.failpoints["broker"] = first
        run.cluster.start_broker()
        run.start_worker(connections=2)
        receipt = run.submit()
        run.wait_for_death("broker")
        run.cluster.failpoints["broker"] = f"{point}=kill"
        run.cluster.restart("broker")
        run.dies("broker")
        run.balance(receipt.result(30), copies=0)


ORDERS: dict[str, tuple[Callable[[Client, str], object], Callable[[Client, str], bool]]] = {
    "broker.pause_received": (
        lambda client, campaign: client.pause(campaign),
        lambda client, campaign: client.status(campaign).state == "paused",
    ),
    "broker.before_done": (
        lambda client, campaign: client.pause(campaign),
        lambda client, campaign: client.status(campaign).state == "paused",
    ),
    "broker.cancel_received": (
        lambda client, campaign: client.cancel(campaign),
        lambda client, campaign: client.wait(campaign, interval=0.05).counts == {"cancelled": MESSAGES},
    ),
    "broker.after_done": (
        lambda client, campaign: client.cancel(campaign),
        lambda client, campaign: client.wait(campaign, interval=0.05).counts == {"cancelled": MESSAGES},
    ),
    "broker.set_server_received": (
        lambda client, _: client.drain("w"),
        lambda client, _: [w.state for w in client.servers()] == ["draining"],
    ),
}


@pytest.mark.parametrize("point", ORDERS)
def test_an_order_holds_although_the_broker_dies(
    running: Running, server: RecordingServer, point: str
) -> None:
    give, holds = ORDERS[point]
    with running(point) as run:
        run.cluster.failpoints["broker"] = f"{point}=kill"
        run.cluster.start_broker()
        receipt = run.submit().result(30)
        campaign = str(receipt.campaign)  # type: ignore[attr-defined]  # a Receipt
        if point == "broker.set_server_received":
            run.start_worker()
            with run.client() as client:
                run.cluster.wait_for_workers(client, 1)
        given = run.ask(lambda client: give(client, campaign))
        run.dies("broker")
        given.result(30)
        with run.client() as client:
            wait_until(lambda: holds(client, campaign), "the order holds")
            if point in ("broker.pause_received", "broker.before_done"):
                run.start_worker()
                client.resume(campaign)
                run.balance(receipt, copies=0)


RETRY = [
    ["broker.retry_received"],
    ["broker.reopen_marked"],
    ["broker.reopen_piece"],
    ["broker.reopened"],
    ["broker.reopened", "broker.opening_recount"],
]


@pytest.mark.parametrize("points", RETRY, ids=lambda points: points[-1])
def test_retry_failed_is_done_once_although_the_broker_dies(
    running: Running, server: RecordingServer, points: list[str]
) -> None:
    with running(points[-1]) as run:
        server.set_rules([Rule("rcpt", "550 5.1.1 no such user", match=f"user1?@{run.domain}")])
        run.cluster.failpoints["broker"] = f"{points[0]}=kill"
        run.cluster.start_broker()
        run.start_worker(connections=2)
        receipt = run.submit().result(30)
        campaign = str(receipt.campaign)  # type: ignore[attr-defined]  # a Receipt
        with run.client() as client:
            assert client.wait(campaign, interval=0.05).counts == {"sent": MESSAGES - 10, "bounced": 10}
        server.set_rules([])
        retried = run.ask(lambda client: client.retry_failed(campaign))
        for point in points[1:]:
            run.wait_for_death("broker")
            run.cluster.failpoints["broker"] = f"{point}=kill"
            run.cluster.restart("broker")
        run.dies("broker")
        retried.result(30)
        run.balance(receipt, copies=0)


@pytest.mark.parametrize("point", ["broker.goodbye_received", "broker.before_goodbye_ok"])
def test_a_worker_leaves_although_the_broker_dies_of_its_goodbye(
    running: Running, server: RecordingServer, point: str
) -> None:
    # The new broker waits a lease for a worker that left unheard.
    with running(point, "--heartbeat", "0.1", "--lease", "2") as run:
        run.cluster.failpoints["broker"] = f"{point}=kill"
        run.cluster.start_broker()
        run.start_worker("w")
        run.start_worker("other")
        receipt = run.submit()
        wait_until(lambda: "worker.welcomed" in run.cluster.log("w"), "the worker is in")
        run.cluster.processes["w"].send_signal(signal.SIGTERM)
        run.dies("broker")
        assert run.cluster.processes["w"].wait(20) == 0
        run.balance(receipt.result(30), copies=0)


# --- a worker that dies --------------------------------------------------------------------------------

WORKER: dict[str, int | None] = {
    "worker.opening_log": 0,
    "worker.after_hello": 0,
    "worker.content_wanted": 0,
    "worker.before_begun": 0,
    "worker.after_begun@5": 0,
    "worker.after_dot@5": None,
    "worker.before_outcome@5": 1,
    "worker.after_outcome@5": 1,
    "worker.before_log_write@5": None,
    "worker.mid_log_write@5": None,
    "worker.after_log_write@5": 0,
    "worker.batch_received@2": None,
    "worker.before_report@2": None,
    "worker.after_report@2": None,
    "worker.committed_received@2": None,
    "worker.after_committed@2": None,
    "worker.rotating": None,
    "worker.rotated": None,
}
"""Copies. With one connection one message at most is out without a record of its outcome. None: whether one
is depends on where the server is just then, and on what that write of the log holds; in any case it is what
the outcome log has as begun and the server has taken."""


@pytest.mark.parametrize("point", WORKER, ids=name_of)
def test_a_worker_that_dies_loses_nothing_and_each_copy_is_counted(
    running: Running, server: RecordingServer, point: str
) -> None:
    with running(name_of(point)) as run:
        run.cluster.failpoints["w"] = killed(point)
        run.cluster.start_broker()
        run.start_worker(connections=1)
        receipt = run.submit()
        run.wait_for_death("w")
        wait_until(lambda: server.sessions().open == 0, "the server has heard of the death")
        begun = {index for _, index in exposure_of(run.cluster.folder / "w.outcomes").pipeline}
        taken = [index for index in begun if server.recipients()[f"user{index}@{run.domain}"]]
        assert len(taken) <= 1 and WORKER[point] in (None, len(taken))
        run.cluster.restart("w")
        run.balance(receipt.result(30), copies=len(taken))


@pytest.mark.parametrize("point", ["worker.before_goodbye", "worker.after_goodbye"])
def test_a_worker_that_dies_of_its_own_goodbye(running: Running, server: RecordingServer, point: str) -> None:
    with running(point) as run:
        run.cluster.failpoints["w"] = f"{point}=kill"
        run.cluster.start_broker()
        run.start_worker("w")
        receipt = run.submit()
        wait_until(lambda: server.recipients()[f"user5@{run.domain}"] > 0, "it is at work")
        run.cluster.processes["w"].send_signal(signal.SIGTERM)
        run.dies("w")
        run.balance(receipt.result(30), copies=0)


# --- I/O errors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "point", sorted(p for p in IO_POINTS if p.startswith("broker.") and "reopen" not in p), ids=name_of
)
def test_a_broker_that_cannot_write_its_journal_promises_nothing_and_ends(
    running: Running, server: RecordingServer, point: str
) -> None:
    with running("io-" + point) as run:
        count = 3 if point == "broker.before_commit" else 1
        run.cluster.failpoints["broker"] = f"{point}=io@{count}"
        run.cluster.start_broker()
        run.start_worker(connections=2)
        receipt = run.submit()
        run.wait_for_death("broker", status=1)
        assert "Input/output error" in run.cluster.log("broker")
        if point not in ("broker.before_outcomes_commit", "broker.before_commit"):
            assert not receipt.done()
        run.cluster.restart("broker")
        run.balance(receipt.result(30), copies=0)


@pytest.mark.parametrize("point", sorted(p for p in IO_POINTS if p.startswith("worker.")))
@pytest.mark.parametrize("count", [1, 6])
def test_a_worker_that_cannot_write_its_outcome_log_begins_nothing_and_ends(
    running: Running, server: RecordingServer, point: str, count: int
) -> None:
    if point == "worker.rotating":
        count = min(count, 2)
    with running(f"io-{point}-{count}") as run:
        run.cluster.failpoints["w"] = f"{point}=io@{count}"
        run.cluster.start_broker()
        run.start_worker("w", 1, "--drain-timeout", "1")
        receipt = run.submit()
        run.dies("w", status=EXIT_LOG)
        assert "worker.log_failed" in run.cluster.log("w")
        assert run.balance(receipt.result(30), copies=0 if count == 1 else None) <= 1


# --- stalls --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "point", ["broker.before_commit@3", "broker.before_batch@2", "broker.before_outcomes_committed@2"]
)
def test_a_broker_that_stalls_longer_than_a_lease_sends_no_copy(
    running: Running, server: RecordingServer, point: str
) -> None:
    name, _, count = point.partition("@")
    with running("stall-" + name, "--heartbeat", "0.1", "--lease", "0.5") as run:
        run.cluster.failpoints["broker"] = f"{name}=stall:1@{count}"
        run.cluster.start_broker()
        run.start_worker(connections=2)
        run.balance(run.submit().result(30), copies=0)
        assert "failpoint.reached" in run.cluster.log("broker")


@pytest.mark.parametrize(
    "point",
    ["worker.batch_received@2", "worker.content_wanted@5", "worker.after_begun@5", "worker.before_outcome@5",
     "worker.after_log_write@5", "worker.before_report"],
    ids=name_of,
)  # fmt: skip
@pytest.mark.parametrize("stops", [False, True], ids=["stall", "SIGSTOP"])
def test_a_worker_that_sleeps_beyond_its_lease_is_fenced_and_each_copy_is_counted(
    running: Running, server: RecordingServer, point: str, stops: bool
) -> None:
    """Its mail goes through another worker meanwhile; on waking it begins nothing, and what it tells late is
    counted."""
    name, _, count = point.partition("@")
    case = f"{'stop' if stops else 'stall'}-{name}"
    with running(case, "--heartbeat", "0.1", "--lease", "0.4") as run:
        run.cluster.failpoints["w"] = f"{name}={'stop' if stops else 'stall:1.2'}@{count or 1}"
        run.cluster.start_broker()
        run.start_worker("w")
        run.start_worker("other")
        receipt = run.submit()
        if stops:
            wait_until(lambda: "failpoint.reached" in run.cluster.log("w"), "it stops")
            wait_until(lambda: "worker.lease_ended" in run.cluster.log("broker"), "its lease ends")
            run.cluster.processes["w"].send_signal(signal.SIGCONT)
        run.balance(receipt.result(30), copies=None)
        assert "failpoint.reached" in run.cluster.log("w")


# --- what is left of a message whose outcome nobody knows, and an old journal ----------------------------


@pytest.mark.parametrize("point", ["worker.after_begun@5", "worker.before_outcome@5"], ids=name_of)
def test_with_on_unknown_hold_no_copy_is_sent_and_the_message_is_held(
    running: Running, server: RecordingServer, point: str
) -> None:
    name, _, count = point.partition("@")
    with running("hold-" + name) as run:
        run.cluster.failpoints["w"] = f"{name}=kill@{count}"
        run.cluster.start_broker()
        run.start_worker("w")
        receipt = run.submit(on_unknown="hold")
        run.dies("w")
        with run.client() as client:
            final = client.wait(receipt.result(30).campaign, interval=0.05)  # type: ignore[attr-defined]  # a Receipt
        assert final.counts == {"sent": MESSAGES - 1, "held": 1} and final.unknown == 1
        assert run.copies() == 0


def test_a_broker_that_dies_while_it_migrates_a_journal_has_not_touched_it(
    running: Running, tmp_path: Path
) -> None:
    path = tmp_path / "journal.db"
    db = apsw.Connection(str(path))
    db.execute((ROOT / "tests/data/journal_v1.sql").read_text())
    db.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}; PRAGMA user_version = 1")
    db.execute("INSERT INTO worker VALUES (NULL, 'w', 's:25', 'log', 1, 1, 0)")
    db.close()
    with running("migration", "--lease", "3") as run:
        run.cluster.failpoints["broker"] = "broker.opening=kill"
        run.cluster.start_broker()
        run.wait_for_death("broker")
        db = apsw.Connection(str(path))
        assert db.execute("PRAGMA user_version").get == 1
        assert db.execute("SELECT drained FROM worker").get == 1
        assert db.execute("PRAGMA integrity_check").get == "ok"
        db.close()
        run.cluster.restart("broker")
        with run.client() as client:
            assert [(w.worker, w.operator) for w in client.servers()] == [("w", "drain")]
