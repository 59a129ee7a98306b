"""The commands that steer: pause, resume, cancel, retry-failed, drain, ready."""

from collections.abc import Sequence
from typing import Any

import click

from client import output
from client.api import RetryState
from client.cli_common import command, connect


@click.command(short_help="Send nothing more of a campaign for now.")
@click.argument("campaign")
@command
def pause(campaign: str, broker: str, timeout: float, as_json: bool) -> None:
    """Sends nothing more of CAMPAIGN until `evenpost resume`. What is on the wire is finished."""
    with connect(broker, timeout) as client:
        client.pause(campaign)
    _say(as_json, f"{campaign} is paused. `evenpost resume {campaign}` goes on.", campaign=campaign)


@click.command(short_help="Go on with a paused campaign.")
@click.argument("campaign")
@command
def resume(campaign: str, broker: str, timeout: float, as_json: bool) -> None:
    """Goes on with a paused CAMPAIGN."""
    with connect(broker, timeout) as client:
        client.resume(campaign)
    _say(as_json, f"{campaign} goes on.", campaign=campaign)


@click.command(short_help="End a campaign for good.")
@click.argument("campaign")
@command
def cancel(campaign: str, broker: str, timeout: float, as_json: bool) -> None:
    """Ends CAMPAIGN: what isn't sent yet is never sent. There is no way back."""
    with connect(broker, timeout) as client:
        changed = client.cancel(campaign)
    words = f"{campaign} is cancelled: {changed:,} messages will not be sent."
    _say(as_json, words, campaign=campaign, changed=changed)


@click.command("retry-failed", short_help="Try the failed messages of a campaign again.")
@click.argument("campaign")
@click.option(
    "--only", type=click.Choice(["bounced", "expired", "held"]), multiple=True,
    help="Only messages in this state; may be given again. All three without it.",
)  # fmt: skip
@command
def retry_failed(
    campaign: str, only: Sequence[RetryState], broker: str, timeout: float, as_json: bool
) -> None:
    """Sends the bounced, expired and held messages of CAMPAIGN once more.

    Held are messages whose outcome is unknown: the server may have taken them, so that sending them again may
    mean a duplicate.
    """
    with connect(broker, timeout) as client:
        changed = client.retry_failed(campaign, only=only)
    words = f"{changed:,} messages of {campaign} are tried again. `evenpost watch {campaign}` shows them."
    _say(as_json, words, campaign=campaign, changed=changed)


@click.command(short_help="Give a worker nothing more for now.")
@click.argument("worker")
@command
def drain(worker: str, broker: str, timeout: float, as_json: bool) -> None:
    """Gives WORKER nothing more until `evenpost ready`, across restarts too: to maintain its server."""
    with connect(broker, timeout) as client:
        client.drain(worker)
    _say(as_json, f"{worker} gets nothing more. `evenpost ready {worker}` takes that back.", worker=worker)


@click.command(short_help="Give a drained worker messages again.")
@click.argument("worker")
@command
def ready(worker: str, broker: str, timeout: float, as_json: bool) -> None:
    """Gives a drained WORKER messages again."""
    with connect(broker, timeout) as client:
        client.ready(worker)
    _say(as_json, f"{worker} gets messages again.", worker=worker)


def _say(as_json: bool, words: str, **facts: Any) -> None:
    if as_json:
        output.json_line(facts)
    else:
        click.echo(words)
