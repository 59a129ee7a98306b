"""What the commands share: options, the connection, and errors that become a sentence and an exit status."""

import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click

from client import output
from client.api import DEFAULT_BROKER, TIMEOUT_S
from client.errors import ClientError
from client.problems import InputError, Problem, counted
from client.sync_api import Client
from evenpost.runtime import settings
from evenpost.runtime.curve_options import curve_options
from evenpost.wire.errors import Code
from evenpost.wire.messages import CampaignStatus

EXIT_FAILURES = 1
EXIT_NO_BROKER = 3
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141
"""128 + SIGPIPE: as a program in C would end."""

F = TypeVar("F", bound=Callable[..., Any])
Connect = Callable[[], Client]
"""To be used with `with`; raises ClientError where there is no broker."""

broker_option = settings.option(
    "--broker", default=DEFAULT_BROKER, metavar="ENDPOINT", help="The broker's endpoint for clients."
)
timeout_option = settings.option(
    "--timeout", type=settings.FiniteRange(0.1), default=TIMEOUT_S, metavar="SECONDS",
    help="Give up when the broker doesn't answer for this long. The first contact gets 5 s at most.",
)  # fmt: skip
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")


def command(function: F) -> F:
    """--broker, its keys, --timeout and --json for a command, which gets `connect` in their place, and its
    errors as sentences."""

    spoken = speaking(function)

    @functools.wraps(function)
    def wrapped(
        *, broker: str, curve_key: Path | None, broker_key: str | None, timeout: float, **kwargs: Any
    ) -> Any:
        connect = functools.partial(Client, broker, key=curve_key, broker_key=broker_key, timeout=timeout)
        return spoken(connect=connect, **kwargs)

    for option in (json_option, timeout_option, curve_options("EVENPOST_CURVE_KEY"), broker_option):
        wrapped = option(wrapped)
    return wrapped  # type: ignore[return-value]  # click calls it


def client_command(function: Callable[..., None]) -> Callable[..., None]:
    """`command` for what does nothing without a broker: it gets a connected `client` in their place."""

    @functools.wraps(function)
    def wrapped(*, connect: Connect, **kwargs: Any) -> None:
        with connect() as client:
            function(client=client, **kwargs)

    return command(wrapped)


def speaking(function: F) -> F:
    """Turns errors into a sentence, or a JSON document, and an exit status."""

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        as_json = bool(kwargs.get("as_json"))
        try:
            return function(*args, **kwargs)
        except InputError as error:
            _show_problems(error, as_json=as_json)
            raise click.exceptions.Exit(settings.EXIT_BAD_INPUT) from None
        except ClientError as error:
            if as_json:
                output.json_line({"error": {"code": error.code, "message": error.message}})
            else:
                click.echo(f"Error: {error.message}{_advice(error)}", err=True)
            no_broker = error.code == Code.UNAVAILABLE
            raise click.exceptions.Exit(EXIT_NO_BROKER if no_broker else settings.EXIT_BAD_INPUT) from None
        except BrokenPipeError:
            _broken_pipe()

    return wrapped  # type: ignore[return-value]  # wraps() keeps the signature


def _broken_pipe() -> NoReturn:
    """Whoever read our output has gone (`| head`): nothing more to say, and nowhere to say it."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    raise click.exceptions.Exit(EXIT_BROKEN_PIPE) from None


def _advice(error: ClientError) -> str:
    if error.code == Code.UNAVAILABLE:
        return ". Is the broker running, and is --broker (EVENPOST_BROKER) right?"
    return ""


def _show_problems(error: InputError, *, as_json: bool) -> None:
    """Each problem on a line of its own, a summary at the end."""
    count = counted(error.total, "problem")
    if as_json:
        facts = {"code": error.code, "message": count, "problems_total": error.total}
        output.json_line({"error": {**facts, "problems": error.problems}})
        return
    for problem in error.problems:
        click.echo(str(problem), err=True)
    if error.total > len(error.problems):
        click.echo(f"... and {error.total - len(error.problems):,} more", err=True)
    context = click.get_current_context()
    done = "nothing was started." if context.info_name == "up" else "nothing was sent."
    if context.params.get("skip_bad") is False and all(p.line for p in error.problems):  # all of them rows
        done += " --skip-bad leaves these out."
    click.echo(f"{count}: {done}", err=True)


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
