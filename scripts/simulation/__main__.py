"""scripts/simulate: the command line."""

import json
import os
import sys
import time
from collections.abc import Iterator

import click
from rich.console import Console
from rich.progress import track

from scripts.simulation.compare.command import compare
from scripts.simulation.sweep import History, JournalKind, run, sweep

SHOWN_MAX = 5
"""Failures that are told in full; the others get a line each."""


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def simulate() -> None:
    """Runs Evenpost's own broker core and worker sessions in virtual time: simulated SMTP servers and
    networks, disks that forget, processes that die. The same seed gives the same history."""


journal_option = click.option(
    "--journal",
    type=click.Choice(["memory", "sqlite"]),
    default="memory",
    show_default=True,
    help="What the broker's journal is: in memory, or the SQLite that ships, on a real disk (slower).",
)
json_option = click.option("--json", "as_json", is_flag=True, help="JSON instead of text.")


@simulate.command("sweep")
@click.option("--seeds", default=1_000, show_default=True, type=click.IntRange(1), help="How many.")
@click.option("--first", default=1, show_default=True, type=click.IntRange(0), help="The first of them.")
@click.option(
    "--jobs",
    type=click.IntRange(1, 256),
    default=os.cpu_count() or 1,
    show_default="as many as there are processors",
    help="Seeds run at the same time.",
)
@journal_option
@json_option
def sweep_command(seeds: int, first: int, jobs: int, journal: JournalKind, as_json: bool) -> None:
    """Many seeds, each another small installation with other faults. Exits 1 where something that must hold
    didn't, and says which command repeats it."""
    began = time.monotonic()
    failed: list[History] = []
    events = messages = 0
    virtual_s = 0.0
    for history in _shown(sweep(first, seeds, journal, jobs), seeds):
        events += history.events
        messages += history.messages
        virtual_s += history.virtual_s
        if history.violation:
            failed.append(history)
            if not as_json:
                click.echo(_told(history, in_full=len(failed) <= SHOWN_MAX))
    summary = {
        "seeds": seeds,
        "first": first,
        "failed": [history.seed for history in failed],
        "messages": messages,
        "events": events,
        "virtual_s": round(virtual_s, 1),
        "seconds": round(time.monotonic() - began, 1),
    }
    if as_json:
        told = [_plain(history) for history in failed]
        click.echo(json.dumps(summary | {"failures": told}, indent=2))
    else:
        result = f"{len(failed)} of {seeds} seeds failed" if failed else f"{seeds} seeds, all well"
        click.echo(
            f"{result}: {messages:,} messages, {events:,} events, {virtual_s / 3600:,.1f} hours in "
            f"{summary['seconds']} s"
        )
    sys.exit(1 if failed else 0)


@simulate.command("run")
@click.option("--seed", required=True, type=click.IntRange(0))
@click.option("-v", "--verbose", is_flag=True, help="All that happens, as it happens.")
@journal_option
@json_option
def run_command(seed: int, verbose: bool, journal: JournalKind, as_json: bool) -> None:
    """One seed's history. Exits 1 where something that must hold didn't."""
    history = run(seed, journal, verbose=verbose and not as_json)
    if as_json:
        click.echo(json.dumps(_plain(history), indent=2))
    elif history.violation:
        click.echo(_told(history, in_full=not verbose))
    else:
        click.echo(
            f"seed {seed}, all well: {history.messages:,} messages, {history.events:,} events, "
            f"{history.virtual_s:.1f} s"
        )
    sys.exit(1 if history.violation else 0)


simulate.add_command(compare)


def _shown(histories: Iterator[History], seeds: int) -> Iterator[History]:
    """A bar on a terminal, nothing elsewhere."""
    console = Console(stderr=True)
    if console.is_terminal:
        yield from track(histories, "seeds", total=seeds, console=console, transient=True)
    else:
        yield from histories


def _told(history: History, *, in_full: bool) -> str:
    if not in_full:
        return f"seed {history.seed} failed: {history.violation.splitlines()[-1]}\n  {history.command}"
    last = "\n".join(f"    {line}" for line in history.last)
    return (
        f"seed {history.seed} failed after {history.virtual_s:.4f} s\n  the last events:\n{last}\n"
        f"  what must not be:\n    {history.violation}\n  repeat it:\n    {history.command}"
    )


def _plain(history: History) -> dict[str, object]:
    return {
        "seed": history.seed,
        "journal": history.journal,
        "violation": history.violation,
        "command": history.command,
        "messages": history.messages,
        "events": history.events,
        "virtual_s": round(history.virtual_s, 4),
        "last": history.last,
    }


if __name__ == "__main__":
    simulate()
