"""The commands that look: status, watch, report, trace, servers."""

import csv
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import click
import msgspec

from client import output, output_table, output_times
from client.cli_common import EXIT_INTERRUPTED, Connect, client_command, command, exit_by, goes_on
from client.errors import BAD_INPUT, ClientError
from client.output_live import show_watch
from client.problems import counted
from client.sync_api import Client
from evenpost.runtime.processes import parted
from evenpost.runtime.settings import FiniteRange, WholeRange
from evenpost.wire.messages import MessageState, ReportRow

TRACE_COLUMNS: output_table.Columns = {
    "campaign": 0, "when": 1, "state": 0, "code": 1, "reply": 1, "worker": 2, "server": 4, "attempt": 3,
}  # fmt: skip
ONLY: dict[str, tuple[MessageState, ...]] = {
    "failed": output.FAILED,
    **{state: (state,) for state in output.SHOWN},
}


@click.command(short_help="List the newest campaigns, or show one in full.")
@click.argument("campaign", required=False)
@click.option("--limit", type=WholeRange(1, 1_000), default=50, show_default=True, help="Newest campaigns.")
@client_command
def status(campaign: str | None, limit: int, client: Client, as_json: bool) -> None:
    """Shows the newest campaigns, or CAMPAIGN in full.

    \b
    Examples:
      evenpost status
      evenpost status k3v9x2
      evenpost status k3v9x2 --json | jq .counts
    """
    if campaign is None:
        found = client.status(limit=limit)
        if as_json:
            output.json_line(found)
        else:
            rows = [output.status_row(c) for c in found]
            output_table.table(output.STATUS_COLUMNS, rows, wrap="waiting for", empty="No campaign yet.")
        return
    one = client.status(campaign)
    if as_json:
        output.json_line(one)
    else:
        output_table.details(output.status_details(one))


@click.command(short_help="Watch workers and campaigns at work.")
@click.argument("campaign", required=False)
@click.option(
    "--interval", type=FiniteRange(0.05, 10), default=0.5, show_default=True, help="Seconds an update."
)
@command
def watch(campaign: str | None, interval: float, connect: Connect, as_json: bool) -> None:
    """Shows workers and campaigns at work: all running ones, or CAMPAIGN until it ends.

    On a terminal it is a live table of the workers (state, load, limit, messages sent a second, share of what
    was sent) with a bar for each campaign and when it will be done; on a pipe a line an update; with --json a
    JSON document a line. The exit status is 0 if the campaign ended with all sent, 1 if some failed.
    """
    try:
        with connect() as client:
            if campaign is not None:
                client.status(campaign)  # says at once that there is none
            show_watch(client.watch(campaign, interval=interval), as_json=as_json)
            if campaign is None:
                return
            final = client.status(campaign)
    except KeyboardInterrupt:
        if campaign is not None:
            goes_on(campaign)
        raise click.exceptions.Exit(EXIT_INTERRUPTED) from None
    if not as_json:
        click.echo(output.status_line(final))
    exit_by(final)


@click.command(short_help="Say of each recipient what became of the message.")
@click.argument("campaign")
@click.option(
    "--format", "form", type=click.Choice(["table", "csv", "json"]), default=None,
    help="table: for people, or with tabs on a pipe (default). csv: for spreadsheets. json: exact, an object "
    "a line, with its earlier attempts; --json is the same.",
)  # fmt: skip
@click.option(
    "--only", type=click.Choice(list(ONLY)), multiple=True,
    help="Only messages in this state; may be given again. 'failed': bounced, expired and held (outcome "
    "unknown; a person decides).",
)  # fmt: skip
@click.option(
    "--output", "target", type=click.Path(dir_okay=False, path_type=Path), help="Write to this file."
)
@client_command
def report(
    campaign: str,
    form: str | None,
    only: Sequence[str],
    target: Path | None,
    client: Client,
    as_json: bool,
) -> None:
    """Says of each recipient of CAMPAIGN what became of the message: state, SMTP code and reply, server,
    attempts, times.

    In CSV, times are UTC, and an apostrophe stands before text that a spreadsheet would take for a formula.
    Its first column is `email`, so that it can be submitted again as a list.

    \b
    Examples:
      evenpost report k3v9x2 --only failed
      evenpost report k3v9x2 --format csv --output report.csv
      evenpost report k3v9x2 --json --only bounced | jq -r .address
    """
    form = form or ("json" if as_json else "table")
    states = [state for name in only for state in ONLY[name]]
    client.status(campaign)
    pages = client.report_pages(campaign, only=dict.fromkeys(states))
    if form == "table" and target is None and output_table.on_terminal():
        _print_tables(pages)
        return
    with _opened(target) as file:
        count = _write(pages, form, file)
    if target is not None:
        click.echo(f"{counted(count, 'recipient')} written to {target}", err=True)


@click.command(short_help="Find each message to an address.")
@click.argument("address")
@click.option("--limit", type=WholeRange(1, 5_000), default=1_000, show_default=True, help="Newest messages.")
@client_command
def trace(address: str, limit: int, client: Client, as_json: bool) -> None:
    """Finds each message to ADDRESS, in all campaigns, the newest first, with each attempt.

    Campaigns whose recipients the broker has removed (--retain-days) can't be searched: it says how many.
    """
    page = client.trace_page(address, limit=limit)
    rows = page.rows
    if page.compacted:
        upto = output_times.local_time(page.compacted_upto)[:10]
        many = counted(page.compacted, "older campaign")
        click.echo(f"Not searched: {many}, of those that ended up to {upto}; only counts are kept.", err=True)
    if as_json:
        output.json_line([output.report_json(row) for row in rows])
        return
    output_table.table(TRACE_COLUMNS, _attempts(rows), wrap="reply", empty=f"No message to {address}.")


@click.command(short_help="List the workers and their SMTP servers.")
@client_command
def servers(client: Client, as_json: bool) -> None:
    """Lists the workers, each in front of one SMTP server: state, load, limits, what they sent.

    \b
    load      connections in use at its server: ours and others' (external)
    limit     how many of them may be ours just now; max: at most
    key       of those who can take messages, the lowest gets the next ones
    operator  your words that still stand: drain, maint, weight:N, maxconn:N
    state     ready; slow start (it came back, its share rises); throttled
              (its server, or a rate, wants less); draining, maint (it gets
              nothing); backing off (its server fails); lost (it doesn't
              report); gone (it ended)
    reason    who says draining or maint (an operator, its server's agent, or
              itself, while it ends); else what its server said last

    A terminal shows the columns that it has room for; on a pipe and with --json there are all.
    """
    found = sorted(client.servers(), key=lambda w: parted(w.worker))
    if as_json:
        output.json_line(found)
        return
    sent = sum(w.sent for w in found)
    rows = [output.server_row(w, sent) for w in found]
    output_table.table(output.SERVER_COLUMNS, rows, wrap="reason", empty="No worker has connected yet.")


def _attempts(rows: Sequence[ReportRow]) -> Iterator[list[object]]:
    """A line for each attempt; the message's own state with the newest."""
    for row in rows:
        when = output.shown_time(row.last_at or row.due_at)
        yield [
            row.campaign, when, row.state, row.code or "", row.reply, row.worker, row.server, row.attempts
        ]  # fmt: skip
        for number, attempt in reversed(list(enumerate(row.history, 1))):
            when = output.shown_time(attempt.at)
            campaign = "" if output_table.on_terminal() else row.campaign  # cut and awk want it on each line
            yield [
                campaign,
                when,
                attempt.outcome,
                attempt.code or "",
                attempt.reply,
                attempt.worker,
                "",
                number,
            ]


def _print_tables(pages: Iterator[list[ReportRow]]) -> None:
    """A table a page: the widths of a million rows can't be known beforehand."""
    empty = True
    for page in pages:
        if page:
            empty = False
            rows = [output.report_row(row, file=False) for row in page]
            output_table.table(output.REPORT_COLUMNS, rows, wrap="reply")
    if empty:
        click.echo("None: no recipient is in the state that was asked for.")


def _write(pages: Iterator[list[ReportRow]], form: str, file: IO[str]) -> int:
    encode = msgspec.json.Encoder().encode
    writer = csv.writer(file, lineterminator="\r\n")  # RFC 4180
    if form == "csv":
        writer.writerow(output.REPORT_COLUMNS)
    elif form == "table":
        file.write("\t".join(output.REPORT_COLUMNS) + "\n")
    count = 0
    for page in pages:
        count += len(page)
        if form == "csv":
            writer.writerows(output.report_row(row, file=True) for row in page)
        elif form == "json":
            file.writelines(encode(output.report_json(row)).decode() + "\n" for row in page)
        else:
            rows = (output.report_row(row, file=False) for row in page)
            file.writelines("\t".join(map(output_table.plain, row)) + "\n" for row in rows)
        file.flush()
    return count


@contextmanager
def _opened(target: Path | None) -> Iterator[IO[str]]:
    if target is None:
        yield sys.stdout
        return
    try:
        # newline="": the CSV writer ends its lines itself
        file = target.open("w", encoding="utf-8", newline="")
    except OSError as error:
        raise ClientError(BAD_INPUT, f"can't write {target}: {error.strerror}") from None
    with file:
        yield file
