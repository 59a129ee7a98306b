"""How long a broker with a long queue takes from its start to the first message that goes out."""

import time
from collections.abc import Callable
from pathlib import Path

import click

from scripts.benches.filled import fill
from scripts.benches.paced_sink import PacedSink, paced_sinks
from scripts.benches.processes import Cluster, cluster
from scripts.benches.table import Bar, Result

_ROUNDS = 3
_SERVICE_S = 0.002
_QUIET_S = 0.5
"""Without a message for this long: the worker has ended what it had."""


def measure(messages: int) -> Result:
    """A journal with this many messages queued; its broker is killed while it sends, and started again.

    From the start of the process to the first message that a server took, three times: the worker is there
    and waits.
    """
    filled_s = 0.0

    def prepare(folder: Path) -> None:
        nonlocal filled_s
        began = time.monotonic()
        fill(folder / "journal.db", messages)
        filled_s = time.monotonic() - began

    with paced_sinks([_SERVICE_S]) as (sink,), cluster([sink.port], prepare=prepare) as made:
        _wait(lambda: sink.seen().messages > 0, "the first message")
        times = [_restart(made, sink) for _ in range(_ROUNDS)]
    most_s = max(times)
    return Result(
        "restart",
        ["round", "seconds to the first message"],
        [[number, f"{seconds:.2f}"] for number, seconds in enumerate(times, 1)],
        {"messages": messages, "seconds": [round(seconds, 3) for seconds in times], "filled_s": filled_s},
        [Bar("seconds, the slowest round", most_s, 3, False)],
        [f"{messages:,} messages were queued; to write them took {filled_s:.1f} s."],
    )


def _restart(made: Cluster, sink: PacedSink) -> float:
    made.broker.kill()

    def is_quiet() -> bool:
        return time.monotonic() - sink.seen().last_at > _QUIET_S

    _wait(is_quiet, "the end of what the worker had")
    before = sink.seen().messages
    began = time.monotonic()
    made.start_broker()
    _wait(lambda: sink.seen().messages > before, "a message after the restart")
    return time.monotonic() - began


def _wait(true: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + 60
    while not true():
        if time.monotonic() > end:
            raise click.ClickException(f"not within 60 s: {what}")
        time.sleep(0.005)
