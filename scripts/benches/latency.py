"""How long a single message takes: from the call that submits it to the server's 250."""

import os
import random
import statistics
import tempfile
import time
from collections.abc import Sequence

from scripts.benches.paced_sink import STAMPED_DOMAIN, PacedSink, paced_sinks
from scripts.benches.processes import ROOT, Cluster, cluster, newsletter
from scripts.benches.table import Bar, Result

SERVERS, CONNECTIONS = 3, 20
BULK_SERVICE_S = 0.03
"""What a message takes on one of a server's connections: 2,000 a second in all, so that two cores aren't
the limit."""
_PAUSE_S = (0.02, 0.06)
"""Between two single messages, at random: nothing falls in step with a tick of the broker."""
_FLUSHES = 100


def measure(samples: int) -> Result:
    """Single messages of priority 9, alone and beside a newsletter that has every connection.

    A broker with its journal flushed to disk, three servers with a worker of 20 connections each. Timed from
    the client's call to the server's 250, by the same clock; the call returns when the message is on disk.
    Alone, the servers answer at once: what is left is Evenpost's own. Beside the newsletter, each message,
    single or bulk, takes 30 ms on its connection; those are in the figures.
    """
    rows: list[Sequence[object]] = []
    figures: dict[str, object] = {"samples": samples}
    with paced_sinks([0.0] * SERVERS) as sinks, cluster([s.port for s in sinks], CONNECTIONS) as made:
        _singles(made, sinks, 20, "w")  # connections, imports, templates
        cpu = made.broker.cpu_s
        calls_ms, idle_ms = _singles(made, sinks, samples, "i")
        broker_ms = (made.broker.cpu_s - cpu) / samples * 1e3
    rows.append(_row(figures, "idle: call to 250", "idle", idle_ms))
    rows.append(_row(figures, "idle: call to its return", "idle_call", calls_ms))
    services = [BULK_SERVICE_S] * SERVERS
    with paced_sinks(services) as sinks, cluster([s.port for s in sinks], CONNECTIONS) as made:
        receipt = made.client.submit(newsletter(2_000 + 200 * samples))
        while sum(sink.seen().messages for sink in sinks) < 1_500:
            time.sleep(0.05)
        before, began = sum(sink.seen().messages for sink in sinks), time.monotonic()
        calls_ms, bulk_ms = _singles(made, sinks, samples, "b")
        seconds = time.monotonic() - began
        rate = (sum(sink.seen().messages for sink in sinks) - before) / seconds
        busy = rate * BULK_SERVICE_S / (SERVERS * CONNECTIONS)
        assert made.client.status(receipt.campaign).state == "running", "the newsletter ended too early"
        made.client.cancel(receipt.campaign)
    rows.append(_row(figures, "bulk: call to 250", "bulk", bulk_ms))
    rows.append(_row(figures, "bulk: call to its return", "bulk_call", calls_ms))
    flush_ms = _disk_flush_ms()
    figures |= {"flush_ms": flush_ms, "bulk_per_s": rate, "bulk_busy": busy, "broker_cpu_ms": broker_ms}
    return Result(
        "latency",
        ["ms", "p50", "p90", "p99", "most"],
        rows,
        figures,
        [
            Bar("idle, p50, ms", statistics.median(idle_ms), 10, False),
            Bar("beside bulk, p99, ms", _quantile(bulk_ms, 0.99), 250, False),
            Bar("beside bulk, connections busy, %", busy * 100, 90, True),
        ],
        [
            f"{samples} single messages each; one costs the broker {broker_ms:.1f} ms of CPU.",
            f"A bare flush of 8 KB takes this disk {flush_ms:.1f} ms (median of {_FLUSHES}): a floor.",
            f"Bulk: {rate:,.0f} messages/s kept {busy:.0%} of all connections busy.",
        ],
    )


def _singles(
    made: Cluster, sinks: list[PacedSink], samples: int, prefix: str
) -> tuple[list[float], list[float]]:
    """Sends so many, one after another. Milliseconds from each call to its return, and to the 250."""
    began: dict[str, float] = {}
    calls = []
    for number in range(samples):
        address = f"{prefix}{number}@{STAMPED_DOMAIN}"
        began[address] = time.monotonic()
        made.client.send(
            to=address,
            sender="a@example.com",
            subject="Your code",
            text="It is {{ code }}.",
            values={"code": 7},
        )
        calls.append((time.monotonic() - began[address]) * 1e3)
        time.sleep(random.uniform(*_PAUSE_S))  # noqa: S311  # not a secret
    end = time.monotonic() + 30
    while True:
        stamps = {address: at for sink in sinks for address, (_, at) in sink.seen().stamps.items()}
        if began.keys() <= stamps.keys():
            return calls, [(stamps[address] - at) * 1e3 for address, at in began.items()]
        assert time.monotonic() < end, f"{len(began.keys() - stamps.keys())} single messages didn't arrive"
        time.sleep(0.05)


def _disk_flush_ms() -> float:
    """What the disk under the journal takes for one small flush, just now."""
    times = []
    with tempfile.NamedTemporaryFile(dir=ROOT, prefix=".bench-") as file:
        for _ in range(_FLUSHES):
            os.write(file.fileno(), bytes(8_192))
            began = time.monotonic()
            os.fdatasync(file.fileno())
            times.append((time.monotonic() - began) * 1e3)
            time.sleep(_PAUSE_S[0])
    return statistics.median(times)


def _row(figures: dict[str, object], title: str, name: str, values: list[float]) -> list[object]:
    found = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
    quantiles = {key: _quantile(values, part) for key, part in found.items()}
    figures[f"{name}_ms"] = quantiles
    return [title, *quantiles.values()]


def _quantile(values: list[float], part: float) -> float:
    """The smallest value that so large a part of all doesn't exceed."""
    return sorted(values)[max(0, -int(-part * len(values) // 1) - 1)]
