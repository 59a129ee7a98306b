"""Back-pressure, part 1: clients that are connected and say nothing."""

import statistics
import time
from dataclasses import dataclass

from broker.guard import MIB, Limits
from broker.settings import Settings
from scripts.benches.idle_clients import Answered, idle_clients
from scripts.benches.paced_sink import paced_sinks
from scripts.benches.processes import Cluster, cluster, newsletter
from scripts.benches.table import Bar

CLIENT_KIB_MAX = 64
"""Of the broker, for an idle client. ZeroMQ has two queues a connection, with room for 256 messages of 64
bytes in the first piece of each (32 KiB), and a buffer of 8 KiB for each direction; our own objects (guard,
account, connection) take about 3 KiB. The rest is the allocator's."""
PACE_LEAST = 0.8
"""Of a campaign beside them, against one beside as many at another broker on this machine: what clients cost
their own machines (a fifth of a core) isn't the broker's doing. The issue's bar for others in a flood."""
MEMORY_MAX_MB = Settings().memory_max_bytes / MIB
"""Above it the broker begins to end connections. These hold nothing that could be let go."""
CPU_SHARE_MAX = 0.2
"""Of a core, of the broker, while they are idle: others have four fifths of the loop, as above. (With ZMTP
heartbeats on the broker's side, 4,000 clients took all of it.)"""
_SPARE_CONNECTIONS = 100
_ROUNDS = 3
_FREED_WITHIN_S = 5.0


@dataclass(frozen=True)
class Idle:
    clients: int
    connected: Answered
    asked_again: Answered
    """Beside a campaign that had just ended: each of them once more."""
    before_mb: float
    beside_mb: float
    peak_mb: float
    after_mb: float
    """When they have gone."""
    cpu_share: float
    """Of a core, while they were idle."""
    alone_per_s: list[float]
    elsewhere_per_s: list[float]
    """While as many idle clients were connected to another broker on this machine."""
    beside_per_s: list[float]

    @property
    def client_kib(self) -> float:
        return (self.beside_mb - self.before_mb) * 1024 / self.clients

    @property
    def ratio(self) -> float:
        return statistics.median(self.beside_per_s) / statistics.median(self.elsewhere_per_s)

    def rows(self) -> list[list[object]]:
        paces = (self.alone_per_s, self.elsewhere_per_s, self.beside_per_s)
        medians = ", ".join(f"{statistics.median(pace):,.0f}" for pace in paces)
        return [
            [f"{self.clients:,} idle clients: answered when they came, in {self.connected.seconds:.1f} s",
             f"{self.connected.clients:,}"],
            ["  answered when they asked once more", f"{self.asked_again.clients:,}"],
            ["  seconds until the last of these answers", f"{self.asked_again.seconds:.2f}"],
            ["  broker's RSS without, with, after them, MB",
             f"{self.before_mb:.0f}, {self.beside_mb:.0f}, {self.after_mb:.0f}"],
            ["  KiB a client", self.client_kib],
            ["  broker's CPU while they are idle, of a core", f"{self.cpu_share:.3f}"],
            ["  a campaign's messages/s: without them, with them at another broker, with them", medians],
        ]  # fmt: skip

    def bars(self) -> list[Bar]:
        return [
            Bar("idle: clients answered when they came", self.connected.clients, self.clients, True),
            Bar("idle: clients answered once more", self.asked_again.clients, self.clients, True),
            Bar("idle: KiB of the broker a client", self.client_kib, CLIENT_KIB_MAX, False),
            Bar("idle: broker's peak RSS, MB", self.peak_mb, MEMORY_MAX_MB, False),
            Bar("idle: broker's CPU, of a core", self.cpu_share, CPU_SHARE_MAX, False),
            Bar(
                "idle: pace of a campaign beside them / beside those of another broker",
                self.ratio,
                PACE_LEAST,
                True,
            ),
        ]


def measure(clients: int, messages: int, seconds: int) -> Idle:
    """Campaigns of `messages` each: without them, beside them, and without them again. `seconds`: how long
    the clients are idle and nothing else is done."""
    most = max(Limits().connections_max, clients + _SPARE_CONNECTIONS)
    broker = ("-m", "broker", "--client-connections-max", str(most))
    with paced_sinks([0.0]) as (sink,), cluster([sink.port], broker=broker) as made:
        _pace(made, messages)  # warm up
        alone = _paces(made, messages)
        with cluster([], broker=broker) as other, idle_clients(other.clients, clients):
            elsewhere = _paces(made, messages)
        before_mb = made.broker.rss_mb
        with idle_clients(made.clients, clients) as crowd:
            cpu_share = _cpu_share(made, seconds)
            beside = _paces(made, messages)
            asked_again = crowd.ask()
            beside_mb = made.broker.rss_mb
        _freed(made)
        after_mb = made.broker.rss_mb
        alone += _paces(made, messages)
        return Idle(
            clients, crowd.connected, asked_again, before_mb, beside_mb, made.broker.peak_rss_mb, after_mb,
            cpu_share, alone, elsewhere, beside,
        )  # fmt: skip


def _paces(made: Cluster, messages: int) -> list[float]:
    return [_pace(made, messages) for _ in range(_ROUNDS)]


def _pace(made: Cluster, messages: int) -> float:
    """Messages a second, from the submission's first byte to the last outcome."""
    began = time.monotonic()
    receipt = made.client.submit(newsletter(messages))
    final = made.client.wait(receipt.campaign, interval=0.05)
    assert final.counts == {"sent": receipt.recipients}, final
    return receipt.recipients / (time.monotonic() - began)


def _cpu_share(made: Cluster, seconds: int) -> float:
    used_s, began = made.broker.cpu_s, time.monotonic()
    time.sleep(seconds)
    return (made.broker.cpu_s - used_s) / (time.monotonic() - began)


def _freed(made: Cluster) -> None:
    """Waits until the broker has seen them go: its CPU is at rest."""
    end = time.monotonic() + _FREED_WITHIN_S
    used_s = -1.0
    while time.monotonic() < end and made.broker.cpu_s - used_s > 0.02:
        used_s = made.broker.cpu_s
        time.sleep(0.5)
