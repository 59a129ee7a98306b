"""`evenpost up`: a whole cluster on this machine, from one file."""

import asyncio
import os
import socket
from pathlib import Path
from urllib.parse import urlsplit

import click

from client.cli_common import speaking
from client.problems import counted
from client.up import Supervisor
from client.up_config import Cluster, load
from client.up_keys import ROLES
from evenpost.runtime.curve import KeyFileError, SecretKey
from evenpost.runtime.curve_files import read_secret_key
from evenpost.runtime.settings import option

LISTENS_TIMEOUT_S = 1.0
"""On this machine a connection is made, or refused, at once."""


@click.command(short_help="Run a broker and its workers on this machine.")
@click.argument("file", metavar="CLUSTER.TOML", type=click.Path(path_type=Path))
@click.option(
    "--log-dir", type=click.Path(file_okay=False, path_type=Path), metavar="DIR",
    help="Keep each process's log in a file there, too.",
)  # fmt: skip
@option(
    "--curve-key", type=click.Path(path_type=Path), metavar="FILE",
    help="A client's or an admin's key, to ask a broker with keys whether all are ready.",
)  # fmt: skip
@click.option("--check", is_flag=True, help="Check the file and start nothing.")
@speaking
def up(file: Path, log_dir: Path | None, curve_key: Path | None, check: bool) -> None:
    """Runs a broker and one worker for each [[server]] of CLUSTER.TOML on this machine.

    Says when all are ready. A process that crashes is started again, with growing pauses, up to six times in
    a row. Ctrl-C (or SIGTERM) drains: workers finish what is on the wire, then the broker ends; a second one
    stops at once, and nothing is lost by that either.

    \b
    [broker]                                   # all options of evenpost-broker
    journal = "evenpost.db"                    # paths count from this file's folder
    curve_key = "main.key"                     # with keys; each server has a curve_key then, too
    keys = "keys"
    \b
    [[server]]                                 # all options of evenpost-worker
    smtp = "smtp://user@relay-1.example:587"
    password_file = "relay-1.secret"           # or password_env = "VARIABLE"
    max_connections = 20
    \b
    [[server]]
    smtp = "smtps://relay-2.example"
    name = "second"
    weight = 200
    pools = ["newsletter"]
    rate = "14/s, 50000/day"                   # what it takes
    \b
    [[domain]]                                 # what a provider takes, all servers together
    names = ["gmail.com", "googlemail.com"]
    connections = 20
    rate = "100/s"
    \b
    [[sender]]                                 # the pool of campaigns that name none
    domain = "news.example"
    pool = "newsletter"

    \b
    Exit status: 0 stopped cleanly, 1 a process was given up or had to be killed, 2 the file is wrong,
    or its cluster runs already, 130 stopped at once.
    """
    cluster = load(file, os.environ)
    try:
        key = read_secret_key(curve_key, ROLES) if curve_key and cluster.broker_key else None
    except KeyFileError as error:
        raise click.BadParameter(str(error), param_hint="'--curve-key'") from None
    if check:
        names = ", ".join(program.name for program in cluster.workers)
        click.echo(f"{file}: a broker and {counted(len(cluster.workers), 'worker')}: {names}.")
        return
    if _listens(cluster.endpoint):
        # Its broker would be taken for ours, and ours tried again and again.
        raise click.UsageError(
            f"something listens on {cluster.endpoint} already: does this cluster run? Ask `evenpost servers`"
        )
    raise click.exceptions.Exit(asyncio.run(_run(cluster, log_dir, key)))


def _listens(endpoint: str) -> bool:
    parts = urlsplit(endpoint)
    if parts.scheme != "tcp" or parts.hostname is None or not parts.port:
        return False
    try:
        socket.create_connection((parts.hostname, parts.port), LISTENS_TIMEOUT_S).close()
    except OSError:
        return False
    return True


async def _run(cluster: Cluster, log_dir: Path | None, key: SecretKey | None) -> int:
    return await Supervisor(cluster, log_folder=log_dir, key=key).run()
