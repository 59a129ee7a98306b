"""scripts/simulate compare: the command line."""

import os
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import click

from scripts.benches.table import show
from scripts.simulation.compare import plots
from scripts.simulation.compare.catalogue import SCENARIOS
from scripts.simulation.compare.lab import Case, Run, StuckError
from scripts.simulation.compare.policies import POLICIES
from scripts.simulation.compare.report import into_document, place, result
from scripts.simulation.compare.scenario import Figures

_ORACLE = "oracle"


def run_one(scenario: str, policy: str, seed: int) -> Run:
    """One scenario under one policy, or the oracle's figures of it."""
    chosen = SCENARIOS[scenario]
    if policy != _ORACLE:
        return chosen.run(Case(POLICIES[policy], seed))
    return Run(dict(chosen.oracle(seed, 1.0)) if chosen.oracle else {})


def compare_all(
    scenarios: list[str], policies: list[str], seed: int, jobs: int
) -> Iterator[tuple[str, dict[str, Run], Figures]]:
    """Each scenario as soon as all of its runs have ended: the policies' runs and the oracle's figures."""
    work = {
        name: [policy for policy in SCENARIOS[name].policies if not policies or policy in policies]
        + [_ORACLE]
        for name in scenarios
    }
    with ProcessPoolExecutor(jobs) as pool:
        under_way = {
            name: {policy: pool.submit(run_one, name, policy, seed) for policy in chosen}
            for name, chosen in work.items()
        }
        for name, futures in under_way.items():
            runs = {}
            for policy, future in futures.items():
                try:
                    runs[policy] = future.result()
                except StuckError as error:
                    pool.shutdown(cancel_futures=True)
                    raise click.ClickException(f"{name}, seed {seed}: {error}") from error
            perfect = runs.pop(_ORACLE).figures
            if runs:
                yield name, runs, perfect


def _has_places(document: Path, scenarios: list[str]) -> None:
    """Before anything is run: whether each table has its place."""
    text = document.read_text("utf-8")
    for name in scenarios:
        try:
            place(text, name)
        except ValueError as error:
            raise click.ClickException(f"{document}: {error}") from error


def _list(_: click.Context, __: click.Parameter, wanted: bool) -> None:
    if wanted:
        for scenario in SCENARIOS.values():
            click.echo(f"{scenario.name}\n    {scenario.about}")
        raise SystemExit(0)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("scenarios", nargs=-1, type=click.Choice(list(SCENARIOS)), metavar="[SCENARIO...]")
@click.option(
    "--policy",
    "policies",
    multiple=True,
    type=click.Choice(list(POLICIES)),
    help="Only these; again for more.",
)
@click.option("--seed", default=1, show_default=True, help="Of all chance: one seed, one result.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a scenario instead of a table.")
@click.option("--check", is_flag=True, help="Print each bar, and exit 1 where one is missed.")
@click.option(
    "--plots",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    help="Draw SVG and PNG into this folder.",
)
@click.option(
    "--into",
    "document",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Write the tables into this document, which has a place for each: docs/balancing.md.",
)
@click.option(
    "--jobs", default=os.cpu_count() or 1, show_default=True, type=click.IntRange(1), help="Runs at once."
)
@click.option(
    "--list",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_list,
    help="Say what the scenarios are.",
)
def compare(
    scenarios: tuple[str, ...],
    policies: tuple[str, ...],
    seed: int,
    as_json: bool,
    check: bool,
    folder: Path | None,
    document: Path | None,
    jobs: int,
) -> None:
    """Holds the shipping balancer against others, and against perfect knowledge.

    Without a SCENARIO all are run, which takes some fifteen minutes on two cores; --list says what they are.
    """
    if folder is not None:
        try:
            plots.need_matplotlib()
        except plots.NoMatplotlibError as error:
            raise click.ClickException(str(error)) from error
    names = list(scenarios) or list(SCENARIOS)
    if document is not None:
        _has_places(document, names)
    if not sys.stdout.isatty():
        os.environ.setdefault("COLUMNS", "120")  # rich would cut tables at 80
    status = 0
    for name, runs, perfect in compare_all(names, list(policies), seed, jobs):
        scenario = SCENARIOS[name]
        found = result(scenario, seed, {policy: run.figures for policy, run in runs.items()}, perfect)
        status |= show(found, as_json, check)
        if document is not None:
            document.write_text(into_document(document.read_text("utf-8"), found), "utf-8")
        if folder is not None and scenario.plots:
            for path in plots.draw(scenario, runs, seed, folder):
                click.echo(path, err=True)
    raise SystemExit(status)


if __name__ == "__main__":
    compare()
