"""scripts/chaos: the command line."""

import json
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import click

from scripts.chaoslab.run import Outcome, Plan, Run
from tests.integration.cluster import ROOT

PACE_S_A_KILL = 0.9
_COLUMNS = (
    "seed", "accepted", "sent", "bounced", "held", "unknown", "duplicates", "bound", "lost", "lies",
    "uncounted", "strange", "kills", "freezes", "upgrades", "seconds",
)  # fmt: skip


def _seeds_of(_: click.Context, __: click.Parameter, value: str) -> range:
    """`7`, or `1..20`: the seeds from the first to the last."""
    first, dots, last = value.partition("..")
    if not first.isdecimal() or (dots and not last.isdecimal()):
        raise click.BadParameter(f"{value!r} is neither a number nor a range such as 1..20")
    seeds = range(int(first), int(last or first) + 1)
    if not seeds:
        raise click.BadParameter(f"{value!r} has no seed in it: the first comes first")
    return seeds


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--messages", default=50_000, show_default=True, type=click.IntRange(100), help="Of each seed.")
@click.option("--kills", default=50, show_default=True, type=click.IntRange(0, 10_000), help=
              "SIGKILLs of each seed; freezes and upgrades come on top.")  # fmt: skip
@click.option(
    "--seed",
    "seeds",
    default="1",
    show_default=True,
    metavar="N[..M]",
    callback=_seeds_of,
    help="One, or several: 1..20.",
)
@click.option("--minutes", type=click.FloatRange(0.1), help=
              "Seed after seed, from the first of --seed on, until this time is over.")  # fmt: skip
@click.option(
    "--workers", default=4, show_default=True, type=click.IntRange(1, 100), help="Each with a server."
)
@click.option(
    "--connections", default=3, show_default=True, type=click.IntRange(1, 100), help="Of each worker."
)
@click.option("--pace", type=click.FloatRange(0.1), metavar="SECONDS", show_default="0.9 a kill, 5 at least",
              help=              "What the servers alone would take for all messages.")  # fmt: skip
@click.option("--keep", is_flag=True, help="Keep the logs of each seed, not only of those that failed.")
@click.option("--verbose", "-v", is_flag=True, help="Print the faults of each seed, as they happened.")
@click.option("--json", "as_json", is_flag=True, help="A JSON object a seed, and one for all.")
def chaos(
    messages: int,
    kills: int,
    seeds: range,
    minutes: float | None,
    workers: int,
    connections: int,
    pace: float | None,
    keep: bool,
    verbose: bool,
    as_json: bool,
) -> None:
    """Runs broker, workers, clients and recording servers as real processes, kills them by a seeded schedule,
    and compares three books: what clients were told, what the journal says, what the servers took. Exits 1
    where something was lost, reported sent and wasn't, or sent more often than was counted or than the
    contract allows."""
    pace_s = pace or max(5.0, PACE_S_A_KILL * kills)
    outcomes: list[Outcome] = []
    if not as_json:
        click.echo(" ".join(f"{name:>10}" for name in _COLUMNS))
    for seed in _seeds(seeds, minutes):
        plan = Plan(seed, messages, kills, workers, connections, pace_s)
        # Under the checkout, not in /tmp: that may be memory, and a journal belongs on a disk.
        folder = Path(tempfile.mkdtemp(dir=ROOT, prefix=f".chaos-{seed}-"))
        try:
            outcome = Run(plan, folder, _Progress(seed)).go()
        except BaseException:
            click.echo(f"seed {seed} ended early; its logs are in {folder}", err=True)
            raise
        outcomes.append(outcome)
        if keep or outcome.wrong:
            click.echo(f"seed {seed}: logs in {folder}", err=True)
        else:
            shutil.rmtree(folder)
        _show(outcome, verbose=verbose, as_json=as_json)
    _show_total(outcomes, as_json=as_json)
    if any(outcome.wrong for outcome in outcomes):
        sys.exit(1)


def _seeds(seeds: range, minutes: float | None) -> Iterator[int]:
    if minutes is None:
        yield from seeds
        return
    end, seed = time.monotonic() + minutes * 60, seeds.start
    while time.monotonic() < end:
        yield seed
        seed += 1


class _Progress:
    """One line on a terminal that is written over; nothing where output is piped."""

    def __init__(self, seed: int) -> None:
        self._seed, self._shown_at = seed, 0.0

    def __call__(self, done: float, text: str) -> None:
        now = time.monotonic()
        if sys.stderr.isatty() and now >= self._shown_at + 0.2:
            self._shown_at = now
            click.echo(f"\rseed {self._seed}: {done:6.1%}, {text}\033[K\r", nl=False, err=True)


def _show(outcome: Outcome, *, verbose: bool, as_json: bool) -> None:
    facts = outcome.facts()
    if as_json:
        click.echo(json.dumps({**facts, "faults": outcome.events} if verbose else facts))
        return
    click.echo(" ".join(f"{facts[name]:>10}" for name in _COLUMNS))
    if verbose:
        for event in outcome.events:
            click.echo(f"  {event}")
    for text in (*outcome.wrong, *(outcome.balance.examples if outcome.wrong else ())):
        click.echo(f"  {text}")


def _show_total(outcomes: list[Outcome], *, as_json: bool) -> None:
    facts = [outcome.facts() for outcome in outcomes]
    total = {name: round(sum(each[name] for each in facts), 1) for name in _COLUMNS if name != "seed"}
    failed = [outcome.plan.seed for outcome in outcomes if outcome.wrong]
    if as_json:
        click.echo(json.dumps({"seeds": len(outcomes), "failed": failed, **total}))
    elif len(outcomes) > 1:
        click.echo(" ".join(f"{({'seed': 'total'} | total)[name]:>10}" for name in _COLUMNS))
        click.echo(f"{len(outcomes)} seeds, failed: {', '.join(map(str, failed)) or 'none'}")
    for outcome in outcomes:
        if outcome.wrong and not as_json:
            plan = outcome.plan
            click.echo(
                f"again: scripts/chaos --seed {plan.seed} --messages {plan.messages} --kills {plan.kills} "
                f"--workers {plan.workers} --connections {plan.connections} --pace {plan.pace_s:g} -v"
            )


if __name__ == "__main__":
    # Told to end, it ends what it has started, as for Ctrl-C.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    chaos()
