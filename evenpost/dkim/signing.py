"""Signing one campaign's messages: relaxed/relaxed, SHA-256, the whole body, no x=.

A signature is a header before all others:

    DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed;
     d=example.com; s=s2026; t=1764025200;
     h=From:From:To:To:Subject:Subject:...;
     bh=...;
     b=...

Where a domain has several keys, there are several such headers, over the same message: none of them signs
another one.
"""

import binascii
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from evenpost.dkim.canonical import BodyHash, relaxed_field
from evenpost.dkim.keys import SigningKey

OVERSIGNED = ("From", "To", "Cc", "Subject", "Date", "Message-ID", "Reply-To", "MIME-Version", "Content-Type")
"""Named once more than they are there: a second one that somebody adds, and that a reader might be shown
instead, breaks the signature (RFC 6376 8.15)."""
SIGNED = (
    "Sender", "In-Reply-To", "References", "Content-Transfer-Encoding",
    "List-Id", "List-Help", "List-Unsubscribe", "List-Unsubscribe-Post", "List-Subscribe", "List-Post",
    "List-Owner", "List-Archive", "Feedback-ID", "Auto-Submitted",
)  # fmt: skip
"""Signed where they are there: RFC 6376 5.4.1, RFC 8058 4 (List-Unsubscribe-Post), and Feedback-ID, which
Gmail wants signed. A relay may add one that isn't there."""
LINE_CHARS = 76
"""Of b= and h=, folded."""
_FIELDS_KNOWN_MAX = 128
"""Fields whose canonical form is remembered: those of all recipients, and of the last few."""
_SPLIT = re.compile(rb"\r\n(?![ \t])").split


class Unsigned(NamedTuple):
    """A message that waits for its signatures."""

    content: bytes
    signings: tuple[tuple[SigningKey, str, bytes], ...]
    """Of each signature: the key, its header up to `b=`, and what is to be signed."""

    def sign(self) -> bytes:
        """The whole message. This is what takes long, and any thread may do it."""
        headers = [f"{header}{_folded(key.sign(data))}\r\n" for key, header, data in self.signings]
        return "".join(headers).encode("ascii") + self.content


class Signer:
    """Signs the messages of one campaign. Any number of threads may use it."""

    def __init__(self, keys_of: Callable[[str], Sequence[SigningKey]]) -> None:
        """`keys_of` gives the keys for a domain in From."""
        self._keys_of = keys_of
        self._body_hash = BodyHash()
        self._fields: dict[bytes, bytes] = {}
        self._plans: dict[tuple[bytes, ...], tuple[str, list[int]]] = {}

    def prepare(self, content: bytes, now_s: int) -> Unsigned | None:
        """What `content` needs to be signed; None where no key is for its author's domain. `content` has
        whole lines with CRLF, headers, an empty line and a body; `now_s` is in seconds since the epoch."""
        end = content.index(b"\r\n\r\n")
        known = self._fields
        if len(known) > _FIELDS_KNOWN_MAX:
            known = self._fields = {}
        fields = []
        for raw in _SPLIT(content[:end]):
            field = known.get(raw)
            if field is None:
                field = known[raw] = relaxed_field(raw)
            fields.append(field)
        keys = self._keys_of(author_domain(fields))
        if not keys:
            return None
        names = tuple([field[: field.index(b":")] for field in fields])
        plan = self._plans.get(names)
        if plan is None:
            plan = self._plans[names] = _plan(names)  # a campaign's messages have the same headers
        listed, order = plan
        signed = b"".join([fields[number] for number in order])
        body_hash = self._body_hash.digest(content[end + 4 :]).decode("ascii")
        signings = []
        for key in keys:
            header = (
                f"DKIM-Signature: v=1; a={key.algorithm}-sha256; c=relaxed/relaxed;\r\n"
                f" d={key.domain}; s={key.selector}; t={now_s};\r\n h={listed};\r\n bh={body_hash};\r\n b="
            )
            own = "dkim-signature:" + header.replace("\r\n", "").partition(": ")[2]  # each fold has one space
            signings.append((key, header, signed + own.encode("ascii")))
        return Unsigned(content, tuple(signings))


def author_domain(fields: Sequence[bytes]) -> str:
    """The domain of the one address in From, in lower case; '' where there is none. Fields are canonical."""
    for field in fields:
        if field.startswith(b"from:"):
            address = field.rstrip(b"\r\n")
            if address.endswith(b">"):
                address = address[address.rfind(b"<") + 1 : -1]
            return address[address.rfind(b"@") + 1 :].decode("ascii", "replace").lower()
    return ""


def _plan(names: tuple[bytes, ...]) -> tuple[str, list[int]]:
    """h=, folded, and the fields in its order: of those with one name, the last one first."""
    listed: list[str] = []
    order: list[int] = []
    for name in (*OVERSIGNED, *SIGNED):
        lower = name.lower().encode("ascii")
        places = [number for number in reversed(range(len(names))) if names[number] == lower]
        order += places
        listed += [name] * (len(places) + (name in OVERSIGNED))
    lines = [""]
    for number, name in enumerate(listed):
        word = name if number == len(listed) - 1 else f"{name}:"
        if len(lines[-1]) + len(word) > LINE_CHARS - len(" h=;"):
            lines.append("")
        lines[-1] += word
    return "\r\n ".join(lines), order


def _folded(signature: bytes) -> str:
    text = binascii.b2a_base64(signature, newline=False).decode("ascii")
    first, step = LINE_CHARS - len(" b="), LINE_CHARS - len(" ")
    lines = [text[:first], *(text[i : i + step] for i in range(first, len(text), step))]
    return "\r\n ".join(lines)
