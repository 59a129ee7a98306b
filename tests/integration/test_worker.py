"""A real worker process between a broker played by the test and a real SMTP server."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import pytest
import zmq

from evenpost.wire import codec, messages
from evenpost.wire.messages import Batch, BatchItem, CampaignTemplate, Message, Outcome, Template
from tests.servers import RecordingServer, Rule
from tests.servers.ports import free_port

DEADLINE_S = 20.0
HEARTBEAT_S = 0.1
LEASE_S = 5.0
ROOT = Path(__file__).resolve().parents[2]

M = TypeVar("M", bound=Message)


class FakeBroker:
    """A ROUTER that does what the test says. Heartbeats are acknowledged while `acks`."""

    def __init__(self, port: int, name: str = "broker-1") -> None:
        self.name = name
        self.acks = True
        self.lease_s = LEASE_S
        self.outcomes: list[Outcome] = []
        self.done: list[int] = []
        self.heartbeats: list[messages.Heartbeat] = []
        self.peer = b""
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.bind(f"tcp://127.0.0.1:{port}")

    def close(self) -> None:
        self._socket.close()
        self._context.term()

    def send(self, message: Message, request: int = 0) -> None:
        self._socket.send_multipart([self.peer, *codec.encode(message, request)])

    def expect(self, type_: type[M], deadline_s: float = DEADLINE_S) -> M:
        """The next message of this type; others are taken note of."""
        end = time.monotonic() + deadline_s
        while (left := end - time.monotonic()) > 0:
            if self._socket.poll(int(left * 1_000) + 1):
                self.peer, *frames = self._socket.recv_multipart()
                received = codec.decode(frames, messages.FROM_WORKER)
                self._note(received)
                if isinstance(received.message, messages.WorkerHello) and type_ is not messages.WorkerHello:
                    self._welcome(received.request)  # a hello that crossed the welcome of the one before
                if type_ is messages.Goodbye and isinstance(received.message, messages.Outcomes):
                    self._confirm(received.message)
                if isinstance(received.message, type_):
                    self.request = received.request
                    return received.message
        raise AssertionError(f"no {type_.__name__} within {deadline_s:g} s")

    def welcome(self, *, revoke: Sequence[int] = ()) -> messages.WorkerHello:
        hello = self.expect(messages.WorkerHello)
        self._welcome(self.request, revoke)
        return hello

    def _welcome(self, request: int, revoke: Sequence[int] = ()) -> None:
        self.send(messages.WorkerWelcome(self.name, HEARTBEAT_S, self.lease_s, revoke=list(revoke)), request)

    def commit(self, count: int) -> list[Outcome]:
        """Confirms outcomes until there were `count`, all together. Gives all, by index."""
        while len({(o.campaign, o.index, o.attempt) for o in self.outcomes}) < count:
            self.commit_next()
        return sorted(self.outcomes, key=lambda o: o.index)

    def commit_next(self) -> messages.Outcomes:
        told = self.expect(messages.Outcomes)
        self._confirm(told)
        return told

    def part(self) -> None:
        """Waits for the worker's goodbye, confirming what it still has to say, and answers it."""
        self.expect(messages.Goodbye)
        self.send(messages.GoodbyeOk())

    def _confirm(self, told: messages.Outcomes) -> None:
        self.send(messages.OutcomesCommitted(told.first + len(told.rows)))

    def refuse_unknown(self) -> None:
        """What a broker says to a peer that it doesn't know."""
        self.expect(messages.Heartbeat)
        self.send(messages.Error("not_found", "who are you?"))

    def _note(self, received: codec.Decoded) -> None:
        match received.message:
            case messages.Heartbeat() as heartbeat:
                self.heartbeats.append(heartbeat)
                if self.acks:
                    self.send(messages.HeartbeatAck(heartbeat.number))
            case messages.Outcomes() as told:
                self.outcomes += told.rows
                self.done += told.done


class WorkerProcess:
    def __init__(self, folder: Path, smtp: str, broker_port: int, *options: str) -> None:
        self.output: list[str] = []
        self.process = subprocess.Popen(
            [
                sys.executable, "-m", "worker", "--broker", f"tcp://127.0.0.1:{broker_port}", "--smtp", smtp,
                "--name", "w1", "--outcome-log", str(folder / "w1.outcomes"), "--log-level", "debug",
                *options,
            ],
            cwd=folder, stderr=subprocess.STDOUT, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        """The exit status; all output is there when this returns."""
        status = self.process.wait(DEADLINE_S)
        self._reader.join(DEADLINE_S)
        return status

    def events(self, name: str) -> list[dict[str, object]]:
        events = [json.loads(line) for line in self.output if line.startswith("{")]
        return [event for event in events if event["event"] == name]

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.output.append(line)


def until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end, f"not within {DEADLINE_S:g} s: {what}"
        time.sleep(0.01)


@pytest.fixture
def smtp(request: pytest.FixtureRequest) -> Iterator[RecordingServer]:
    """With the options of an indirect parameter, where there is one."""
    with RecordingServer(**getattr(request, "param", {})) as server:
        yield server


class Cluster:
    """The broker of a test and the workers it started; all are gone at its end."""

    def __init__(self, folder: Path, smtp: RecordingServer) -> None:
        self.folder, self.smtp, self.port = folder, smtp, free_port()
        self.broker = FakeBroker(self.port)
        self.workers: list[WorkerProcess] = []

    def start(self, *options: str) -> WorkerProcess:
        self.workers.append(WorkerProcess(self.folder, self.smtp.url, self.port, *options))
        return self.workers[-1]

    def restart_broker(self, name: str) -> FakeBroker:
        self.broker.close()
        self.broker = FakeBroker(self.port, name)
        return self.broker

    def close(self) -> None:
        for worker in self.workers:
            worker.close()
        self.broker.close()


@pytest.fixture
def cluster(tmp_path: Path, smtp: RecordingServer) -> Iterator[Cluster]:
    made = Cluster(tmp_path, smtp)
    yield made
    made.close()


TEMPLATE = CampaignTemplate(
    campaign=7,
    campaign_id="c7",
    created_at=1_750_000_000_000,
    template=Template(
        sender="News <news@example.com>", subject="Hi {{ name }}", text="Dear {{ name }}", fields=["name"]
    ),
)


def batch(number: int, count: int, *, first: int = 0, attempt: int = 1) -> Batch:
    items = [
        BatchItem(index, attempt, f"r{index}@example.org", codec.pack_values([f"Name {index}"]))
        for index in range(first, first + count)
    ]
    return Batch(number, 7, items)


def test_a_batch_is_sent_and_reported(cluster: Cluster, smtp: RecordingServer) -> None:
    broker, worker = cluster.broker, cluster.start("--pool", "a", "--weight", "50", "--max-connections", "3")
    hello = broker.welcome()
    assert (hello.worker, hello.max_connections, hello.weight, hello.pools) == ("w1", 3, 50, ["a"])
    assert hello.server == f"127.0.0.1:{smtp.port}"
    assert hello.holding == []
    broker.send(TEMPLATE)
    broker.send(batch(100, 30))
    broker.send(batch(100, 30))  # a number that is here, or was, isn't sent twice
    rows = broker.commit(30)
    assert [row.index for row in rows] == list(range(30))
    assert {(row.kind, row.scope, row.code, row.batch, row.campaign) for row in rows} == {
        ("sent", "recipient", 250, 100, 7)
    }
    assert all(0 < row.began_at <= row.ended_at for row in rows)
    assert broker.done == [100]
    assert smtp.count() == 30
    raw = next(iter(smtp.messages()))
    assert b"Subject: Hi Name 0\r\n" in raw and b"Message-ID: <c7.0@example.com>" in raw
    until(lambda: broker.expect(messages.Heartbeat).last_batch == 100, "last_batch in the heartbeat")
    worker.signal(signal.SIGTERM)
    broker.part()
    assert worker.wait() == 0
    assert worker.events("worker.stopped")


def test_each_outcome_is_told_as_it_was(cluster: Cluster, smtp: RecordingServer) -> None:
    smtp.set_rules(
        [
            Rule("rcpt", "550 5.1.1 no such user", match="r1@*"),
            Rule("message", "451 4.2.0 greylisted", match="r2@*"),
        ]
    )
    broker = cluster.broker
    cluster.start()
    broker.welcome()
    broker.send(TEMPLATE)
    sent = batch(1, 5)
    uncomposable = BatchItem(9, 1, "r9@example.org", codec.pack_values([]))
    broker.send(Batch(1, 7, [*sent.items, uncomposable]))
    rows = {row.index: row for row in broker.commit(6)}
    assert {index: (row.kind, row.code) for index, row in rows.items()} == {
        0: ("sent", 250), 1: ("bounced", 550), 2: ("deferred", 451), 3: ("sent", 250), 4: ("sent", 250),
        9: ("bounced", 0),
    }  # fmt: skip
    assert rows[1].reply == "5.1.1 no such user"
    assert rows[9].reply.startswith("message not composed: ")
    assert rows[9].scope == "recipient"


def test_a_batch_without_its_template_comes_back(cluster: Cluster) -> None:
    broker = cluster.broker
    cluster.start()
    broker.welcome()
    broker.send(batch(1, 3))
    rows = broker.commit(3)
    assert {(row.kind, row.scope) for row in rows} == {("not_sent", "recipient")}
    assert broker.done == [1]


def test_after_a_kill_only_what_was_begun_is_unknown(cluster: Cluster, smtp: RecordingServer) -> None:
    smtp.set_rules([Rule("message", match="r5@*", action="hang", accept=True)])
    broker, worker = cluster.broker, cluster.start()
    first = broker.welcome()
    broker.send(TEMPLATE)
    broker.send(batch(1, 20))
    until(lambda: smtp.count() == 6, "six messages taken")
    worker.signal(signal.SIGKILL)
    worker.wait()
    smtp.set_rules([])
    cluster.start()
    hello = broker.welcome()
    assert (hello.log, hello.holding) == (first.log, [])
    assert hello.incarnation > first.incarnation
    kinds = {row.index: row.kind for row in broker.commit(6)}
    assert kinds == {**dict.fromkeys(range(5), "sent"), 5: "unknown"}
    broker.send(TEMPLATE)
    broker.send(batch(2, 14, first=6))
    # What it told before it was killed wasn't confirmed, and is told again.
    assert [row.kind for row in broker.commit(20) if row.index >= 6] == ["sent"] * 14
    assert smtp.recipients() == {f"r{index}@example.org": 1 for index in range(20)}


def test_what_the_broker_confirmed_is_not_told_again(cluster: Cluster) -> None:
    broker, worker = cluster.broker, cluster.start()
    broker.welcome()
    broker.send(TEMPLATE)
    broker.send(batch(1, 10))
    broker.commit(10)
    broker.expect(messages.Heartbeat)  # the confirmation has arrived, and its turn is over
    broker.expect(messages.Heartbeat)
    worker.signal(signal.SIGKILL)
    worker.wait()
    cluster.start()
    hello = broker.welcome()
    assert hello.outcomes_from == hello.outcomes_upto


def test_drain_finishes_the_wire_and_hands_back_the_rest(cluster: Cluster, smtp: RecordingServer) -> None:
    smtp.set_rules([Rule("message", "250 2.0.0 slow", match="r3@*", delay_s=0.7)])
    broker, worker = cluster.broker, cluster.start("--max-connections", "1")
    broker.welcome()
    broker.send(TEMPLATE)
    broker.send(batch(1, 10))
    broker.send(batch(2, 10, first=10))
    until(lambda: smtp.count() == 3, "three messages taken")
    worker.signal(signal.SIGTERM)
    rows = broker.commit(20)
    kinds = [row.kind for row in rows]
    assert kinds[:4] == ["sent"] * 4
    assert set(kinds[4:]) == {"not_sent"}
    broker.part()
    assert sorted(broker.done) == [1, 2]  # that a batch is done may be told after its last outcome
    assert broker.heartbeats[-1].state == "drain"
    assert worker.wait() == 0
    assert smtp.sessions().open == 0


def test_drain_without_a_broker_keeps_the_outcomes(cluster: Cluster, smtp: RecordingServer) -> None:
    worker = cluster.start("--drain-timeout", "0.5")
    cluster.broker.welcome()
    cluster.broker.send(TEMPLATE)
    cluster.broker.send(batch(1, 5))
    until(lambda: smtp.count() == 5, "all messages taken")
    cluster.broker.expect(messages.Outcomes)
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0
    assert worker.events("worker.unconfirmed")[0]["outcomes"] == 5
    broker = cluster.restart_broker("broker-2")
    cluster.start()
    hello = broker.welcome()
    assert hello.outcomes_upto - hello.outcomes_from == 5
    assert [row.kind for row in broker.commit(5)] == ["sent"] * 5


def test_a_second_signal_ends_at_once(cluster: Cluster, smtp: RecordingServer) -> None:
    smtp.set_rules([Rule("message", action="hang")])
    broker, worker = cluster.broker, cluster.start()
    broker.welcome()
    broker.send(TEMPLATE)
    broker.send(batch(1, 5))
    until(lambda: broker.expect(messages.Heartbeat).busy == 1, "a busy connection")
    until(lambda: bool(worker.events("server.connected")), "a connection")
    worker.signal(signal.SIGTERM)
    until(lambda: bool(worker.events("worker.draining")), "draining")
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 1
    cluster.start()
    broker.welcome()
    kinds = {row.index: row.kind for row in broker.commit(5)}
    assert kinds == {0: "unknown", 1: "not_sent", 2: "not_sent", 3: "not_sent", 4: "not_sent"}


def test_when_the_lease_ends_nothing_new_is_begun(cluster: Cluster, smtp: RecordingServer) -> None:
    broker = cluster.broker
    broker.lease_s = 0.5
    smtp.set_rules([Rule("message", "250 2.0.0 slow", delay_s=0.1)])
    worker = cluster.start("--max-connections", "1")
    broker.welcome()
    broker.send(TEMPLATE)
    broker.send(batch(1, 100))
    broker.acks = False
    until(lambda: bool(worker.events("worker.lease_ended")), "the end of the lease")
    broker.acks = True
    broker.welcome()
    # What wasn't confirmed is told again.
    kinds = list({row.index: row.kind for row in broker.commit(100)}.values())
    sent = kinds.count("sent")
    assert 0 < sent < 20
    assert kinds == ["sent"] * sent + ["not_sent"] * (100 - sent)
    assert smtp.count() == sent
    broker.expect(messages.Heartbeat)  # the answer to it brings a new lease
    broker.send(batch(2, 2, first=200))
    assert [row.kind for row in broker.commit(102) if row.index >= 200] == ["sent"] * 2


def test_a_broker_that_restarted_hears_what_is_here(cluster: Cluster, smtp: RecordingServer) -> None:
    smtp.set_rules([Rule("message", "250 2.0.0 slow", match="r2@*", delay_s=1.5)])
    cluster.start("--max-connections", "1")
    cluster.broker.welcome()
    cluster.broker.send(TEMPLATE)
    cluster.broker.send(batch(1, 6))
    cluster.broker.send(batch(2, 4, first=6))
    until(lambda: smtp.count() == 2, "two messages taken")
    broker = cluster.restart_broker("broker-2")
    hello = broker.welcome(revoke=[2])
    assert [(held.batch, held.indices) for held in hello.holding] == [(1, [2, 3, 4, 5]), (2, [6, 7, 8, 9])]
    assert hello.outcomes_upto - hello.outcomes_from == 2
    assert [row.kind for row in broker.commit(6)] == ["sent"] * 6
    assert smtp.count() == 6


def test_a_broker_that_forgot_the_connection_is_greeted_again(cluster: Cluster) -> None:
    broker = cluster.broker
    cluster.start()
    broker.welcome()
    broker.refuse_unknown()
    broker.welcome()
    broker.send(TEMPLATE)
    broker.send(batch(1, 2))
    assert len(broker.commit(2)) == 2


def test_a_worker_that_was_taken_over_stops(cluster: Cluster) -> None:
    broker, worker = cluster.broker, cluster.start()
    broker.welcome()
    broker.send(messages.Error("conflict", "w1 runs on another host since 12:00"))
    assert worker.wait() == 78
    assert worker.events("worker.taken_over")[0]["reason"] == "w1 runs on another host since 12:00"


def test_a_broker_of_another_version_is_told_apart(cluster: Cluster) -> None:
    broker, worker = cluster.broker, cluster.start()
    broker.expect(messages.WorkerHello)
    header, body = codec.encode(messages.GoodbyeOk())
    broker._socket.send_multipart([broker.peer, header[:2] + b"\x09" + header[3:], body])
    assert worker.wait() == 76
    assert "same release" in str(worker.events("worker.wrong_version")[0]["reason"])


def test_rubbish_from_the_broker_is_logged_and_dropped(cluster: Cluster) -> None:
    broker, worker = cluster.broker, cluster.start()
    broker.welcome()
    broker._socket.send_multipart([broker.peer, b"rubbish"])
    broker.send(TEMPLATE)
    broker.send(batch(1, 1))
    assert len(broker.commit(1)) == 1
    assert worker.events("worker.bad_frame")


def test_two_workers_cannot_share_an_outcome_log(cluster: Cluster) -> None:
    first = cluster.start()
    cluster.broker.welcome()
    second = cluster.start()
    assert second.wait() == 1
    assert f"(process {first.process.pid}) has the outcome log" in "".join(second.output)


def test_a_server_that_is_down_is_logged_once_and_its_mail_comes_back(cluster: Cluster) -> None:
    cluster.smtp.stop()
    broker, worker = cluster.broker, cluster.start()
    broker.welcome()
    broker.send(TEMPLATE)
    for number in range(20):
        broker.send(batch(number + 1, 5, first=5 * number))
    rows = broker.commit(100)
    assert {(row.kind, row.scope) for row in rows} == {("not_sent", "server")}
    assert "no connection to 127.0.0.1" in rows[0].reply
    until(lambda: bool(worker.events("server.failed")), "the server's failure is logged")
    assert len(worker.events("server.failed")) == 1


def test_revoked_batches_are_dropped_without_a_word(cluster: Cluster, smtp: RecordingServer) -> None:
    smtp.set_rules([Rule("message", "250 2.0.0 slow", match="r1@*", delay_s=2.0)])
    broker = cluster.broker
    cluster.start("--max-connections", "1")
    broker.welcome()
    broker.send(TEMPLATE)
    broker.send(batch(1, 10))
    until(lambda: smtp.count() == 1, "a message taken")
    broker.send(messages.Revoke([1]))
    while 1 not in broker.done:
        broker.commit_next()
    assert [row.index for row in broker.outcomes] == [0, 1]
    assert smtp.count() == 2


def test_a_full_disk_ends_the_worker_and_sends_nothing_more(cluster: Cluster, smtp: RecordingServer) -> None:
    # A limit on the size of files is the nearest thing to a full disk that needs no privileges.
    broker, worker = cluster.broker, cluster.start("--max-connections", "1")
    broker.welcome()
    broker.send(TEMPLATE)
    broker.send(batch(1, 2))
    broker.commit(2)
    size = (cluster.folder / "w1.outcomes").stat().st_size
    subprocess.run(["prlimit", f"--pid={worker.process.pid}", f"--fsize={size}"], check=True)
    broker.send(batch(2, 50, first=10))
    rows = broker.commit(52)
    assert {row.kind for row in rows[2:]} == {"not_sent"}
    assert smtp.count() == 2
    broker.part()
    assert worker.wait() == 74
    assert worker.events("worker.log_failed")


# --- what the server takes --------------------------------------------------------------------------


@pytest.mark.parametrize("smtp", [{"max_sessions": 3, "delay_s": 0.05}], indirect=True)
def test_the_limit_settles_at_what_the_server_takes(cluster: Cluster, smtp: RecordingServer) -> None:
    """All of its twelve connections at once, to a server that answers 421 above three."""
    broker, worker = cluster.broker, cluster.start("--max-connections", "12")
    broker.welcome()
    broker.send(TEMPLATE)
    for number in range(12):
        broker.send(batch(number + 1, 5, first=5 * number))
    rows = broker.commit(60)
    assert {(row.kind, row.scope) for row in rows} == {("sent", "recipient"), ("not_sent", "throttled")}
    assert len({row.batch for row in rows if row.kind == "sent"}) == 3
    assert {row.attempt for row in rows} == {1}
    assert broker.expect(messages.Heartbeat).limit == 3
    # What came back, over as many connections as it says.
    unsent = sorted({row.batch for row in rows if row.kind != "sent"})
    for wave in range(0, len(unsent), 3):
        told = len(broker.outcomes)
        for old in unsent[wave : wave + 3]:
            broker.send(batch(100 + old, 5, first=5 * (old - 1)))
        while len(broker.outcomes) < told + 5 * len(unsent[wave : wave + 3]):
            broker.commit_next()
        assert {row.kind for row in broker.outcomes[told:]} == {"sent"}
    assert smtp.recipients() == {f"r{index}@example.org": 1 for index in range(60)}
    assert {heartbeat.limit for heartbeat in broker.heartbeats[-3:]} == {3}
    assert not worker.events("server.failed")
    assert worker.events("server.throttled")[0]["max_connections"] == 12


def test_a_server_that_is_sent_to_too_fast(cluster: Cluster, smtp: RecordingServer) -> None:
    """Amazon SES's answer, from the fourth message on: the rest comes back at once, and burns no attempt."""
    too_fast = "454 4.7.0 Throttling failure: Maximum sending rate exceeded."
    smtp.set_rules([Rule("message", too_fast, match="r[3-9]@*")])
    broker, worker = cluster.broker, cluster.start("--max-connections", "4")
    broker.welcome()
    broker.send(TEMPLATE)
    broker.send(batch(1, 10))
    rows = broker.commit(10)
    assert [row.kind for row in rows] == ["sent"] * 3 + ["not_sent"] * 7
    assert {(row.scope, row.code) for row in rows[3:]} == {("throttled", 454)}
    assert broker.expect(messages.Heartbeat).limit == 3
    smtp.set_rules([])
    for number in range(2, 5):
        broker.send(batch(number, 10, first=10 * number))
        broker.commit(10 * number)
    assert smtp.count() == 33
    until(lambda: broker.expect(messages.Heartbeat).limit == 3, "one connection shows nothing of four")
    assert not worker.events("server.failed")


class Agent(threading.Thread):
    """An HAProxy agent that says `word` to everybody."""

    def __init__(self, word: bytes) -> None:
        super().__init__()
        self.word = word
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._ends = False

    def run(self) -> None:
        while not self._ends:
            connection, _ = self._socket.accept()
            with connection:
                connection.sendall(self.word)
        self._socket.close()

    def close(self) -> None:
        self._ends = True
        socket.create_connection(("127.0.0.1", self.port)).close()
        self.join(DEADLINE_S)


def test_its_servers_agent_is_heard(cluster: Cluster) -> None:
    agent = Agent(b"drain 50% maxconn:2\n")
    agent.start()
    try:
        broker = cluster.broker
        worker = cluster.start(
            "--agent", f"127.0.0.1:{agent.port}", "--agent-interval", "0.1", "--weight", "60", "--rate", "9/s"
        )
        hello = broker.welcome()
        assert (hello.weight, hello.rate) == (60, "9/s")

        def told() -> tuple[str, int | None, int]:
            heartbeat = broker.expect(messages.Heartbeat)
            return heartbeat.state, heartbeat.weight, heartbeat.limit

        until(lambda: told() == ("drain", 30, 2), "the agent's word")
        agent.word = b"maint\n"
        until(lambda: told() == ("maint", 30, 2), "the agent's next word")
        agent.word = b"ready weight:7 maxconn:0\n"
        until(lambda: told() == ("ready", 7, 20), "the agent's third word")
    finally:
        agent.close()
    until(lambda: bool(worker.events("agent.silent")), "that it doesn't answer")
    assert told() == ("ready", 7, 20), "an agent that doesn't answer changes nothing"
    worker.signal(signal.SIGTERM)
    broker.part()
    assert worker.wait() == 0
    assert len(worker.events("agent.silent")) == 1


def test_others_connections_to_the_same_server_are_told(cluster: Cluster, smtp: RecordingServer) -> None:
    broker = cluster.broker
    cluster.start()
    broker.welcome()
    broker.send(TEMPLATE)
    broker.send(batch(1, 3))
    broker.commit(3)
    until(lambda: broker.expect(messages.Heartbeat).open == 1, "a connection of its own")
    others = [socket.create_connection(("127.0.0.1", smtp.port)) for _ in range(4)]
    until(lambda: broker.expect(messages.Heartbeat).external == 4, "four connections of others")
    for other in others:
        other.close()
    until(lambda: broker.expect(messages.Heartbeat).external == 0, "no connection of others")
    assert broker.heartbeats[-1].open == 1
