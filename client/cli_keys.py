"""`evenpost keys`: makes and shows keys."""

from pathlib import Path

import click

from evenpost.runtime.curve import KeyFileError, Role, new_key
from evenpost.runtime.curve_files import read_public_key, read_secret_key, write_new
from evenpost.wire import limits

_NEXT = {
    Role.BROKER: "for evenpost-broker --curve-key, on its host only",
    Role.WORKER: "for evenpost-worker --curve-key, on its host only",
    Role.CLIENT: "for evenpost --curve-key, with whoever sends",
    Role.ADMIN: "for evenpost --curve-key, with whoever runs the servers",
}
_GOES = {
    Role.BROKER: "give it to workers and clients: --broker-key",
    Role.WORKER: "copy it to the broker's --keys folder, into workers/",
    Role.CLIENT: "copy it to the broker's --keys folder, into clients/",
    Role.ADMIN: "copy it to the broker's --keys folder, into admins/",
}


@click.group(short_help="Make and show keys for broker, workers, clients and admins.")
def keys() -> None:
    """Keys for a cluster on an open network: CURVE, which encrypts and proves who is who on both sides.

    \b
    A first set, on the broker's host:
      mkdir -p keys/clients keys/workers keys/admins
      evenpost keys new broker main
      evenpost keys new worker relay-1 && mv relay-1.pub keys/workers/
      evenpost keys new client shop && mv shop.pub keys/clients/
      evenpost-broker --curve-key main.key --keys keys --clients tcp://10.0.0.1:5550 ...
    """


@keys.command(short_help="Write NAME.key (secret) and NAME.pub.")
@click.argument("role", type=click.Choice([str(role) for role in Role]))
@click.argument("name")
@click.option(
    "--dir", "folder", type=click.Path(exists=True, file_okay=False, path_type=Path), default=Path(),
    metavar="DIR", help="Where to write them.  [default: here]",
)  # fmt: skip
@click.option(
    "--worker", "workers", multiple=True, metavar="NAME",
    help="A worker name (evenpost-worker --name) that the holder may use; can be given several times, '*' is "
    "any.  [default: the key's own name]",
)  # fmt: skip
def new(role: str, name: str, folder: Path, workers: tuple[str, ...]) -> None:
    """Makes a key pair: NAME.key, which only you can read, and NAME.pub, which says whose it is.

    A client submits and steers campaigns. An admin may also change servers (drain, maint, ready, weight,
    maxconn). A worker can only take work, under its own name.
    """
    which = Role(role)
    if workers and which is not Role.WORKER:
        raise click.UsageError("--worker is for the key of a worker")
    if (bad := next((word for word in workers if not limits.is_name(word)), None)) is not None:
        raise click.BadParameter(f"{bad!r} can't be a worker's name", param_hint="'--worker'")
    try:
        secret, public = write_new(new_key(which, name), folder, workers)
    except KeyFileError as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"{secret}: SECRET, {_NEXT[which]}")
    click.echo(f"{public}: public, {_GOES[which]}")


@keys.command(short_help="Print the public key of a .key or .pub file.")
@click.argument("file", type=click.Path(path_type=Path))
def show(file: Path) -> None:
    """Prints the public key in FILE, whichever of the two files it is."""
    try:
        try:
            click.echo(read_public_key(file).key)
        except KeyFileError:
            if file.suffix != ".key":
                raise
            click.echo(read_secret_key(file).public)
    except KeyFileError as error:
        raise click.ClickException(str(error)) from None
