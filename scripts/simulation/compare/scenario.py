"""What a named scenario is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from scripts.benches.table import Bar
from scripts.simulation.compare.lab import Case, Run
from scripts.simulation.compare.policies import ALL, ENGINE

Figures = Mapping[str, float]
Found = Mapping[str, Figures]
"""The figures of each policy that was run, by its name."""


@dataclass(frozen=True)
class Column:
    key: str
    label: str
    """With the unit."""
    digits: int = 0


def _nothing(_: Found, __: Figures) -> list[Bar]:
    return []


@dataclass(frozen=True)
class Scenario:
    name: str
    about: str
    """One or two sentences: the installation, and what is measured."""
    columns: tuple[Column, ...]
    run: Callable[[Case], Run]
    oracle: Callable[[int, float], Figures] | None = None
    """From seed and scale: the same figures with perfect knowledge."""
    ratio: str = ""
    """The figure that is set against the oracle's; where a run has a figure `oracle`, against that: what
    perfect knowledge would have made of this very run's arrivals."""
    bars: Callable[[Found, Figures], list[Bar]] = _nothing
    """What the engine has to keep; of the policies that were run."""
    policies: tuple[str, ...] = ALL
    plots: bool = False


def engine(found: Found) -> list[tuple[str, Figures]]:
    """The engine's policies among those that were run."""
    return [(name, found[name]) for name in ENGINE if name in found]


def at_most(found: Found, key: str, limit: float, what: str, oracle: Figures | None = None) -> list[Bar]:
    """One bar for each of the engine's policies; of the ratio to the oracle, where that is given."""
    return [
        Bar(f"{name}: {what}", figures[key] / (oracle[key] if oracle else 1.0), limit, at_least=False)
        for name, figures in engine(found)
    ]


def at_least(found: Found, key: str, limit: float, what: str) -> list[Bar]:
    return [Bar(f"{name}: {what}", figures[key], limit, at_least=True) for name, figures in engine(found)]
