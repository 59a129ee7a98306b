"""How fast messages leave: Evenpost and Postfix's own load generator into the same sink, in turn."""

import statistics
import subprocess
import time

from client import Campaign
from scripts.benches import curve as cost_of_curve
from scripts.benches.processes import Cluster, cluster, message_bytes, newsletter, sink, tool
from scripts.benches.table import Bar, Result

CONNECTIONS = 16


def measure(messages: int, rounds: int, curve: bool) -> Result:
    """Evenpost and smtp-source into the same smtp-sink, alternating.

    Evenpost: one broker with its journal flushed to disk, one worker with 16 connections, Jinja2 in HTML and
    text, 5 KB a message; timed from the submission's first byte to the last outcome. smtp-source: -d -s 16
    -l 5000, which has no queue, no templates and no list. With --curve: Evenpost with keys against Evenpost
    without, instead.
    """
    if curve:
        return cost_of_curve.measure(messages, rounds)
    ours, theirs, submits = [], [], []
    campaign = newsletter(messages)
    with sink() as port, cluster([port], CONNECTIONS) as made:
        _send(made, newsletter(2_000))  # warm up: imports, connections, pace
        broker_s, worker_s = made.broker.cpu_s, made.workers[0].cpu_s
        for _ in range(rounds):
            began = time.monotonic()
            submits.append(_send(made, campaign))
            ours.append(messages / (time.monotonic() - began))
            theirs.append(_smtp_source(port, messages))
        broker_us = (made.broker.cpu_s - broker_s) / (messages * rounds) * 1e6
        worker_us = (made.workers[0].cpu_s - worker_s) / (messages * rounds) * 1e6
        broker_mb, worker_mb = made.broker.peak_rss_mb, made.workers[0].peak_rss_mb
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    ratio = statistics.median(ratios)
    size = message_bytes(campaign)
    return Result(
        "throughput",
        ["", "messages/s (median)", "least", "most"],
        [
            ["Evenpost, journal flushed, templates", statistics.median(ours), min(ours), max(ours)],
            ["smtp-source -d -s 16 -l 5000", statistics.median(theirs), min(theirs), max(theirs)],
            ["ratio, round by round", f"{ratio:.2f}", f"{min(ratios):.2f}", f"{max(ratios):.2f}"],
        ],
        {
            "messages": messages,
            "rounds": rounds,
            "message_bytes": size,
            "evenpost_per_s": ours,
            "smtp_source_per_s": theirs,
            "ratio": ratio,
            "ratios": ratios,
            "broker_cpu_us": broker_us,
            "worker_cpu_us": worker_us,
            "broker_rss_mb": broker_mb,
            "worker_rss_mb": worker_mb,
            "submit_s": submits,
        },
        [
            Bar("Evenpost / smtp-source", ratio, 1.0, True),
            Bar("broker CPU a message, us", broker_us, 15, False),
        ],
        [
            f"CPU a message: broker {broker_us:.1f} us, worker {worker_us:.1f} us, submission included.",
            f"Peak memory: broker {broker_mb:.0f} MB, worker {worker_mb:.0f} MB; {size:,} bytes a message.",
            f"Of each round, the submission took {statistics.median(submits):.2f} s (median).",
        ],
    )


def _send(made: Cluster, campaign: Campaign) -> float:
    """Sends all of it; the seconds that the submission took."""
    began = time.monotonic()
    receipt = made.client.submit(campaign)
    submitted = time.monotonic() - began
    final = made.client.wait(receipt.campaign, interval=0.05)
    assert final.counts == {"sent": receipt.recipients}, final
    return submitted


def _smtp_source(port: int, messages: int) -> float:
    command = [tool("smtp-source"), "-d", "-s", str(CONNECTIONS), "-l", "5000", "-m", str(messages)]
    began = time.monotonic()
    subprocess.run([*command, f"127.0.0.1:{port}"], check=True)
    return messages / (time.monotonic() - began)
