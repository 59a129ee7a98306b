"""How long a single message takes: from the call that submits it to the server's 250."""

import os
import random
import statistics
import tempfile
import time

from scripts.benches.paced_sink import STAMPED_DOMAIN, PacedSink, paced_sinks
from scripts.benches.processes import ROOT, Cluster, cluster, newsletter
from scripts.benches.table import Bar, Result
from scripts.benches.usage import Cost, Spread

SERVERS, CONNECTIONS = 3, 20
BULK_SERVICE_S = 0.03
"""What a message takes on one of a server's connections: 2,000 a second in all, so that two cores aren't
the limit."""
_PAUSE_S = (0.02, 0.06)
"""Between two single messages, at random: nothing falls in step with a tick of the broker."""
_FLUSHES = 100
IDLE_P50_MS_MAX = 5
_SHOWN = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}


def measure(samples: int, rounds: int) -> Result:
    """Single messages of priority 9, alone and beside a newsletter that has every connection, in turn.

    A broker with its journal flushed to disk, three servers with a worker of 20 connections each. Timed from
    the client's call to the server's 250, by the same clock; the call returns when the message is on disk.
    They have one template, as a program's messages do; how long it takes where each has one of its own, which
    client and worker then have to compile, is told too. Alone, the servers answer at once: what is left
    is Evenpost's own. Beside the newsletter, each message, single or bulk, takes 30 ms on its connection;
    those are in the figures. --samples of each kind, in --rounds parts.
    """
    part = -(-samples // rounds)
    idle, anew, bulk = _Times("idle"), _Times("idle, new templates"), _Times("bulk")
    busy, rates = [], []
    for number in range(rounds):
        with paced_sinks([0.0] * SERVERS) as sinks, cluster([s.port for s in sinks], CONNECTIONS) as made:
            _singles(made, sinks, 20, "w")  # connections, imports, templates
            pids = made.pids | {"sinks": [sink.pid for sink in sinks]}
            with idle.cost.round(part, pids):
                idle.add(*_singles(made, sinks, part, f"i{number}."))
            anew.add(*_singles(made, sinks, part, f"n{number}.", anew=True))
        services = [BULK_SERVICE_S] * SERVERS
        with paced_sinks(services) as sinks, cluster([s.port for s in sinks], CONNECTIONS) as made:
            receipt = made.client.submit(newsletter(2_000 + 200 * part))
            while sum(sink.seen().messages for sink in sinks) < 1_500:
                time.sleep(0.05)
            before, began = sum(sink.seen().messages for sink in sinks), time.monotonic()
            bulk.add(*_singles(made, sinks, part, f"b{number}."))
            seconds = time.monotonic() - began
            rates.append((sum(sink.seen().messages for sink in sinks) - before) / seconds)
            busy.append(rates[-1] * BULK_SERVICE_S / (SERVERS * CONNECTIONS))
            assert made.client.status(receipt.campaign).state == "running", "the newsletter ended too early"
            made.client.cancel(receipt.campaign)
    flush_ms = _disk_flush_ms()
    rate, busy_part = statistics.median(rates), statistics.median(busy)
    p50 = Spread.of([statistics.median(each) for each in idle.to_250])
    return Result(
        "latency",
        ["ms", "p50", "p90", "p99", "most"],
        [*idle.rows(), *anew.rows(), *bulk.rows()],
        {
            "samples": samples,
            "rounds": rounds,
            **idle.figures(),
            **bulk.figures(),
            "new_template_ms": _quantiles(anew.to_250),
            "idle_p50_ms": [statistics.median(each) for each in idle.to_250],
            "flush_ms": flush_ms,
            "bulk_per_s": rate,
            "bulk_busy": busy_part,
            "broker_cpu_ms": idle.cost.us("broker") / 1e3,
        },
        [
            Bar("idle, p50, ms", p50.median, IDLE_P50_MS_MAX, False),
            Bar("beside bulk, p99, ms", bulk.quantile(0.99), 250, False),
            Bar("beside bulk, connections busy, %", busy_part * 100, 90, True),
        ],
        [
            f"Idle, p50 to the 250, round by round: {p50} ms.",
            f"A bare flush of 8 KB takes this disk {flush_ms:.1f} ms (median of {_FLUSHES}): a floor.",
            f"Bulk: {rate:,.0f} messages/s kept {busy_part:.0%} of all connections busy.",
        ],
        [idle.cost],
        "a single message",
    )


class _Times:
    """Of single messages of one kind, in milliseconds, round by round."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.cost = Cost(name)
        self.calls: list[list[float]] = []
        self.to_250: list[list[float]] = []

    def add(self, calls: list[float], to_250: list[float]) -> None:
        self.calls.append(calls)
        self.to_250.append(to_250)

    def quantile(self, part: float) -> float:
        return _quantile([ms for each in self.to_250 for ms in each], part)

    def rows(self) -> list[list[object]]:
        return [
            [f"{self.name}: {what}", *_quantiles(values).values()]
            for what, values in (("call to 250", self.to_250), ("call to its return", self.calls))
        ]

    def figures(self) -> dict[str, object]:
        return {f"{self.name}_ms": _quantiles(self.to_250), f"{self.name}_call_ms": _quantiles(self.calls)}


def _singles(
    made: Cluster, sinks: list[PacedSink], samples: int, prefix: str, *, anew: bool = False
) -> tuple[list[float], list[float]]:
    """Sends so many, one after another; `anew`: each with a template of its own. Milliseconds from each call
    to its return, and to the 250."""
    began: dict[str, float] = {}
    calls = []
    for number in range(samples):
        address = f"{prefix}{number}@{STAMPED_DOMAIN}"
        began[address] = time.monotonic()
        made.client.send(
            to=address,
            sender="a@example.com",
            subject=f"Your code for {address}" if anew else "Your code",
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


def _quantiles(rounds: list[list[float]]) -> dict[str, float]:
    values = [ms for each in rounds for ms in each]
    return {name: _quantile(values, part) for name, part in _SHOWN.items()}


def _quantile(values: list[float], part: float) -> float:
    """The smallest value that so large a part of all doesn't exceed."""
    return sorted(values)[max(0, -int(-part * len(values) // 1) - 1)]
