"""One header, encoded and folded. The standard library does the same in 100 to 400 us a header.

What goes in comes from templates and recipients, so it is checked here, on its way out: no control
character passes, names of people are quoted or encoded whole, and an address is one address.
"""

import binascii
import re
from collections.abc import Iterator
from functools import lru_cache

import idna

from evenpost.compose.errors import HeaderError
from evenpost.compose.limits import (
    ENCODED_WORD_CHARS_MAX,
    HEADER_CHARS_MAX,
    HEADER_LINE_CHARS_MAX,
    LINE_OCTETS_MAX,
)

_CONTROL = re.compile("[\x00-\x08\x0a-\x1f\x7f]")
_SPACES = re.compile("[ \t]+")
_ATOMS = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?: [A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*").fullmatch
ADDRESS_BYTES_MAX = 320
"""64 before the @ and 255 behind it (RFC 5321 4.5.3.1): an address can't be folded, and lines are bounded."""
_SHORT_CHARS = ADDRESS_BYTES_MAX // 4
"""In UTF-8 a character has at most four bytes."""
_ADDRESS = re.compile(
    r"""(?P<local>[^\x00-\x20\x7f-\xa0()<>\[\]\\,;:@"\u2028\u2029\ud800-\udfff]+
                 |"(?:[ !#-\[\]-~\xa1-\u2027\u202a-\ud7ff\ue000-\U0010ffff]|\\[ -~])*")
        @(?P<domain>[^\x00-\x20\x7f-\xa0()<>\[\]\\,;:@"\u2028\u2029\ud800-\udfff]+|\[[A-Za-z0-9.:]+\])""",
    re.X,
).fullmatch
_QUOTED_LIMIT_CHARS = 60
"""A longer ASCII name than this is sent as encoded words, which fold where a quoted string can't well."""
_FRAME_CHARS = len("=?utf-8?q??=")
_WORD_UNSAFE = re.compile("[^A-Za-z0-9!*+/-]")
"""What q escapes where the word may stand in a display name (RFC 2047 section 5, rule 3)."""
_ESCAPES = {chr(i): f"={i:02X}" for i in range(256)} | {" ": "_"}


def check_text(text: str) -> str:
    """The text of a header, trimmed, tabs turned into spaces. Raises HeaderError on anything that could end
    the header, and on what can't be encoded."""
    if text.isprintable():  # neither control characters nor surrogates
        text = text.strip(" ")
    else:
        if found := _CONTROL.search(text):
            raise HeaderError(
                f"{_named(found[0])} in a header: it would begin a header of its own"
                if found[0] in "\r\n"
                else f"{_named(found[0])} in a header"
            )
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise HeaderError(
                f"half a surrogate pair (U+{ord(text[error.start]):04X}) is no character"
            ) from None
        text = text.replace("\t", " ").strip(" ")
    if len(text) > HEADER_CHARS_MAX:
        raise HeaderError(f"{len(text):,} characters in a header; at most {HEADER_CHARS_MAX:,}")
    return text


def _named(char: str) -> str:
    return {"\r": "a line break (CR)", "\n": "a line break (LF)", "\0": "a NUL"}.get(
        char, f"a control character (U+{ord(char):04X})"
    )


def unstructured(name: str, text: str) -> str:
    """A header whose value is text for people, with its CRLF."""
    text = check_text(text)
    if text.isascii() and "=?" not in text:
        if len(name) + 2 + len(text) <= HEADER_LINE_CHARS_MAX:
            return f"{name}: {text}\r\n"
        folded = _fold(f"{name}: {text}")
        if all(len(line) <= LINE_OCTETS_MAX for line in folded.split("\r\n")):
            return folded + "\r\n"
    return f"{name}: {encoded_words(text, len(name) + 2)}\r\n"


def structured(name: str, text: str) -> str:
    """A header that programs read (URLs, ids, tokens): ASCII, folded only where it has spaces."""
    text = check_text(text)
    if not text.isascii():
        raise HeaderError(
            f"{name} can only hold ASCII: percent-encode a URL (`{{{{ value | urlencode }}}}`), and write an "
            "international domain in its xn-- form"
        )
    line = f"{name}: {text}"
    if len(line) <= HEADER_LINE_CHARS_MAX:
        return line + "\r\n"
    folded = _fold(line)
    longest = max(map(len, folded.split("\r\n")))
    if longest > LINE_OCTETS_MAX:
        raise HeaderError(f"{longest:,} characters without a space; a line holds {LINE_OCTETS_MAX}")
    return folded + "\r\n"


def mailbox(name: str, display: str, address: str) -> str:
    """`name: Display <address>` with its CRLF."""
    return f"{name}: {mailbox_value(len(name) + 2, display, address)}\r\n"


def mailbox_value(column: int, display: str, address: str) -> str:
    """One mailbox, folded, when `column` characters are on the line already."""
    address = wire_address(address)
    display = _SPACES.sub(" ", check_text(display)) if display else ""
    if not display:
        if column + len(address) > LINE_OCTETS_MAX:
            raise HeaderError(f"an address of {len(address):,} characters")
        return address
    if display.isascii() and "=?" not in display and len(display) <= _QUOTED_LIMIT_CHARS:
        if not _ATOMS(display):
            display = '"' + display.replace("\\", "\\\\").replace('"', '\\"') + '"'
    else:
        display = encoded_words(display, column)
    last = len(display) - display.rfind("\n") - 1 + (column if "\n" not in display else 0)
    separator = " " if last + len(address) + 3 <= HEADER_LINE_CHARS_MAX else "\r\n "
    return f"{display}{separator}<{address}>"


def wire_address(address: str) -> str:
    """An address as it goes out: the domain in ASCII. The local part stays as it is, and where it isn't
    ASCII the server has to know SMTPUTF8. Raises HeaderError for what isn't one address."""
    match = _ADDRESS(address)
    if match is None:
        raise HeaderError(f"{address[:100]!r} is not an email address")
    if len(address) > _SHORT_CHARS and len(address.encode(errors="replace")) > ADDRESS_BYTES_MAX:
        raise HeaderError(f"{address[:100]!r}... is longer than {ADDRESS_BYTES_MAX} bytes")
    if address.isascii():
        return address
    local, domain = match["local"], match["domain"]
    return f"{local}@{domain if domain.isascii() else _ascii_domain(domain)}"


@lru_cache(maxsize=4096)
def _ascii_domain(domain: str) -> str:
    try:
        return idna.encode(domain, uts46=True).decode("ascii")
    except idna.IDNAError as error:
        raise HeaderError(f"{domain[:100]!r} is no domain: {error}") from None


def _fold(line: str) -> str:
    """Breaks a line at spaces where that keeps it under 78; the spaces stay. Words are never broken."""
    lines: list[str] = []
    head = line.index(":") + 2
    start = 0
    while len(line) - start > HEADER_LINE_CHARS_MAX:
        # The break stands before a single space: a line of nothing but spaces may not be (RFC 5322 3.2.2).
        cut = line.rfind(" ", max(start + 1, head + 1), start + HEADER_LINE_CHARS_MAX + 1)
        while cut > 0 and line[cut - 1] == " ":
            cut -= 1
        if cut <= max(start, head):
            cut = line.find(" ", max(start + HEADER_LINE_CHARS_MAX, head + 1))
            if cut < 0:
                break
        lines.append(line[start:cut])
        start = cut
    lines.append(line[start:])
    return "\r\n".join(lines)


def encoded_words(text: str, column: int) -> str:
    """Text as RFC 2047 encoded words on as many lines as it takes: q, which stays readable, where at least
    half of it is ASCII, b elsewhere."""
    data = text.encode()
    room = min(ENCODED_WORD_CHARS_MAX, max(HEADER_LINE_CHARS_MAX - column, 24)) - _FRAME_CHARS
    if len(data) - len(text) <= len(text) // 2:
        quoted = _q(data)
        if len(quoted) <= room:
            return f"=?utf-8?q?{quoted}?="
        return "\r\n ".join(_q_words(text, room))
    return "\r\n ".join(_b_words(data, room))


def _q(data: bytes) -> str:
    return _WORD_UNSAFE.sub(lambda match: _ESCAPES[match[0]], data.decode("latin-1"))


def _q_words(text: str, room: int) -> Iterator[str]:
    out: list[str] = []
    size = 0
    for char in text:
        piece = _q(char.encode())
        if size + len(piece) > room:
            yield f"=?utf-8?q?{''.join(out)}?="
            out, size, room = [], 0, ENCODED_WORD_CHARS_MAX - _FRAME_CHARS
        out.append(piece)
        size += len(piece)
    yield f"=?utf-8?q?{''.join(out)}?="


def _b_words(data: bytes, room: int) -> Iterator[str]:
    start = 0
    while start < len(data):
        end = min(len(data), start + room // 4 * 3)
        while end < len(data) and data[end] & 0xC0 == 0x80:  # not inside a character (RFC 2047 section 5)
            end -= 1
        yield f"=?utf-8?b?{binascii.b2a_base64(data[start:end], newline=False).decode('ascii')}?="
        start, room = end, ENCODED_WORD_CHARS_MAX - _FRAME_CHARS
