"""What moves: the table of workers and the bars of campaigns, on a terminal; a line an update on a pipe."""

import re
import sys
import time
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Self

import click

from client import output, output_table
from client.output_times import expected
from client.problems import counted
from evenpost.wire.messages import CampaignStatus, WatchUpdate

NAME_CHARS_MAX = 28
BAR_CHARS = 30
"""A name, a bar and the words beside it fit into 80 columns."""


def show_watch(updates: Iterable[WatchUpdate], *, as_json: bool) -> None:
    """Shows updates until they end."""
    if as_json or not output_table.on_terminal():
        _lines(updates, as_json=as_json)
        return
    from rich.console import Console
    from rich.live import Live

    console = Console(highlight=False)
    with Live(console=console, auto_refresh=False, transient=False) as live:
        for update in updates:
            live.update(_screen(update, console.width), refresh=True)


def show_waiting(updates: Iterable[WatchUpdate]) -> None:
    """Says on standard error what a campaign waits for, each time that this changes, until it ends."""
    told = ""
    for update in updates:
        for campaign in update.campaigns:
            kind = re.sub(r"\d+", "", campaign.waiting_for)  # one that counts seconds down is told once
            if kind not in ("", told):
                click.echo(f"Campaign {campaign.campaign} waits: {campaign.waiting_for}.", err=True)
            told = kind


def _lines(updates: Iterable[WatchUpdate], *, as_json: bool) -> None:
    for update in updates:
        if as_json:
            output.json_line(update)
            continue
        clock = time.strftime("%H:%M:%S")
        for campaign in update.campaigns:
            click.echo(f"{clock} {output.status_line(campaign)}")
        if not update.campaigns:
            ready = sum(map(output.takes_messages, update.workers))
            workers = counted(len(update.workers), "worker")
            click.echo(f"{clock} no campaign is running; {ready} of {workers} ready")


def _screen(update: WatchUpdate, width: int) -> Any:
    from rich.console import Group
    from rich.text import Text

    parts: list[Any] = []
    sent = sum(w.sent for w in update.workers)
    rows = [output.worker_row(w, sent) for w in sorted(update.workers, key=lambda w: w.worker)]
    if rows:
        columns = output.WORKER_COLUMNS
        shown = output_table.fitting(columns, columns, rows, width)
        parts.append(output_table.rich_table(shown, columns, rows))
    else:
        parts.append(Text("No worker has connected yet.", style="yellow"))
    parts += [_bar(campaign) for campaign in update.campaigns]
    if not update.campaigns:
        parts.append(Text("No campaign is running."))
    return Group(*parts)


def _bar(status: CampaignStatus) -> Any:
    """A campaign in two lines: how far it is, and what becomes of it."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    done = output.finished_count(status)
    line = Table.grid(padding=(0, 1), expand=False)
    line.add_column(no_wrap=True, overflow="ellipsis", max_width=NAME_CHARS_MAX)
    line.add_column(width=BAR_CHARS)
    line.add_column(no_wrap=True)
    percent = 100 * done / status.total if status.total else 0.0
    line.add_row(
        Text(output_table.grouped(status.name or status.campaign), style="bold"),
        ProgressBar(total=max(1, status.total), completed=done, width=BAR_CHARS),
        Text(f"{percent:5.1f} % of {status.total:,}"),
    )
    rate = f"{status.rate:,.0f}/s" if status.rate >= 0.5 else status.waiting_for or status.state
    parts = [output.counts_text(status.counts), rate]
    if status.eta_at is not None:
        parts.append(f"done {expected(status.eta_at)}")
    return Group(line, Text(output_table.grouped(f"  {' | '.join(parts)}")))


class Bar:
    """A progress bar on standard error where that is a terminal, and nothing otherwise."""

    def __init__(self, *, shown: bool) -> None:
        self._shown = shown and sys.stderr.isatty()
        self._progress: Any = None
        self._task: Any = None
        self._phase = ""

    def __enter__(self) -> Self:
        if self._shown:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TaskProgressColumn(),
                TextColumn("{task.fields[note]}"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Takes the bar away; what is printed from now on stays whole."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def say(self, text: str) -> None:
        """A line on standard error, above the bar where there is one."""
        if self._progress is not None:
            self._progress.console.print(text, markup=False, highlight=False)
        else:
            click.echo(text, err=True)

    def __call__(self, phase: str, done: int, total: int) -> None:
        """As a submission tells it: "check" in bytes, "send" in recipients."""
        if self._progress is None:
            return
        if phase != self._phase:
            if self._task is not None:
                self._progress.remove_task(self._task)
            words = {"check": "Checking the list", "send": "Submitting", "compose": "Composing"}
            self._task = self._progress.add_task(words.get(phase, phase), total=total or None, note="")
            self._phase = phase
        note = "" if phase == "check" else f"{done:,}"
        self._progress.update(self._task, completed=done, total=total or None, note=note)
