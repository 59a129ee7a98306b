"""What the commands share: options, the connection, and errors that become a sentence and an exit status."""

import functools
import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import click

from client import output
from client.api import CONNECT_TIMEOUT_S, DEFAULT_BROKER, TIMEOUT_S
from client.errors import ClientError
from client.problems import InputError, Problem
from client.sync_api import Client
from evenpost.runtime import settings
from evenpost.wire.errors import Code
from evenpost.wire.messages import CampaignStatus

EXIT_FAILURES = 1
EXIT_BAD_INPUT = settings.EXIT_BAD_INPUT
EXIT_NO_BROKER = 3
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141
"""128 + SIGPIPE: as a program in C would end."""

F = TypeVar("F", bound=Callable[..., Any])

broker_option = settings.option(
    "--broker", default=DEFAULT_BROKER, metavar="ENDPOINT", help="The broker's endpoint for clients."
)
timeout_option = settings.option(
    "--timeout", type=click.FloatRange(0.1), default=TIMEOUT_S, metavar="SECONDS",
    help="Give up when the broker doesn't answer for this long. The first contact gets 5 s at most.",
)  # fmt: skip
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")


def command(function: F) -> F:
    """--broker, --timeout and --json for a command, and its errors as sentences."""
    return broker_option(timeout_option(json_option(speaking(function))))  # type: ignore[no-any-return]  # click's


def connect(broker: str, timeout: float) -> Client:
    """To be used with `with`; raises ClientError where there is no broker."""
    return Client(broker, timeout=timeout, connect_timeout=min(CONNECT_TIMEOUT_S, timeout))


def speaking(function: F) -> F:
    """Turns errors into a sentence, or a JSON document, and an exit status."""

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        as_json = bool(kwargs.get("as_json"))
        try:
            return function(*args, **kwargs)
        except InputError as error:
            show_problems(error.problems, error.total, as_json=as_json)
            raise click.exceptions.Exit(EXIT_BAD_INPUT) from None
        except ClientError as error:
            if as_json:
                output.json_line({"error": {"code": error.code, "message": error.message}})
            else:
                click.echo(f"Error: {error.message}{_advice(error)}", err=True)
            no_broker = error.code == Code.UNAVAILABLE
            raise click.exceptions.Exit(EXIT_NO_BROKER if no_broker else EXIT_BAD_INPUT) from None
        except BrokenPipeError:
            broken_pipe()

    return wrapped  # type: ignore[return-value]  # wraps() keeps the signature


def broken_pipe() -> NoReturn:
    """Whoever read our output has gone (`| head`): nothing more to say, and nowhere to say it."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    raise click.exceptions.Exit(EXIT_BROKEN_PIPE) from None


def _advice(error: ClientError) -> str:
    if error.code == Code.UNAVAILABLE:
        return ". Is the broker running, and is --broker (EVENPOST_BROKER) right?"
    return ""


def show_problems(problems: tuple[Problem, ...], total: int, *, as_json: bool) -> None:
    """Each problem on a line of its own, a summary at the end."""
    started = click.get_current_context().info_name == "up"
    done = "nothing was started." if started else "nothing was sent."
    if as_json:
        message = f"{total} problem{'' if total == 1 else 's'}"
        error = {"code": "bad_input", "message": message, "problems_total": total, "problems": problems}
        output.json_line({"error": error})
        return
    for problem in problems:
        click.echo(str(problem), err=True)
    errors = sum(p.severity == "error" for p in problems)
    if total > len(problems):
        click.echo(f"... and {total - len(problems):,} more", err=True)
    if errors:
        asked = click.get_current_context().params.get("skip_bad")
        if asked is False and all(p.line for p in problems):  # all of them rows
            done += " --skip-bad leaves these out."
        click.echo(f"{total:,} problem{'' if total == 1 else 's'}: {done}", err=True)


def show_warnings(problems: tuple[Problem, ...], *, as_json: bool) -> None:
    """What is odd, or was left out; on standard error, so that results stay clean."""
    if not as_json:
        for problem in problems:
            click.echo(str(problem), err=True)


def exit_by(status: CampaignStatus) -> None:
    """0 if all was sent, 1 otherwise."""
    if output.failures(status):
        raise click.exceptions.Exit(EXIT_FAILURES)


def goes_on(campaign: str) -> NoReturn:
    """Ctrl-C while a campaign is on its way."""
    click.echo(
        f"\nStopped watching; the campaign goes on. `evenpost watch {campaign}` shows it again, "
        f"`evenpost pause {campaign}` halts it, `evenpost cancel {campaign}` ends it.",
        err=True,
    )
    raise click.exceptions.Exit(EXIT_INTERRUPTED)
