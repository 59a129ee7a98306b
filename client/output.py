"""How results reach people and programs: tables on a terminal, tabs on a pipe, JSON where asked for.

Addresses are shown in full: this is the user's own output, not a log.
"""

import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import click
import msgspec

from client.problems import counted
from evenpost.wire.messages import CampaignStatus, MessageState, ReportRow, WorkerStatus

FAILED: tuple[MessageState, ...] = ("bounced", "expired", "held")
"""What `--only failed` means: messages that ended, or wait for a person, without having been sent."""
NOT_SENT_ON_PURPOSE: tuple[MessageState, ...] = ("suppressed",)
SHOWN: tuple[MessageState, ...] = (
    "sent", "queued", "sending", "deferred", "bounced", "expired", "held", "cancelled", "suppressed",
)  # fmt: skip
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_STYLES = {
    "sent": "green", "finished": "green", "ready": "green", "running": "cyan", "sending": "cyan",
    "bounced": "red", "expired": "red", "lost": "red", "gone": "red", "cancelled": "red",
    "held": "yellow", "deferred": "yellow", "paused": "yellow", "draining": "yellow", "backing off": "yellow",
}  # fmt: skip


def on_terminal() -> bool:
    return sys.stdout.isatty()


def json_line(value: Any) -> None:
    """One JSON document on one line: structs, mappings, lists."""
    click.echo(msgspec.json.encode(value))


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str = "") -> None:
    """A table with a line of column names. Numbers stand to the right."""
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

    Console(highlight=False).print(rich_table(columns, rows))


def rich_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Any:
    """The same for a terminal, to be printed by rich."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    found = Table(box=SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for number, name in enumerate(columns):
        right = bool(rows) and all(isinstance(row[number], int | float) for row in rows)
        found.add_column(name, justify="right" if right else "left", overflow="fold")
    for row in rows:
        cells = [_grouped(cell) for cell in row]
        found.add_row(*[Text(cell, style=_STYLES.get(cell, "")) for cell in cells])
    return found


def plain(cell: object) -> str:
    """A cell for a pipe: what would break the line or the column is a space."""
    return " ".join(str(cell).split()) if isinstance(cell, str) else str(cell)


def _grouped(cell: object) -> str:
    return f"{cell:,}" if isinstance(cell, int | float) else str(cell)


def spreadsheet_safe(cell: str) -> str:
    """Text that a spreadsheet would take for a formula gets an apostrophe before it."""
    return f"'{cell}" if cell.startswith(_FORMULA) else cell


def local_time(at_ms: int | None) -> str:
    if not at_ms:
        return ""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at_ms / 1000))


def utc_time(at_ms: int | None) -> str:
    """ISO 8601, for files."""
    if not at_ms:
        return ""
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def finished_count(status: CampaignStatus) -> int:
    """Messages that have their final state."""
    return sum(status.counts.get(s, 0) for s in ("sent", *FAILED, "cancelled", *NOT_SENT_ON_PURPOSE))


def failures(status: CampaignStatus) -> int:
    """Messages that weren't sent and should have been."""
    done = sum(status.counts.get(s, 0) for s in ("sent", *NOT_SENT_ON_PURPOSE))
    return status.total - done


def counts_text(counts: Mapping[str, int]) -> str:
    """ "4,998 sent, 2 bounced" """
    return ", ".join(f"{counts[s]:,} {s}" for s in SHOWN if counts.get(s)) or "nothing yet"


def status_line(status: CampaignStatus) -> str:
    """One campaign in one line."""
    name = f" {status.name!r}" if status.name else ""
    rate = f", {status.rate:,.0f}/s" if status.rate >= 0.5 else ""
    waiting = f" - {status.waiting_for}" if status.waiting_for else ""
    total = f"of {status.total:,}"
    return f"{status.campaign}{name} {status.state}: {counts_text(status.counts)} {total}{rate}{waiting}"


STATUS_COLUMNS = ("campaign", "name", "state", "total", *SHOWN, "rate", "created", "waiting for")


def status_row(status: CampaignStatus) -> list[object]:
    counts = [status.counts.get(s, 0) for s in SHOWN]
    rate = round(status.rate, 1)
    created = local_time(status.created_at)
    return [
        status.campaign, status.name, status.state, status.total, *counts, rate, created, status.waiting_for,
    ]  # fmt: skip


def status_details(status: CampaignStatus) -> list[tuple[str, object]]:
    """One campaign in full: names and values, without what says nothing."""
    percent = f" ({100 * finished_count(status) / status.total:.1f} % finished)" if status.total else ""
    details: list[tuple[str, object]] = [
        ("campaign", status.campaign),
        ("name", status.name),
        ("state", status.state),
        ("waiting for", status.waiting_for),
        ("messages", f"{status.total:,}{percent}"),
        *((s, status.counts[s]) for s in SHOWN if status.counts.get(s)),
        ("rate", f"{status.rate:,.1f} sent/s" if status.rate else ""),
        ("attempts", status.attempts),
        (
            "unknown",
            f"{counted(status.unknown, 'attempt')}: each may mean one duplicate" if status.unknown else "",
        ),
        ("duplicates", f"{status.duplicates:,} known" if status.duplicates else ""),
        ("priority", status.priority),
        ("pool", status.pool or ""),
        ("created", local_time(status.created_at)),
        ("starts", local_time(status.start_at)),
        ("expires", local_time(status.expire_at)),
        ("finished", local_time(status.finished_at)),
    ]
    return [(name, value) for name, value in details if value != ""]


def print_details(details: Sequence[tuple[str, object]]) -> None:
    if not on_terminal():
        for name, value in details:
            click.echo(f"{name}\t{plain(value)}")
        return
    width = max(len(name) for name, _ in details)
    for name, value in details:
        text = _grouped(value)
        label = click.style(name.ljust(width), bold=True)
        color = _STYLES.get(text)
        click.echo(f"{label}  {click.style(text, fg=color) if color else text}")


WORKER_COLUMNS = ("worker", "server", "state", "open", "busy", "limit", "sent/s", "sent", "share")
SERVER_COLUMNS = (*WORKER_COLUMNS, "deferred", "bounced", "weight", "pools", "seen", "reason")


def worker_row(worker: WorkerStatus, sent_in_all: int) -> list[object]:
    share = f"{100 * worker.sent / sent_in_all:.1f} %" if sent_in_all else "-"
    rate = round(worker.rate, 1)
    return [
        worker.worker, worker.server, worker.state, worker.open, worker.busy, worker.limit, rate,
        worker.sent, share,
    ]  # fmt: skip


def server_row(worker: WorkerStatus, sent_in_all: int) -> list[object]:
    seen = local_time(worker.last_seen_at)
    if on_terminal() and seen[:10] == time.strftime("%Y-%m-%d"):
        seen = seen[11:]
    pools = ", ".join(worker.pools)
    return [
        *worker_row(worker, sent_in_all), worker.deferred, worker.bounced, worker.weight, pools, seen,
        worker.reason,
    ]  # fmt: skip


REPORT_COLUMNS = (
    "email",
    "state",
    "code",
    "reply",
    "worker",
    "server",
    "attempts",
    "first_at",
    "last_at",
    "due_at",
)


def report_row(row: ReportRow, *, file: bool) -> list[object]:
    """One recipient; `file`: for a spreadsheet, with times that sort and text that is no formula."""
    stamp = utc_time if file else local_time
    words = [row.address, row.state, row.reply, row.worker, row.server]
    if file:
        words = [spreadsheet_safe(word) for word in words]
    address, state, reply, worker, server = words
    return [
        address, state, row.code or "", reply, worker, server, row.attempts, stamp(row.first_at),
        stamp(row.last_at), stamp(row.due_at),
    ]  # fmt: skip


def report_json(row: ReportRow) -> dict[str, Any]:
    """Rows travel as arrays; a program that reads JSON wants names."""
    found = {name: getattr(row, name) for name in row.__struct_fields__}
    found["history"] = [{name: getattr(a, name) for name in a.__struct_fields__} for a in row.history]
    return found
