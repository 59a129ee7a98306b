"""`evenpost-worker`: what it can be told, and what is wrong with what it was told."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import click

from evenpost.runtime.curve_options import curve_options, read_curve
from evenpost.runtime.failpoints import FailPoints, failpoints_option
from evenpost.runtime.settings import (
    FiniteRange,
    WholeRange,
    config_option,
    log_options,
    option,
    run,
    version_option,
)
from worker import cli_values
from worker.settings import (
    AGENT_INTERVAL_S,
    DRAIN_TIMEOUT_S,
    WEIGHT,
    Settings,
    Share,
    default_name,
    default_outcome_log,
)
from worker.share import shared
from worker.smtp.config import ConfigError, ServerConfig, Timeouts

if TYPE_CHECKING:
    from worker.outcome_log import OutcomeLog

_RFC = Timeouts()

EPILOG = """\b
Examples
  A relay that wants a login; the password is the first line of a file:
    evenpost-worker --broker tcp://broker.example:5551 \\
        --smtp smtp://mailer@relay.example:587 --smtp-password-file relay.secret
  Mail servers of your own, without a login, at most 50 connections:
    evenpost-worker --broker tcp://127.0.0.1:5551 --smtp smtp://mx1.example:25 --max-connections 50
  TLS from the start (port 465); takes campaigns for the pool "transactional" too:
    evenpost-worker --smtp smtps://mailer@relay.example --pool transactional

\b
Stopping
  SIGTERM or Ctrl-C drains: what is on the wire is finished, the rest goes back to the broker.
  A second one stops at once; messages whose answer was still out are reported as unknown.

\b
Exit status
  0   drained or nothing left to do        74  the outcome log can't be written
  1   stopped with messages on the wire    76  the broker speaks another version
  2   bad input                            78  another worker took over this --name
  70  a bug in Evenpost                        (starting this one again would take it back)
  77  the key may not be a worker of this name
"""


# fmt: off
@click.command(epilog=EPILOG, context_settings={
    "max_content_width": 110, "show_default": True, "help_option_names": ["-h", "--help"],
})
@option(
    "--broker", default="tcp://127.0.0.1:5551", metavar="ENDPOINT", envvar="EVENPOST_WORKER_BROKER",
    help="Where the broker listens for workers. (Clients have another endpoint, in EVENPOST_BROKER.)",
)
@curve_options("EVENPOST_WORKER_CURVE_KEY")
@option(
    "--smtp", required=True, metavar="URL",
    help="The SMTP server: smtp://[USER@]HOST[:PORT], or smtps:// for TLS from the start. The port is 25, "
    "with a user 587, for smtps 465. A password never goes here.",
)
@option(
    "--name", metavar="NAME",
    help="This worker's name, unique in the cluster and the same after a restart.  [default: this host's "
    "name, server and port]",
)
@option(
    "--max-connections", type=WholeRange(1, 10_000), default=20,
    help="Connections to the server at once.",
)
@option(
    "--processes", type=WholeRange(1, 100), default=1, metavar="N",
    help="Processes for this server, each on a core of its own. They share connections and weight, and are "
    "the workers NAME/1 to NAME/N. For a worker whose CPU is at 100 %.",
)
@option(
    "--weight", type=WholeRange(1, 1_000), default=WEIGHT,
    help="Share of the load: a server of weight 200 gets twice the connections of one of 100.",
)
@option(
    "--rate", default="", metavar="RATES",
    help="What the server takes, several windows at once: \"14/s, 50000/day\". The broker keeps to it over "
    "all workers of the same server.  [default: no limit]", show_default=False,
)
@option(
    "--agent", metavar="HOST:PORT",
    help="Ask this agent, as HAProxy would (agent-check), for ready, drain, maint, down, up, weights and "
    "maxconn.",
)
@option(
    "--agent-interval", type=FiniteRange(min=0.1), default=AGENT_INTERVAL_S, metavar="SECONDS",
    help="How often the agent is asked.",
)
@option(
    "--pool", multiple=True, metavar="TAG",
    help="Takes campaigns for this pool too; can be given several times.",
)
@option(
    "--smtp-password-file", type=click.Path(path_type=Path), metavar="FILE",
    help="The password: the first line of this file.  [otherwise: the variable EVENPOST_SMTP_PASSWORD, or "
    "systemd's credential smtp-password]",
)
@option(
    "--tls", type=click.Choice(["required", "opportunistic", "none", "implicit"]),
    help="required: STARTTLS or nothing. opportunistic: STARTTLS where it is offered.  [default: required "
    "with a user, none on loopback without one, else opportunistic]",
)
@option("--ca-file", metavar="FILE", help="Trust these authorities (PEM) instead of the system's.")
@option(
    "--tls-pin", multiple=True, metavar="sha256:HEX",
    help="The server has to show this certificate, or one with this key; can be given several times. It is "
    "checked on top of --verify; with --no-verify it is all that counts. docs/operations.md: how to get it.",
)
@option("--verify/--no-verify", default=True, help="Check the server's certificate.")
@option(
    "--auth", metavar="LIST",
    help="Ways to log in, the best first: plain,login,xoauth2.  [default: plain,login]",
)
@option(
    "--cleartext-auth", is_flag=True,
    help="Log in without TLS: to a server on this machine only.",
)
@option("--helo", metavar="NAME", help="The name to say in EHLO.  [default: this host's, if it has a domain]")
@option(
    "--dkim", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
    help="Sign with the DKIM keys that this TOML file names. docs/operations.md: what is in it.",
)
@option(
    "--messages-per-connection", type=WholeRange(min=1), default=1_000,
    help="Messages after which a connection is closed.",
)
@option(
    "--pipeline-depth", type=WholeRange(1, 100), default=None, metavar="MESSAGES",
    help="Where the server has CHUNKING: how many messages a connection sends before the first is answered. "
    "Not given: 5, and 2 to a server nearer than 10 ms. A connection that is lost leaves so many unknown.",
)
@option(
    "--discard-ehlo-keywords", default="", metavar="LIST",
    help="Don't use these though the server offers them: chunking, pipelining, size, smtputf8.  "
    "[default: none]", show_default=False,
)
@option(
    "--connection-age", type=FiniteRange(min=1), default=300.0, metavar="SECONDS",
    help="Age at which a connection is closed.",
)
@option(
    "--connection-idle", type=FiniteRange(min=0.1), default=30.0, metavar="SECONDS",
    help="How long an unused connection is kept.",
)
@option(
    "--connect-timeout", type=FiniteRange(min=0.1), default=_RFC.connect, metavar="SECONDS",
    help="For the TCP connection.",
)
@option(
    "--command-timeout", type=FiniteRange(min=0.1), default=_RFC.command, metavar="SECONDS",
    help="For the greeting and the answer to each command. RFC 5321 says 5 minutes.",
)
@option(
    "--data-timeout", type=FiniteRange(min=0.1), default=_RFC.final_dot, metavar="SECONDS",
    help="For the answer to the end of a message. RFC 5321 says 10 minutes: who hangs up sooner sends twice.",
)
@option(
    "--outcome-log", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
    help="Keeps what was sent until the broker has stored it. Keep it on a local disk; it belongs to --name. "
    " [default: evenpost-worker-NAME.outcomes]",
)
@option(
    "--outcome-log-sync", is_flag=True,
    help="Flush the outcome log to the disk before each write to a server. Without it a crash of the worker "
    "loses nothing, but a power cut may forget what was sent in the last seconds: those messages then count "
    "as unknown. Costs a disk flush a round trip.",
)
@option(
    "--drain-timeout", type=FiniteRange(min=0), default=DRAIN_TIMEOUT_S, metavar="SECONDS",
    help="How long SIGTERM waits for messages on the wire and for the broker.",
)
@failpoints_option("worker")
@log_options
@config_option("worker")
@version_option()
def cli(
    broker: str, curve_key: Path | None, broker_key: str | None, outcome_log: Path | None,
    outcome_log_sync: bool, drain_timeout: float, name: str | None, processes: int,
    weight: int, rate: str, agent: str | None, agent_interval: float, pool: tuple[str, ...],
    dkim: Path | None, log_level: str, log_format: Any, log_addresses: bool, config: Path | None,
    failpoints: FailPoints | None, **smtp: Any,
) -> int:
    """Send the broker's messages through one SMTP server.

    Run one worker for each server (or several, to use more than one core). The broker gives each message to
    the worker that is least busy.
    """
    # fmt: on
    from evenpost.runtime import logs
    from evenpost.runtime.curve import Role

    logs.configure("worker", level=log_level, format=log_format, addresses=log_addresses)
    server = server_config(**smtp)
    name = name or default_name(server)
    settings = Settings(
        broker=cli_values.endpoint(broker),
        server=server,
        name=cli_values.name(name, "--name"),
        outcome_log=outcome_log or default_outcome_log(name),
        weight=weight,
        rate=cli_values.rate(rate),
        agent=cli_values.agent(agent) if agent is not None else None,
        agent_interval_s=agent_interval,
        pools=tuple(cli_values.name(tag, "--pool") for tag in pool),
        outcome_log_sync=outcome_log_sync,
        drain_timeout_s=drain_timeout,
        curve=read_curve(curve_key, broker_key, {Role.WORKER}),
        dkim=cli_values.dkim(dkim) if dkim is not None else None,
        log_sent=log_level == "debug",
    )
    if processes == 1:
        return start(settings, failpoints)
    from worker.processes import Forked, Processes

    cli_values.processes(processes, settings)
    try:
        return Processes(processes, settings.name, settings.server_label).run()
    except Forked as process:
        mine = shared(settings, Share(process.number, processes), outcome_log)
    return start(mine, failpoints)


def server_config(
    *, smtp: str, max_connections: int, smtp_password_file: Path | None, tls: str | None, ca_file: str | None,
    tls_pin: tuple[str, ...], verify: bool, auth: str | None, cleartext_auth: bool, helo: str | None,
    messages_per_connection: int, pipeline_depth: int | None, discard_ehlo_keywords: str,
    connection_age: float, connection_idle: float, connect_timeout: float, command_timeout: float,
    data_timeout: float,
) -> ServerConfig:  # fmt: skip
    """The server as the options describe it. Raises click.BadParameter."""
    # What is true of the URL's parameters (which follow from which, what excludes what) is known there.
    given = {
        "tls": tls, "ca_file": ca_file, "auth": auth, "helo": helo, "tls_pin": ",".join(tls_pin) or None,
        "verify": None if verify else "no", "cleartext_auth": "yes" if cleartext_auth else None,
    }  # fmt: skip
    query = urlencode({key: value for key, value in given.items() if value is not None})
    timeouts = Timeouts(
        connect=connect_timeout, greeting=command_timeout, command=command_timeout, mail=command_timeout,
        rcpt=command_timeout, data=min(command_timeout, _RFC.data), final_dot=data_timeout,
    )  # fmt: skip
    try:
        described = ServerConfig.from_url(
            smtp + (("&" if "?" in smtp else "?") + query if query else ""), timeouts=timeouts
        )
        server = replace(
            described,
            password=cli_values.password(smtp_password_file, described.username),
            max_connections=max_connections,
            max_messages=messages_per_connection,
            max_age_s=connection_age,
            idle_s=connection_idle,
            pipeline_depth=pipeline_depth,
            discard_ehlo_keywords=cli_values.ehlo_keywords(discard_ehlo_keywords),
        )
    except ConfigError as error:
        raise click.BadParameter(f"{error}.", param_hint="'--smtp'") from None
    if server.username and not server.password:
        raise click.UsageError(
            f"{server.host} wants a password for {server.username}: give it with --smtp-password-file FILE, "
            f"in the variable {cli_values.PASSWORD_VARIABLE}, or as systemd's credential "
            f"{cli_values.CREDENTIAL}."
        )
    return server


def open_log(settings: Settings, failpoints: FailPoints | None = None) -> "OutcomeLog":
    """Raises click.ClickException with the reason."""
    from evenpost.runtime import clock
    from worker.outcome_log import OutcomeLog, OutcomeLogError

    log_type = OutcomeLog
    if failpoints is not None:
        from worker import failpoints as failing

        log_type = failing.log_type(failpoints)
    try:
        return log_type.open(
            settings.outcome_log, now_ms=clock.now().wall, sync=settings.outcome_log_sync
        )
    except OutcomeLogError as error:
        raise click.ClickException(str(error)) from None


def start(settings: Settings, failpoints: FailPoints | None = None) -> int:
    """Runs the worker to its end. The status to exit with."""
    import asyncio

    from evenpost.runtime.startup import signals_wait
    from worker.service import serve

    try:
        import uvloop
    except ImportError:  # PyPy: asyncio's own loop does the same, only slower
        new_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    else:
        new_loop = uvloop.new_event_loop
    with signals_wait(), asyncio.Runner(loop_factory=new_loop) as runner:
        log = open_log(settings, failpoints)
        if failpoints is not None:
            from worker import failpoints as failing

            return runner.run(failing.serve(settings, log, failpoints))
        return runner.run(serve(settings, log))


def main() -> None:
    run(cli, "evenpost-worker")
