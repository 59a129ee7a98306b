"""What was found, as scripts/benches/table.py shows it."""

from collections.abc import Mapping
from typing import Any

from scripts.benches.table import Result
from scripts.simulation.compare.scenario import Figures, Scenario


def result(scenario: Scenario, seed: int, found: Mapping[str, Figures], perfect: Figures) -> Result:
    """A row a policy, and the oracle's; figures by policy; the bars."""
    columns = ["policy", *(column.label for column in scenario.columns)]
    if scenario.ratio:
        columns.append("x the oracle's")
    rows: list[list[Any]] = []
    figures: dict[str, Any] = {"seed": seed, "about": scenario.about}
    for name, of_policy in [*found.items(), ("oracle", perfect)]:
        if not of_policy:
            continue
        cells = [
            f"{of_policy[column.key]:,.{column.digits}f}" if column.key in of_policy else "-"
            for column in scenario.columns
        ]
        rows.append([name, *cells])
        figures[name] = dict(of_policy)
        if scenario.ratio:
            by = of_policy["oracle"] if "oracle" in of_policy else perfect[scenario.ratio]
            ratio = of_policy[scenario.ratio] / by
            figures[name] = {**of_policy, "ratio": ratio}
            rows[-1].append(f"{ratio:.2f}")
    return Result(
        scenario.name,
        columns,
        rows,
        figures,
        scenario.bars(found, perfect),
        [f"{scenario.about} Seed {seed}."],
    )


def markdown(found: Result) -> str:
    """Its table, as a document has it."""
    lines = ["| " + " | ".join(found.columns) + " |"]
    lines.append("|---|" + "---:|" * (len(found.columns) - 1))
    lines += ["| " + " | ".join(map(str, row)) + " |" for row in found.rows]
    return "\n".join(lines)


def into_document(text: str, found: Result) -> str:
    """The document with this table in its place."""
    begin, end = place(text, found.name)
    return f"{text[:begin]}{markdown(found)}\n{text[end:]}"


def place(text: str, scenario: str) -> tuple[int, int]:
    """Where a document has a scenario's table: between its marks, of which each has a line of its own.

    Raises ValueError where it has no such marks."""
    mark, end_mark = f"<!-- compare {scenario} -->\n", "<!-- end -->\n"
    begin = text.find(mark) + len(mark)
    end = text.find(end_mark, begin)
    if begin < len(mark) or end < 0 or "<!-- compare" in text[begin:end]:
        raise ValueError(
            f"it has no line {mark.strip()!r} with a line {end_mark.strip()!r} of its own below it"
        )
    return begin, end
