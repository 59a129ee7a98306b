"""`evenpost submit` and `evenpost send`: from files and options to a campaign, checked and on its way."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from client import output
from client.cli_campaign import (
    campaign_of,
    message_options,
    message_values,
    pairs_of,
    submit_options,
    submit_values,
)
from client.cli_common import Connect, command, exit_by, goes_on, show_warnings
from client.output_live import Bar, show_waiting, show_watch
from client.output_table import on_terminal
from client.output_times import duration
from client.preview import dry_run, write_previews
from client.problems import InputError, Problem, counted
from client.submission_plan import Plan, Receipt, new_submission_id
from client.sync_api import Client
from evenpost.runtime.settings import WholeRange
from evenpost.wire.messages import CampaignStatus


@click.command(short_help="Submit a campaign: a message and a list of recipients.")
@click.argument("campaign_file", metavar="[CAMPAIGN.TOML]", required=False, type=click.Path(path_type=Path))
@message_options
@submit_options
@command
def submit(
    campaign_file: Path | None,
    submission_id: str | None,
    skip_bad: bool,
    dry_run: bool,
    previews: int | None,
    preview_dir: Path,
    wait: bool,
    connect: Connect,
    as_json: bool,
    **options: Any,
) -> None:
    """Submits a campaign: a message and a list of recipients, from a file, from options, or both (an option
    replaces what the file says).

    Subject, HTML, text and so on are Jinja2 templates: {{ first_name }} takes the column first_name of the
    list. All is checked before anything is sent, and every problem is listed with its line. When this command
    says "accepted", the broker has all of it on its disk.

    \b
    Exit status: 0 accepted (with --wait: all sent), 1 finished with failures, 2 bad input,
    3 no broker, 130 Ctrl-C (with --wait, the campaign goes on).

    \b
    Examples:
      evenpost submit campaign.toml --dry-run
      evenpost submit campaign.toml --preview 3
      evenpost submit campaign.toml --wait
      evenpost submit --from 'News <news@example.com>' --subject 'Hello {{ first_name }}' \\
          --html body.html --recipients list.csv --start-at +2h
      psql -c "COPY (...) TO STDOUT CSV HEADER" | evenpost submit campaign.toml --recipients -
    """
    campaign = campaign_of(campaign_file, {**message_values(options), **submit_values(options)})
    show_warnings(campaign.warnings, as_json=as_json)
    with Bar(shown=not as_json) as bar, Plan(campaign, skip_bad=skip_bad, progress=bar) as plan:
        plan.check()
        if dry_run or previews:
            bar.stop()
            facts = _without_sending(plan, dry_run, previews, preview_dir, as_json=as_json)
            if as_json:
                output.json_line(facts)
            return
        submission_id = submission_id or campaign.submission_id
        chosen = submission_id is not None
        submission_id = submission_id or new_submission_id()
        with connect() as client:
            if not as_json and not chosen:
                bar.say(f"Submission {submission_id} (--submission-id to take it up again)")
            receipt = client.submit_plan(plan, submission_id)
            bar.stop()
            _finish(client, receipt, plan, wait=wait, as_json=as_json)


@click.command(short_help="Send one message, before all newsletters.")
@click.option("--to", required=True, metavar="ADDRESS", help="The recipient.")
@click.option("--value", "values", multiple=True, metavar="NAME=VALUE", help=
              "A merge field. May be given again.")  # fmt: skip
@click.option("--priority", type=WholeRange(0, 9), default=9, show_default=True, help="9 is the most urgent.")
@click.option("--submission-id", metavar="ID", help="Sending twice with the same id counts once.")
@click.option("--wait", is_flag=True, help="Stay until a server has answered, and exit by the outcome.")
@message_options
@command
def send(
    to: str,
    values: Sequence[str],
    priority: int,
    submission_id: str | None,
    wait: bool,
    connect: Connect,
    as_json: bool,
    **options: Any,
) -> None:
    """Sends one message, before all newsletters. --text - reads it from standard input.

    \b
    Examples:
      evenpost send --to anna@example.com --from shop@example.com \\
          --subject 'Your receipt' --text receipt.txt
      echo 'The disk is full.' | evenpost send --to admin@example.com --from cron@example.com \\
          --subject 'Alarm on {{ host }}' --value host=web-1 --text - --wait
    """
    fields = pairs_of(values, "--value", "=", "NAME=VALUE")
    keywords = {
        **message_values(options),
        "priority": priority,
        "recipients": [{**dict(fields), "email": to}],
    }
    campaign = campaign_of(None, keywords)
    show_warnings(campaign.warnings, as_json=as_json)
    with Plan(campaign) as plan:
        plan.check()
        with connect() as client:
            receipt = client.submit_plan(plan, submission_id)
            _finish(client, receipt, plan, wait=wait, as_json=as_json)


def _finish(client: Client, receipt: Receipt, plan: Plan, *, wait: bool, as_json: bool) -> None:
    facts: dict[str, Any] = {
        "campaign": receipt.campaign,
        "recipients": receipt.recipients,
        "submission": receipt.submission,
        "again": receipt.again,
        "skipped": receipt.skipped,
    }
    if not as_json:
        again = " (before: this submission was accepted already)" if receipt.again else ""
        skipped = f", {receipt.skipped:,} left out" if receipt.skipped else ""
        count = counted(receipt.recipients, "recipient")
        click.echo(f"Campaign {receipt.campaign} accepted{again}: {count}{skipped}.")
        if receipt.skipped and plan.checked is not None:
            show_warnings(plan.checked.problems, as_json=False)
        if not wait:
            click.echo(f"`evenpost watch {receipt.campaign}` shows it leave.", err=True)
    if not wait:
        if as_json:
            output.json_line(facts)
        return
    final = _wait(client, receipt.campaign, as_json=as_json)
    if as_json:
        output.json_line({**facts, "status": final})
    else:
        _summary(final)
    exit_by(final)


def _wait(client: Client, campaign: str, *, as_json: bool) -> CampaignStatus:
    try:
        if not as_json and on_terminal():
            show_watch(client.watch(campaign), as_json=False)
        elif not as_json:
            show_waiting(client.watch(campaign))
        return client.wait(campaign)
    except KeyboardInterrupt:
        goes_on(campaign)


def _summary(final: CampaignStatus) -> None:
    took = ""
    if final.finished_at is not None:
        seconds = max(0.001, (final.finished_at - max(final.created_at, final.start_at or 0)) / 1000)
        took = f" in {duration(seconds)}"
    click.echo(f"Campaign {final.campaign} {final.state}{took}: {output.counts_text(final.counts)}.")
    if output.failures(final):
        click.echo(f"`evenpost report {final.campaign} --only failed` says why.", err=True)


def _without_sending(
    plan: Plan, whole: bool, previews: int | None, folder: Path, *, as_json: bool
) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    if previews:
        try:
            files = write_previews(plan, previews, folder)
        except OSError as error:
            raise InputError([Problem("bad_option", f"can't write to {folder}: {error.strerror}")]) from None
        facts["previews"] = [str(file) for file in files]
        if not as_json:
            more = " ..." if len(files) > 1 else ""
            click.echo(f"{counted(len(files), 'message')} written: {files[0]}{more}")
    if whole:
        result = dry_run(plan)
        facts.update(result.facts())
        if not as_json:
            result.show()
    return facts
