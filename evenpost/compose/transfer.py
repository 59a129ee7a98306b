"""Content transfer encodings: text to 7-bit lines that need nothing more done to them.

Both encodings give lines of at most 76 characters, none of which begins with a dot (so SMTP's dot-stuffing
finds nothing to do), with `From ` (which mailbox files would mangle) or with a multipart boundary: ours
hold `=_`, which neither encoding can produce.

Quoted-printable is written in *chunks*: each starts at the beginning of a line and ends with a line break,
a soft one where the text has none. So chunks can be encoded apart and joined: the constant text between two
merge fields is encoded once a campaign, and a recipient costs only the values.
"""

import binascii
import re
import struct
from functools import lru_cache
from typing import Any

from jinja2.exceptions import UndefinedError
from markupsafe import escape

from evenpost.compose.limits import BODY_LINE_CHARS_MAX

_LITERAL_MAX = BODY_LINE_CHARS_MAX - 1
"""What fits before the `=` of a soft line break."""
_NEWLINE = re.compile("\r\n|\r|\n")
_UNSAFE = re.compile("[^\t !-<>-~]")
_FAST = re.compile(r"(?!\.|From )[ -<>-~]{1,75}").fullmatch
"""A chunk that is its own encoding: one line, not empty, without `=`, nothing special at its beginning."""
is_its_own_chunk = re.compile(r"(?!\.|From )[ !#-%(-;?-~]{1,75}").fullmatch
"""The same without what HTML escapes: with SOFT_BREAK behind it, it is its chunk in text and in HTML."""
SOFT_BREAK = "=\r\n"
_ESCAPES = {chr(i): f"={i:02X}" for i in range(256)}


def _escape_match(match: re.Match[str]) -> str:
    return _ESCAPES[match[0]]


def quoted_printable(value: Any) -> str:
    """A value of a text part as a chunk of quoted-printable. Raises UndefinedError for undefined and null."""
    text: str = value if type(value) is str else _text(value)
    if _FAST(text):
        return text + "=\r\n"
    return encode_chunk(text)


def quoted_printable_escaped(value: Any) -> str:
    """A value of an HTML part as a chunk of quoted-printable, escaped where it isn't marked as HTML."""
    text: str = value if type(value) is str else _text(value)
    if is_its_own_chunk(text):
        return f"{text}=\r\n"
    return encode_chunk(str(escape(text)))


def given(value: Any) -> Any:
    """The value, unless it is null, which would go out as `None`. Raises UndefinedError."""
    if value is None:
        raise UndefinedError("an expression gives null; a default helps: {{ x | default('friend', true) }}")
    return value


def _text(value: Any) -> Any:
    if type(value) is int:
        return str(value)
    # Objects that know HTML (what Jinja2's macros return, say) keep what they say about themselves.
    return value if hasattr(value, "__html__") else str(given(value))


def encode_chunk(text: str) -> str:
    """Text as quoted-printable that starts and ends at the beginning of a line. Line ends become CRLF."""
    if not text:
        return ""
    if text.isprintable() and text[0] not in ".F":
        # The usual value: a line with some letters that aren't ASCII.
        quoted = _UNSAFE.sub(_escape_match, text.encode().decode("latin-1"))
        if len(quoted) <= _LITERAL_MAX:
            return quoted + "=\r\n"
    lines = _NEWLINE.split(text)
    last = len(lines) - 1
    out: list[str] = []
    for number, line in enumerate(lines):
        octets = line if line.isascii() else line.encode().decode("latin-1")
        rest = _UNSAFE.sub(_escape_match, octets)
        if number < last and rest[-1:] in (" ", "\t"):
            rest = rest[:-1] + _ESCAPES[rest[-1]]  # RFC 2045 6.7 (3)
        position = 0
        while True:
            first = ""
            if rest.startswith((".", "From "), position):
                first = _ESCAPES[rest[position]]
                position += 1
            end = position + _LITERAL_MAX - len(first)
            if end >= len(rest):
                break
            if (escape_at := rest.find("=", end - 2, end)) >= 0:
                end = escape_at
            out += (first, rest[position:end], "=\r\n")
            position = end
        rest = first + rest[position:]
        if number < last:
            out += (rest, "\r\n")
        elif rest:
            out += (rest, "=\r\n")
    return "".join(out)


@lru_cache(maxsize=1024)
def _cutter(lines: int) -> struct.Struct:
    return struct.Struct(f"{BODY_LINE_CHARS_MAX}s" * lines)


def base64_lines(content: bytes) -> str:
    """Base64 in lines of 76, the last one ended too. Three times faster than base64.encodebytes."""
    encoded = binascii.b2a_base64(content, newline=False)
    whole, rest = divmod(len(encoded), BODY_LINE_CHARS_MAX)
    lines = [*_cutter(whole).unpack_from(encoded), b""]
    if rest:
        lines[-1:] = (encoded[-rest:], b"")
    return b"\r\n".join(lines).decode("ascii")


def base64_text(text: str) -> str:
    """A text part in base64, with CRLF line ends inside (RFC 2045 6.8)."""
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    return base64_lines(text.replace("\n", "\r\n").encode())


def prefers_base64(text: str) -> bool:
    """Whether base64 is the shorter one: from about one octet in six that isn't ASCII or is `=`, so for most
    scripts that aren't Latin (quoted-printable makes six characters of a Cyrillic letter, nine of a Chinese
    one). Else quoted-printable: it stays readable, it is what content filters trust more, and it lets
    constant text be encoded once."""
    octets = text.encode()
    return 6 * (len(octets) - len(octets.decode("ascii", "ignore")) + octets.count(b"=")) > len(octets)
