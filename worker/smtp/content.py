"""What may be sent as a message's content.

The engine takes only `WireContent`, and doesn't look into it. It consists of whole lines that end in CRLF,
none of them longer than 998 bytes, and **none of them begins with a dot**: DATA would have to double that
dot and BDAT mustn't, so without it the same bytes serve both, and nothing in them can end a DATA. What
evenpost.compose makes is such content as it stands, which tests/property/test_compose.py holds; so it isn't
looked through again. `checked` says of any bytes whether they are.
"""

from typing import NewType

WireContent = NewType("WireContent", bytes)

LINE_BYTES_MAX = 998
"""RFC 5322 2.1.1, without the CRLF."""


class ContentError(ValueError):
    """This content can't be sent by SMTP; the message says why."""


def checked(raw: bytes, *, utf8: bool = False) -> WireContent:
    """`raw` if it can be sent as it is. Raises ContentError.

    `utf8` is for messages to an SMTPUTF8 address, whose headers may hold UTF-8 (RFC 6532).
    """
    if raw and not raw.endswith(b"\r\n"):
        raise ContentError("a last line without CRLF")
    # Each CR and each LF belongs to a CRLF: what servers make of others is how messages get
    # smuggled past them. Three counts in C are cheaper than one regular expression.
    breaks = raw.count(b"\r\n")
    if raw.count(b"\n") != breaks or raw.count(b"\r") != breaks:
        raise ContentError("a CR or LF that isn't part of a CRLF")
    if b"\0" in raw:
        raise ContentError("a NUL byte")
    if not utf8 and not raw.isascii():
        raise ContentError("a byte above 127: encode it as quoted-printable, base64 or RFC 2047")
    if raw.startswith(b".") or b"\r\n." in raw:
        raise ContentError("a line that begins with a dot: encode it")
    start, end = 0, len(raw)
    while end - start > LINE_BYTES_MAX + 2:
        # The last line end within reach: few steps, whatever the number of lines.
        last = raw.rfind(b"\n", start, start + LINE_BYTES_MAX + 2)
        if last < 0:
            raise ContentError(f"a line of more than {LINE_BYTES_MAX} bytes")
        start = last + 1
    return WireContent(raw)
