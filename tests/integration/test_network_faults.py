"""Cables that are pulled, packets that vanish one way, connections that nobody has closed: between real
processes on hosts of their own."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from client import Client
from tests.integration.books import Books, balance
from tests.integration.cluster import ROOT, Cluster, newsletter, wait_until
from tests.servers import RecordingServer, Rule
from tests.servers.netns import Network, require

pytestmark = pytest.mark.servers

INSECURE = ("--insecure",)
"""What the broker is told so that it listens beyond loopback without keys."""
QUICK = ("--heartbeat", "0.2", "--lease", "2", "--retry-initial", "0.1", "--slow-start", "0")
CLIENTS_PORT, WORKERS_PORT = 5550, 5551
TOTAL = 400


class Site:
    """Three hosts: the broker's; that of worker `far`; and that of its SMTP server, which only `far` reaches.
    On the broker's host there is a worker `near` too, with a server of its own, if wanted."""

    def __init__(self, stack: ExitStack, folder: Path, *, near: bool = False, delay_s: float = 0.02) -> None:
        network = stack.enter_context(Network("broker", "worker", "smtp"))
        self.to_broker = network.join("broker", "worker")
        self.to_smtp = network.join("worker", "smtp")
        self.far_server = stack.enter_context(
            RecordingServer(
                host=self.to_smtp.address["smtp"], port=2525, delay_s=delay_s, prefix=network.on("smtp")
            )
        )
        self.servers = [self.far_server]
        cluster = self.cluster = stack.enter_context(Cluster(folder, *QUICK, *INSECURE))
        # Files cross the borders between networks: the test's own client needs no host.
        cluster.clients = f"ipc://{folder}/clients"
        cluster.workers = f"tcp://{self.to_broker.address['broker']}:{WORKERS_PORT}"
        for name, host in (("broker", "broker"), ("far", "worker"), ("near", "broker")):
            cluster.prefixes[name] = network.on(host)
        cluster.start_broker()
        options = ["--max-connections", "4", "--connect-timeout", "2", "--command-timeout", "1"]
        cluster.start_worker("far", self.far_server.url, *options, "--data-timeout", "1")
        if near:
            server = RecordingServer(delay_s=delay_s, prefix=network.on("broker"))
            self.servers.append(stack.enter_context(server))
            cluster.start_worker("near", server.url, "--max-connections", "4")
        self.client: Client = stack.enter_context(cluster.client())
        cluster.wait_for_workers(self.client, len(self.servers))

    def submit(self, total: int) -> None:
        self.total = total
        self.campaign = self.client.submit(newsletter(total)).campaign

    def wait_for_event(self, name: str, event: str, seconds: float = 30) -> None:
        wait_until(lambda: f'"{event}"' in self.cluster.log(name), f"{event} in {name}'s log", seconds)

    def finish(self) -> Books:
        state = self.client.status
        wait_until(lambda: state(self.campaign).state == "finished", "the campaign ends", 60)
        self.settle()
        return balance(self.client, self.campaign, self.total, self.servers)

    def settle(self) -> None:
        """Workers tell what they still have to tell; then the books are closed."""
        for name in self.cluster.processes:
            if name != "broker":
                assert self.cluster.terminate(name) == 0, self.cluster.log(name)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    require()
    with ExitStack() as made:
        yield made


@pytest.mark.parametrize("until", ["worker.lost", "worker.lease_ended"])
def test_a_cable_that_is_pulled_and_put_back(stack: ExitStack, tmp_path: Path, until: str) -> None:
    # For less than a lease: the worker counts as lost, but its messages are still its own. And for longer.
    site = Site(stack, tmp_path)
    site.submit(TOTAL)
    wait_until(lambda: site.far_server.count() > 100, "it is under way")
    site.to_broker.down()
    site.wait_for_event("broker", until)
    site.wait_for_event("far", "worker.lost_broker")
    site.to_broker.up()
    books = site.finish()
    assert books.states == {"sent": TOTAL}
    if until == "worker.lost":
        assert (books.unknown, books.copies) == (0, 0)


@pytest.mark.parametrize("deaf", ["broker", "worker"])
def test_a_link_that_works_in_one_direction(stack: ExitStack, tmp_path: Path, deaf: str) -> None:
    site = Site(stack, tmp_path, near=True)
    site.submit(TOTAL)
    wait_until(lambda: site.far_server.count() > 100, "it is under way")
    site.to_broker.drop(to=deaf)
    # Both sides see it, each by itself.
    site.wait_for_event("far", "worker.lost_broker")
    site.wait_for_event("broker", "worker.lost")
    # The link stays as it is, and the campaign ends without it.
    state = site.client.status
    wait_until(lambda: state(site.campaign).state == "finished", "the other worker sends the rest", 60)
    site.to_broker.pass_all()
    books = site.finish()
    assert books.states == {"sent": TOTAL}


def test_a_connection_that_is_forgotten_on_its_way(stack: ExitStack, tmp_path: Path) -> None:
    site = Site(stack, tmp_path)
    site.submit(TOTAL)
    wait_until(lambda: site.far_server.count() > 100, "it is under way")
    site.to_broker.drop_connections(to="broker", port=WORKERS_PORT)
    # No end, no reset, no error: only silence tells. The worker takes a new connection by itself.
    books = site.finish()
    assert books.states == {"sent": TOTAL}


@pytest.mark.slow
def test_a_client_that_vanished_is_noticed_by_the_kernel(tmp_path: Path) -> None:
    """The broker sends clients no heartbeats: it would have to time each of ten thousand."""
    require()
    with Network("broker", "client") as network, Cluster(tmp_path, *INSECURE) as cluster:
        wire = network.join("broker", "client")
        cluster.clients = f"tcp://{wire.address['broker']}:{CLIENTS_PORT}"
        cluster.workers = f"ipc://{tmp_path}/workers"
        cluster.prefixes["broker"] = network.on("broker")
        cluster.start_broker()
        command = [*network.on("client"), sys.executable, "-m", "scripts.benches.idle_clients"]
        pipe = subprocess.PIPE
        client = subprocess.Popen(
            [*command, cluster.clients, "3"], stdin=pipe, stdout=pipe, text=True, cwd=ROOT
        )

        def connections() -> int:
            listed = network.run(
                "broker", "ss", "-Htn", "state", "established", "sport", "=", f":{CLIENTS_PORT}"
            )
            return len(listed.splitlines())

        try:
            assert client.stdout is not None
            assert '"clients": 3' in client.stdout.readline()
            assert connections() == 3
            wire.drop(to="broker")
            wait_until(lambda: connections() == 0, "the broker has no connection any more", 40)
        finally:
            client.kill()
            client.communicate()


def test_the_smtp_server_is_cut_off_before_the_content(stack: ExitStack, tmp_path: Path) -> None:
    site = Site(stack, tmp_path, delay_s=0)
    site.far_server.set_rules([Rule("data", delay_s=30)])
    site.submit(50)
    wait_until(lambda: site.far_server.sessions().open == 4, "four connections wait for the answer to DATA")
    site.to_smtp.down()
    wait_until(lambda: "unreachable" in site.client.servers()[0].reason, "the worker gives it up")
    site.far_server.set_rules([])
    site.to_smtp.up()
    books = site.finish()
    assert books.states == {"sent": 50}
    assert (books.unknown, books.copies) == (0, 0)


def test_the_smtp_server_is_cut_off_after_the_final_dot(stack: ExitStack, tmp_path: Path) -> None:
    site = Site(stack, tmp_path, delay_s=0)
    site.far_server.set_rules([Rule("message", delay_s=0.5)])
    site.submit(50)
    wait_until(lambda: site.far_server.sessions().dots == 4, "four messages wait for their answers")
    site.to_smtp.down()
    site.wait_for_event("far", "message.unknown")
    site.far_server.set_rules([])
    site.to_smtp.up()
    books = site.finish()
    assert books.states == {"sent": 50}
    assert books.unknown == books.copies == 4
