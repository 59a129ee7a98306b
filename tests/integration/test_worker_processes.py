"""`evenpost-worker --processes`: real processes, which are really killed."""

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from client import Client
from tests.integration.books import balance
from tests.integration.cluster import Cluster, newsletter, wait_until
from tests.servers import RecordingServer, Rule

QUICK = ("--heartbeat", "0.2", "--lease", "5", "--retry-initial", "0.1", "--slow-start", "0")


class Scene:
    """A broker, and one worker with two processes and five connections."""

    def __init__(self, stack: ExitStack, folder: Path, server: RecordingServer) -> None:
        self.server = stack.enter_context(server)
        self.cluster = stack.enter_context(Cluster(folder, *QUICK))
        self.cluster.start_broker()
        self.cluster.start_worker("w", server.url, "--max-connections", "5", "--processes", "2")
        self.client: Client = stack.enter_context(self.cluster.client())
        self.cluster.wait_for_workers(self.client, 2)
        self.parent = self.cluster.processes["w"].pid

    def processes(self) -> list[psutil.Process]:
        found: list[psutil.Process] = psutil.Process(self.parent).children()
        return found

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.parent, number)

    def wait_for_event(self, event: str, times: int = 1) -> None:
        wait_until(lambda: self.cluster.log("w").count(f'"{event}"') >= times, f"{event} in the log")

    def wait_for_end(self, campaign: str) -> None:
        wait_until(lambda: self.client.status(campaign).state == "finished", "the campaign ends", 60)

    def states(self) -> dict[str, str]:
        return {worker.worker: worker.state for worker in self.client.servers()}


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


def gone(processes: list[psutil.Process]) -> bool:
    _, alive = psutil.wait_procs(processes, timeout=0)
    return not alive


def test_two_processes_share_connections_weight_and_work(stack: ExitStack, tmp_path: Path) -> None:
    scene = Scene(stack, tmp_path, RecordingServer(rules=[Rule("message", delay_s=0.01)]))
    workers = {worker.worker: worker for worker in scene.client.servers()}
    assert {name: (w.max_connections, w.weight) for name, w in workers.items()} == {
        "w/1": (3, 50),
        "w/2": (2, 50),
    }
    assert len({worker.server for worker in workers.values()}) == 1
    assert psutil.Process(scene.parent).num_threads() == 1, "a process that forks has no threads"
    campaign = scene.client.submit(newsletter(600)).campaign
    scene.wait_for_end(campaign)
    ended = scene.client.servers()
    assert min(worker.sent for worker in ended) > 0 and sum(worker.sent for worker in ended) == 600
    # A reading may fall between a sibling's new connection and its owner being known: the next one is right,
    # and while it is waited for, the siblings' connections are still there.
    wait_until(
        lambda: [worker.external for worker in scene.client.servers()] == [0, 0],
        "a sibling's connections aren't others'", seconds=10,
    )  # fmt: skip
    assert scene.server.sessions().peak == 5
    assert scene.cluster.terminate("w") == 0
    assert scene.states() == {"w/1": "gone", "w/2": "gone"}


def test_a_process_that_is_killed_comes_back_and_nothing_is_lost(stack: ExitStack, tmp_path: Path) -> None:
    scene = Scene(stack, tmp_path, RecordingServer(rules=[Rule("message", delay_s=0.01)]))
    campaign = scene.client.submit(newsletter(1_000)).campaign
    wait_until(lambda: scene.server.count() > 100, "mail flows")
    victim, other = scene.processes()
    victim.kill()
    scene.wait_for_event("worker.process_ended")
    scene.wait_for_end(campaign)
    scene.cluster.wait_for_workers(scene.client, 2)
    assert other.is_running() and len(scene.processes()) == 2
    books = balance(scene.client, campaign, 1_000, [scene.server])
    assert books.states == {"sent": 1_000} and books.copies <= 3
    assert scene.cluster.terminate("w") == 0


def test_without_their_parent_they_drain_and_end(stack: ExitStack, tmp_path: Path) -> None:
    scene = Scene(stack, tmp_path, RecordingServer(rules=[Rule("message", delay_s=0.01)]))
    campaign = scene.client.submit(newsletter(1_000)).campaign
    wait_until(lambda: scene.server.count() > 100, "mail flows")
    orphans = scene.processes()
    for orphan in orphans:
        stack.callback(lambda one=orphan: one.is_running() and one.kill())
    scene.cluster.kill("w")
    wait_until(lambda: gone(orphans), "they end")
    assert scene.states() == {"w/1": "gone", "w/2": "gone"}, "they have said goodbye"
    scene.cluster.restart("w")
    scene.wait_for_end(campaign)
    books = balance(scene.client, campaign, 1_000, [scene.server])
    assert (books.states, books.copies, books.unknown) == ({"sent": 1_000}, 0, 0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_that_comes_to_all_of_them_drains_them_once(
    stack: ExitStack, tmp_path: Path, number: signal.Signals
) -> None:
    """As from a terminal, `pkill` or systemd: twice would be "stop at once"."""
    scene = Scene(stack, tmp_path, RecordingServer(rules=[Rule("message", delay_s=0.3)]))
    campaign = scene.client.submit(newsletter(100)).campaign
    wait_until(lambda: scene.server.sessions().dots >= 5, "messages wait for their answer")
    for process in [*scene.processes(), psutil.Process(scene.parent)]:
        process.send_signal(number)
    assert scene.cluster.processes["w"].wait(20) == 0
    assert '"worker.aborted"' not in scene.cluster.log("w")
    assert scene.client.status(campaign).unknown == 0
    assert scene.client.status(campaign).counts["sent"] == scene.server.count() >= 5


def test_a_second_signal_stops_all_at_once(stack: ExitStack, tmp_path: Path) -> None:
    scene = Scene(stack, tmp_path, RecordingServer(rules=[Rule("message", delay_s=60)]))
    scene.client.submit(newsletter(100))
    wait_until(lambda: scene.server.sessions().dots >= 5, "messages wait for their answer")
    scene.signal(signal.SIGTERM)
    scene.wait_for_event("worker.draining", 2)
    scene.signal(signal.SIGTERM)
    assert scene.cluster.processes["w"].wait(20) == 1
    assert scene.cluster.log("w").count('"worker.aborted"') == 2


def test_whose_name_is_taken_ends_all_with_that_status(stack: ExitStack, tmp_path: Path) -> None:
    scene = Scene(stack, tmp_path, RecordingServer())
    processes = scene.processes()
    scene.cluster.start_worker("w/2".replace("/", "-"), scene.server.url, "--name", "w/2")
    assert scene.cluster.processes["w"].wait(20) == 78
    assert gone(processes)


def test_two_of_them_cannot_share_one_folder(stack: ExitStack, tmp_path: Path) -> None:
    """The outcome logs are locked: the second parent's processes can't start, and it doesn't give up."""
    scene = Scene(stack, tmp_path, RecordingServer())
    command = scene.cluster.commands["w"]
    scene.cluster.start("double", command)
    wait_until(lambda: scene.cluster.log("double").count('"worker.process_ended"') >= 2, "they are refused")
    assert scene.states() == {"w/1": "ready", "w/2": "ready"}
    assert scene.cluster.terminate("double") == 0


def test_more_processes_than_connections_is_bad_input(tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster:
        cluster.start_worker("w", "smtp://127.0.0.1:1", "--max-connections", "2", "--processes", "3")
        assert cluster.processes["w"].wait(20) == 2
        assert "each needs one" in cluster.log("w")
