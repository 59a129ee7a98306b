"""The commands that steer: pause, resume, cancel, retry-failed; drain, maint, ready, weight, maxconn."""

from collections.abc import Callable, Sequence
from typing import Any

import click

from client import output
from client.api_steering import CONNECTIONS_MAX, RetryState
from client.cli_common import client_command
from client.cli_workers import named
from client.problems import counted
from client.sync_api import Client
from evenpost.wire import limits
from evenpost.wire.messages import WorkerStatus


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


# NAME is also all processes of a worker with --processes: NAME/1, NAME/2 ...
workers_argument = click.argument("workers", metavar="WORKER...", nargs=-1, required=True)


def _names(client: Client, workers: Sequence[str]) -> list[str]:
    return [each.worker for each in named(client, workers)]


def _parts(client: Client, workers: Sequence[str], total: int | None) -> list[tuple[str, int | None]]:
    """Each with its number. Processes that were named together share it."""
    return [(each.worker, each.part(total)) for each in named(client, workers)]


def _number(most: int) -> Callable[[click.Context, click.Parameter, str], int | None]:
    """Reads 1 to `most`, or "default" as None."""

    def read(_: click.Context, __: click.Parameter, value: str) -> int | None:
        if value == "default":
            return None
        number = int(value) if value.isascii() and value.isdecimal() and len(value) < 10 else -1
        if not 1 <= number <= most:
            hint = " To give it nothing: evenpost drain." if number == 0 else ""
            raise click.BadParameter(f"{value!r} is no number from 1 to {most:,}, and not 'default'.{hint}")
        return number

    return read


@click.command(short_help="Give workers nothing more for now.")
@workers_argument
@client_command
def drain(workers: Sequence[str], client: Client, as_json: bool) -> None:
    """Gives each WORKER nothing more until `evenpost ready`, across restarts too: to maintain its server.
    What it has, it finishes; `evenpost servers` shows when that is so.
    """
    for worker in _names(client, workers):
        client.drain(worker)
        words = f"{worker} gets nothing more. `evenpost ready {worker}` takes that back."
        _say(as_json, words, worker=worker, state="drain")


@click.command(short_help="Stop workers: nothing more, and what isn't begun is called back.")
@workers_argument
@client_command
def maint(workers: Sequence[str], client: Client, as_json: bool) -> None:
    """Gives each WORKER nothing at all until `evenpost ready`, across restarts too. What it has but hasn't
    begun is called back and goes to other servers; a message on the wire is finished.
    """
    for worker in _names(client, workers):
        client.maint(worker)
        words = f"{worker} gets nothing at all. `evenpost ready {worker}` takes that back."
        _say(as_json, words, worker=worker, state="maint")


@click.command(short_help="Take back drain and maint.")
@workers_argument
@client_command
def ready(workers: Sequence[str], client: Client, as_json: bool) -> None:
    """Gives each WORKER messages again, after `evenpost drain` or `evenpost maint`, and says what else may
    hold it: its server's agent, say.
    """
    names = _names(client, workers)
    for worker in names:
        client.ready(worker)
    known = {each.worker: each for each in client.servers()}
    for worker in names:
        if held := _held(known[worker]) if worker in known else "":
            words = f"{worker} is held by no operator any more, but gets no messages yet: {held}."
            _say(as_json, words, worker=worker, state="ready", held=held)
        else:
            _say(as_json, f"{worker} gets messages again.", worker=worker, state="ready")


def _held(worker: WorkerStatus) -> str:
    """What keeps it from getting messages, whatever an operator says; empty for nothing that lasts."""
    match worker.state:
        case "draining" | "maint":
            return worker.reason or f"its state is {worker.state}"
        case "lost":
            return "it is lost" + (f" ({worker.reason})" if worker.reason else "")
        case "gone":
            return "it has ended"
    return ""


@click.command(short_help="Set the share of the load that workers get.")
@workers_argument
@click.argument("weight", metavar="N|default", callback=_number(limits.WEIGHT_MAX))
@client_command
def weight(workers: Sequence[str], weight: int | None, client: Client, as_json: bool) -> None:
    """Gives each WORKER the weight N (1 to 1,000), across restarts too, until `default` takes it back: then
    the worker's own --weight counts again, or what its server's agent says.

    A worker of weight 200 gets twice the connections of one of 100, the usual weight.

    \b
    Examples:
      evenpost weight relay-1 50
      evenpost weight relay-1 relay-2 default
    """
    for worker, its in _parts(client, workers, weight):
        client.set_weight(worker, its)
        which = "its own weight again" if its is None else f"the weight {its}"
        _say(as_json, f"{worker} has {which}.", worker=worker, weight=its)


@click.command(short_help="Set the most connections that workers open.")
@workers_argument
@click.argument("maxconn", metavar="N|default", callback=_number(CONNECTIONS_MAX))
@client_command
def maxconn(workers: Sequence[str], maxconn: int | None, client: Client, as_json: bool) -> None:
    """Lets each WORKER open at most N connections, across restarts too, until `default` takes it back. It
    never raises the worker's own --max-connections.

    \b
    Examples:
      evenpost maxconn relay-1 5
      evenpost maxconn relay-1 default
    """
    for worker, its in _parts(client, workers, maxconn):
        client.set_max_connections(worker, its)
        most = "its own limit again" if its is None else f"at most {counted(its, 'connection')}"
        _say(as_json, f"{worker} has {most}.", worker=worker, max_connections=its)


def _say(as_json: bool, words: str, **facts: Any) -> None:
    if as_json:
        output.json_line(facts)
    else:
        click.echo(words)
