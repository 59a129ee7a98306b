"""Upgrades under load: a new broker or worker takes over; nothing is sent twice or counted as unknown."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.integration.cluster import Cluster, newsletter, wait_until
from tests.servers import RecordingServer

UPGRADES = 5


def start_next_broker(cluster: Cluster, number: int) -> str:
    """A broker with the old one's endpoints and journal, which waits for them. Its name."""
    name = f"broker{number}"
    options = ["--clients", cluster.clients, "--workers", cluster.workers, *cluster.broker_options]
    journal = str(cluster.folder / "journal.db")
    cluster.start(name, ["-m", "broker", *options, "--journal", journal, "--wait-for-journal", "30"])
    wait_until(lambda: "broker.waiting" in cluster.log(name), f"{name} waits for the journal")
    return name


@pytest.mark.slow
def test_a_new_broker_takes_over_again_and_again_and_no_message_is_sent_twice(tmp_path: Path) -> None:
    main, small = 5_000, 40
    with ExitStack() as stack:
        servers = [stack.enter_context(RecordingServer(delay_s=0.02, keep=False)) for _ in range(2)]
        cluster = stack.enter_context(Cluster(tmp_path))
        pool = stack.enter_context(ThreadPoolExecutor(2))
        cluster.start_broker()
        for number, server in enumerate(servers):
            cluster.start_worker(f"w{number}", server.url, "--max-connections", "4")

        def taken() -> int:
            return sum(server.count() for server in servers)

        with cluster.client() as client:
            cluster.wait_for_workers(client, 2)
            receipts = [client.submit(newsletter(main))]
            old = "broker"
            for number in range(UPGRADES):
                before = taken()
                wait_until(lambda before=before: taken() > before + 100, "mail flows")  # type: ignore[misc]
                new = start_next_broker(cluster, number)
                letter = newsletter(small, domain=f"upgrade{number}.example.com")
                during = pool.submit(client.submit, letter)
                assert cluster.terminate(old) == 0
                wait_until(lambda new=new: "broker.started" in cluster.log(new), f"{new} is there")  # type: ignore[misc]
                receipts.append(during.result(30))
                old = new
            finals = [client.wait(receipt.campaign) for receipt in receipts]
        got = servers[0].recipients() + servers[1].recipients()
    assert [final.counts for final in finals] == [{"sent": main}, *[{"sent": small}] * UPGRADES]
    assert [(final.unknown, final.duplicates) for final in finals] == [(0, 0)] * len(finals)
    assert sum(got.values()) == len(got) == main + UPGRADES * small
    for name in cluster.processes:
        assert "worker.lease_ended" not in cluster.log(name)


def test_a_broker_that_waits_in_vain_says_who_has_the_journal(tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster:
        cluster.start_broker()
        with cluster.client():
            options = ["--clients", cluster.clients, "--workers", cluster.workers]
            journal = str(tmp_path / "journal.db")
            cluster.start(
                "second", ["-m", "broker", *options, "--journal", journal, "--wait-for-journal", "0.2"]
            )
            assert cluster.processes["second"].wait(20) == 1
            assert "in use by another broker" in cluster.log("second")


@pytest.mark.slow
def test_workers_are_upgraded_one_after_the_other(tmp_path: Path) -> None:
    total = 1_000
    with ExitStack() as stack:
        servers = [stack.enter_context(RecordingServer(delay_s=0.02, keep=False)) for _ in range(2)]
        cluster = stack.enter_context(Cluster(tmp_path, "--slow-start", "0"))
        cluster.start_broker()
        for number, server in enumerate(servers):
            cluster.start_worker(f"w{number}", server.url, "--max-connections", "4")
        with cluster.client() as client:
            cluster.wait_for_workers(client, 2)
            receipt = client.submit(newsletter(total))
            for number, server in enumerate(servers):
                wait_until(lambda server=server: server.count() > 50, "it is at work")  # type: ignore[misc]
                assert cluster.terminate(f"w{number}") == 0
                cluster.restart(f"w{number}")
                wait_until(
                    lambda name=f"w{number}": cluster.log(name).count("worker.welcomed") == 2,  # type: ignore[misc]
                    "its successor is in",
                )
            final = client.wait(receipt.campaign)
        got = servers[0].recipients() + servers[1].recipients()
    assert final.counts == {"sent": total}
    assert (final.unknown, final.duplicates) == (0, 0)
    assert got == Counter({f"user{n}@example.com": 1 for n in range(total)})
