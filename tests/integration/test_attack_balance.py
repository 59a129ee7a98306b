"""What attacks on the balancer found, with real processes: words that a restart must not forget."""

import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.integration.cluster import Cluster, newsletter, wait_until
from tests.servers import RecordingServer
from tests.servers.rules import Rule


@contextmanager
def agent(line: bytes) -> Iterator[str]:
    """An agent as for HAProxy that always says `line`; its HOST:PORT."""

    class Answer(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.sendall(line)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def test_an_agents_maint_outlives_a_restart_of_the_broker(tmp_path: Path) -> None:
    with (
        RecordingServer() as kept_out,
        RecordingServer(delay_s=0.02) as good,
        agent(b"maint\n") as address,
        Cluster(tmp_path, "--lease", "3") as cluster,
    ):
        cluster.start_broker()
        cluster.start_worker("good", good.url, "--max-connections", "2")
        with cluster.client() as client:
            cluster.wait_for_workers(client, 1)
            cluster.start_worker("kept-out", kept_out.url, "--agent", address)

            def states() -> dict[str, str]:
                return {worker.worker: worker.state for worker in client.servers()}

            wait_until(lambda: states().get("kept-out") == "maint", "the agent's word is known")
            before = kept_out.count()
            receipt = client.submit(newsletter(2_000))
            wait_until(lambda: good.count() > 50, "the other server is at work")
            cluster.kill("broker")
            cluster.restart("broker")
            resumed = good.count()

            def goes() -> bool:
                return good.count() > resumed + 100 or kept_out.count() > before

            wait_until(goes, "mail goes again")
            wait_until(lambda: states().get("kept-out") == "maint", "the agent's word is known again")
            assert kept_out.count() == before
            client.cancel(receipt.campaign)


def test_a_forecast_waits_for_deferred_messages(tmp_path: Path) -> None:
    later = Rule("rcpt", "451 4.2.1 later", match="user1@*", times=1)
    with RecordingServer(rules=[later]) as server, Cluster(tmp_path) as cluster:
        cluster.start_broker()
        cluster.start_worker("w", server.url)
        with cluster.client() as client:
            cluster.wait_for_workers(client, 1)
            receipt = client.submit(newsletter(3))
            wait_until(lambda: client.status(receipt.campaign).counts.get("deferred") == 1, "it is deferred")
            [row] = [row for row in client.report(receipt.campaign) if row.state == "deferred"]

            def told() -> int:
                return client.status(receipt.campaign).eta_at or 0

            # It is worked out once in a second.
            wait_until(lambda: told() >= row.due_at, "the forecast is no earlier than the retry", 5)
