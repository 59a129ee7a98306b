"""Replies of an SMTP server, parsed as their bytes arrive (RFC 5321 4.2).

The parser bends where servers are known to: a bare LF ends a line, a code may stand alone, lines
may be longer than the 512 octets of the RFC, bytes that aren't UTF-8 are replaced. What can't be a
reply at all is a ProtocolError. Memory is bounded whatever the server sends.
"""

import re
from collections import deque

import msgspec

LINE_BYTES_MAX = 4096
"""What is kept of one line. RFC 5321 allows 512 octets, some servers send URLs and whole paragraphs."""
LINES_MAX = 256
"""Lines kept of one reply: more than any EHLO answer has."""
REPLY_BYTES_MAX = 1024 * 1024
"""More than this in one reply is not a reply any more, but a server that never stops talking."""
CACHED_LINES_MAX = 32
CACHED_LINE_BYTES_MAX = 80
"""`250 2.1.0 Ok` and its like come three times a message: they are parsed once a connection."""

_LINE = re.compile(rb"([2-5][0-9][0-9])(?:([ \t-])(.*))?", re.DOTALL).fullmatch
_ENHANCED = re.compile(r"(([245])\.[0-9]{1,3}\.[0-9]{1,3})(?:\s+|$)").match


class ProtocolError(Exception):
    """The server broke the protocol; the message says how."""


class Reply(msgspec.Struct, frozen=True, gc=False):
    """One whole reply. `lines` are without the code, the first one without the enhanced code."""

    code: int
    enhanced: str | None
    lines: tuple[str, ...]

    @property
    def text(self) -> str:
        return " ".join(self.lines)


class ReplyParser:
    """Feed it bytes, take replies out one by one."""

    def __init__(self) -> None:
        self._complete: deque[bytes] = deque()  # lines, without their LF
        self._partial = b""  # the beginning of a line, cut to LINE_BYTES_MAX
        self._texts: list[bytes] = []  # of the reply that is being read
        self._class = b""  # the first digit of its code
        self._bytes = 0  # of that reply, counting what wasn't kept
        self._cache: dict[bytes, Reply] = {}

    @property
    def is_empty(self) -> bool:
        """Nothing has arrived that isn't part of a reply already taken out."""
        return not (self._complete or self._partial or self._texts)

    def feed(self, data: bytes) -> None:
        lines = (self._partial + data if self._partial else data).split(b"\n")
        partial = lines.pop()
        self._complete.extend(lines)
        if len(partial) > LINE_BYTES_MAX:
            self._bytes += len(partial) - LINE_BYTES_MAX
            partial = partial[:LINE_BYTES_MAX]
        self._partial = partial

    def next_reply(self) -> Reply | None:
        """The next whole reply, or None while more bytes are needed. Raises ProtocolError."""
        while self._complete:
            line = self._complete.popleft()
            if not self._texts and (cached := self._cache.get(line)) is not None:
                return cached
            if (reply := self._receive_line(line)) is not None:
                return reply
        if self._bytes > REPLY_BYTES_MAX:
            raise ProtocolError(f"a reply of more than {REPLY_BYTES_MAX} bytes")
        return None

    def _receive_line(self, line: bytes) -> Reply | None:
        self._bytes += len(line)
        if self._bytes > REPLY_BYTES_MAX:
            raise ProtocolError(f"a reply of more than {REPLY_BYTES_MAX} bytes")
        match = _LINE(line[:LINE_BYTES_MAX].rstrip(b"\r"))
        if match is None:
            raise ProtocolError(f"not an SMTP reply: {_shown(line)}")
        code, separator, text = match.groups(b"")
        if not self._texts:
            self._class = code[:1]
        elif code[:1] != self._class:
            # `550-no` and then `250 yes`: whatever is made of it, it mustn't count as sent.
            raise ProtocolError(f"a reply that says {self._class.decode()}xx and then {code.decode()}")
        if len(self._texts) < LINES_MAX:
            self._texts.append(text)
        if separator == b"-":
            return None
        # Should the lines have different codes of one class, then the last one counts, as it does in Postfix.
        reply = _reply(int(code), self._texts)
        if (
            len(self._texts) == 1
            and len(line) <= CACHED_LINE_BYTES_MAX
            and len(self._cache) < CACHED_LINES_MAX
        ):
            self._cache[line] = reply
        self._texts = []
        self._bytes = 0
        return reply


def _reply(code: int, texts: list[bytes]) -> Reply:
    lines = [_printable(text.decode("utf-8", "replace")).strip() for text in texts]
    match = _ENHANCED(lines[0])
    # RFC 2034: the class of the enhanced code is the first digit of the code.
    if match is None or int(match[2]) != code // 100:
        return Reply(code, None, tuple(lines))
    enhanced = match[1]
    # Servers repeat the enhanced code on each line.
    return Reply(code, enhanced, tuple([line.removeprefix(enhanced).lstrip() for line in lines]))


def _printable(text: str) -> str:
    """Replies end up in logs and on terminals: nothing in them may steer one."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else " " if char == "\t" else "\ufffd" for char in text)


def _shown(line: bytes) -> str:
    return repr(line[:60])[1:] + ("..." if len(line) > 60 else "")
