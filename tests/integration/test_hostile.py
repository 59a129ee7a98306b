"""Peers that send nonsense, ask without end or freeze: nobody else notices."""

import contextlib
import os
import signal
import socket
import time
from pathlib import Path

import zmq

from evenpost.wire import codec
from evenpost.wire import messages as wire
from tests.integration.cluster import Cluster, newsletter, wait_until
from tests.servers import RecordingServer


def peer(endpoint: str) -> "zmq.Socket[bytes]":
    made: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
    made.setsockopt(zmq.LINGER, 0)
    made.connect(endpoint)
    return made


def outcome(campaign: int, index: int) -> list[object]:
    return [1, campaign, index, 1, "sent", "recipient", 250, "ok", 1, 2]


def test_nonsense_on_both_endpoints_leaves_the_broker_up(tmp_path: Path) -> None:
    with RecordingServer() as server, Cluster(tmp_path) as cluster:
        cluster.start_broker()
        cluster.start_worker("w", server.url)
        with cluster.client() as client:
            cluster.wait_for_workers(client, 1)
            header = codec.encode(wire.Done())[0]
            hello = {
                "worker": "x", "incarnation": 1, "server": "s", "log": "l", "max_connections": 1,
                "holding": [[1, 2**40, [0]]],
            }  # fmt: skip
            bomb = [b"\x80" * 200_000]
            frames = {
                cluster.workers: [
                    codec.encode_raw(wire.Type.OUTCOMES, {"first": 0, "rows": [outcome(2**40, 0)]}),
                    codec.encode_raw(wire.Type.OUTCOMES, {"first": 0, "rows": [outcome(1, 2**40)]}),
                    codec.encode_raw(wire.Type.WORKER_HELLO, hello),
                    codec.encode(wire.Pause("c")),
                ],
                cluster.clients: [
                    codec.encode_raw(wire.Type.REPORT, {"campaign": "c", "after": 2**63 - 1}),
                    codec.encode_raw(wire.Type.STATUS, {"campaign": "c" * 20_000}),
                    [codec.encode(wire.Status())[0], *bomb],
                    [header], [header, b"", b""], [b"", b""], [b"GET / HTTP/1.1\r\n"], [header, b"\xc1"],
                ],
            }  # fmt: skip
            for endpoint, messages in frames.items():
                hostile = peer(endpoint)
                for message in messages:
                    hostile.send_multipart(message)
                    assert hostile.poll(5_000), message
                    _, kind, _ = codec.split(hostile.recv_multipart(), frozenset(wire.Type))
                    assert kind is wire.Type.ERROR
                host, port = endpoint.removeprefix("tcp://").split(":")
                for junk in (b"GET / HTTP/1.0\r\n\r\n", os.urandom(500), b"\xff\x00\x00"):
                    with socket.create_connection((host, int(port))) as raw, contextlib.suppress(OSError):
                        raw.sendall(junk)
            receipt = client.submit(newsletter(50), wait=True)
            assert client.status(receipt.campaign).counts == {"sent": 50}
        assert cluster.processes["broker"].poll() is None
        assert "peer.rejected" in cluster.log("broker")


def test_questions_without_end_hold_nobody_up(tmp_path: Path) -> None:
    with RecordingServer(delay_s=0.01) as server, Cluster(tmp_path) as cluster:
        cluster.start_broker()
        cluster.start_worker("w", server.url, "--max-connections", "4")
        with cluster.client() as client:
            cluster.wait_for_workers(client, 1)
            done = client.submit(newsletter(3_000), wait=True).campaign
            running = client.submit(newsletter(1_000)).campaign
            greedy = peer(cluster.clients)  # asks, and never reads an answer
            for number in range(1, 500):
                greedy.send_multipart(codec.encode(wire.Report(done, limit=3_000), number))
            slowest = 0.0
            while client.status(running).state != "finished":
                began = time.monotonic()
                client.status(running)
                slowest = max(slowest, time.monotonic() - began)
            assert slowest < 2.0
        assert "worker.lost" not in cluster.log("broker")


def test_a_broker_that_was_frozen_takes_nobody_for_dead(tmp_path: Path) -> None:
    with (
        RecordingServer(delay_s=0.02) as server,
        Cluster(tmp_path, "--lease", "1.5", "--heartbeat", "0.4") as cluster,
    ):
        cluster.start_broker()
        cluster.start_worker("w", server.url, "--max-connections", "4")
        with cluster.client() as client:
            cluster.wait_for_workers(client, 1)
            receipt = client.submit(newsletter(600))
            wait_until(lambda: server.count() > 50, "it has begun")
            for _ in range(2):
                os.kill(cluster.processes["broker"].pid, signal.SIGSTOP)
                time.sleep(2.5)  # the freeze itself: longer than lease and heartbeats
                os.kill(cluster.processes["broker"].pid, signal.SIGCONT)
                time.sleep(0.5)
            final = client.wait(receipt.campaign)
        assert final.counts == {"sent": 600} and final.unknown == 0 and final.duplicates == 0
        assert server.count() == 600
        assert "worker.lease_ended" not in cluster.log("broker")


def test_another_journal_believes_nothing_of_the_old_one(tmp_path: Path) -> None:
    """The journal is lost, a new one begins, and a worker still holds batches and outcomes of the old."""
    with RecordingServer(delay_s=0.05) as server, Cluster(tmp_path) as cluster:
        cluster.start_broker()
        cluster.start_worker("w", server.url, "--max-connections", "2")
        with cluster.client() as client:
            cluster.wait_for_workers(client, 1)
            client.submit(newsletter(400))
            wait_until(lambda: server.count() > 20, "it has begun")
            cluster.kill("broker")
            for file in tmp_path.glob("journal.db*"):
                file.unlink()
            cluster.restart("broker")
            second = newsletter(60, subject="second")
            receipt = client.submit(second, wait=True)
            assert client.status(receipt.campaign).counts == {"sent": 60}
            rows = list(client.report(receipt.campaign))
        taken = [raw for raw in server.messages() if b"Subject: second" in raw]
        assert len(taken) == len(rows) == 60
