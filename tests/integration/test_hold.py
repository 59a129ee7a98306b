"""`on_unknown = "hold"` with real processes: nothing is sent twice, whoever dies with whom."""

from collections import Counter
from contextlib import ExitStack
from pathlib import Path

from tests.integration.cluster import Cluster, newsletter, wait_until
from tests.servers.recording import RecordingServer


def test_broker_and_worker_die_together_and_nothing_is_sent_twice(tmp_path: Path) -> None:
    """The worker stays away for longer than a lease; another one sends the rest. What the dead had is held
    and told of when it comes back."""
    total = 300
    with ExitStack() as stack:
        servers = [stack.enter_context(RecordingServer(delay_s=0.02)) for _ in range(2)]
        cluster = stack.enter_context(
            Cluster(tmp_path, "--lease", "2", "--heartbeat", "0.3", "--slow-start", "0")
        )
        cluster.start_broker()
        for name, server in zip(("dies", "lives"), servers, strict=True):
            cluster.start_worker(name, server.url, "--max-connections", "3")
        with cluster.client() as client:
            cluster.wait_for_workers(client, 2)
            receipt = client.submit(newsletter(total, on_unknown="hold"))
            wait_until(lambda: servers[0].count() > 30, "the worker that will die has sent some")
            cluster.kill("broker")
            cluster.kill("dies")
            # What had reached the server before the kill is still taken.
            wait_until(lambda: servers[0].sessions().open == 0, "the server has heard of the death")
            taken = servers[0].count()
            cluster.restart("broker")

            def status() -> Counter[str]:
                return Counter(client.status(receipt.campaign).counts)

            wait_until(lambda: status()["held"] > 0, "what it had is held")
            # Nothing of what it had is sent by the other one.
            final = client.wait(receipt.campaign)
            assert servers[0].count() == taken
            assert final.counts["held"] == final.unknown > 0, final
            assert final.counts["sent"] + final.counts["held"] == total
            cluster.restart("dies")
            wait_until(
                lambda: status()["sent"] > final.counts["sent"] or taken == 0, "it tells what it had sent"
            )
        got = Counter(servers[0].recipients()) + Counter(servers[1].recipients())
    assert max(got.values()) == 1, [address for address, count in got.items() if count > 1]
    held = [f"user{n}@example.com" for n in range(total) if f"user{n}@example.com" not in got]
    assert len(held) <= final.counts["held"]
