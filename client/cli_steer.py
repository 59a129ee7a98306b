"""The commands that steer: pause, resume, cancel, retry-failed, drain, ready."""

from collections.abc import Sequence
from typing import Any

import click

from client import output
from client.api import RetryState
from client.cli_common import client_command
from client.problems import counted
from client.sync_api import Client


@click.command(short_help="Send nothing more of a campaign for now.")
@click.argument("campaign")
@client_command
def pause(campaign: str, client: Client, as_json: bool) -> None:
    """Sends nothing more of CAMPAIGN until `evenpost resume`. What is on the wire is finished."""
    client.pause(campaign)
    _say(as_json, f"{campaign} is paused. `evenpost resume {campaign}` goes on.", campaign=campaign)


@click.command(short_help="Go on with a paused campaign.")
@click.argument("campaign")
@client_command
def resume(campaign: str, client: Client, as_json: bool) -> None:
    """Goes on with a paused CAMPAIGN."""
    client.resume(campaign)
    _say(as_json, f"{campaign} goes on.", campaign=campaign)


@click.command(short_help="End a campaign for good.")
@click.argument("campaign")
@client_command
def cancel(campaign: str, client: Client, as_json: bool) -> None:
    """Ends CAMPAIGN: what isn't sent yet is never sent. There is no way back."""
    changed = client.cancel(campaign)
    words = f"{campaign} is cancelled: {counted(changed, 'message')} will not be sent."
    _say(as_json, words, campaign=campaign, changed=changed)


@click.command("retry-failed", short_help="Try the failed messages of a campaign again.")
@click.argument("campaign")
@click.option(
    "--only", type=click.Choice(output.FAILED), multiple=True,
    help="Only messages in this state; may be given again. All three without it.",
)  # fmt: skip
@client_command
def retry_failed(campaign: str, only: Sequence[RetryState], client: Client, as_json: bool) -> None:
    """Sends the bounced, expired and held messages of CAMPAIGN once more.

    Held are messages whose outcome is unknown: the server may have taken them, so that sending them again may
    mean a duplicate.
    """
    changed = client.retry_failed(campaign, only=only)
    count = counted(changed, "message")
    words = f"{count} of {campaign} will be tried again. `evenpost watch {campaign}` shows it."
    _say(as_json, words, campaign=campaign, changed=changed)


@click.command(short_help="Give a worker nothing more for now.")
@click.argument("worker")
@client_command
def drain(worker: str, client: Client, as_json: bool) -> None:
    """Gives WORKER nothing more until `evenpost ready`, across restarts too: to maintain its server."""
    client.drain(worker)
    _say(as_json, f"{worker} gets nothing more. `evenpost ready {worker}` takes that back.", worker=worker)


@click.command(short_help="Give a drained worker messages again.")
@click.argument("worker")
@client_command
def ready(worker: str, client: Client, as_json: bool) -> None:
    """Gives a drained WORKER messages again."""
    client.ready(worker)
    _say(as_json, f"{worker} gets messages again.", worker=worker)


def _say(as_json: bool, words: str, **facts: Any) -> None:
    if as_json:
        output.json_line(facts)
    else:
        click.echo(words)
