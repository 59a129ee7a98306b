"""What floods cost others: a campaign's pace with and without each, in turn, in one run."""

import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from client import Campaign
from scripts.benches.processes import ROOT, Cluster, cluster, newsletter, sink
from scripts.benches.table import Bar, Result
from tests.servers.attackers import ATTACKS

SETTLE_S = 0.5
"""An attack is under way this long before the campaign begins."""


def measure(messages: int, rounds: int, attack: str) -> Result:
    """A campaign alone, then beside a flood of both endpoints, then alone again, and so on (A B A B).

    The attackers are processes on the same two cores, at the lowest priority (nice 19) and with a bounded
    rate: 2,000 messages a second on each endpoint, or fewer where each is a connection or has megabytes. So
    what is measured is what a flood costs the broker, not what it costs to make one.
    """
    kinds = list(ATTACKS) if attack == "all" else [attack]
    found: dict[str, list[float]] = {}
    alone_all: list[float] = []
    with sink() as port, cluster([port]) as made:
        campaign = newsletter(messages)
        _pace(made, newsletter(5_000))  # warm up
        for kind in kinds:
            ratios = []
            for _ in range(rounds):
                before = _pace(made, campaign)
                with _attacked(made, kind):
                    beside = _pace(made, campaign)
                after = _pace(made, campaign)
                ratios.append(beside / statistics.mean((before, after)))
                alone_all += [before, after]
            found[kind] = ratios
        peak_mb = made.broker.peak_rss_mb
    medians = {kind: statistics.median(ratios) for kind, ratios in found.items()}
    return Result(
        "hostile",
        ["flood", "pace beside it / alone (median)", "least", "most"],
        [
            [kind, f"{medians[kind]:.2f}", f"{min(ratios):.2f}", f"{max(ratios):.2f}"]
            for kind, ratios in found.items()
        ],
        {"messages": messages, "ratios": found, "alone_per_s": alone_all, "broker_rss_mb": peak_mb},
        [
            *(Bar(f"pace beside {kind} / alone", ratio, 0.8, True) for kind, ratio in medians.items()),
            Bar("broker's peak RSS, MB", peak_mb, 600, False),
        ],
        [
            f"Alone: {statistics.median(alone_all):,.0f} messages/s. Broker's peak RSS: {peak_mb:.0f} MB.",
            "Attackers: two processes, nice 19, at most 2,000 messages a second each.",
        ],
    )


def _pace(made: Cluster, campaign: Campaign) -> float:
    """Messages a second, from the submission's first byte to the last outcome."""
    began = time.monotonic()
    receipt = made.client.submit(campaign)
    final = made.client.wait(receipt.campaign, interval=0.05)
    assert final.counts == {"sent": receipt.recipients}, final
    return receipt.recipients / (time.monotonic() - began)


@contextmanager
def _attacked(made: Cluster, kind: str) -> Iterator[None]:
    command = [sys.executable, "-m", "tests.servers.attackers", kind]
    endpoints = [endpoint.removeprefix("tcp://") for endpoint in (made.clients, made.worker_endpoint)]
    processes = [subprocess.Popen([*command, endpoint], cwd=ROOT) for endpoint in endpoints]
    try:
        time.sleep(SETTLE_S)
        yield
        assert all(process.poll() is None for process in processes), "an attacker gave up"
    finally:
        for process in processes:
            process.kill()
            process.wait()
