"""What results say to people and programs: the rows of tables, sentences, JSON where asked for.

Addresses are shown in full: this is the user's own output, not a log.
"""

from collections.abc import Mapping
from typing import Any

import click
import msgspec

from client.output_table import Columns, on_terminal, plain
from client.output_times import clock_time, expected, local_time, utc_time
from client.problems import counted
from evenpost.wire.messages import CampaignStatus, MessageState, Options, ReportRow, WorkerStatus

FAILED: tuple[MessageState, ...] = ("bounced", "expired", "held")
"""What `--only failed` means: messages that ended, or wait for a person, without having been sent."""
NOT_SENT_ON_PURPOSE: tuple[MessageState, ...] = ("suppressed",)
SHOWN: tuple[MessageState, ...] = (
    "sent", "queued", "sending", "deferred", "bounced", "expired", "held", "cancelled", "suppressed",
)  # fmt: skip
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def json_line(value: Any) -> None:
    """One JSON document on one line: structs, mappings, lists."""
    click.echo(msgspec.json.encode(value))


def shown_time(at_ms: int | None) -> str:
    """For a table: today's times are short on a terminal; on a pipe all are alike."""
    return clock_time(at_ms) if on_terminal() else local_time(at_ms)


def spreadsheet_safe(cell: str) -> str:
    """Text that a spreadsheet would take for a formula gets an apostrophe before it."""
    return f"'{cell}" if cell.startswith(_FORMULA) else cell


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
    done = f", done {expected(status.eta_at)}" if status.eta_at is not None else ""
    waiting = f" - {plain(status.waiting_for)}" if status.waiting_for else ""
    total = f"of {status.total:,}"
    return (
        f"{status.campaign}{name} {status.state}: {counts_text(status.counts)} {total}{rate}{done}{waiting}"
    )


STATUS_COLUMNS: Columns = {
    "campaign": 0, "name": 3, "state": 0, "total": 2, "sent": 1, "queued": 4, "sending": 4, "deferred": 4,
    "bounced": 4, "expired": 4, "held": 4, "cancelled": 5, "suppressed": 5, "rate": 2, "eta": 2, "created": 6,
    "waiting for": 1,
}  # fmt: skip
assert set(SHOWN) < set(STATUS_COLUMNS)


def status_row(status: CampaignStatus) -> list[object]:
    counts = [status.counts.get(s, 0) for s in SHOWN]
    return [
        status.campaign, status.name, status.state, status.total, *counts, round(status.rate, 1),
        clock_time(status.eta_at, seconds=False) if on_terminal() else local_time(status.eta_at),
        shown_time(status.created_at), status.waiting_for,
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
        ("done", expected(status.eta_at)),
        ("attempts", status.attempts),
        (
            "unknown",
            f"{counted(status.unknown, 'attempt')}: each may mean one duplicate" if status.unknown else "",
        ),
        ("duplicates", f"{status.duplicates:,} known" if status.duplicates else ""),
        ("priority", status.priority),
        ("weight", status.weight if status.weight != Options().weight else ""),
        ("pool", status.pool or ""),
        ("overflow", status.overflow or ""),
        ("rate limit", status.rate_limit),
        ("window", status.window),
        ("created", local_time(status.created_at)),
        ("starts", local_time(status.start_at)),
        ("expires", local_time(status.expire_at)),
        ("finished", local_time(status.finished_at)),
        (
            "compacted",
            f"{local_time(status.compacted_at)}: only counts are kept" if status.compacted_at else "",
        ),
    ]
    return [(name, value) for name, value in details if value != ""]


WORKER_COLUMNS: Columns = {
    "worker": 0, "server": 3, "state": 0, "load": 1, "open": 4, "busy": 5, "limit": 1, "sent/s": 0, "sent": 2,
    "share": 3,
}  # fmt: skip
"""What a watch shows of each worker."""
SERVER_COLUMNS: Columns = {
    "worker": 0, "server": 3, "state": 0, "operator": 1, "load": 0, "external": 4, "open": 7, "busy": 7,
    "limit": 0, "max": 8, "weight": 5, "key": 5, "sent/s": 2, "rate limit": 4, "sent": 2, "share": 6,
    "deferred": 6, "bounced": 6, "s/message": 7, "failures": 5, "pools": 8, "seen": 8, "reason": 1,
}  # fmt: skip


def takes_messages(worker: WorkerStatus) -> bool:
    """Whether it is at work, be it slowly."""
    return worker.state in ("ready", "slow start", "throttled")


def shown_key(key: float) -> float | str:
    """Three digits that count, however small it is: a policy may multiply it by seconds."""
    return float(f"{key:.3g}") or ""


def _share(worker: WorkerStatus, sent_in_all: int) -> str:
    return f"{100 * worker.sent / sent_in_all:.1f} %" if sent_in_all else "-"


def worker_row(worker: WorkerStatus, sent_in_all: int) -> list[object]:
    return [
        worker.worker, worker.server, worker.state, worker.load, worker.open, worker.busy, worker.limit,
        round(worker.rate, 1), worker.sent, _share(worker, sent_in_all),
    ]  # fmt: skip


def server_row(worker: WorkerStatus, sent_in_all: int) -> list[object]:
    failures = f"{100 * worker.failure_rate:.1f} %" if worker.failure_rate >= 0.0005 else ""
    seconds = round(worker.seconds_a_message, 3 if worker.seconds_a_message < 1 else 1)
    return [
        worker.worker, worker.server, worker.state, worker.operator, worker.load, worker.external,
        worker.open, worker.busy, worker.limit, worker.max_connections, worker.weight,
        shown_key(worker.key), round(worker.rate, 1), worker.rate_limit, worker.sent,
        _share(worker, sent_in_all), worker.deferred, worker.bounced, seconds or "", failures,
        ", ".join(worker.pools), shown_time(worker.last_seen_at), worker.reason,
    ]  # fmt: skip


REPORT_COLUMNS: Columns = {
    "email": 0, "state": 0, "code": 1, "reply": 1, "worker": 3, "server": 5, "attempts": 4, "first_at": 6,
    "last_at": 2, "due_at": 5,
}  # fmt: skip


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
