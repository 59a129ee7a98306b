"""Relaxed canonicalization (RFC 6376 3.4.2, 3.4.4), and the hash of a body of which most doesn't change.

Runs of white space become one space, at the end of a line none; empty lines at the end of a body go. All of
it looks at one line at a time, but for those empty lines: so what is cut at a line's beginning can be
canonicalized apart and joined.
"""

import binascii
import hashlib
from typing import NamedTuple

LEARNED_FROM = 8
"""Bodies that are compared before anything is believed to be the same in all: a smaller campaign isn't worth
it."""
COMPARED_MAX = 64
"""Bodies at most that are compared: where some always differ, that is how it is."""
RUN_BYTES_MIN = 128
"""A shorter run isn't worth the look for it."""
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


class _Known(NamedTuple):
    """What the bodies of a campaign share: runs of lines."""

    begins: bytes
    """What all begin with; may be empty."""
    hashed: "hashlib._Hash"
    """SHA-256 of its canonical form."""
    runs: list[tuple[bytes, bytes, bytes]]
    """The others, in order: its first line with the line ends around it, by which it is found; the run; its
    canonical form."""


class BodyHash:
    """`bh=` of one campaign's bodies, which are much alike.

    A body that is the same for everybody is hashed once. Else what all begin with is hashed once, and runs of
    lines that all have are canonicalized once. Both are learned from the first bodies, and each body is
    compared with them byte by byte: one that has something else is hashed whole. Any number of threads may
    use it: what it remembers is replaced whole.
    """

    def __init__(self) -> None:
        self._first: tuple[bytes, bytes] | None = None
        """The first body, and its digest."""
        self._lines: list[bytes] = []
        """Of it."""
        self._same: list[bool] = []
        """Which of them all bodies had, those that were compared."""
        self._compared = 0
        self._known: _Known | None = None

    def digest(self, body: bytes) -> bytes:
        """SHA-256 of the canonical body, in base64."""
        first = self._first
        if first is not None and body == first[0]:
            return first[1]
        known = self._known
        if known is not None and (rest := _after(known, body)):
            hashed = known.hashed.copy()
            hashed.update(rest)
        else:
            hashed = hashlib.sha256(relaxed_body(body))
            if first is not None and self._compared < COMPARED_MAX:
                self._compare(body)
        digest = binascii.b2a_base64(hashed.digest(), newline=False)
        if first is None and len(body) <= REMEMBERED_BYTES_MAX:
            self._lines = body.split(b"\r\n")
            self._same = [True] * len(self._lines)
            self._first = (body, digest)
        return digest

    def _compare(self, body: bytes) -> None:
        self._compared += 1
        lines = body.split(b"\r\n")
        if len(lines) == len(self._lines):
            self._same = [
                same and one == other for same, one, other in zip(self._same, self._lines, lines, strict=True)
            ]
        if self._compared >= LEARNED_FROM:
            self._known = _known(self._lines, self._same)


def _known(lines: list[bytes], same: list[bool]) -> _Known:
    begins, runs, start = b"", [], 0
    for place in range(len(lines)):  # the last one is what stands after the last line end
        if place < len(lines) - 1 and same[place]:
            continue
        run = b"".join([line + b"\r\n" for line in lines[start:place]])
        if len(run) >= RUN_BYTES_MIN:
            if start == 0:
                begins = run
            else:
                runs.append((b"\r\n" + lines[start] + b"\r\n", run, _relaxed_lines(run)))
        start = place + 1
    return _Known(begins, hashlib.sha256(_relaxed_lines(begins)), runs)


def _after(known: _Known, body: bytes) -> bytes:
    """What follows `begins`, canonical. Empty where the body isn't of these runs, or where the empty lines
    that don't count may begin in `begins`."""
    if not body.startswith(known.begins):
        return b""
    place = len(known.begins)
    pieces: list[bytes] = []
    for line, run, canonical in known.runs:
        at = body.find(line, max(0, place - 2)) + 2
        if at < 2 or not body.startswith(run, at):
            return b""
        pieces += (_relaxed_lines(body[place:at]), canonical)
        place = at + len(run)
    pieces.append(_relaxed_lines(body[place:]))
    return _ended(b"".join(pieces))
