"""Relaxed canonicalization (RFC 6376 3.4.2, 3.4.4), and the hash of a body of which most doesn't change.

Runs of white space become one space, at the end of a line none; empty lines at the end of a body go. All of
it looks at one line at a time, but for those empty lines: so what is cut at a line's beginning can be
canonicalized apart and joined.
"""

import binascii
import hashlib

PREFIX_BYTES_MIN = 256
"""A shorter beginning that all messages share isn't worth a copy of its hash."""
REMEMBERED_BYTES_MAX = 4 * 1024 * 1024
"""A larger body is hashed each time: memory."""


def relaxed_field(field: bytes) -> bytes:
    """One header field without its last CRLF, canonicalized, with its CRLF."""
    name, _, value = field.partition(b":")
    if b"\v" in value or b"\f" in value:  # white space for Python, not for RFC 6376
        return (
            name.rstrip(b" \t").lower() + b":" + _collapsed(value.replace(b"\r\n", b"")).strip(b" ") + b"\r\n"
        )
    return name.rstrip(b" \t").lower() + b":" + b" ".join(value.split()) + b"\r\n"


def relaxed_body(body: bytes) -> bytes:
    """A body, canonicalized. Empty where there is nothing but white space."""
    return _ended(_relaxed_lines(body))


def _relaxed_lines(lines: bytes) -> bytes:
    """Without what the end of a body is: for a piece of it that begins at a line's beginning."""
    lines = _collapsed(lines)
    if b" \r\n" in lines:
        lines = lines.replace(b" \r\n", b"\r\n")
    return lines


def _collapsed(text: bytes) -> bytes:
    """Runs of white space as one space. Three looks through memory where there is none; a regular expression
    takes ten times as long."""
    if b"\t" in text:
        text = text.replace(b"\t", b" ")
    while b"  " in text:  # each time half as many of them
        text = text.replace(b"  ", b" ")
    return text


def _ended(lines: bytes) -> bytes:
    lines = lines.removesuffix(b" ")
    end = len(lines)
    while lines.endswith(b"\r\n", 0, end):
        end -= 2
    if end == 0:
        return b""
    return lines if end + 2 == len(lines) else lines[:end] + b"\r\n"


class BodyHash:
    """`bh=` of one campaign's bodies, which are much alike.

    What all of them begin with is hashed once, and that hash is copied; a body that is the same for everybody
    is hashed once. Both are found by comparing bodies, so the result is always that of the whole body. Any
    number of threads may use it: what it remembers is replaced whole.
    """

    def __init__(self) -> None:
        self._first: tuple[bytes, bytes] | None = None
        """The first body, and its digest."""
        self._begins: tuple[bytes, hashlib._Hash] | None = None
        """What all bodies began with so far, cut at a line's end, and the hash of its canonical form."""

    def digest(self, body: bytes) -> bytes:
        """SHA-256 of the canonical body, in base64."""
        first = self._first
        if first is None:
            digest = _base64(hashlib.sha256(relaxed_body(body)))
            if len(body) <= REMEMBERED_BYTES_MAX:
                self._first = (body, digest)
            return digest
        if body == first[0]:
            return first[1]
        begins = self._begins
        if begins is None or not body.startswith(begins[0]):
            begins = self._begins = _beginning(first[0] if begins is None else begins[0], body)
        prefix, hashed = begins
        if prefix and (ending := relaxed_body(body[len(prefix) :])):
            hashed = hashed.copy()
            hashed.update(ending)
            return _base64(hashed)
        # Without a text of its own at the end, the empty lines that don't count may begin in the prefix.
        return _base64(hashlib.sha256(relaxed_body(body)))


def _beginning(one: bytes, other: bytes) -> tuple[bytes, "hashlib._Hash"]:
    shared = one[: _common_bytes(one, other)]
    shared = shared[: shared.rfind(b"\n") + 1]
    if len(shared) < PREFIX_BYTES_MIN:
        shared = b""
    return shared, hashlib.sha256(_relaxed_lines(shared))


def _base64(hashed: "hashlib._Hash") -> bytes:
    return binascii.b2a_base64(hashed.digest(), newline=False)


def _common_bytes(one: bytes, other: bytes) -> int:
    """How many bytes both begin with."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
