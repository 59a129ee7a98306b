"""What the values of options have to look like. Each function gives the value, or raises click.BadParameter
with what is wrong."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from evenpost.runtime.processes import process_name
from evenpost.runtime.secret import Secret
from evenpost.runtime.settings import read_secret
from worker.smtp.config import DISCARDABLE, is_host

if TYPE_CHECKING:
    from worker.dkim_keys import DkimKeys
    from worker.settings import Settings

PASSWORD_VARIABLE = "EVENPOST_SMTP_PASSWORD"  # noqa: S105  # the name of the variable, not a password
CREDENTIAL = "smtp-password"


def password(path: Path | None, username: str) -> Secret:
    if path is not None:
        return read_secret(path)
    if not username:
        return Secret()  # the variable may be meant for another worker on this machine
    if password := os.environ.get(PASSWORD_VARIABLE):
        return Secret(password)
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    if folder and (credential := Path(folder, CREDENTIAL)).exists():
        return read_secret(credential)
    return Secret()


def endpoint(broker: str) -> str:
    from evenpost.runtime.sockets import EndpointError, check_endpoint

    try:
        return check_endpoint(broker)
    except EndpointError as error:
        raise click.BadParameter(f"{error}", param_hint="'--broker'") from None


def rate(rate: str) -> str:
    from evenpost.schedule.rate import RateError, parse_rate
    from evenpost.wire.limits import SCHEDULE_CHARS_MAX

    rate = rate.strip()
    try:
        parse_rate(rate)
    except RateError as error:
        raise click.BadParameter(f"{error}", param_hint="'--rate'") from None
    if len(rate) > SCHEDULE_CHARS_MAX:
        raise click.BadParameter(f"it has at most {SCHEDULE_CHARS_MAX} characters", param_hint="'--rate'")
    return rate


def agent(agent: str) -> tuple[str, int]:
    host, _, port = agent.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        host = ""
    good_port = port.isascii() and port.isdigit() and len(port) <= 5 and 0 < int(port) < 65_536
    if not host or not good_port:
        raise click.BadParameter(
            f"{agent!r} should be HOST:PORT, as in 127.0.0.1:9999 or [::1]:9999", param_hint="'--agent'"
        )
    if not is_host(host):
        raise click.BadParameter(f"{host!r} is not a host name or address.", param_hint="'--agent'")
    return host, int(port)


def dkim(path: Path) -> "DkimKeys":
    from worker.dkim_keys import read_dkim  # only who signs waits for OpenSSL's import

    return read_dkim(path)


def ehlo_keywords(listed: str) -> frozenset[str]:
    keywords = {word.strip().upper() for word in listed.split(",")} - {""}
    if unknown := sorted(keywords - DISCARDABLE):
        known = ", ".join(sorted(DISCARDABLE)).lower()
        raise click.BadParameter(
            f"{unknown[0].lower()!r} is not one of {known}", param_hint="'--discard-ehlo-keywords'"
        )
    return frozenset(keywords)


def processes(processes: int, settings: "Settings") -> None:
    """For more than one."""
    hint = "'--processes'"
    if not sys.platform.startswith("linux"):
        raise click.BadParameter("more than 1 needs Linux", param_hint=hint)
    most = settings.server.max_connections
    if processes > most:
        raise click.BadParameter(
            f"{processes} processes for {most} connections (--max-connections): each needs one",
            param_hint=hint,
        )
    name(process_name(settings.name, processes), "--name")


def name(name: str, hint: str) -> str:
    from evenpost.wire.limits import NAME_CHARS_MAX, is_name

    if not is_name(name):
        raise click.BadParameter(f"it has 1 to {NAME_CHARS_MAX} printable characters", param_hint=f"'{hint}'")
    return name
