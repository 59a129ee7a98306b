"""Processes that freeze, die, come back and meet their own doubles, in the middle of a campaign."""

import json
import random
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from client import Client, Receipt
from tests.integration.books import balance
from tests.integration.cluster import Cluster, newsletter, wait_until
from tests.servers import RecordingServer, Rule
from tests.servers.ports import free_port

QUICK = ("--heartbeat", "0.2", "--lease", "1", "--retry-initial", "0.1", "--slow-start", "0")


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


class Scene:
    """A broker, workers w0, w1, ... with a recording server each, and a client."""

    def __init__(self, stack: ExitStack, folder: Path, servers: list[RecordingServer], *options: str) -> None:
        self.servers = [stack.enter_context(server) for server in servers]
        self.cluster = stack.enter_context(Cluster(folder, *QUICK))
        self.cluster.start_broker()
        for number, server in enumerate(self.servers):
            self.cluster.start_worker(f"w{number}", server.url, "--max-connections", "4", *options)
        self.client: Client = stack.enter_context(self.cluster.client())
        self.cluster.wait_for_workers(self.client, len(servers))

    def signal(self, name: str, number: signal.Signals) -> None:
        self.cluster.processes[name].send_signal(number)

    def taken(self) -> int:
        return sum(server.count() for server in self.servers)

    def wait_for_event(self, name: str, event: str, times: int = 1) -> None:
        wait_until(lambda: self.cluster.log(name).count(f'"{event}"') >= times, f"{event} in {name}'s log")

    def finish(self, receipt: Receipt) -> None:
        ended = ("finished", "cancelled")
        wait_until(lambda: self.client.status(receipt.campaign).state in ended, "the campaign ends", 60)


def test_a_worker_frozen_before_the_content_sends_nothing_when_it_wakes(
    stack: ExitStack, tmp_path: Path
) -> None:
    # The frozen worker's server answers DATA only after the lease is over.
    slow = RecordingServer(rules=[Rule("data", delay_s=2.0)])
    scene = Scene(stack, tmp_path, [slow, RecordingServer()])
    receipt = scene.client.submit(newsletter(300))
    wait_until(lambda: slow.sessions().open == 4, "four connections wait for the answer to DATA")
    scene.signal("w0", signal.SIGSTOP)
    scene.wait_for_event("broker", "worker.lease_ended")
    assert slow.count() == 0, "the worker was to be frozen before its first message"
    slow.set_rules([])
    wait_until(lambda: scene.client.status(receipt.campaign).state == "finished", "the other one sends all")
    scene.signal("w0", signal.SIGCONT)
    scene.wait_for_event("w0", "worker.lease_ended")
    scene.cluster.wait_for_workers(scene.client, 2)
    assert scene.cluster.terminate("w0") == 0
    books = balance(scene.client, receipt.campaign, 300, scene.servers)
    assert books.states == {"sent": 300} and books.unknown == _lost_with_their_lease(scene.cluster) >= 4
    assert slow.count() == 0 and books.copies == 0


@pytest.mark.parametrize("on_unknown", ["resend", "hold"])
def test_what_a_frozen_worker_had_sent_is_believed_when_it_wakes(
    stack: ExitStack, tmp_path: Path, on_unknown: str
) -> None:
    slow = RecordingServer(rules=[Rule("message", delay_s=2.0)])
    scene = Scene(stack, tmp_path, [slow, RecordingServer()])
    receipt = scene.client.submit(newsletter(300, on_unknown=on_unknown))
    wait_until(lambda: slow.sessions().dots == 4, "four messages wait for the answer to their final dot")
    scene.signal("w0", signal.SIGSTOP)
    scene.wait_for_event("broker", "worker.lease_ended")
    scene.finish(receipt)
    held = scene.client.status(receipt.campaign).counts.get("held", 0)
    assert bool(held) == (on_unknown == "hold")
    wait_until(lambda: slow.count() >= 4, "the server took what was on the wire")
    scene.signal("w0", signal.SIGCONT)
    scene.cluster.wait_for_workers(scene.client, 2)
    assert scene.cluster.terminate("w0") == 0
    on_wire = slow.count()
    books = balance(scene.client, receipt.campaign, 300, scene.servers)
    status = scene.client.status(receipt.campaign)
    by_w0 = sum(row.worker == "w0" and row.state == "sent" for row in scene.client.report(receipt.campaign))
    if on_unknown == "hold":
        assert books.copies == 0 and status.counts.get("held", 0) == held - on_wire and by_w0 == on_wire
    else:
        assert books.states == {"sent": 300} and books.copies == on_wire == books.duplicates
    assert books.unknown == _lost_with_their_lease(scene.cluster)


def test_a_frozen_broker_stops_its_workers_and_costs_no_copy(stack: ExitStack, tmp_path: Path) -> None:
    scene = Scene(stack, tmp_path, [RecordingServer(delay_s=0.02) for _ in range(2)])
    receipt = scene.client.submit(newsletter(700))
    wait_until(lambda: scene.taken() > 100, "it is under way")
    scene.signal("broker", signal.SIGSTOP)
    for worker in ("w0", "w1"):
        scene.wait_for_event(worker, "worker.lost_broker")
    # They end what they have in hand, if the lease lasts so long, and get nothing more.
    assert _at_rest(scene) < 700
    scene.signal("broker", signal.SIGCONT)
    scene.finish(receipt)
    books = balance(scene.client, receipt.campaign, 700, scene.servers)
    assert books.states == {"sent": 700}
    assert (books.copies, books.unknown) == (0, 0)


def _lost_with_their_lease(cluster: Cluster) -> int:
    """Messages, as the broker's log has it."""
    events = map(json.loads, cluster.log("broker").splitlines())
    return sum(each["messages"] for each in events if each["event"] == "worker.lease_ended")


def _at_rest(scene: Scene) -> int:
    """What was taken, once that hasn't changed for a lease."""
    seen = [scene.taken()]

    def unchanged() -> bool:
        seen.append(scene.taken())
        return len(seen) > 40 and len(set(seen[-40:])) == 1

    wait_until(unchanged, "nothing more is taken")
    return seen[-1]


def _start_double(scene: Scene, server: RecordingServer, *options: str) -> None:
    """A second process that calls itself w0, with a server and an outcome log of its own."""
    command = ["-m", "worker", "--broker", scene.cluster.workers, "--smtp", server.url, "--name", "w0"]
    log = str(scene.cluster.folder / "double.outcomes")
    connections = ["--max-connections", "4", "--tls", "none"]
    scene.cluster.start("double", [*command, *connections, "--outcome-log", log, *options])


def test_of_two_workers_with_one_name_the_newer_stays(stack: ExitStack, tmp_path: Path) -> None:
    scene = Scene(stack, tmp_path, [RecordingServer(delay_s=0.02)])
    other = stack.enter_context(RecordingServer(delay_s=0.02))
    receipt = scene.client.submit(newsletter(300))
    wait_until(lambda: scene.taken() > 100, "the older one is at work")
    _start_double(scene, other)
    assert scene.cluster.processes["w0"].wait(20) == 78
    log = scene.cluster.log("w0")
    assert "worker.taken_over" in log and "a newer process has registered as worker 'w0'" in log
    scene.finish(receipt)
    books = balance(scene.client, receipt.campaign, 300, [*scene.servers, other])
    assert books.states == {"sent": 300} and other.count() > 0


def test_a_frozen_worker_whose_name_was_taken_ends_when_it_wakes(stack: ExitStack, tmp_path: Path) -> None:
    slow = RecordingServer(rules=[Rule("data", delay_s=1.0)])
    scene = Scene(stack, tmp_path, [slow])
    other = stack.enter_context(RecordingServer())
    receipt = scene.client.submit(newsletter(300))
    wait_until(lambda: slow.sessions().open == 4, "four connections wait for the answer to DATA")
    scene.signal("w0", signal.SIGSTOP)
    _start_double(scene, other)
    scene.finish(receipt)
    slow.set_rules([])
    scene.signal("w0", signal.SIGCONT)
    assert scene.cluster.processes["w0"].wait(20) == 78
    assert "worker.taken_over" in scene.cluster.log("w0")
    assert slow.count() == 0
    books = balance(scene.client, receipt.campaign, 300, [slow, other])
    assert books.states == {"sent": 300} and books.copies == 0


def test_a_second_process_on_the_same_outcome_log_is_refused(stack: ExitStack, tmp_path: Path) -> None:
    scene = Scene(stack, tmp_path, [RecordingServer()])
    command = scene.cluster.commands["w0"]
    scene.cluster.start("again", command)
    assert scene.cluster.processes["again"].wait(20) != 0
    pid = scene.cluster.processes["w0"].pid
    said = scene.cluster.log("again")
    assert f"another worker (process {pid}) has the outcome log" in said and "Traceback" not in said
    receipt = scene.client.submit(newsletter(20))
    scene.finish(receipt)
    assert balance(scene.client, receipt.campaign, 20, scene.servers).states == {"sent": 20}


@pytest.mark.parametrize("seed", [1])
def test_all_killed_at_once_come_back_in_any_order(stack: ExitStack, tmp_path: Path, seed: int) -> None:
    print(f"seed {seed}")
    chance = random.Random(seed)
    scene = Scene(stack, tmp_path, [RecordingServer(delay_s=0.01) for _ in range(3)])
    total = 1_000
    receipt = scene.client.submit(newsletter(total))
    names = list(scene.cluster.processes)
    for round_ in range(1, 4):
        mark = round_ * total // 5
        wait_until(lambda mark=mark: scene.taken() > mark, f"{mark} are taken")  # type: ignore[misc]  # mypy can't infer a lambda with a default
        for name in chance.sample(names, len(names)):
            scene.cluster.kill(name)
        for name in chance.sample(names, len(names)):
            scene.cluster.restart(name)
    scene.finish(receipt)
    books = balance(scene.client, receipt.campaign, total, scene.servers)
    # A message that counted as unknown too often is held for a person; it isn't lost.
    assert set(books.states) <= {"sent", "held"} and books.states["held"] <= 2


def test_a_broker_killed_again_and_again_while_it_starts(stack: ExitStack, tmp_path: Path) -> None:
    seed = 4
    print(f"seed {seed}")
    chance = random.Random(seed)
    scene = Scene(stack, tmp_path, [RecordingServer(delay_s=0.01) for _ in range(2)])
    receipt = scene.client.submit(newsletter(500))
    wait_until(lambda: scene.taken() > 100, "it is under way")
    scene.cluster.kill("broker")
    for _ in range(10):
        scene.cluster.restart("broker")
        # Some die before the journal is open, some while workers say hello. A process that isn't told when
        # it dies needs no more than time.
        end = time.monotonic() + chance.uniform(0.05, 0.6)
        wait_until(lambda end=end: time.monotonic() > end, "some of the start")  # type: ignore[misc]  # as above
        scene.cluster.kill("broker")
    scene.cluster.restart("broker")
    scene.finish(receipt)
    books = balance(scene.client, receipt.campaign, 500, scene.servers)
    assert books.states == {"sent": 500} and books.copies == 0


SUBMIT = """
import sys, time
from pathlib import Path
from client import Campaign, Client
from client.submission_plan import Plan

broker, total, go = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
recipients = [{"email": f"user{n}@example.com", "n": n} for n in range(total)]
campaign = Campaign(sender="n@example.com", subject="s", text="number {{ n }}", recipients=recipients)

class Halting(Plan):
    def chunks(self, stream, welcome):
        for rows in super().chunks(stream, welcome):
            yield rows
            while not go.exists():
                time.sleep(0.02)

with Client(broker) as client, Halting(campaign) as plan:
    plan.check()
    client.submit_plan(plan, "the-list")
"""


@pytest.mark.parametrize("fault", ["frozen", "killed"])
def test_a_client_frozen_or_killed_in_the_middle_of_a_submission(
    stack: ExitStack, tmp_path: Path, fault: str
) -> None:
    total, go = 5_600, tmp_path / "go"
    scene = Scene(stack, tmp_path, [RecordingServer(keep=False)])
    cluster, client = scene.cluster, scene.client
    cluster.start("client", ["-c", SUBMIT, cluster.clients, str(total), str(go)])
    wait_until(lambda: sum(status.total for status in client.status()) == 5_000, "the first chunk is stored")
    scene.signal("client", signal.SIGSTOP if fault == "frozen" else signal.SIGKILL)
    (opened,) = client.status()
    assert opened.state == "open" and scene.taken() == 0, "nothing is sent of what wasn't committed"
    go.touch()
    if fault == "frozen":
        scene.wait_for_event("broker", "campaign.opened")
        # Long enough for ZMTP's heartbeats, if they were the system's and not the process's own.
        end = time.monotonic() + 1.5
        wait_until(lambda: time.monotonic() > end, "it stays frozen for longer than a lease")
        scene.signal("client", signal.SIGCONT)
    else:
        cluster.processes["client"].wait(10)
        cluster.restart("client")
    assert cluster.processes["client"].wait(30) == 0, cluster.log("client")
    (receipt,) = client.status()
    assert receipt.campaign == opened.campaign and receipt.total == total
    wait_until(lambda: client.status(receipt.campaign).state == "finished", "all are sent", 60)
    books = balance(client, receipt.campaign, total, scene.servers)
    assert books.states == {"sent": total} and books.copies == 0


class HaltingServer:
    """Takes one connection and stops reading in the middle of its message, until it is told to go on."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", free_port()))
        self.url = f"smtp://127.0.0.1:{self._socket.getsockname()[1]}"
        self.halted, self.go_on, self.ended = threading.Event(), threading.Event(), threading.Event()
        self.content = b""
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        self.go_on.set()
        self._socket.shutdown(socket.SHUT_RDWR)  # wakes an accept that waits
        self._socket.close()
        self._thread.join(10)

    def _serve(self) -> None:
        with self._socket.accept()[0] as peer, peer.makefile("rb") as lines:
            peer.settimeout(30)
            peer.sendall(b"220 halting\r\n")
            while (line := lines.readline()) and not line.startswith(b"DATA"):
                peer.sendall(b"250 ok\r\n")
            peer.sendall(b"354 go\r\n")
            self.content = lines.readline()
            self.halted.set()
            self.go_on.wait(30)
            while not self.content.endswith(b"\r\n.\r\n") and (more := lines.read1()):
                self.content += more
            self.ended.set()


def test_a_worker_frozen_in_the_middle_of_a_large_message_doesnt_end_it(
    stack: ExitStack, tmp_path: Path
) -> None:
    halting, good = HaltingServer(), stack.enter_context(RecordingServer())
    stack.callback(halting.close)
    cluster = stack.enter_context(Cluster(tmp_path, *QUICK, "--lease", "3"))
    cluster.start_broker()
    cluster.start_worker("w0", halting.url)
    client = stack.enter_context(cluster.client())
    cluster.wait_for_workers(client, 1)
    # More than the kernel keeps for a peer that doesn't read.
    large = tmp_path / "large.bin"
    large.write_bytes(bytes(8 * 1024**2))
    receipt = client.submit(newsletter(1, attachments=[large]))
    assert halting.halted.wait(20)
    cluster.processes["w0"].send_signal(signal.SIGSTOP)
    cluster.start_worker("w1", good.url)
    wait_until(lambda: client.status(receipt.campaign).state == "finished", "another worker sends it")
    cluster.processes["w0"].send_signal(signal.SIGCONT)
    halting.go_on.set()
    assert halting.ended.wait(20)
    assert len(halting.content) > 5_000_000 and not halting.content.endswith(b"\r\n.\r\n")
    cluster.wait_for_workers(client, 2)
    assert cluster.terminate("w0") == 0
    books = balance(client, receipt.campaign, 1, [good])
    # On a busy machine the second worker's lease may run out too. What w0 tells of it counts no second time.
    assert (books.states, books.copies) == ({"sent": 1}, 0)
    assert books.unknown == _lost_with_their_lease(cluster) >= 1
