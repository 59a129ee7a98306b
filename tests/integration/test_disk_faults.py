"""Disks that fill up or fail, and two brokers on one journal: with real processes."""

import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pytest

from client import Client, ClientError, Receipt
from tests.faults.small_disk import small_disk
from tests.integration.cluster import ROOT, Cluster, newsletter, wait_until
from tests.servers.recording import RecordingServer

SHIM = ROOT / "tests" / "faults" / "failing_sync.c"


class Small(Cluster):
    """A cluster whose broker has its journal on a disk of its own."""

    def start_broker_on(self, journal: Path, *options: str) -> None:
        endpoints = ["--clients", self.clients, "--workers", self.workers]
        self.start("broker", ["-m", "broker", *endpoints, "--journal", str(journal), *options])

    def ends(self, name: str, seconds: float = 20.0) -> int:
        return self.processes[name].wait(seconds)


def sent(client: Client, receipt: Receipt) -> int:
    return client.status(receipt.campaign).counts.get("sent", 0)


def all_are_there(client: Client, receipt: Receipt, total: int, server: RecordingServer) -> None:
    """The campaign ended, each recipient has the mail, and each copy is accounted for."""
    final = client.wait(receipt.campaign)
    got = Counter(server.recipients())
    assert final.state == "finished" and final.counts == {"sent": total}
    assert set(got) == {f"user{n}@example.com" for n in range(total)}
    assert sum(got.values()) - total <= final.unknown


def refused(client: Client) -> str:
    with pytest.raises(ClientError) as raised:
        client.submit(newsletter(10), submission_id="later")
    return str(raised.value)


def test_a_disk_that_fills_up_stops_the_broker_before_it_is_full(tmp_path: Path) -> None:
    total = 500
    with ExitStack() as stack:
        disk = stack.enter_context(small_disk(tmp_path / "disk", 64))
        server = stack.enter_context(RecordingServer(delay_s=0.01))
        cluster = stack.enter_context(Small(tmp_path))
        cluster.start_broker_on(disk.folder / "journal.db", "--disk-reserve", "24", "--slow-start", "0")
        cluster.start_worker("w", server.url, "--max-connections", "4")
        with cluster.client() as client:
            cluster.wait_for_workers(client, 1)
            receipt = client.submit(newsletter(total))
            disk.fill(leave=15_000_000)
            wait_until(lambda: "journal.disk_low" in cluster.log("broker"), "the disk is found low")
            with Client(cluster.clients, timeout=1, connect_timeout=20) as hasty:
                assert "nearly full" in refused(hasty)
            before = sent(client, receipt)
            wait_until(lambda: sent(client, receipt) > before, "what was accepted is sent")
            disk.fill(leave=3_000_000)
            wait_until(lambda: "submissions and sending" in cluster.log("broker"), "sending stops too")
            wait_until(lambda: client.servers()[0].in_flight == 0, "what was given out has ended")
            stopped_at = server.count()
            assert stopped_at < total
            ticks = time.monotonic() + 0.5
            wait_until(lambda: time.monotonic() > ticks, "some turns of the broker's loop")
            assert server.count() == stopped_at and sent(client, receipt) == stopped_at
            assert "nearly full: make room in" in client.explain(receipt.campaign).reasons[0].text
            disk.clear()
            wait_until(lambda: "journal.disk_ok" in cluster.log("broker"), "there is room again")
            all_are_there(client, receipt, total, server)
            assert client.wait(client.submit(newsletter(10), submission_id="later").campaign).counts == {
                "sent": 10
            }


def test_a_disk_that_is_full_ends_the_broker_and_loses_nothing(tmp_path: Path) -> None:
    total = 500
    with ExitStack() as stack:
        disk = stack.enter_context(small_disk(tmp_path / "disk", 32))
        server = stack.enter_context(RecordingServer(delay_s=0.01))
        cluster = stack.enter_context(Small(tmp_path, "--lease", "3", "--slow-start", "0"))
        cluster.start_broker_on(
            disk.folder / "journal.db", "--disk-reserve", "0", "--lease", "3", "--slow-start", "0"
        )
        cluster.start_worker("w", server.url, "--max-connections", "4")
        with cluster.client() as client:
            cluster.wait_for_workers(client, 1)
            receipt = client.submit(newsletter(total))
            wait_until(lambda: sent(client, receipt) > 100, "the first hundred are sent")
            disk.fill()
            assert cluster.ends("broker") == 1
            log = cluster.log("broker")
            assert "journal.failed" in log and "make room on the disk of" in log, log[-1_000:]
            assert "Traceback" not in log
            stopped_at = server.count()
            assert stopped_at < total
            cluster.restart("broker")  # too early
            assert cluster.ends("broker") == 1
            assert "can't open the journal" in cluster.log("broker") and "Traceback" not in cluster.log(
                "broker"
            )
            disk.clear()
            cluster.restart("broker")
            all_are_there(client, receipt, total, server)


def test_a_worker_whose_log_is_on_a_full_disk_stops_and_nothing_is_uncounted(tmp_path: Path) -> None:
    total = 500
    with ExitStack() as stack:
        disk = stack.enter_context(small_disk(tmp_path / "disk", 2))
        server = stack.enter_context(RecordingServer(delay_s=0.01))
        cluster = stack.enter_context(Small(tmp_path, "--lease", "3", "--slow-start", "0"))
        cluster.start_broker()
        log = str(disk.folder / "w.outcomes")
        cluster.start_worker("w", server.url, "--max-connections", "4", "--outcome-log", log)
        with cluster.client() as client:
            cluster.wait_for_workers(client, 1)
            receipt = client.submit(newsletter(total))
            wait_until(lambda: sent(client, receipt) > 100, "the first hundred are sent")
            disk.fill()
            assert cluster.ends("w") == 74
            said = cluster.log("w")
            assert "worker.log_failed" in said and "No space left on device; look after" in said, said[
                -1_000:
            ]
            assert "Traceback" not in said
            assert server.count() < total
            disk.clear()
            cluster.restart("w")
            all_are_there(client, receipt, total, server)


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library that makes flushes fail."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler: apt-get install gcc libc6-dev")
    made = tmp_path_factory.mktemp("shim") / "failing_sync.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(made), str(SHIM), "-ldl"], check=True)
    return made


def test_a_flush_that_fails_ends_the_broker_and_loses_nothing(
    tmp_path: Path, shim: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    total, trigger = 500, tmp_path / "fail"
    with ExitStack() as stack:
        server = stack.enter_context(RecordingServer(delay_s=0.01))
        cluster = stack.enter_context(Small(tmp_path))
        monkeypatch.setenv("LD_PRELOAD", str(shim))
        monkeypatch.setenv("TEST_FAIL_SYNC", str(trigger))
        monkeypatch.setenv("TEST_FAIL_SYNC_OF", "journal.db")
        cluster.start_broker_on(tmp_path / "journal.db", "--lease", "3", "--slow-start", "0")
        monkeypatch.undo()
        cluster.start_worker("w", server.url, "--max-connections", "4")
        with cluster.client() as client:
            cluster.wait_for_workers(client, 1)
            receipt = client.submit(newsletter(total))
            wait_until(lambda: sent(client, receipt) > 100, "the first hundred are sent")
            trigger.touch()
            assert cluster.ends("broker") == 1
            log = cluster.log("broker")
            assert (
                "journal.failed" in log and "can't flush the journal" in log and "look after its disk" in log
            )
            assert "Traceback" not in log
            assert server.count() < total
            trigger.unlink()
            cluster.restart("broker")
            all_are_there(client, receipt, total, server)


@pytest.mark.parametrize("frozen", [False, True])
def test_a_second_broker_on_the_same_journal_is_refused(frozen: bool, tmp_path: Path) -> None:
    """Also while the first one is frozen: it may wake up."""
    with Cluster(tmp_path) as cluster:
        cluster.start_broker()
        with cluster.client() as client:
            client.servers()
            if frozen:
                cluster.processes["broker"].send_signal(signal.SIGSTOP)
            second = subprocess.run(
                [sys.executable, "-m", "broker", "--clients", "tcp://127.0.0.1:0", "--workers",
                 "tcp://127.0.0.1:0", "--journal", str(tmp_path / "journal.db")],
                cwd=ROOT, capture_output=True, text=True, timeout=20,
            )  # fmt: skip
            said = second.stdout + second.stderr
            assert second.returncode != 0 and "in use by another broker" in said, said
            assert "--journal" in said and "Traceback" not in said
            cluster.processes["broker"].send_signal(signal.SIGCONT)
            assert client.servers() == []  # the first one works on
