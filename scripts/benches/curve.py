"""What CURVE costs: the same campaign through a plain cluster and one with keys, in turn."""

import statistics
import time

from scripts.benches.processes import Cluster, cluster, newsletter, sink
from scripts.benches.table import Bar, Result

CONNECTIONS = 16
COST_PERCENT_MAX = 10


def measure(messages: int, rounds: int) -> Result:
    """Alternates; the median of the rounds' ratios counts, so that what else the machine does hits both."""
    campaign = newsletter(messages)
    with (
        sink() as port,
        cluster([port], CONNECTIONS) as plain,
        cluster([port], CONNECTIONS, curve=True) as curve,
    ):
        both = {"plain": plain, "CURVE": curve}
        speeds: dict[str, list[float]] = {name: [] for name in both}
        for made in both.values():
            _send(made, 2_000)  # warm up
        before = {name: _cpu_s(made) for name, made in both.items()}
        for number in range(rounds):
            for name in sorted(both, reverse=number % 2 == 0):
                began = time.monotonic()
                receipt = both[name].client.submit(campaign)
                final = both[name].client.wait(receipt.campaign, interval=0.05)
                assert final.counts == {"sent": messages}, final
                speeds[name].append(messages / (time.monotonic() - began))
        cpu_us = {
            name: (_cpu_s(made) - before[name]) / (messages * rounds) * 1e6 for name, made in both.items()
        }
    ratios = [b / a for a, b in zip(speeds["plain"], speeds["CURVE"], strict=True)]
    cost = (1 - statistics.median(ratios)) * 100
    rows = [
        [name, statistics.median(speeds[name]), min(speeds[name]), max(speeds[name]), cpu_us[name]]
        for name in both
    ]
    return Result(
        "throughput --curve",
        ["", "messages/s (median)", "least", "most", "CPU us a message"],
        [*rows, ["ratio, round by round", f"{statistics.median(ratios):.3f}", f"{min(ratios):.3f}",
                 f"{max(ratios):.3f}", f"{cpu_us['CURVE'] / cpu_us['plain']:.3f}"]],
        {"messages": messages, "rounds": rounds, "per_s": speeds, "ratios": ratios, "cpu_us": cpu_us},
        [Bar("cost of CURVE, percent", cost, COST_PERCENT_MAX, False)],
        ["CPU: broker and worker together, submission included."],
    )  # fmt: skip


def _send(made: Cluster, messages: int) -> None:
    receipt = made.client.submit(newsletter(messages))
    made.client.wait(receipt.campaign, interval=0.05)


def _cpu_s(made: Cluster) -> float:
    return made.broker.cpu_s + sum(worker.cpu_s for worker in made.workers)
