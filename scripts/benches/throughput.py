"""How fast messages leave: Evenpost and Postfix's own load generator into the same sink, in turn."""

import time

import click

from client import Campaign
from scripts.benches import curve as cost_of_curve
from scripts.benches.processes import Cluster, cluster, message_bytes, newsletter, smtp_sink, tool
from scripts.benches.table import Bar, Result
from scripts.benches.usage import Cost, Spread, run

CONNECTIONS = 16
RATIO_MIN = 1.5
BROKER_US_MAX = 8
WORKER_US_MAX = 45


def measure(messages: int, rounds: int, workers: int, curve: bool) -> Result:
    """Evenpost and smtp-source into the same smtp-sink, alternating.

    Evenpost: one broker with its journal flushed to disk, one worker with 16 connections (or --workers that
    share them), Jinja2 in HTML and text, 5 KB a message; timed from the submission's first byte to the last
    outcome. smtp-source: -d -s 16 -l 5000, which has no queue, no templates and no list. CPU counts the
    submission too. With --curve: Evenpost with keys against Evenpost without, instead.
    """
    if curve:
        return cost_of_curve.measure(messages, rounds)
    if CONNECTIONS % workers:
        raise click.UsageError(f"{workers} workers can't share {CONNECTIONS} connections evenly")
    ours, theirs = Cost("Evenpost"), Cost("smtp-source")
    submits = []
    campaign = newsletter(messages)
    with smtp_sink() as (port, sink), cluster([port] * workers, CONNECTIONS // workers) as made:
        send(made, newsletter(2_000))  # warm up: imports, connections, pace
        for _ in range(rounds):
            with ours.round(messages, made.pids | {"sink": sink.pid}):
                submits.append(send(made, campaign))
            with theirs.round(messages, {"sink": sink.pid}) as their:
                their.ended["smtp-source"] = run(smtp_source(port, messages))
    ratios = [a / b for a, b in zip(ours.per_s, theirs.per_s, strict=True)]
    ratio = Spread.of(ratios)
    worker = "worker" if workers == 1 else "workers"
    broker_us, worker_us = ours.us("broker"), ours.us(worker)
    size = message_bytes(campaign)
    speeds = {
        "Evenpost, journal flushed, templates": Spread.of(ours.per_s),
        "smtp-source -d -s 16 -l 5000": Spread.of(theirs.per_s),
    }
    return Result(
        "throughput",
        ["messages/s", "median", "least", "most"],
        [
            *([name, spread.median, spread.least, spread.most] for name, spread in speeds.items()),
            ["ratio, round by round", f"{ratio.median:.2f}", f"{ratio.least:.2f}", f"{ratio.most:.2f}"],
        ],
        {
            "messages": messages,
            "rounds": rounds,
            "workers": workers,
            "message_bytes": size,
            "evenpost_per_s": ours.per_s,
            "smtp_source_per_s": theirs.per_s,
            "ratio": ratio.median,
            "ratios": ratios,
            "broker_cpu_us": broker_us,
            "worker_cpu_us": worker_us,
            "broker_rss_mb": ours.rss_mb["broker"],
            "worker_rss_mb": ours.rss_mb[worker],
            "submit_s": submits,
        },
        [
            Bar("Evenpost / smtp-source", ratio.median, RATIO_MIN, True),
            Bar("broker CPU a message, us", broker_us, BROKER_US_MAX, False),
            Bar("worker CPU a message, us", worker_us, WORKER_US_MAX, False),
        ],
        [
            f"{size:,} bytes a message. The submission took {Spread.of(submits).median:.2f} s of each round.",
        ],
        [ours, theirs],
    )


def send(made: Cluster, campaign: Campaign) -> float:
    """Sends all of it; the seconds that the submission took."""
    began = time.monotonic()
    receipt = made.client.submit(campaign)
    submitted = time.monotonic() - began
    final = made.client.wait(receipt.campaign, interval=0.05)
    assert final.counts == {"sent": receipt.recipients}, final
    return submitted


def smtp_source(port: int, messages: int) -> list[str]:
    sessions = ["-s", str(CONNECTIONS), "-l", "5000", "-m", str(messages)]
    return [tool("smtp-source"), "-d", *sessions, f"127.0.0.1:{port}"]
