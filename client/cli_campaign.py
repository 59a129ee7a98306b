"""The options of `submit` and `send`, and the campaign that they describe."""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from client.input_attachments import read_attachment
from client.input_campaign import Campaign
from client.problems import InputError, Problem, not_utf8, unreadable
from evenpost.runtime.settings import WholeRange
from evenpost.wire import limits
from evenpost.wire.messages import Attachment

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
        click.option("--window", metavar="WINDOW", help=
                     "Only at these hours: '08:00-20:00 Europe/Berlin'."),
        click.option("--rate", metavar="RATE", help=
                     "At most so many messages, in one time or several: '14/s, 50000/day'."),
        click.option("--weight", type=WholeRange(1, limits.WEIGHT_MAX), metavar="1-1000", help=
                     "Share beside other campaigns of the same priority. Default: 100."),
        click.option("--overflow", metavar="TAG", help=
                     "Through workers with this tag too, while those of the pool can't take more."),
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
        click.option("--preview", "previews", type=WholeRange(1), metavar="N", help=
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
        click.option("--priority", type=WholeRange(0, 9), metavar="0-9", help=
                     "9 is the most urgent. Default: 4."),
        click.option("--start-at", metavar="TIME", help=
                     "Not before then: 2026-05-01T09:00:00+02:00, or +2h from now."),
        click.option("--name", metavar="TEXT", help="What you call this campaign."),
        click.option("--recipients", metavar="FILE", help=
                     "A CSV (with a header line; column `email`) or JSONL file; - for standard input."),
    ):  # fmt: skip
        function = decorator(function)
    return function


_MESSAGE_KEYS = (
    "sender",
    "subject",
    "reply_to",
    "to_name",
    "envelope_from",
    "on_unknown",
    "pool",
    "overflow",
    "weight",
    "rate",
    "window",
    "expire_at",
)
_SUBMIT_KEYS = ("recipients", "name", "start_at", "priority", "encoding", "delimiter", "email_column")


def _plain(options: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    return {key: options[key] for key in keys if options.get(key) is not None}


def submit_values(options: Mapping[str, Any]) -> dict[str, Any]:
    """Campaign's keywords that only `submit` has options for."""
    return _plain(options, _SUBMIT_KEYS)


def message_values(options: Mapping[str, Any]) -> dict[str, Any]:
    """Campaign's keywords that both have options for; files are read. Raises InputError."""
    values = _plain(options, _MESSAGE_KEYS)
    files = {key: options[key] for key in ("html", "text") if options.get(key) is not None}
    for key, path in files.items():
        values[key] = _body(key, path)
    if files:
        values["files"] = {key: str(path) for key, path in files.items()}
    if options["headers"]:
        pairs = pairs_of(options["headers"], "--header", ":", "'NAME: VALUE'")
        values["headers"] = tuple((name.strip(), value.strip()) for name, value in pairs)
    if options["attachments"] or options["inlines"]:
        values["attachments"] = _attachments(options["attachments"], options["inlines"])
    return values


def campaign_of(file: Path | None, values: dict[str, Any]) -> Campaign:
    """A file's campaign, with `values` in place of what it says; without one, of `values` alone. Raises
    InputError."""
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
    pairs = [("", str(path)) for path in paths] + pairs_of(inlines, "--inline", "=", "CID=FILE")
    for cid, path in pairs:
        try:
            found.append(read_attachment(path, cid=cid or None))
        except ValueError as error:
            reason, hint = (*map(str, error.args), "")[:2]
            problems.append(Problem("bad_option", reason, hint, field="--inline" if cid else "--attach"))
    if problems:
        raise InputError(problems)
    return found


def pairs_of(texts: Sequence[str], option: str, mark: str, example: str) -> list[tuple[str, str]]:
    """NAME=VALUE options. Raises InputError with all that aren't."""
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
