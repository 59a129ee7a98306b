"""evenpost-broker: the command line."""

import sys
from pathlib import Path

import click

from broker.core.state import Settings as CoreSettings
from broker.settings import Settings
from evenpost.runtime import logs
from evenpost.runtime.settings import FiniteRange, config_option, log_options, option, run, version_option

_CORE = CoreSettings()
_DEFAULTS = Settings()
_EPILOG = """\b
Examples:
  evenpost-broker
  evenpost-broker --workers tcp://10.0.0.1:5551 --journal /var/lib/evenpost/broker.db
  EVENPOST_JOURNAL=/var/lib/evenpost/broker.db evenpost-broker --config /etc/evenpost/broker.toml

Then, on the host of each SMTP server or anywhere else:
  evenpost-worker --broker tcp://10.0.0.1:5551 --smtp smtp://user@relay.example:587
"""


@click.command("evenpost-broker", epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@config_option("broker")
@option("--clients", default=_DEFAULTS.clients, metavar="ENDPOINT", help="Where clients submit campaigns.")
@option("--workers", default=_DEFAULTS.workers, metavar="ENDPOINT", help="Where workers connect.")
@option(
    "--journal",
    type=click.Path(dir_okay=False, path_type=Path),
    default=_DEFAULTS.journal,
    help="The file that holds every campaign and message. Made if it isn't there.",
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
@log_options
@version_option()
def command(
    config: Path | None,
    clients: str,
    workers: str,
    journal: Path,
    heartbeat: float,
    lease: float,
    retry_initial: float,
    retry_max: float,
    lifetime: float,
    log_level: str,
    log_format: logs.Format,
    log_addresses: bool,
) -> int:
    """Takes campaigns in, keeps them on disk, and gives each message to the least busy SMTP server.

    One broker runs for many workers. It listens on two endpoints, one for clients, one for workers; both
    default to this machine only.
    """
    from broker.journal.store import JournalError
    from broker.service import Broker
    from evenpost.runtime.sockets import EndpointError

    if lease < 3 * heartbeat:
        raise click.UsageError(f"--lease {lease} is shorter than three heartbeats of {heartbeat} s")
    if retry_max < retry_initial:
        raise click.UsageError(f"--retry-max {retry_max} is less than --retry-initial {retry_initial}")
    logs.configure("broker", level=log_level, format=log_format, addresses=log_addresses)
    core = CoreSettings(
        heartbeat_s=heartbeat,
        lease_s=lease,
        retry_initial_s=retry_initial,
        retry_max_s=retry_max,
        lifetime_s=lifetime,
    )
    try:
        broker = Broker(Settings(clients, workers, journal, core))
    except (JournalError, EndpointError) as error:
        raise click.ClickException(str(error)) from None
    return broker.run()


def main() -> None:
    run(command, Path(sys.argv[0]).name if not sys.argv[0].endswith("__main__.py") else "python -m broker")
