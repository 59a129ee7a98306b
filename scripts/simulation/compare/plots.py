"""Connections in use over time, one small picture a policy, one line a server."""

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from statistics import fmean
from typing import Any

from scripts.simulation.compare.lab import SAMPLE_S, Line, Run
from scripts.simulation.compare.scenario import Scenario

POINTS_MAX = 120
"""Of a line: more can't be seen, and make large files."""
COLUMNS = 4
_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7")
"""Okabe and Ito's: told apart by everyone."""
_WIDE, _HIGH = 3.1, 2.1


class NoMatplotlibError(Exception):
    """It isn't installed."""


def need_matplotlib() -> None:
    """Raises NoMatplotlibError, with what to do, where there is none."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise NoMatplotlibError(
            "--plots needs matplotlib, which isn't installed: run scripts/setup plots"
        ) from error


def draw(scenario: Scenario, runs: Mapping[str, Run], seed: int, folder: Path) -> list[Path]:
    """SVG and PNG of one scenario into `folder`; gives their paths."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    # The same picture each time, byte for byte; text stays text.
    style: dict[Any, Any] = {
        "svg.hashsalt": scenario.name,
        "svg.fonttype": "none",
        "font.size": 8,
        "path.simplify": True,
    }
    drawn = {name: run for name, run in runs.items() if run.lines}
    rows = -(-len(drawn) // COLUMNS)
    with matplotlib.rc_context(style):
        figure, axes = plt.subplots(
            rows, COLUMNS, figsize=(_WIDE * COLUMNS, _HIGH * rows + 0.7), sharey=True, squeeze=False
        )
        everything = axes.flat
        for axis, (name, run) in zip(everything, drawn.items(), strict=False):
            _one(axis, name, run)
        for axis in list(axes.flat)[len(drawn) :]:
            axis.set_visible(False)
        most = max(max(_thin(line)[2]) for run in drawn.values() for line in run.lines)
        axes[0][0].set_ylim(0, 1.05 * most)  # of all of them: they share it
        for row in axes:
            row[0].set_ylabel("connections in use")
        handles, labels = axes[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="upper right", ncols=len(labels), frameon=False)
        figure.suptitle(f"{scenario.name}: connections in use, seconds from the start", x=0.01, ha="left")
        figure.tight_layout()
        paths = [folder / f"compare-{scenario.name}.{kind}" for kind in ("svg", "png")]
        folder.mkdir(parents=True, exist_ok=True)
        figure.savefig(paths[0], metadata={"Date": None, "Description": f"seed {seed}"})
        _save_small(figure, paths[1])
        plt.close(figure)
    return paths


def _save_small(figure: Any, path: Path) -> None:
    """As PNG in 64 colours, a third of the bytes of all colours."""
    from PIL import Image

    whole = BytesIO()
    figure.savefig(whole, format="png", dpi=85)
    Image.open(whole).convert("RGB").quantize(64).save(path, optimize=True)


def _one(axis: Any, name: str, run: Run) -> None:
    for place, line in enumerate(run.lines):
        times, ours, all_ = _thin(line)
        colour = _COLOURS[place % len(_COLOURS)]
        if any(line.theirs):
            axis.plot(
                times, all_, color=colour, linewidth=0.8, linestyle=":", label=f"{line.server} with others'"
            )
        axis.plot(times, ours, color=colour, linewidth=1.1, label=line.server)
    for time, _ in run.marks:
        axis.axvline(time, color="#999999", linewidth=0.8, linestyle="--")
    axis.set_title(name, fontsize=9, loc="left")
    axis.margins(x=0)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def _thin(line: Line) -> tuple[list[float], list[float], list[float]]:
    """Means of neighbours: times, ours, ours and other people's."""
    step = -(-len(line.ours) // POINTS_MAX)
    starts = range(0, len(line.ours), step)
    times = [round(start * SAMPLE_S, 2) for start in starts]
    ours = [fmean(line.ours[start : start + step]) for start in starts]
    theirs = [fmean(line.theirs[start : start + step]) for start in starts]
    return times, ours, [mine + other for mine, other in zip(ours, theirs, strict=True)]
