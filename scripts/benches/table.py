"""What a benchmark found, as a table, as JSON, and against its bars."""

import json
import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

from scripts.benches.usage import Cost

STRANGERS_MAX = 0.15
"""Cores that others on this machine may use without being told of."""


@dataclass(frozen=True)
class Bar:
    """A figure that the project promises: at least or at most so much."""

    name: str
    value: float
    limit: float
    at_least: bool

    @property
    def held(self) -> bool:
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    def __str__(self) -> str:
        word = "at least" if self.at_least else "at most"
        return (
            f"{'held  ' if self.held else 'MISSED'}  {self.name}: {self.value:,.2f} ({word} {self.limit:,g})"
        )


@dataclass
class Result:
    name: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    figures: dict[str, Any]
    bars: list[Bar] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    costs: list[Cost] = field(default_factory=list)
    """What each contestant's processes used: a table of its own, and `costs` in the JSON."""
    unit: str = "a message"
    """What the CPU of the costs is counted by."""


def machine() -> str:
    load = os.getloadavg()[0]
    return f"Python {platform.python_version()}, {os.cpu_count()} cores, load average {load:.1f}"


def show(result: Result, as_json: bool, check: bool) -> int:
    """Prints it; the exit status: 1 where `check` finds a missed bar."""
    if as_json:
        bars = [{"name": b.name, "value": b.value, "limit": b.limit, "held": b.held} for b in result.bars]
        costs = {"costs": {cost.name: cost.figures() for cost in result.costs}} if result.costs else {}
        found = {"bench": result.name, "machine": machine(), **result.figures, **costs, "bars": bars}
        print(json.dumps(found))
    else:
        _print_table(f"{result.name} ({machine()})", result.columns, result.rows)
        if result.costs:
            columns = [f"CPU, us {result.unit}", "median", "least", "most", "peak RSS, MB"]
            _print_table("", columns, [row for cost in result.costs for row in cost.rows()])
            strangers = statistics.median(each for cost in result.costs for each in cost.strangers)
            if strangers > STRANGERS_MAX:
                print(f"Others on this machine used {strangers:.1f} cores meanwhile: it could do more alone.")
        for note in result.notes:
            print(note)
        for bar in result.bars if check else []:
            print(bar)
    return 1 if check and not all(bar.held for bar in result.bars) else 0


def _print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    table = Table(title=title or None, title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right")
    for row in rows:
        table.add_row(*(f"{v:,.1f}" if isinstance(v, float) else str(v) for v in row))
    Console().print(table)
