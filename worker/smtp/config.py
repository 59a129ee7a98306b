"""One SMTP server: where it is, how to log in, how long to wait, when to hang up."""

import ipaddress
import re
from dataclasses import dataclass
from typing import Literal, get_args
from urllib.parse import parse_qsl, unquote, urlsplit

from evenpost.runtime.secret import Secret, without_login
from worker.smtp.auth import MECHANISMS
from worker.smtp.pins import parse_pin

TlsMode = Literal["required", "opportunistic", "none", "implicit"]

_HOST_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_])?")
_HELO_NAME = re.compile(r"[A-Za-z0-9._\[\]:-]+")


NO_SECRET = Secret()

DISCARDABLE = frozenset({"CHUNKING", "PIPELINING", "SIZE", "SMTPUTF8"})
"""Extensions that can be left alone. For STARTTLS there is `tls`, for AUTH `auth`."""
PIPELINE_DEPTH = 5
"""The least with which a server 50 ms away gets 12 times what smtp-source brings it (docs/performance.md)."""
NEAR_DEPTH = 2
"""To a near server, where nobody said how many: the next message is there when it has done with one. With
more, only more would be unknown when something dies."""


class ConfigError(ValueError):
    """A server can't be described like this; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds. From the greeting to the final dot they are the minimums of RFC 5321 4.5.3.2."""

    connect: float = 30.0
    tls: float = 60.0
    greeting: float = 300.0
    command: float = 300.0
    """EHLO, STARTTLS, AUTH, RSET."""
    mail: float = 300.0
    rcpt: float = 300.0
    data: float = 120.0
    data_block: float = 180.0
    final_dot: float = 600.0
    quit: float = 5.0
    """Nothing depends on the answer to QUIT."""


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """Parse one with `from_url`; the constructor checks what it is given too."""

    host: str
    port: int = 25
    tls: TlsMode = "opportunistic"
    username: str = ""
    password: Secret = NO_SECRET
    auth: tuple[str, ...] = ("PLAIN", "LOGIN")
    """In order of preference."""
    cleartext_auth: bool = False
    """Log in without TLS: on loopback only."""
    verify: bool = True
    ca_file: str = ""
    """PEM file of the authorities to trust; empty: the system's."""
    tls_pins: tuple[str, ...] = ()
    """`sha256:HEX` of certificates or keys, one of which the server has to show. Empty: any that verifies."""
    helo_name: str = ""
    """Empty: the host's name if it has a domain, else the connection's own address."""
    max_connections: int = 20
    max_messages: int = 1000
    """Messages a connection carries before it is closed."""
    max_age_s: float = 300.0
    idle_s: float = 30.0
    pipeline_depth: int | None = None
    """Messages of a connection that wait for their answer, with CHUNKING; None: `PIPELINE_DEPTH`, or
    `NEAR_DEPTH` to a near server. A connection that is lost leaves so many of them unknown."""
    discard_ehlo_keywords: frozenset[str] = frozenset()
    """Of DISCARDABLE: extensions that aren't used though the server offers them."""
    timeouts: Timeouts = Timeouts()

    def __post_init__(self) -> None:
        if not is_host(self.host):
            raise ConfigError(f"{self.host!r} is not a host name or address")
        if not 0 < self.port < 65536:
            raise ConfigError(f"port {self.port} is not between 1 and 65535")
        if self.tls not in get_args(TlsMode):
            raise ConfigError(f"tls={self.tls} is not one of {', '.join(get_args(TlsMode))}")
        if unknown := [name for name in self.auth if name not in MECHANISMS]:
            raise ConfigError(f"auth={unknown[0]} is not one of {', '.join(MECHANISMS)}")
        if self.username and not self.auth:
            raise ConfigError("auth is empty, but there is a user to log in")
        if self.password and not self.username:
            raise ConfigError("there is a password, but no user: smtp://USER@HOST")
        if self.cleartext_auth and not _is_loopback(self.host):
            raise ConfigError(
                "cleartext_auth would send the password readable over the network: it is for "
                "loopback addresses only. Use tls=required or smtps://"
            )
        if self.username and self.tls == "none" and not self.cleartext_auth:
            raise ConfigError(
                "tls=none would send the password readable: use tls=required, or, on loopback, "
                "cleartext_auth=yes"
            )
        if self.tls_pins and self.tls not in ("required", "implicit"):
            raise ConfigError(
                f"with tls={self.tls} nobody has to show the certificate in tls_pin: use tls=required or smtps://"
            )
        try:
            object.__setattr__(self, "tls_pins", tuple(map(parse_pin, self.tls_pins)))
        except ValueError as error:
            raise ConfigError(str(error)) from None
        if self.helo_name and not _HELO_NAME.fullmatch(self.helo_name):
            raise ConfigError(f"helo={self.helo_name!r} is not a host name or [address]")
        if unknown := sorted(self.discard_ehlo_keywords - DISCARDABLE):
            known = ", ".join(sorted(DISCARDABLE))
            raise ConfigError(f"{unknown[0]} is not one of the EHLO keywords that can be discarded: {known}")
        for name in ("max_connections", "max_messages", "max_age_s", "idle_s", "pipeline_depth"):
            if (value := getattr(self, name)) is not None and value <= 0:
                raise ConfigError(f"{name} must be above 0")

    @classmethod
    def from_url(
        cls, url: str, *, password: Secret = NO_SECRET, timeouts: Timeouts | None = None
    ) -> "ServerConfig":
        """`smtp://[USER@]HOST[:PORT][?tls=required&ca_file=...]`, or `smtps://` for TLS from the start.

        The port is 25, or 587 with a user; smtps has 465. TLS is required with a user or a pin, off on
        loopback without one, otherwise used where it is offered. Parameters: tls, verify, ca_file,
        tls_pin (several: with commas), auth, cleartext_auth, helo.
        """
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            # What stands where the port should be may be a password: `smtp://user:secret`.
            raise ConfigError(
                "that is not a URL such as smtp://HOST:PORT or smtps://USER@HOST (a port has up to 5 digits)"
            ) from None
        if parts.scheme not in ("smtp", "smtps") or not parts.hostname:
            raise ConfigError(
                f"{without_login(url)!r} should look like smtp://HOST:PORT or smtps://USER@HOST"
            )
        if parts.password is not None:
            raise ConfigError(
                "a password in a URL can be read by everybody on this machine: give it in a file "
                "or in the environment"
            )
        if parts.path not in ("", "/") or parts.fragment:
            raise ConfigError(f"nothing may follow the port but ?parameters: {without_login(url)!r}")
        parameters = _parameters(parts.query)
        username = unquote(parts.username or "")
        host = parts.hostname
        cleartext = _flag(parameters, "cleartext_auth", False)
        pins = tuple(filter(None, parameters.pop("tls_pin", "").split(",")))
        tls: str = parameters.pop("tls", "")
        if parts.scheme == "smtps":
            if tls not in ("", "implicit"):
                raise ConfigError(f"smtps:// means tls=implicit, not tls={tls}: for STARTTLS use smtp://")
            tls = "implicit"
        if not tls:
            clear = "none" if _is_loopback(host) else "opportunistic"
            tls = "required" if pins or (username and not cleartext) else clear
        config = cls(
            host=host,
            port=port or (465 if tls == "implicit" else 587 if username else 25),
            tls=tls,  # type: ignore[arg-type]  # __post_init__ checks it
            username=username,
            password=password,
            auth=tuple(name.strip().upper() for name in parameters.pop("auth", "plain,login").split(",")),
            cleartext_auth=cleartext,
            verify=_flag(parameters, "verify", True),
            ca_file=parameters.pop("ca_file", ""),
            tls_pins=pins,
            helo_name=parameters.pop("helo", ""),
            timeouts=timeouts or Timeouts(),
        )
        if parameters:
            raise ConfigError(f"{next(iter(parameters))!r} is not a parameter of a server's URL")
        return config


def is_host(host: str) -> bool:
    """Whether it can be connected to: an address, or a name in ASCII."""
    if _is_address(host):
        return True
    labels = host.removesuffix(".").split(".")
    return bool(_HOST_NAME.fullmatch(host)) and all(0 < len(label) < 64 for label in labels)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _is_loopback(host: str) -> bool:
    if _is_address(host):
        return ipaddress.ip_address(host).is_loopback
    return host.lower() == "localhost"


def _parameters(query: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name in found:
            raise ConfigError(f"parameter {name} is there twice")
        found[name] = value
    return found


def _flag(parameters: dict[str, str], name: str, default: bool) -> bool:
    value = parameters.pop(name, "yes" if default else "no").lower()
    if value not in ("yes", "no", "true", "false", "1", "0"):
        raise ConfigError(f"{name}={value} should be yes or no")
    return value in ("yes", "true", "1")
