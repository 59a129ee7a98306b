"""`evenpost submit` and `evenpost send`: from files and options to a campaign, checked and on its way."""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from client import output
from client.cli_common import command, connect, exit_by, goes_on, show_warnings
from client.input_attachments import read_attachment
from client.input_campaign import Campaign
from client.output_live import Bar, show_waiting, show_watch
from client.preview import dry_run, write_previews
from client.problems import InputError, Problem, counted, not_utf8, unreadable
from client.submission_plan import Plan, Receipt, new_submission_id
from client.sync_api import Client
from evenpost.wire.messages import Attachment, CampaignStatus

FILE = click.Path(dir_okay=False, path_type=Path)
FOLDER = click.Path(file_okay=False, path_type=Path)


def message_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """What `submit` and `send` have in common."""
    for decorator in (
        click.option("--on-unknown", type=click.Choice(["resend", "hold"]), default=None, help=
                     "When a server took a message and its answer got lost: send it again (default; may be a "
                     "duplicate) or hold it for you to decide."),
        click.option("--envelope-from", metavar="ADDRESS", help=
                     "Where bounces go; '' for nowhere. Default: --from."),
        click.option("--pool", metavar="TAG", help="Only through workers with this tag."),
        click.option("--expire-at", metavar="TIME", help=
                     "Stop trying then: a time, or +2d counted from the start."),
        click.option("--inline", "inlines", multiple=True, metavar="CID=FILE", help=
                     "An image that the HTML shows with cid:CID. May be given again."),
        click.option("--attach", "attachments", multiple=True, type=FILE, metavar="FILE", help=
                     "A file that goes with each message. May be given again."),
        click.option("--header", "headers", multiple=True, metavar="'NAME: VALUE'", help=
                     "A header of your own. May be given again."),
        click.option("--to-name", metavar="TEXT", help=
                     "The recipient's name in To, such as '{{ first_name }}'."),
        click.option("--reply-to", metavar="ADDRESS", help="Where answers go."),
        click.option("--text", type=FILE, metavar="FILE", help=
                     "The plain text. Default: made from the HTML."),
        click.option("--html", type=FILE, metavar="FILE", help="The HTML."),
        click.option("--subject", metavar="TEXT", help="The subject."),
        click.option("--from", "sender", metavar="'NAME <ADDRESS>'", help="The sender."),
    ):  # fmt: skip
        function = decorator(function)
    return function


def submit_options(function: Callable[..., Any]) -> Callable[..., Any]:
    for decorator in (
        click.option("--wait", is_flag=True, help="Stay until each message has its outcome, and exit by it."),
        click.option("--preview-dir", type=FOLDER, default=Path("preview"), show_default=True, metavar="DIR",
                     help="Where --preview writes."),
        click.option("--preview", "previews", type=click.IntRange(1), metavar="N", help=
                     "Write the first N messages as .eml files, and send nothing."),
        click.option("--dry-run", is_flag=True, help=
                     "Check everything, compose every message, say what would go, and send nothing."),
        click.option("--submission-id", metavar="ID", help=
                     "Submitting twice with the same id counts once. Default: a new one."),
        click.option("--skip-bad", is_flag=True, help=
                     "Leave bad recipients out instead of refusing the list."),
        click.option("--email-column", metavar="NAME", help="The column with the address. Default: email."),
        click.option("--delimiter", metavar="CHAR", help="Of the CSV. Default: found out."),
        click.option("--encoding", metavar="NAME", help="Of the list. Default: UTF-8, or what its BOM says."),
        click.option("--priority", type=click.IntRange(0, 9), metavar="0-9", help=
                     "9 is the most urgent. Default: 4."),
        click.option("--start-at", metavar="TIME", help=
                     "Not before then: 2026-05-01T09:00:00+02:00, or +2h from now."),
        click.option("--name", metavar="TEXT", help="What you call this campaign."),
        click.option("--recipients", metavar="FILE", help=
                     "A CSV (with a header line; column `email`) or JSONL file; - for standard input."),
    ):  # fmt: skip
        function = decorator(function)
    return function


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
    broker: str,
    timeout: float,
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
    campaign = _campaign(campaign_file, {**_message_values(options), **_plain(options, _SUBMIT_KEYS)})
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
        with connect(broker, timeout) as client:
            if not as_json and not chosen:
                bar.say(f"Submission {submission_id} (--submission-id to take it up again)")
            receipt = client.submit_plan(plan, submission_id)
            bar.stop()
            _finish(client, receipt, plan, wait=wait, as_json=as_json)


@click.command(short_help="Send one message, before all newsletters.")
@click.option("--to", required=True, metavar="ADDRESS", help="The recipient.")
@click.option("--value", "values", multiple=True, metavar="NAME=VALUE", help=
              "A merge field. May be given again.")  # fmt: skip
@click.option(
    "--priority", type=click.IntRange(0, 9), default=9, show_default=True, help="9 is the most urgent."
)
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
    broker: str,
    timeout: float,
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
    fields = _pairs(values, "--value", "=", "NAME=VALUE")
    keywords = {
        **_message_values(options),
        "priority": priority,
        "recipients": [{**dict(fields), "email": to}],
    }
    campaign = _campaign(None, keywords)
    show_warnings(campaign.warnings, as_json=as_json)
    with Plan(campaign) as plan:
        plan.check()
        with connect(broker, timeout) as client:
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
        if not as_json and output.on_terminal():
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
        took = f" in {output.duration(seconds)}"
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


# --- options to a campaign ----------------------------------------------------------------------

_MESSAGE_KEYS = (
    "sender",
    "subject",
    "reply_to",
    "to_name",
    "envelope_from",
    "on_unknown",
    "pool",
    "expire_at",
)
_SUBMIT_KEYS = ("recipients", "name", "start_at", "priority", "encoding", "delimiter", "email_column")


def _plain(options: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    return {key: options[key] for key in keys if options.get(key) is not None}


def _message_values(options: Mapping[str, Any]) -> dict[str, Any]:
    values = _plain(options, _MESSAGE_KEYS)
    files = {key: options[key] for key in ("html", "text") if options.get(key) is not None}
    for key, path in files.items():
        values[key] = _body(key, path)
    if files:
        values["files"] = {key: str(path) for key, path in files.items()}
    if options["headers"]:
        pairs = _pairs(options["headers"], "--header", ":", "'NAME: VALUE'")
        values["headers"] = tuple((name.strip(), value.strip()) for name, value in pairs)
    if options["attachments"] or options["inlines"]:
        values["attachments"] = _attachments(options["attachments"], options["inlines"])
    return values


def _campaign(file: Path | None, values: dict[str, Any]) -> Campaign:
    if file is not None:
        return Campaign.load(file, **values)
    for key in ("sender", "subject", "recipients"):
        values.setdefault(key, None)  # Campaign says of each that it is missing, and not only of the first
    return Campaign(**values)


def _body(key: str, path: Path) -> str:
    """A part's text. Raises InputError."""
    try:
        content = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
        return content.decode("utf-8-sig").replace("\r\n", "\n")
    except OSError as error:
        hint = "Is the path right?"
        problem = Problem("bad_option", unreadable(error), hint, str(path), field=f"--{key}")
    except UnicodeDecodeError as error:
        line, reason = not_utf8(error)
        problem = Problem("bad_option", reason, "Save the file as UTF-8", str(path), line)
    raise InputError([problem])


def _attachments(paths: Sequence[Path], inlines: Sequence[str]) -> list[Attachment]:
    found, problems = [], []
    pairs = [("", str(path)) for path in paths] + _pairs(inlines, "--inline", "=", "CID=FILE")
    for cid, path in pairs:
        try:
            found.append(read_attachment(path, cid=cid or None))
        except ValueError as error:
            reason, hint = (*map(str, error.args), "")[:2]
            problems.append(Problem("bad_option", reason, hint, field="--inline" if cid else "--attach"))
    if problems:
        raise InputError(problems)
    return found


def _pairs(texts: Sequence[str], option: str, mark: str, example: str) -> list[tuple[str, str]]:
    pairs, problems = [], []
    for text in texts:
        name, found, value = text.partition(mark)
        if found and name.strip():
            pairs.append((name, value))
        else:
            problems.append(Problem("bad_option", f"{text!r} is not {example}", field=option))
    if problems:
        raise InputError(problems)
    return pairs
