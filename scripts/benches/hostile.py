"""What floods cost others: a campaign's pace beside each, against the same flood that goes elsewhere."""

import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from client import Campaign
from scripts.benches.processes import ROOT, Cluster, cluster, newsletter, sink, wait_for_port
from scripts.benches.table import Bar, Result
from tests.servers.attackers import ATTACKS
from tests.servers.ports import free_port

SETTLE_S = 0.5
"""An attack is under way this long before the campaign begins."""


def measure(messages: int, rounds: int, attack: str) -> Result:
    """A campaign alone, beside a flood that goes elsewhere, beside the same flood of both endpoints of the
    broker, and beside the one that goes elsewhere again; and so on.

    The attackers are processes on the same two cores, at the lowest priority (nice 19) and with a bounded
    rate: 2,000 messages a second on each endpoint, or fewer where each is a connection or has megabytes. In
    life they are on other machines; here to make a flood, and to carry it over the loopback, costs others
    as well, whoever it is for. So the bar is held against the pace beside the same attackers when a process
    that isn't Evenpost takes what they send, looks at nothing and answers nothing (nice 19, awake 100 times
    a second). That ratio is what the flood costs the broker. The ratio to the pace with no attacker at all
    is in the table, too, and has no bar.
    """
    kinds = list(ATTACKS) if attack == "all" else [attack]
    found: dict[str, list[float]] = {}
    raw: dict[str, list[float]] = {}
    alone_all: list[float] = []
    with sink() as port, _elsewhere() as elsewhere, cluster([port]) as made:
        campaign = newsletter(messages)
        ours = [endpoint.removeprefix("tcp://") for endpoint in (made.clients, made.worker_endpoint)]
        _pace(made, newsletter(5_000))  # warm up
        for kind in kinds:
            ratios, raw_ratios = [], []
            for _ in range(rounds):
                alone = _pace(made, campaign)
                paces = []
                for endpoints in (elsewhere, ours, elsewhere):
                    with _attacked(endpoints, kind):
                        paces.append(_pace(made, campaign))
                before, beside, after = paces
                ratios.append(beside / statistics.mean((before, after)))
                raw_ratios.append(beside / alone)
                alone_all.append(alone)
            found[kind], raw[kind] = ratios, raw_ratios
        peak_mb = made.broker.peak_rss_mb
    medians = {kind: statistics.median(ratios) for kind, ratios in found.items()}
    return Result(
        "hostile",
        ["flood", "pace beside it / beside it elsewhere (median)", "least", "most", "/ alone (median)"],
        [
            [
                kind,
                f"{medians[kind]:.2f}",
                f"{min(ratios):.2f}",
                f"{max(ratios):.2f}",
                f"{statistics.median(raw[kind]):.2f}",
            ]
            for kind, ratios in found.items()
        ],
        {
            "messages": messages,
            "ratios": found,
            "ratios_to_alone": raw,
            "alone_per_s": alone_all,
            "broker_rss_mb": peak_mb,
        },
        [
            *(Bar(f"pace beside {kind} / elsewhere", ratio, 0.8, True) for kind, ratio in medians.items()),
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
def _attacked(endpoints: list[str], kind: str) -> Iterator[None]:
    command = [sys.executable, "-m", "tests.servers.attackers", kind]
    processes = [subprocess.Popen([*command, endpoint], cwd=ROOT) for endpoint in endpoints]
    try:
        time.sleep(SETTLE_S)
        yield
        assert all(process.poll() is None for process in processes), "an attacker gave up"
    finally:
        for process in processes:
            process.kill()
            process.wait()


@contextmanager
def _elsewhere() -> Iterator[list[str]]:
    """Two endpoints that take whatever is sent to them: who attacks them attacks nobody."""
    ports = [free_port(), free_port()]
    command = [sys.executable, "-m", "tests.servers.discard", *map(str, ports)]
    process = subprocess.Popen(command, cwd=ROOT)
    try:
        for port in ports:
            wait_for_port(port)
        yield [f"127.0.0.1:{port}" for port in ports]
    finally:
        process.kill()
        process.wait()
