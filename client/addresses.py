"""Is this an address that a message can be sent to, and how is it written on the wire?

Nearly all addresses in a list are plain ASCII and take one regular expression: 0.14 us where a thousand go
through it together, 0.25 us alone. The rest, non-ASCII names and domains, quoted local parts, address
literals, is email-validator's (22 us), with its reasons.
"""

import re
from collections.abc import Callable, Sequence

from client.problems import shown

LOCAL_BYTES_MAX = 64
"""RFC 5321 4.5.3.1.1."""

ADDRESS_BYTES_MAX = 254
"""RFC 5321 4.5.3.1.3: a path of 256 with its angle brackets."""

_ATEXT = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]"
_LABEL_END = r"[a-z0-9-]{0,62}+(?<!-)"
# RFC 5321 4.1.2: Dot-string "@" Domain. 64 + "@" + 189 are the 254 that an address may have: a longer domain
# is left to the slow path. Capitals in the domain, too: what matches here is sent as it is.
_LOCAL = rf"{_ATEXT}++(?:\.{_ATEXT}++)*+"
_DOMAIN = rf"(?:[a-z0-9]{_LABEL_END}\.)++[a-z](?=[a-z0-9-]){_LABEL_END}"
_PLAIN = re.compile(rf"(?![^@]{{65}}){_LOCAL}@(?!.{{190}}){_DOMAIN}")
_PLAIN_LINES = re.compile(rf"(?:{_LOCAL}@{_DOMAIN}\n)*+")
is_plain: Callable[[str], object] = _PLAIN.fullmatch
"""Truthy for an address that needs no second look and is sent as it is written."""


def are_plain(addresses: Sequence[str]) -> bool:
    """Whether is_plain holds for each of them, in half the time."""
    text = "\n".join([*addresses, ""])
    if _PLAIN_LINES.fullmatch(text) is None or text.count("\n") != len(addresses):
        return False
    # Nothing shorter than a local part may be has too long a part: only the others are measured.
    return max(map(len, addresses), default=0) <= LOCAL_BYTES_MAX or all(map(is_plain, addresses))


_IN_BRACKETS = re.compile(r"[^<>]*<([^<>]*)>")
_SPECIAL_USE = re.compile(r"(?:^|\.)(?:arpa|invalid|local|localhost|onion|test)\Z")
_INVISIBLE = " \t\r\n\v\f\u00a0\u200b\u2060\ufeff"


class AddressError(ValueError):
    """Not an address. `reason` says why, `hint` what to do."""

    code = "bad_address"

    def __init__(self, reason: str, hint: str = "") -> None:
        super().__init__(f"{reason}. {hint}" if hint else reason)
        self.reason = reason
        self.hint = hint
        self.message = str(self)


def clean_address(text: str) -> str:
    """The address in `text` as it goes into the envelope. Raises AddressError.

    White space around it is dropped, and so is the name in `Name <address>`; the domain is in lower case and,
    where it isn't ASCII, in Punycode. The local part stays as it is (the server may care about its case)."""
    address = text.strip(_INVISIBLE)
    if address.endswith(">") and (inner := _IN_BRACKETS.fullmatch(address)):
        address = inner[1].strip(_INVISIBLE)
    if not address:
        raise AddressError("there is no address", "Fill it in or remove the line")
    if address[:7].lower() == "mailto:":
        raise AddressError(f"{shown(address)} is a link", "Remove 'mailto:'")
    local, at, domain = address.rpartition("@")
    if not at:
        raise AddressError(f"{shown(address)} has no @")
    domain = domain.lower()
    lowered = f"{local}@{domain}"
    return lowered if is_plain(lowered) else _unusual(local, domain, address)


def _unusual(local: str, domain: str, address: str) -> str:
    if not local.startswith('"'):
        if "@" in local:
            if re.search(r"[\s,;|/]", local):
                raise AddressError(f"{shown(address)} is more than one address", "Give each its own line")
            raise AddressError(f"{shown(address)} has more than one @")
        if re.search(r"\s", address):
            raise AddressError(f"{shown(address)} has a space in it", "Remove it")
    if len(local.encode("utf-8", "replace")) > LOCAL_BYTES_MAX:
        raise AddressError(f"{shown(address)}: more than {LOCAL_BYTES_MAX} bytes before the @")
    if domain.endswith("."):
        raise AddressError(f"{shown(address)} ends in a dot", "Remove it")
    literal = domain.startswith("[")
    if not literal and domain != "localhost":
        if domain and not re.search(r"[.\u3002\uff0e\uff61]", domain):
            raise AddressError(
                f"{shown(address)}: the domain has no dot", "Is its end missing, such as .com?"
            )
        if re.fullmatch(r"[0-9.]+", domain):
            raise AddressError(f"{shown(address)}: an IP address needs brackets", f"Write {local}@[{domain}]")
    clean = _by_library(local, domain, address)
    if len(clean.encode()) > ADDRESS_BYTES_MAX:
        raise AddressError(f"{shown(address)} is longer than {ADDRESS_BYTES_MAX} bytes")
    return clean


def _by_library(local: str, domain: str, address: str) -> str:
    from email_validator import EmailNotValidError, validate_email  # imports for 40 ms; most lists need none

    # email-validator refuses names that never are on the public internet. People do send to them: in tests
    # and inside their own network. Its list of them is global to the process and so not ours to change.
    ending = ".com" if _SPECIAL_USE.search(domain) else ""
    try:
        found = validate_email(
            f"{local}@{domain}{ending}",
            check_deliverability=False,
            allow_quoted_local=True,
            allow_domain_literal=True,
            globally_deliverable=False,
        )
    except EmailNotValidError as error:
        reason = str(error).rstrip(".")
        raise AddressError(f"{shown(address)}: {reason[:1].lower()}{reason[1:]}") from None
    clean_domain = (found.ascii_domain or found.domain).removesuffix(ending)
    return f"{found.local_part}@{clean_domain}"
