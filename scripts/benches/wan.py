"""How fast messages leave for a server that is far away: round trips, not work, are what it costs."""

import statistics
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import click

from scripts.benches.processes import Cluster, cluster, message_bytes, newsletter, sink, tool
from scripts.benches.table import Bar, Result
from scripts.benches.wan_proxy import link
from tests.servers import PostfixServer
from tests.servers.packages import POSTFIX, missing

CONNECTIONS = 16
BAR_MS = 50
ROUND_TRIPS = 4
"""That smtp-source takes for a message: MAIL, RCPT, DATA, content."""
DISCARDS = {"smtpd_recipient_restrictions": "check_recipient_access static:DISCARD"}
"""Postfix reads and answers as always; its cleanup throws the message away in the end, without a flush."""


@dataclass(frozen=True)
class Kind:
    name: str
    bar: float
    """At least so many times as fast as smtp-source."""


KINDS = {
    "postfix": Kind("Postfix, CHUNKING", 12.0),
    "smtp-sink": Kind("smtp-sink, no CHUNKING", 3.5),
}


def measure(server: str, delays: str, seconds: int, rounds: int) -> Result:
    """Evenpost and smtp-source into the same server behind a proxy that delays each way, alternating.

    The servers: Postfix's smtpd, which has CHUNKING and is told to discard, and smtp-sink, which hasn't. Both
    contestants have 16 connections and 5 KB messages; smtp-source: -d -s 16 -l 5000. Evenpost is timed from
    the submission's first byte to the last outcome. Each has as many messages as should take it --seconds.
    """
    chosen = list(KINDS) if server == "all" else [server]
    try:
        each_way = [int(delay) for delay in delays.split(",")]
    except ValueError:
        raise click.BadParameter("milliseconds with commas", param_hint="'--delays'") from None
    rows, bars = [], []
    figures: dict[str, object] = {"seconds": seconds, "rounds": rounds}
    for name in chosen:
        kind = KINDS[name]
        with _server(name) as port:
            for ms in each_way:
                ours, theirs = _race(port, ms, kind, seconds, rounds)
                ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
                ratio = statistics.median(ratios)
                rows.append(
                    [f"{kind.name}, {ms} ms", statistics.median(ours), statistics.median(theirs),
                     f"{ratio:.2f}", f"{min(ratios):.2f}", f"{max(ratios):.2f}"]
                )  # fmt: skip
                figures[f"{name}_{ms}"] = {
                    "evenpost_per_s": ours,
                    "smtp_source_per_s": theirs,
                    "ratio": ratio,
                }
                if ms == BAR_MS:
                    bars.append(Bar(f"{kind.name}, {ms} ms each way: ratio", ratio, kind.bar, True))
    size = message_bytes(newsletter(2))
    figures["message_bytes"] = size
    return Result(
        "wan",
        ["server, each way", "Evenpost/s", "smtp-source/s", "ratio", "least", "most"],
        rows,
        figures,
        bars,
        [f"{CONNECTIONS} connections, {size:,} bytes a message; smtp-source: {ROUND_TRIPS} round trips."],
    )


@contextmanager
def _server(name: str) -> Iterator[int]:
    if name == "smtp-sink":
        with sink() as port:
            yield port
        return
    if reason := missing(POSTFIX):
        raise click.ClickException(reason)
    with PostfixServer(settings=DISCARDS) as postfix:
        yield postfix.port


def _race(port: int, ms: int, kind: Kind, seconds: int, rounds: int) -> tuple[list[float], list[float]]:
    """Messages a second of both, round by round."""
    one_way_s = ms / 1000
    expected = CONNECTIONS / (ROUND_TRIPS * 2 * one_way_s)
    ours, theirs = [], []
    with link(one_way_s, port) as far, cluster([far], CONNECTIONS) as made:
        _send(made, CONNECTIONS * 20)  # warm up: connections, pace
        for _ in range(rounds):
            ours.append(_send(made, int(expected * kind.bar * seconds)))
            theirs.append(_smtp_source(far, int(expected * seconds)))
    return ours, theirs


def _send(made: Cluster, messages: int) -> float:
    campaign = newsletter(messages)
    began = time.monotonic()
    receipt = made.client.submit(campaign)
    final = made.client.wait(receipt.campaign, interval=0.05)
    assert final.counts == {"sent": messages}, final
    return messages / (time.monotonic() - began)


def _smtp_source(port: int, messages: int) -> float:
    command = [tool("smtp-source"), "-d", "-s", str(CONNECTIONS), "-l", "5000", "-m", str(messages)]
    began = time.monotonic()
    subprocess.run([*command, f"127.0.0.1:{port}"], check=True)
    return messages / (time.monotonic() - began)
