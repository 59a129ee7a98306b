"""What many workers cost the broker."""

import time
from contextlib import ExitStack

from scripts.benches.played_workers import played_workers
from scripts.benches.processes import Cluster, cluster, newsletter
from scripts.benches.table import Bar, Result
from scripts.benches.throughput import send
from scripts.benches.usage import Cost, Spread

COUNTS = (10, 100, 1_000)
CONNECTIONS = 1_000
"""Of all workers together: what is in flight is the same however many they are."""
RATIO_MAX = 1.3
_BROKER = ("-m", "broker", "--worker-connections-max", "2000")


def measure(messages: int, rounds: int, idle_seconds: int) -> Result:
    """The broker's CPU a message with 10, 100 and 1,000 workers, in turn, the journal flushed.

    The workers are played: one process that has a real connection and speaks the real protocol for each of
    them, with 1,000 connections to servers in all. A message takes 4 ms on a connection, batches have 50, and
    outcomes are told as often as workers tell them. Each count has a broker of its own. The submission is in
    the figures, and so are the heartbeats, one a second and worker; what those cost is also told alone, from
    a while in which nothing is sent. What the played workers use is not.
    """
    costs = {count: Cost(f"{count:,} workers") for count in COUNTS}
    idle: dict[int, float] = {}
    with ExitStack() as stack:
        clusters: dict[int, Cluster] = {}
        for count in COUNTS:
            made = clusters[count] = stack.enter_context(cluster([], broker=_BROKER))
            stack.enter_context(played_workers(made.worker_endpoint, count, CONNECTIONS // count))
            send(made, newsletter(min(10_000, messages)))  # warm up: pace, templates
        for count, made in clusters.items():
            used_s = made.broker.cpu_s
            time.sleep(idle_seconds)
            idle[count] = (made.broker.cpu_s - used_s) / idle_seconds
        for _ in range(rounds):
            for count, made in clusters.items():
                with costs[count].round(messages, {"broker": made.broker.pid}):
                    send(made, newsletter(messages))
    least, most = min(COUNTS), max(COUNTS)
    pairs = zip(costs[most].cpu_us["broker"], costs[least].cpu_us["broker"], strict=True)
    ratios = [many / few for many, few in pairs]
    ratio = Spread.of(ratios)
    speeds = {count: Spread.of(cost.per_s) for count, cost in costs.items()}
    return Result(
        "workers",
        ["", "broker, us a message", "messages/s", "idle, % of a core", "idle, us a heartbeat"],
        [
            [f"{count:,} workers", cost.us("broker"), speeds[count].median, idle[count] * 100,
             (idle[count] - idle[least]) / (count - least) * 1e6 if count > least else ""]
            for count, cost in costs.items()
        ],
        {
            "messages": messages,
            "rounds": rounds,
            "broker_us": {count: cost.us("broker") for count, cost in costs.items()},
            "idle_cores": idle,
            "ratio": ratio.median,
            "ratios": ratios,
        },
        [Bar(f"{most:,} workers / {least}", ratio.median, RATIO_MAX, False)],
        [f"{most:,} workers / {least}, round by round: {ratio}."],
        list(costs.values()),
    )  # fmt: skip
