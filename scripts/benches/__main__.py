"""scripts/bench: the command line."""

import signal
import sys
from collections.abc import Callable
from pathlib import Path

import click

from scripts.benches import (
    balance,
    dispatch,
    dkim,
    hostile,
    latency,
    pressure,
    profile,
    queue,
    restart,
    submit,
    throughput,
    tls,
    trace,
    wan,
    workers,
)
from scripts.benches.peers import measure as peers
from scripts.benches.table import Result, show
from tests.servers.attackers import ATTACKS

Measure = Callable[..., Result]
Option = Callable[[Callable[..., None]], Callable[..., None]]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def bench() -> None:
    """Measures Evenpost on this machine, against others in the same run where there are others.

    Each command prints a table, or one JSON object with --json. With --check it holds the figures against
    the project's bars, prints each, and exits 1 where one is missed.
    """


def command(name: str, measure: Measure, *options: Option) -> None:
    def run(json: bool, check: bool, **given: object) -> None:
        raise SystemExit(show(measure(**given), json, check))

    common: list[Option] = [
        click.option("--check", is_flag=True, help="Exit 1 where a bar is missed."),
        click.option("--json", is_flag=True, help="One JSON object instead of a table."),
    ]
    decorated: Callable[..., None] = run
    for option in [*reversed(options), *common]:
        decorated = option(decorated)
    bench.command(name, help=measure.__doc__)(decorated)


def number(name: str, default: int, help_: str) -> Option:
    return click.option(name, default=default, show_default=True, type=click.IntRange(1), help=help_)


command(
    "throughput",
    throughput.measure,
    number("--messages", 100_000, "Messages a round and contestant."),
    number("--rounds", 3, "Rounds; the median counts."),
    number("--workers", 1, "Workers that share the 16 connections."),
    click.option("--curve", is_flag=True, help="What CURVE costs, instead: with keys against without."),
)
command(
    "peers",
    peers.measure,
    number("--messages", 40_000, "Evenpost's messages a round; slow peers get fewer."),
    number("--rounds", 3, "Rounds of each peer; the median counts."),
    click.option(
        "--only", multiple=True, type=click.Choice([*peers.PEERS]), help="Only this peer. Repeatable."
    ),
    click.option("--install/--no-install", default=True, help="Whether to install what is missing."),
    click.option(
        "--show",
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=peers.show_configuration,
        help="Print how each is configured, and end.",
    ),
)
command(
    "profile",
    profile.measure,
    number("--messages", 200_000, "Messages under the sampler."),
    click.option(
        "--folder",
        type=click.Path(file_okay=False, path_type=Path),
        default="profile",
        show_default=True,
        help="Where flame graphs and stacks go.",
    ),
)
command(
    "queue",
    queue.measure,
    number("--messages", 10_000_000, "Messages of the longest queue."),
    number("--window", 30_000, "Messages of a round and queue that count."),
    number("--rounds", 5, "Rounds; the median counts."),
)
command(
    "workers",
    workers.measure,
    number("--messages", 60_000, "Messages a round and number of workers."),
    number("--rounds", 3, "Rounds; the median counts."),
    number("--idle-seconds", 5, "How long heartbeats are watched, for each number of workers."),
)
command(
    "tls",
    tls.measure,
    number("--messages", 40_000, "Messages a round, with TLS and without."),
    number("--rounds", 3, "Rounds; the median counts."),
)
command(
    "restart",
    restart.measure,
    number("--messages", 2_000_000, "Messages queued."),
)
command(
    "submit",
    submit.measure,
    number("--recipients", 1_000_000, "Lines of the CSV file, for the rate."),
    number("--rounds", 3, "Rounds; the median counts."),
    number("--long", 5_000_000, "Lines of the long file, for the client's memory."),
)
command(
    "latency",
    latency.measure,
    number("--samples", 500, "Single messages, idle and beside bulk each."),
    number("--rounds", 2, "Rounds, each with its part of them."),
)
command(
    "balance",
    balance.measure,
    number("--messages", 30_000, "Messages of the campaign."),
)
command(
    "dkim",
    dkim.measure,
    number("--messages", 30_000, "Messages a round, with and without."),
    number("--workers", 2, "Workers for the one server, which share the 16 connections."),
    number("--rounds", 3, "Rounds; the median counts."),
)
command(
    "dispatch",
    dispatch.measure,
    number("--messages", 200_000, "Messages given out."),
)
command(
    "trace",
    trace.measure,
    number("--messages", 10_000_000, "Messages in the journal."),
)
command(
    "hostile",
    hostile.measure,
    number("--messages", 60_000, "Messages of each campaign."),
    number("--rounds", 2, "Rounds of each flood; the median counts."),
    click.option("--attack", type=click.Choice(["all", *ATTACKS]), default="all", help="One kind of flood."),
)
command(
    "pressure",
    pressure.measure,
    click.option(
        "--scenario", type=click.Choice(["all", *pressure.SCENARIOS]), default="all", help="One part of it."
    ),
    number("--clients", 10_000, "idle: clients that say nothing."),
    number("--messages", 10_000, "idle: messages of each campaign beside them."),
    number("--submitters", 8, "disk: clients that submit at once."),
    number("--recipients", 40_000, "disk: recipients of each."),
    number("--flush-ms", 500, "disk: what each flush of the journal takes."),
    number("--queued", 500_000, "worker: messages queued."),
    number("--seconds", 10, "idle, worker: how long they are watched."),
)
command(
    "wan",
    wan.measure,
    click.option("--server", type=click.Choice(["all", *wan.KINDS]), default="all", help="One of them."),
    click.option("--delays", default="20,50,100", show_default=True, help="Milliseconds each way."),
    number("--seconds", 8, "What each should take for its messages."),
    number("--rounds", 2, "Rounds; the median counts."),
)
# Told to end, it ends what it has started, as for Ctrl-C: those processes lead sessions of their own.
signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
bench()
