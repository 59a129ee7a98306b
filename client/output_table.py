"""Tables: as many columns as a terminal has room for; all of them, with tabs, on a pipe."""

import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click

Columns = Mapping[str, int]
"""A table's columns from left to right, each with its rank. Where a terminal is too narrow for all, the
lowest get their room first; rank 0 has it always."""

WRAPPED_CHARS_MIN = 30
"""The room that a column of sentences gets at least: what is longer goes on in the next line."""

HIDDEN_NAMED_MAX = 6

STYLES = {
    "sent": "green", "finished": "green", "ready": "green", "running": "cyan", "sending": "cyan",
    "slow start": "cyan", "bounced": "red", "expired": "red", "lost": "red", "gone": "red",
    "cancelled": "red", "maint": "red", "held": "yellow", "deferred": "yellow", "paused": "yellow",
    "draining": "yellow", "throttled": "yellow", "backing off": "yellow",
}  # fmt: skip
"""Colours of the words for a state."""

_STEERS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""Control characters, escapes, and changes of direction."""

_GAP_CHARS = 2
_EMPTY = (0, 0.0, "")


def on_terminal() -> bool:
    return sys.stdout.isatty()


def table(columns: Columns, rows: Iterable[Sequence[object]], *, wrap: str = "", empty: str = "") -> None:
    """A table with a line of column names. Numbers stand to the right.

    On a terminal, columns that say nothing take no room, and what has no room is named below the table.
    `wrap`: a column of sentences, which may go on in the next line. `empty`: said where there is no row.
    """
    rows = [list(row) for row in rows]
    if not rows and empty:
        click.echo(empty, err=not on_terminal())
        return
    if not on_terminal():
        click.echo("\t".join(columns))
        for row in rows:
            click.echo("\t".join(map(plain, row)))
        return
    from rich.console import Console

    console = Console(highlight=False)
    telling = {name: rank for name, rank in columns.items() if rank == 0 or _tells(columns, name, rows)}
    shown = fitting(telling, columns, rows, console.width, wrap)
    console.print(rich_table(shown, columns, rows, wrap=wrap))
    if hidden := [name for name in telling if name not in shown]:
        more = f" and {len(hidden) - HIDDEN_NAMED_MAX} more" if len(hidden) > HIDDEN_NAMED_MAX else ""
        names = ", ".join(hidden[:HIDDEN_NAMED_MAX])
        words = f"No room for {names}{more}: a wider terminal shows them, --json everything."
        console.print(words, style="dim")


def _tells(columns: Columns, name: str, rows: Sequence[Sequence[object]]) -> bool:
    number = list(columns).index(name)
    return any(row[number] not in _EMPTY for row in rows)


def fitting(
    wanted: Iterable[str], columns: Columns, rows: Sequence[Sequence[object]], width: int, wrap: str = ""
) -> list[str]:
    """The columns that fit side by side into `width` characters."""
    from rich.cells import cell_len

    numbers = {name: number for number, name in enumerate(columns)}
    names = list(wanted)
    widths = {
        name: max(cell_len(name), *(cell_len(grouped(row[numbers[name]])) for row in rows), 0)
        for name in names
    }
    if wrap in widths:
        widths[wrap] = min(widths[wrap], WRAPPED_CHARS_MIN)
    room = width + _GAP_CHARS
    shown = set()
    for name in sorted(names, key=lambda name: columns[name]):
        if columns[name] == 0 or widths[name] + _GAP_CHARS <= room:
            room -= widths[name] + _GAP_CHARS
            shown.add(name)
    return [name for name in names if name in shown]


def rich_table(
    shown: Sequence[str], columns: Columns, rows: Sequence[Sequence[object]], *, wrap: str = ""
) -> Any:
    """The columns named in `shown`, to be printed by rich. A row keeps to its line, but for `wrap`."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    numbers = {name: number for number, name in enumerate(columns)}
    found = Table(
        box=SIMPLE_HEAD, header_style="bold", pad_edge=False, show_edge=False, collapse_padding=True
    )
    for name in shown:
        cells = [row[numbers[name]] for row in rows if row[numbers[name]] != ""]
        right = bool(cells) and all(isinstance(cell, int | float) for cell in cells)
        # Not the column but each cell is forbidden to wrap: so the widest column gives way, not all of them.
        found.add_column(
            name,
            justify="right" if right else "left",
            overflow="fold" if name == wrap else "ellipsis",
        )
    for row in rows:
        texts = [(grouped(row[numbers[name]]), name != wrap) for name in shown]
        found.add_row(*[Text(text, style=STYLES.get(text, ""), no_wrap=one_line) for text, one_line in texts])
    return found


def details(pairs: Sequence[tuple[str, object]]) -> None:
    """Names and values, one a line."""
    if not on_terminal():
        for name, value in pairs:
            click.echo(f"{name}\t{plain(value)}")
        return
    width = max(len(name) for name, _ in pairs)
    for name, value in pairs:
        text = grouped(value)
        label = click.style(name.ljust(width), bold=True)
        color = STYLES.get(text)
        click.echo(f"{label}  {click.style(text, fg=color) if color else text}")


def plain(cell: object) -> str:
    """A cell for a pipe: what would break the line or the column is a space."""
    return " ".join(shown_safely(cell).split()) if isinstance(cell, str) else str(cell)


def grouped(cell: object) -> str:
    """A cell for a person: thousands are told apart."""
    return f"{cell:,}" if isinstance(cell, int | float) else shown_safely(str(cell))


def shown_safely(text: str) -> str:
    """What others have named, a campaign or a worker, without what would steer a terminal."""
    return _STEERS.sub(" ", text)
