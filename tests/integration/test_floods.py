"""Floods of every kind, from raw sockets: others are served, memory and log stay small, the broker lives.

Nothing is timed here but by generous deadlines; `scripts/bench hostile` measures what the floods cost others.
"""

import contextlib
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from evenpost.wire import codec
from evenpost.wire import messages as wire
from tests.integration.cluster import ROOT, Cluster, newsletter, wait_until
from tests.servers import RecordingServer
from tests.servers.attackers import ATTACKS, connect, frame, handshaken, message

MEMORY_MAX_MB = 250
ATTACK_S = 1.5


@pytest.fixture(scope="module")
def besieged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster that has each flood in turn."""
    folder = tmp_path_factory.mktemp("floods")
    with RecordingServer() as server, Cluster(folder, "--memory-max", str(MEMORY_MAX_MB)) as cluster:
        cluster.start_broker()
        cluster.start_worker("w", server.url, "--max-connections", "4")
        with cluster.client() as client:
            cluster.wait_for_workers(client, 1)
            client.submit(newsletter(200), wait=True)
        yield cluster


def address(endpoint: str) -> tuple[str, int]:
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    return host, int(port)


def rss_mb(cluster: Cluster) -> float:
    status = Path(f"/proc/{cluster.processes['broker'].pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) / 1024


def told(cluster: Cluster, code: str) -> None:
    wait_until(lambda: f'"code":"{code}"' in cluster.log("broker"), f"the log tells of {code}")


@contextlib.contextmanager
def attacked(cluster: Cluster, kind: str) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Both endpoints are attacked."""
    command = [sys.executable, "-m", "tests.servers.attackers", kind]
    processes = [
        subprocess.Popen([*command, endpoint.removeprefix("tcp://")], cwd=ROOT)
        for endpoint in (cluster.clients, cluster.workers)
    ]
    try:
        yield processes
    finally:
        for process in processes:
            process.send_signal(signal.SIGKILL)
            process.wait(10)


@pytest.mark.parametrize("kind", ATTACKS)
def test_others_are_served_while_somebody_floods(kind: str, besieged: Cluster) -> None:
    log_before = besieged.log("broker").count("\n")
    with attacked(besieged, kind) as attackers, besieged.client() as client:
        until = time.monotonic() + ATTACK_S
        receipt = client.submit(newsletter(300, subject=f"during {kind}"))
        while time.monotonic() < until:
            assert client.status(receipt.campaign).total == 300
            time.sleep(0.05)
        final = client.wait(receipt.campaign)
        assert final.counts == {"sent": 300} and final.duplicates == 0
        assert [worker.state for worker in client.servers()] == ["ready"]
        assert all(process.poll() is None for process in attackers), "an attacker gave up"
    assert besieged.processes["broker"].poll() is None
    assert besieged.log("broker").count("\n") - log_before < 40
    wait_until(lambda: rss_mb(besieged) < 2 * MEMORY_MAX_MB, "memory is let go")


def test_what_is_thrown_away_is_counted_and_told_in_few_lines(besieged: Cluster) -> None:
    """However many there are, each kind of rejection has one line in ten seconds for each endpoint."""

    def rejections() -> list[dict[str, object]]:
        lines = [json.loads(line) for line in besieged.log("broker").splitlines()]
        assert not [line for line in lines if line["level"] in ("error", "critical")]
        return [line for line in lines if line["event"] == "peer.rejected"]

    before = len(rejections())

    def counted() -> int:
        return sum(int(str(line["count"])) for line in rejections()[before:])

    with attacked(besieged, "garbage_frames"):
        wait_until(lambda: counted() > 5_000, "5,000 were counted", 40)
    lines = rejections()
    kinds = {(line["endpoint"], line["code"]) for line in lines}
    assert {(e, c) for e in ("clients", "workers") for c in ("bad_frame", "bad_message", "busy")} <= kinds
    assert all(len(str(line["error"])) < 1_000 for line in lines)
    assert len(lines) - before < 30


def test_a_message_without_end_is_cut_when_memory_is_short(besieged: Cluster) -> None:
    """45 frames of 30 MB: ZeroMQ keeps them all until the last has come."""
    with handshaken(address(besieged.clients)) as raw:
        raw.settimeout(20)
        raw.sendall(message(codec.encode(wire.Hello("x"))))
        assert raw.recv(100)
        body = frame(bytes(30 << 20), more=True)
        sent = 0
        with pytest.raises(OSError):
            for _ in range(45):
                raw.sendall(body)
                sent += 30
    assert sent < 45 * 30
    wait_until(lambda: rss_mb(besieged) < MEMORY_MAX_MB, "memory is let go")
    with besieged.client() as client:
        assert client.submit(newsletter(10), wait=True).recipients == 10
    told(besieged, "memory")


def test_connections_beyond_the_limit_are_ended(tmp_path: Path) -> None:
    with Cluster(tmp_path, "--client-connections-max", "5") as cluster, contextlib.ExitStack() as stack:
        cluster.start_broker()
        wait_until(lambda: "broker.started" in cluster.log("broker"), "the broker listens")
        hello = message(codec.encode(wire.Hello("x"), 7))
        kept = [stack.enter_context(handshaken(address(cluster.clients))) for _ in range(5)]

        def all_are_answered() -> None:
            for raw in kept:
                raw.settimeout(10)
                raw.sendall(hello)
                assert raw.recv(4096)

        all_are_answered()  # who has said nothing would be ended first
        for _ in range(3):
            with connect(address(cluster.clients)) as one_more:
                one_more.settimeout(10)
                with contextlib.suppress(ConnectionResetError):
                    while one_more.recv(4096):
                        pass  # the greeting may come before the end
        all_are_answered()
        kept.pop().close()

        def admitted() -> bool:
            with contextlib.suppress(OSError), handshaken(address(cluster.clients)) as raw:
                raw.settimeout(2)
                raw.sendall(hello)
                return bool(raw.recv(4096))
            return False

        wait_until(admitted, "there is room again")
        told(cluster, "connections")


def test_a_handshake_that_does_not_end_is_cut_off(besieged: Cluster) -> None:
    with connect(address(besieged.clients)) as raw:
        raw.settimeout(20)
        raw.sendall(b"\xff")
        with contextlib.suppress(ConnectionResetError):
            while raw.recv(4096):
                pass
        with pytest.raises(OSError):  # the first write after the end may still be taken
            for _ in range(50):
                raw.sendall(b"\x00")
                time.sleep(0.05)


def test_a_client_that_is_asked_to_wait_loses_nothing(tmp_path: Path) -> None:
    """Limits so tight that an honest client meets each of them."""
    limits = ["--client-messages-max", "10", "--client-recipients-max", "50", "--client-submissions-max", "1"]
    with RecordingServer() as server, Cluster(tmp_path, *limits) as cluster:
        cluster.start_broker()
        cluster.start_worker("w", server.url, "--max-connections", "4")
        with cluster.client() as client:
            cluster.wait_for_workers(client, 1)
            campaigns = [client.submit(newsletter(40, subject=str(n))).campaign for n in range(6)]
            for campaign in campaigns:
                final = client.wait(campaign)
                assert final.counts == {"sent": 40} and final.duplicates == 0
        assert server.count() == 240
        told(cluster, "busy")


def test_idle_clients_cost_little(tmp_path: Path) -> None:
    """1,000 of them; `scripts/bench pressure` has 10,000."""
    with Cluster(tmp_path) as cluster, contextlib.ExitStack() as stack:
        cluster.start_broker()
        wait_until(lambda: "broker.started" in cluster.log("broker"), "the broker listens")
        before = rss_mb(cluster)
        hello = message(codec.encode(wire.Hello("x"), 7))
        idle: list[socket.socket] = []
        for _ in range(1_000):
            idle.append(stack.enter_context(handshaken(address(cluster.clients))))
            idle[-1].sendall(hello)
        for raw in idle:
            raw.settimeout(10)
            assert raw.recv(4096)
        assert rss_mb(cluster) - before < 100
        with cluster.client() as client:
            assert client.status() == []
