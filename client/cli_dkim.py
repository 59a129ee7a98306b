"""`evenpost dkim-key`: makes a key to sign mail with, and says what DNS has to say of it."""

import os
from pathlib import Path
from typing import Literal

import click

RSA_BITS = 2048
RSA_BITS_MAX = 4096
"""What receivers take for certain (RFC 8301 3.2), of which 2048 fit into a DNS answer by UDP."""


@click.command("dkim-key", short_help="Make a DKIM key, and print its DNS record.")
@click.argument("domain")
@click.argument("selector")
@click.option(
    "--algorithm", type=click.Choice(["rsa", "ed25519"]), default="rsa", show_default=True,
    help="Every receiver verifies RSA, some Ed25519, too: sign with RSA, or with both.",
)  # fmt: skip
@click.option(
    "--bits", type=click.IntRange(RSA_BITS, RSA_BITS_MAX), default=RSA_BITS, show_default=True,
    help="Of an RSA key.",
)  # fmt: skip
@click.option(
    "--dir", "folder", type=click.Path(exists=True, file_okay=False, path_type=Path), default=Path(),
    metavar="DIR", help="Where to write it.  [default: here]",
)  # fmt: skip
def dkim_key(
    domain: str, selector: str, algorithm: Literal["rsa", "ed25519"], bits: int, folder: Path
) -> None:
    """Makes a private key to sign mail from DOMAIN with, in SELECTOR.DOMAIN.pem, which only you can read.

    SELECTOR is the key's name in DNS, such as 2026a: a domain can have several keys, and a new one has a new
    name. Publish the record, then tell the workers: evenpost-worker --dkim FILE.

    \b
      evenpost dkim-key example.com 2026a
      evenpost dkim-key example.com 2026b --algorithm ed25519
    """
    # All other commands do without cryptography, whose import takes 30 ms.
    from evenpost.dkim.keys import DkimKeyError, SigningKey, check_names, new_pem

    try:
        check_names(domain, selector)
        pem = new_pem(algorithm, bits)
        key = SigningKey(domain, selector, pem)
    except DkimKeyError as error:
        raise click.UsageError(str(error)) from None
    path = folder / f"{key.selector}.{key.domain}.pem"
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(descriptor)
    except FileExistsError:
        raise click.ClickException(f"{path} is there already: choose another selector, or --dir") from None
    except OSError as error:
        raise click.ClickException(f"can't write {path}: {error.strerror}") from None
    click.echo(f"{path}: SECRET, for the workers' hosts only", err=True)
    click.echo(f"; for the zone of {key.domain}:\n{key.zone_line}\n")
    click.echo(f'# for evenpost-worker --dkim FILE:\n[[key]]\ndomain = "{key.domain}"')
    click.echo(f'selector = "{key.selector}"\nprivate_key = "{path.name}"')
