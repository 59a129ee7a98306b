"""SIGTERM in a process's first moments: it ends in its own way as soon as it has something on disk."""

import signal
from pathlib import Path

import pytest

from tests.integration.cluster import Cluster, wait_until


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_worker_that_is_told_to_end_while_it_opens_its_log_drains(
    tmp_path: Path, number: signal.Signals
) -> None:
    with Cluster(tmp_path) as cluster:
        cluster.start_broker()
        cluster.failpoints["w1"] = "worker.opening_log=stall:0.5"
        cluster.start_worker("w1", "smtp://127.0.0.1:9")
        wait_until(lambda: "failpoint.reached" in cluster.log("w1"), "the worker opens its log")
        cluster.processes["w1"].send_signal(number)
        assert cluster.processes["w1"].wait(20) == 0
        assert "worker.stopped" in cluster.log("w1")


def test_a_broker_that_is_told_to_end_while_it_opens_its_journal_does_so_in_order(tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster:
        cluster.failpoints["broker"] = "broker.opening=stall:0.5"
        cluster.start_broker()
        wait_until(lambda: "failpoint.reached" in cluster.log("broker"), "the broker opens its journal")
        cluster.processes["broker"].send_signal(signal.SIGHUP)  # asks for a look at its keys
        cluster.processes["broker"].send_signal(signal.SIGTERM)
        assert cluster.processes["broker"].wait(20) == 0
        assert "broker.stopped" in cluster.log("broker")


def test_a_broker_that_waits_for_the_journal_can_be_told_to_stop_waiting(tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster:
        cluster.start_broker()
        with cluster.client() as client:
            client.servers()  # it is up, and has the journal
            second = ["-m", "broker", "--journal", str(tmp_path / "journal.db"), "--wait-for-journal", "60"]
            cluster.start("second", second)
            wait_until(lambda: "broker.waiting" in cluster.log("second"), "the second broker waits")
            assert cluster.terminate("second") == -signal.SIGTERM
            assert client.servers() == []
