"""What a long queue costs: the broker's CPU a message, and its memory, with millions of messages waiting."""

import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import click

from broker.core.state import Phase
from scripts.benches.filled import CAMPAIGN, fill
from scripts.benches.paced_sink import PacedSink, paced_sinks
from scripts.benches.processes import Cluster, cluster, newsletter
from scripts.benches.table import Bar, Result
from scripts.benches.usage import Cost, Spread

SHORT = 10_000
MIDDLE_PART = 10
"""The middle queue has so many times less than the long one."""
RATIO_MAX = 1.2
RSS_MB_MAX = 150
_WORKER = "w0"
_WARM = 4_000
"""Messages that leave before each window: connections, a page in memory."""
_LEFT_WITHIN_S = 120.0


def measure(messages: int, window: int, rounds: int) -> Result:
    """The broker's CPU a message with 10 thousand, a tenth of --messages and --messages queued, in turn.

    Each queue has a broker, a worker and a sink of its own; the long ones are in the journal before the
    broker starts. Each round lets every queue in turn go on for --window messages, and only that counts:
    neither the submission nor a campaign's end is in the figures. The short queue is a new campaign each
    round, of which 10,000 are left when the window ends. Memory is the peak, start included.
    """
    counts = {SHORT: 0, messages // MIDDLE_PART: messages // MIDDLE_PART, messages: messages}
    if len(counts) < 3 or messages // MIDDLE_PART < (_WARM + window) * rounds:
        raise click.UsageError("too few messages for so many windows")
    costs = {count: Cost(f"{count:,} queued") for count in counts}
    filled_s = 0.0
    with ExitStack() as stack:
        queues: dict[int, tuple[Cluster, PacedSink]] = {}
        for count, waiting in counts.items():
            (sink,) = stack.enter_context(paced_sinks([0.0]))
            began = time.monotonic()
            prepare = partial(_prepare, waiting) if waiting else None
            made = stack.enter_context(cluster([sink.port], prepare=prepare))
            filled_s += time.monotonic() - began
            made.client.drain(_WORKER)
            if waiting:
                made.client.resume(CAMPAIGN)
            queues[count] = made, sink
        for _ in range(rounds):
            for count, (made, sink) in queues.items():
                _round(costs[count], made, sink, window, anew=not counts[count])
    pairs = zip(costs[messages].cpu_us["broker"], costs[SHORT].cpu_us["broker"], strict=True)
    ratio = Spread.of([long / short for long, short in pairs])
    rss_mb = costs[messages].rss_mb["broker"]
    return Result(
        "queue",
        ["", "broker, us a message", "least", "most", "messages/s", "broker's peak RSS, MB"],
        [
            [cost.name, spread.median, spread.least, spread.most, Spread.of(cost.per_s).median,
             cost.rss_mb["broker"]]
            for cost in costs.values()
            for spread in [Spread.of(cost.cpu_us["broker"])]
        ],
        {
            "messages": messages,
            "window": window,
            "rounds": rounds,
            "broker_us": {count: cost.us("broker") for count, cost in costs.items()},
            "broker_rss_mb": {count: cost.rss_mb["broker"] for count, cost in costs.items()},
            "ratio": ratio.median,
            "filled_s": filled_s,
        },
        [
            Bar(f"{messages:,} / {SHORT:,} queued, broker CPU a message", ratio.median, RATIO_MAX, False),
            Bar("broker RSS, MB", rss_mb, RSS_MB_MAX, False),
        ],
        [
            f"{messages:,} / {SHORT:,}, round by round: {ratio}.",
            f"To fill the journals and start took {filled_s:.0f} s.",
        ],
        list(costs.values()),
    )  # fmt: skip


def _prepare(messages: int, folder: Path) -> None:
    fill(folder / "journal.db", messages, Phase.PAUSED)


def _round(cost: Cost, made: Cluster, sink: PacedSink, window: int, *, anew: bool) -> None:
    receipt = made.client.submit(newsletter(_WARM + window + SHORT)) if anew else None
    made.client.ready(_WORKER)
    before = _wait_for(sink, sink.seen().messages + _WARM)
    with cost.round(window, made.pids | {"sink": sink.pid}) as this:
        this.messages = _wait_for(sink, before + window) - before
    if receipt is not None:
        made.client.wait(receipt.campaign, interval=0.05)
    made.client.drain(_WORKER)
    while any(worker.in_flight for worker in made.client.servers()):
        time.sleep(0.02)


def _wait_for(sink: PacedSink, messages: int) -> int:
    """Until it has seen so many; how many it has seen by then."""
    end = time.monotonic() + _LEFT_WITHIN_S
    while (seen := sink.seen().messages) < messages:
        if time.monotonic() > end:
            raise click.ClickException(f"{messages - seen} messages didn't leave")
        time.sleep(0.005)
    return seen
