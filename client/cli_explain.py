"""`evenpost explain`: why a campaign or a message went where it went, or why it waits."""

from collections.abc import Sequence
from typing import Any

import click
import msgspec

from client import output
from client.cli_common import client_command
from client.output_table import STYLES, Columns, on_terminal, plain, table
from client.output_times import clock_time
from client.sync_api import Client
from evenpost.wire import limits
from evenpost.wire.messages import Candidate, Explanation, Pick, Reason, ReportRow

CANDIDATE_COLUMNS: Columns = {
    "worker": 0, "server": 3, "key": 1, "load/limit": 0, "weight": 2, "why not": 0,
}  # fmt: skip
ATTEMPT_COLUMNS: Columns = {"attempt": 2, "when": 0, "outcome": 0, "code": 1, "reply": 0, "worker": 1}


@click.command(short_help="Say why a campaign or a message waits, or went where it went.")
@click.argument("campaign", metavar="CAMPAIGN")
@click.argument("message", metavar="[ADDRESS|INDEX]", required=False)
@client_command
def explain(campaign: str, message: str | None, client: Client, as_json: bool) -> None:
    """Says why CAMPAIGN waits, or which workers could take its next messages: the lowest key gets them.

    For one message, named by its ADDRESS or by its INDEX in the list (from 0, as `evenpost report --json` has
    it), it says too which worker it went to, which one was next, and how each attempt ended.

    \b
    Examples:
      evenpost explain k3v9x2
      evenpost explain k3v9x2 anna@example.com
      evenpost explain k3v9x2/17
    """
    campaign, index, address = _named(campaign, message)
    found = client.explain(campaign, index, address=address)
    if as_json:
        output.json_line(_as_json(found))
    else:
        _show(found)


def _named(campaign: str, message: str | None) -> tuple[str, int | None, str | None]:
    """Campaign, index and address. Raises click.BadParameter."""
    if message is None and "/" in campaign:
        campaign, _, message = campaign.rpartition("/")
    if message is None:
        return campaign, None, None
    if "@" in message:
        return campaign, None, message
    if (
        message.isascii()
        and message.isdecimal()
        and len(message) <= 10
        and int(message) <= limits.RECIPIENTS_MAX
    ):
        return campaign, int(message), None
    raise click.BadParameter(
        f"{message!r} is neither an address nor the index of a recipient (0, 1, 2 ...).",
        param_hint="'[ADDRESS|INDEX]'",
    )


def _as_json(found: Explanation) -> dict[str, Any]:
    values: dict[str, Any] = msgspec.structs.asdict(found)
    return {**values, "row": None if found.row is None else output.report_json(found.row)}


def _show(found: Explanation) -> None:
    summary, reasons = plain(found.summary), found.reasons
    if reasons and summary == f"It waits: {plain(reasons[0].text)}.":  # said once, with its end
        summary, reasons = f"It waits: {_reason(reasons[0])}.", reasons[1:]
    click.echo(summary)
    for reason in reasons:
        click.echo(f"- {_reason(reason)}")
    if found.row is not None:
        click.echo()
        _show_message(found.row, found.pick)
    if found.candidates:
        click.echo()
        table(CANDIDATE_COLUMNS, _candidates(found.candidates), wrap="why not")
        if len(found.candidates) >= limits.EXPLANATION_ROWS_MAX:
            click.echo(f"These are the {limits.EXPLANATION_ROWS_MAX} best; `evenpost servers` lists all.")


def _reason(reason: Reason) -> str:
    until = f", until {clock_time(reason.until)}" if reason.until is not None else ""
    return plain(reason.text) + until


def _show_message(row: ReportRow, pick: Pick | None) -> None:
    state = click.style(row.state, fg=STYLES.get(row.state)) if on_terminal() else row.state
    due = f", next attempt {clock_time(row.due_at)}" if row.due_at else ""
    click.echo(f"Message {row.campaign}/{row.index} to {plain(row.address)}: {state}{due}.")
    if pick is not None:
        click.echo(_pick(pick))
    attempts = _attempts(row)
    if attempts:
        click.echo()
        table(ATTEMPT_COLUMNS, attempts, wrap="reply")


def _pick(pick: Pick) -> str:
    words = f"Batch {pick.batch} went to {plain(pick.worker)} (key {pick.key:.3g}) at {clock_time(pick.at)}"
    if pick.runner_up:
        return f"{words}; next would have been {plain(pick.runner_up)} (key {pick.runner_up_key:.3g})."
    return f"{words}; no other worker could take it."


def _candidates(candidates: Sequence[Candidate]) -> list[list[object]]:
    return [
        [
            each.worker, each.server, output.shown_key(each.key), f"{each.load}/{each.limit}",
            round(each.weight, 1), each.why_not,
        ]
        for each in candidates
    ]  # fmt: skip


def _attempts(row: ReportRow) -> list[list[object]]:
    """The earlier ones and the last, which the row itself tells of; the oldest first."""
    rows: list[list[object]] = [
        [0, output.shown_time(each.at), each.outcome, each.code or "", each.reply, each.worker]
        for each in row.history
    ]
    if row.last_at:
        last = output.shown_time(row.last_at)
        outcome = "" if row.state in ("queued", "sending") else row.state  # those tell of the next attempt
        rows.append([0, last, outcome, row.code or "", row.reply, row.worker])
    first = max(row.attempts, len(rows)) - len(rows) + 1
    for number, each in enumerate(rows, first):
        each[0] = number
    return rows
