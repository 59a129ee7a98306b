"""From a seed to a small installation and its campaigns: everything that can be set is set somehow."""

import random
from collections.abc import Callable
from pathlib import Path

from broker.core.dispatcher import Dispatcher
from broker.core.settings import DomainGroup, Settings
from evenpost.wire.messages import Options
from scripts.simulation.broker_host import BrokerSettings, Dispatchers
from scripts.simulation.client import Submission
from scripts.simulation.clock import EPOCH_MS
from scripts.simulation.invariants import Checker
from scripts.simulation.network import Latency
from scripts.simulation.pool import Limits
from scripts.simulation.servers import Behaviour, constant, exponential, lognormal
from scripts.simulation.worker_host import WorkerSettings
from scripts.simulation.world import World

MESSAGES_MAX = 250
"""Of one campaign: seeds are many, and so each has to be small."""
LIMITS = Limits(messages_max=20, idle_s=3.0, greeting_s=4.0, envelope_s=4.0, dot_s=8.0)
"""Shorter than RFC 5321's, or nothing would ever time out in a run of two minutes."""
DOMAINS = ("gmail.com", "googlemail.com", "a.example", "b.example", "c.example")


def build(seed: int, *, sqlite: Path | None = None, dispatchers: Dispatchers = Dispatcher) -> World:
    """The world of a seed, at time 0, its campaigns on their way in."""
    rng = random.Random(f"{seed} scenario")  # noqa: S311  # repeatable on purpose
    world = World(
        seed,
        _broker(rng),
        watch=Checker(),
        latency=Latency(rng.choice([0.0, 0.001]), rng.choice([0.0005, 0.005, 0.05])),
        sqlite=sqlite,
        dispatchers=dispatchers,
        skewed=True,
        encodes=True,
    )
    for n in range(rng.randint(1, 4)):
        behaviour = _behaviour(rng)
        server = world.server(f"relay{n}", behaviour)
        if rng.random() < 0.2:
            server.set_external(rng.randint(0, 3))
        for m in range(rng.choice([1, 1, 1, 2])):
            world.worker(_worker(rng, f"w{n}.{m}", first=n == 0), server)
    for n in range(rng.choice([1, 1, 2, 3])):
        size = rng.choice([1, rng.randint(2, 30), rng.randint(30, MESSAGES_MAX)])
        recipients = [f"u{i}@{_domain(rng)}" for i in range(size)]
        options = _options(rng, f"n{n}")
        world.at(rng.choice([0.0, rng.uniform(0, 20)]), _submits(world, recipients, options))
    return world


def _submits(world: World, recipients: list[str], options: Options) -> Callable[[], Submission]:
    return lambda: world.submit(recipients, options, chunk_rows=25)


def _broker(rng: random.Random) -> BrokerSettings:
    domains: tuple[DomainGroup, ...] = ()
    if rng.random() < 0.4:
        connections, rate = rng.choice([(1, ""), (2, "10/s"), (0, "10/s"), (0, "20/s, 60/10s"), (1, "20/s")])
        domains = (
            DomainGroup(
                "google",
                names=frozenset({"gmail.com"}),
                mx=rng.choice([(), ("google.com",)]),
                connections=connections,
                rate=rate,
            ),
        )
    core = Settings(
        heartbeat_s=1.0,
        lease_s=5.0,
        retry_initial_s=2.0,
        retry_max_s=8.0,
        batch_target_s=rng.choice([0.2, 1.0]),
        page_rows=rng.choice([10, 20, 50]),
        policy=rng.choice(["least-connections", "least-time"]),
        slow_start_s=rng.choice([0.0, 5.0]),
        reserved_share=rng.choice([0.0, 0.01, 0.2]),
        domains=domains,
        dispatch_log_s=10.0,
    )
    return BrokerSettings(
        core,
        turn_s=rng.choice([0.0, 0.0005, 0.01]),
        flush_s=rng.choice([(0.0005, 0.003), (0.005, 0.1), (0.0, 0.5)]),
        tick_s=0.2,
        mx=lambda domain: "aspmx.google.com" if domain == "googlemail.com" else f"mx.{domain}",
        mx_s=rng.choice([0.01, 1.0]),
    )


def _behaviour(rng: random.Random) -> Behaviour:
    mean = rng.choice([0.005, 0.05, 0.2, 1.0])
    return Behaviour(
        service=rng.choice([exponential, lognormal, constant])(mean),
        connect_s=rng.choice([0.001, 0.05]),
        connections_max=rng.choice([0, 0, 0, 2, 4]),
        over_limit=rng.choice(["421", "refuse"]),
        rate_max=rng.choice([0, 0, 0, 5, 20]),
        deferrals=rng.choice([0.0, 0.1, 0.3]),
        bounces=rng.choice([0.0, 0.05]),
        drops=rng.choice([0.0, 0.0, 0.05]),
        capacity=rng.choice([0, 0, 2]),
    )


def _worker(rng: random.Random, name: str, *, first: bool) -> WorkerSettings:
    return WorkerSettings(
        name,
        max_connections=rng.randint(1, 5),
        weight=rng.choice([100, 100, 50, 200]),
        # There is one worker of each pool at least, or a campaign might have nobody.
        pools=("a", "b") if first else rng.choice([(), ("a",), ("b",), ("a", "b")]),
        rate=rng.choice(["", "", "", "5/s", "20/s, 60/15s", "10/s, 200/min"]),
        sees_external=rng.random() < 0.7,
        drain_timeout_s=10.0,
        limits=LIMITS,
    )


def _domain(rng: random.Random) -> str:
    return rng.choice(DOMAINS)


def _options(rng: random.Random, name: str) -> Options:
    pool = rng.choice([None, None, "a", "b"])
    return Options(
        name=name,
        priority=rng.choice([4, 4, 1, 7, 9]),
        pool=pool,
        overflow=rng.choice([None, "b"]) if pool == "a" else None,
        weight=rng.choice([100, 100, 300]),
        rate=rng.choice(["", "", "", "8/s", "10/s, 30/15s"]),
        window=rng.choice(["", "", "", "13:47-23:00 UTC"]),
        on_unknown=rng.choice(["resend", "resend", "hold"]),
        start_at=rng.choice([None, None, EPOCH_MS + 5_000]),
        expire_at=rng.choice([None, None, None, None, EPOCH_MS + 60_000]),
    )
