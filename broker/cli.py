"""evenpost-broker: the command line."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import click

from broker import journal_cli
from broker.cli_limits import limit_options, parse_limits
from broker.core.settings import Settings as CoreSettings
from broker.settings import AccessSettings, Settings
from broker.settings_file import TABLES, read_domains, read_senders
from evenpost.runtime import logs
from evenpost.runtime.failpoints import FailPoints, failpoints_option
from evenpost.runtime.settings import FiniteRange, config_option, log_options, option, run, version_option

_CORE = CoreSettings()
_DEFAULTS = Settings()
_EPILOG = """\b
Examples:
  evenpost-broker
  evenpost-broker --workers tcp://10.0.0.1:5551 --curve-key broker.key --keys /etc/evenpost/keys
  EVENPOST_JOURNAL=/var/lib/evenpost/broker.db evenpost-broker --config /etc/evenpost/broker.toml

Then, on the host of each SMTP server or anywhere else:
  evenpost-worker --broker tcp://10.0.0.1:5551 --curve-key relay.key --broker-key broker.pub \\
    --smtp smtp://user@relay.example:587
"""


def _resolver(_: click.Context, __: click.Parameter, value: str) -> str:
    from broker.mx import ResolverError, parse_resolver

    if value:
        try:
            parse_resolver(value)
        except ResolverError as error:
            raise click.BadParameter(str(error)) from None
    return value


@click.group(
    "evenpost-broker",
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"]},
    invoke_without_command=True,
)
@config_option("broker", tables=TABLES)
@option("--clients", default=_DEFAULTS.clients, metavar="ENDPOINT", help="Where clients submit campaigns.")
@option("--workers", default=_DEFAULTS.workers, metavar="ENDPOINT", help="Where workers connect.")
@option(
    "--journal",
    type=click.Path(dir_okay=False, path_type=Path),
    default=_DEFAULTS.journal,
    help="The file that holds every campaign and message. Made if it isn't there.",
)
@option(
    "--disk-reserve",
    type=FiniteRange(0, 1_000_000),
    default=_DEFAULTS.disk_reserve / 1_000_000,
    metavar="MB",
    help="With less than this free on the journal's disk nothing new is accepted, with less than a quarter "
    "of it nothing is sent: what was accepted needs the rest. 0: don't look.",
)
@option(
    "--wait-for-journal",
    type=FiniteRange(0, 3600),
    default=0.0,
    metavar="SECONDS",
    help="Wait so long for another broker to end. For an upgrade without a gap: start the new broker with "
    "this, then end the old one.",
)
@option(
    "--heartbeat",
    type=FiniteRange(0.05, 60),
    default=_CORE.heartbeat_s,
    metavar="SECONDS",
    help="How often workers report. Three missed mean that a worker is lost.",
)
@option(
    "--lease",
    type=FiniteRange(0.2, 3600),
    default=_CORE.lease_s,
    metavar="SECONDS",
    help="How long after its last report a lost worker may still begin a message. Only then is its mail "
    "given to others. At least three heartbeats.",
)
@option(
    "--retry-initial",
    type=FiniteRange(0.05, 86_400),
    default=_CORE.retry_initial_s,
    metavar="SECONDS",
    help="Wait before the second try of a deferred message; it doubles each time.",
)
@option(
    "--retry-max",
    type=FiniteRange(0.05, 86_400),
    default=_CORE.retry_max_s,
    metavar="SECONDS",
    help="The longest wait between two tries.",
)
@option(
    "--lifetime",
    type=FiniteRange(1, 86_400 * 60),
    default=_CORE.lifetime_s,
    metavar="SECONDS",
    help="How long a campaign without expire_at is tried.",
)
@option(
    "--policy",
    type=click.Choice(["least-connections", "least-time"]),
    default=_CORE.policy,
    help="What servers are ranked by: connections in use, or those times the server's seconds a message.",
)
@option(
    "--slow-start",
    type=FiniteRange(0, 3600),
    default=_CORE.slow_start_s,
    metavar="SECONDS",
    help="A server that comes back gets its full share only after this, rising from nothing. 0: at once.",
)
@option(
    "--reserved",
    type=FiniteRange(0, 50),
    default=_CORE.reserved_share * 100,
    metavar="PERCENT",
    help="Connections, of all, that only campaigns of priority 7 and above may use.",
)
@option(
    "--dispatch-log",
    type=FiniteRange(0, 86_400),
    default=_CORE.dispatch_log_s,
    metavar="SECONDS",
    help="Log why a batch went where it went once in this time. 0: of every batch.",
)
@option(
    "--dns-resolver",
    default=_DEFAULTS.dns_resolver,
    show_default=False,
    metavar="HOST[:PORT]",
    callback=_resolver,
    help="The name server for [[domain]] groups by mail exchanger, an IP address. Not given: the system's.",
)
@failpoints_option("broker")
@option(
    "--retain-days",
    type=FiniteRange(0, 36_500),
    default=_DEFAULTS.retain_days,
    metavar="DAYS",
    help="A campaign's recipients are kept so long after its end, then its counts only. 0: for ever.",
)
@limit_options
@option(
    "--curve-key",
    envvar="EVENPOST_BROKER_CURVE_KEY",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The broker's secret key: only holders of keys in --keys get in then, and all is encrypted.",
)
@option(
    "--keys",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIR",
    help="Public keys that are allowed: .pub files in DIR/clients, DIR/workers and DIR/admins. Read again "
    "on SIGHUP.",
)
@option(
    "--insecure",
    is_flag=True,
    help="Listen beyond this machine without keys: whoever reaches the endpoints can send mail.",
)
@log_options
@version_option()
@click.pass_context
def command(
    context: click.Context,
    /,
    config: Path | None,
    clients: str,
    workers: str,
    journal: Path,
    disk_reserve: float,
    wait_for_journal: float,
    heartbeat: float,
    lease: float,
    retry_initial: float,
    retry_max: float,
    lifetime: float,
    policy: Literal["least-connections", "least-time"],
    slow_start: float,
    reserved: float,
    dispatch_log: float,
    dns_resolver: str,
    failpoints: FailPoints | None,
    retain_days: float,
    curve_key: Path | None,
    keys: Path | None,
    insecure: bool,
    log_level: str,
    log_format: logs.Format,
    log_addresses: bool,
    **limits: Any,
) -> int:
    """Takes campaigns in, keeps them on disk, and gives each message to the least busy SMTP server.

    One broker runs for many workers. It listens on two endpoints, one for clients, one for workers; both
    default to this machine only. Beyond it, it wants keys: see `evenpost keys new --help`.

    The --config file may also hold [[domain]] tables (names, mx, connections, rate: limits that recipient
    domains share) and [[sender]] tables (domain, pool, overflow: the pool of campaigns from a domain).
    """
    if context.invoked_subcommand is not None:
        return 0  # it runs next
    from broker.access import OpenToAllError
    from broker.journal.store import JournalError
    from broker.mx import ResolverError
    from broker.service import Broker
    from broker.takeover import take_over
    from evenpost.runtime.sockets import EndpointError
    from evenpost.runtime.startup import signals_wait

    if lease < 3 * heartbeat:
        raise click.UsageError(f"--lease {lease} is shorter than three heartbeats of {heartbeat} s")
    if retry_max < retry_initial:
        raise click.UsageError(f"--retry-max {retry_max} is less than --retry-initial {retry_initial}")
    allowed = parse_limits(limits)
    logs.configure("broker", level=log_level, format=log_format, addresses=log_addresses)
    core = CoreSettings(
        heartbeat_s=heartbeat,
        lease_s=lease,
        retry_initial_s=retry_initial,
        retry_max_s=retry_max,
        lifetime_s=lifetime,
        policy=policy,
        slow_start_s=slow_start,
        reserved_share=reserved / 100,
        domains=read_domains(config) if config is not None else (),
        senders=read_senders(config) if config is not None else (),
        dispatch_log_s=dispatch_log,
    )
    access = read_access(curve_key, keys, insecure=insecure)
    make_broker: Callable[[Settings], Broker] = Broker
    if failpoints is not None:
        from broker.failpoints import failing

        make_broker = failing(failpoints)
    with signals_wait():
        try:
            chosen = Settings(
                clients=clients,
                workers=workers,
                journal=journal,
                disk_reserve=int(disk_reserve * 1_000_000),
                dns_resolver=dns_resolver,
                retain_days=retain_days,
                client_limits=allowed.clients,
                worker_limits=allowed.workers,
                memory_max_bytes=allowed.memory_max_bytes,
                core=core,
                access=access,
            )
            broker = take_over(make_broker, chosen, wait_for_journal)
        except OpenToAllError as error:
            raise click.UsageError(str(error)) from None
        except (JournalError, EndpointError, ResolverError) as error:
            raise click.ClickException(str(error)) from None
        return broker.run()


def read_access(curve_key: Path | None, keys: Path | None, *, insecure: bool) -> AccessSettings:
    """Raises click.BadParameter or click.UsageError."""
    from evenpost.runtime.curve import KeyFileError, Role
    from evenpost.runtime.curve_files import read_secret_key

    if curve_key is None and keys is None:
        return AccessSettings(insecure=insecure)
    if curve_key is None or keys is None:
        raise click.UsageError("--curve-key (the broker's own) and --keys (whom it lets in) go together")
    try:
        return AccessSettings(read_secret_key(curve_key, {Role.BROKER}), keys)
    except KeyFileError as error:
        raise click.BadParameter(str(error), param_hint="'--curve-key'") from None


for each in journal_cli.COMMANDS:
    command.add_command(each)


def main() -> None:
    run(command, Path(sys.argv[0]).name if not sys.argv[0].endswith("__main__.py") else "python -m broker")
