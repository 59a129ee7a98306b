"""A whole installation in virtual time: broker, workers, servers, clients, network. One seed, one history."""

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from broker.core.balancer import Balancer
from broker.core.dispatcher import Dispatcher
from broker.core.settings import Settings
from evenpost.wire.messages import Options
from scripts.simulation.broker_host import BrokerHost, BrokerSettings, Dispatchers
from scripts.simulation.client import ClientHost, Submission
from scripts.simulation.clock import Clock
from scripts.simulation.disk import Disk, MemoryDisk, SqliteDisk
from scripts.simulation.network import Latency, Network
from scripts.simulation.servers import Behaviour, Server
from scripts.simulation.watch import Watch
from scripts.simulation.worker_host import WorkerHost, WorkerSettings


class World:
    """Build it, let it run, look at it.

        world = World(seed=1)
        relay = world.server("relay", Behaviour(service=exponential(0.04)))
        world.worker(WorkerSettings("w1", max_connections=20), relay)
        campaign = world.submit(10_000)
        world.run_until_done(limit_s=600)
        print(world.time, len(relay.taken))

    Each part of it has its own source of chance, so that a change in one leaves the others' alone.
    """

    def __init__(
        self,
        seed: int,
        settings: BrokerSettings | None = None,
        *,
        watch: Watch | None = None,
        latency: Latency | None = None,
        sqlite: Path | None = None,
        dispatchers: Dispatchers = Dispatcher,
        balancers: Callable[[Settings], Balancer] | None = None,
        skewed: bool = False,
        encodes: bool = False,
    ) -> None:
        """`sqlite`: the path of a real journal; else one in memory. `skewed`: machines' clocks differ.
        `encodes`: what is said goes through the bytes of the protocol: slower, and nearer to the truth."""
        self.seed = seed
        self.clock = Clock()
        self.watch = watch or Watch()
        self.watch.world = self
        self.rng = self._chance("world")
        self.network = Network(self.clock, self._chance("network"), latency, encodes=encodes)
        self._skewed = skewed
        disk: Disk = MemoryDisk(self._chance("disk")) if sqlite is None else SqliteDisk(sqlite)
        self.broker = BrokerHost(
            settings or BrokerSettings(),
            disk,
            self.clock,
            self.network,
            self._chance("broker"),
            self.watch,
            dispatchers=dispatchers,
            balancers=balancers,
            **self._clocks(),
        )
        self.broker.start()
        self.servers: list[Server] = []
        self.workers: list[WorkerHost] = []
        self.client = ClientHost(
            "client", self.clock, self.network, self._chance("client"), self.broker.clients
        )

    def _chance(self, what: str) -> random.Random:
        return random.Random(f"{self.seed} {what}")  # noqa: S311  # repeatable on purpose

    def _clocks(self) -> dict[str, Any]:
        if not self._skewed:
            return {}
        return {"boot_s": self.rng.uniform(0, 1e6), "skew_ms": int(self.rng.uniform(-3_000, 3_000))}

    @property
    def time(self) -> float:
        """Seconds since the beginning."""
        return self.clock.time

    def server(self, name: str, behaviour: Behaviour | None = None) -> Server:
        server = Server(name, self.clock, self._chance(f"server {name}"), behaviour)
        server.on_taken = self.watch.took
        self.servers.append(server)
        return server

    def worker(self, settings: WorkerSettings, server: Server, *, start: bool = True) -> WorkerHost:
        worker = WorkerHost(settings, server, self.clock, self.network, self.watch, **self._clocks())
        self.workers.append(worker)
        if start:
            worker.start(self.broker.workers)
        return worker

    def submit(
        self,
        recipients: int | Sequence[str],
        options: Options | None = None,
        *,
        chunk_rows: int = 1_000,
    ) -> Submission:
        """A client submits a campaign, from now on. A number of recipients: so many of as many domains."""
        if isinstance(recipients, int):
            recipients = [f"u{n}@d{n % 97}.example" for n in range(recipients)]
        return self.client.submit(recipients, options, chunk_rows=chunk_rows)

    def at(self, time: float, do: Callable[[], object]) -> None:
        self.clock.at(time, lambda: void(do()))

    def run(self, until: float) -> None:
        self.clock.run(until)

    def run_until_done(self, limit_s: float) -> bool:
        """Until every campaign has ended, and all outcomes are confirmed. False where the time is over."""
        return self.clock.run(limit_s, self.is_done)

    def is_done(self) -> bool:
        if not self.broker.host.up or not self.broker.queue.idle or self.broker.core.state.campaigns:
            return False
        if any(s.accepted_at is None and not s.refused for s in self.client.submissions):
            return False
        return all(not worker.session.batches and not len(worker.log) for worker in self.workers)


def void(_: object) -> None:
    """For a callback whose result nobody wants."""
