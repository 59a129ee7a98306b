"""--curve-key and --broker-key: the keys of whoever connects to a broker."""

from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING

import click

from evenpost.runtime.settings import F, option

if TYPE_CHECKING:
    from evenpost.runtime.curve import CurvePeer, Role


def curve_options(envvar: str) -> Callable[[F], F]:
    """Both options, as `curve_key` and `broker_key`. `envvar`: the twin of --curve-key, since one host may
    have several roles."""

    def decorate(function: F) -> F:
        broker_key: F = option(
            "--broker-key", metavar="FILE|KEY",
            help="The broker's public key: its .pub file, or the key itself.",
        )(function)  # fmt: skip
        both: F = option(
            "--curve-key", envvar=envvar, type=click.Path(path_type=Path), metavar="FILE",
            help="Our secret key, for a broker that wants one: see `evenpost keys new --help`.",
        )(broker_key)  # fmt: skip
        return both

    return decorate


def read_curve(
    curve_key: Path | None, broker_key: str | None, roles: "Collection[Role]"
) -> "CurvePeer | None":
    """What the options name; None where neither was given. Raises click.UsageError."""
    from evenpost.runtime.curve import KeyFileError
    from evenpost.runtime.curve_files import read_peer

    try:
        return read_peer(curve_key, broker_key, roles)
    except KeyFileError as error:
        raise click.UsageError(str(error)) from None
