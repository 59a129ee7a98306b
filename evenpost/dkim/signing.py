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
_AUTHORS_KNOWN_MAX = 1_000
"""Fields From, where each recipient's is another."""
_SPLIT = re.compile(rb"\r\n(?![ \t])").split


class _Form(NamedTuple):
    """A signature's header as one key writes it of messages with the same headers: what stands around t= and
    bh=. `own` is the same, canonical."""

    key: SigningKey
    header: tuple[bytes, bytes, bytes]
    own: tuple[bytes, bytes, bytes]


class _Plan(NamedTuple):
    """Of messages with the same headers."""

    order: list[int]
    """Their fields, in the order of h=."""
    listed: str
    author: int
    """Which of them is From."""
    forms: dict[bytes, list[_Form]]
    """By From, canonical."""


class Signer:
    """Signs the messages of one campaign. Any number of threads may use it."""

    def __init__(self, keys_of: Callable[[str], Sequence[SigningKey]]) -> None:
        """`keys_of` gives the keys for a domain in From."""
        self._keys_of = keys_of
        self._body_hash = BodyHash()
        self._fields: dict[bytes, tuple[bytes, bytes]] = {}
        """Of a field as it stands there: its name in lower case, and its canonical form."""
        self._plans: dict[tuple[bytes, ...], _Plan] = {}

    def sign(self, content: bytes, now_s: int) -> bytes | None:
        """`content` with a signature of each key before it; None where no key is for its author's domain.

        `content` has whole lines with CRLF, headers, an empty line and a body; `now_s` is in seconds since
        the epoch."""
        end = content.index(b"\r\n\r\n")
        known = self._fields
        if len(known) > _FIELDS_KNOWN_MAX:
            known = self._fields = {}
        fields = []
        for raw in _SPLIT(content[:end]):
            field = known.get(raw)
            if field is None:
                canonical = relaxed_field(raw)
                field = known[raw] = (canonical[: canonical.index(b":")], canonical)
            fields.append(field)
        names = tuple([name for name, _ in fields])
        plan = self._plans.get(names)
        if plan is None:
            plan = self._plans[names] = _plan(names)  # a campaign's messages have the same headers
        author = fields[plan.author][1]
        forms = plan.forms.get(author)
        if forms is None:
            forms = self._forms(plan, author)
        if not forms:
            return None
        signed = b"".join([fields[number][1] for number in plan.order])
        body_hash = self._body_hash.digest(content[end + 4 :])
        now = b"%d" % now_s
        out: list[bytes] = []
        for key, header, (one, two, three) in forms:
            signature = key.sign(b"".join((signed, one, now, two, body_hash, three)))
            one, two, three = header
            out += (one, now, two, body_hash, three, _folded(signature))
        out.append(content)
        return b"".join(out)

    def _forms(self, plan: _Plan, author: bytes) -> list[_Form]:
        forms = []
        for key in self._keys_of(author_domain(author)):
            text = (
                f"DKIM-Signature: v=1; a={key.algorithm}-sha256; c=relaxed/relaxed;\r\n"
                f" d={key.domain}; s={key.selector}; t=\0;\r\n h={plan.listed};\r\n bh=\0;\r\n b="
            )
            # Relaxed: the name in lower case, no folds; and one space is at each of those.
            own = "dkim-signature:" + text.replace("\r\n", "").partition(": ")[2]
            forms.append(_Form(key, _around(text), _around(own)))
        if len(plan.forms) >= _AUTHORS_KNOWN_MAX:
            plan.forms.clear()
        plan.forms[author] = forms
        return forms


def _around(text: str) -> tuple[bytes, bytes, bytes]:
    one, two, three = text.encode("ascii").split(b"\0")
    return one, two, three


def author_domain(author: bytes) -> str:
    """The domain of the one address in From, in lower case; '' where there is none. From is canonical."""
    address = author.rstrip(b"\r\n")
    if address.endswith(b">"):
        address = address[address.rfind(b"<") + 1 : -1]
    return address[address.rfind(b"@") + 1 :].decode("ascii", "replace").lower() if b"@" in address else ""


def _plan(names: tuple[bytes, ...]) -> _Plan:
    listed: list[str] = []
    order: list[int] = []
    for name in (*OVERSIGNED, *SIGNED):
        lower = name.lower().encode("ascii")
        places = [number for number in reversed(range(len(names))) if names[number] == lower]
        order += places  # of those with one name, the last one first
        listed += [name] * (len(places) + (name in OVERSIGNED))
    lines = [""]
    for number, name in enumerate(listed):
        word = name if number == len(listed) - 1 else f"{name}:"
        if len(lines[-1]) + len(word) > LINE_CHARS - len(" h=;"):
            lines.append("")
        lines[-1] += word
    return _Plan(order, "\r\n ".join(lines), names.index(b"from"), {})


def _folded(signature: bytes) -> bytes:
    text = binascii.b2a_base64(signature, newline=False)
    first = LINE_CHARS - len(" b=")
    lines = [text[i : i + LINE_CHARS - 1] for i in range(first, len(text), LINE_CHARS - 1)]
    return b"\r\n ".join((text[:first], *lines)) + b"\r\n"
