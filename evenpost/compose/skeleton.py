"""The MIME structure of a campaign's messages, built once, by the standard library.

    mixed                     where there are attachments
      related                 where there are inline images
        alternative           where there are HTML and text
          text/plain
          text/html
        image/png ...         inline, `cid:NAME` in the HTML
      application/pdf ...

Boundaries follow from the campaign's id: a message that is tried again is the same, byte by byte. They hold
`=_`, which no line of base64 or quoted-printable can contain.
"""

import functools
import hashlib
import re
from collections.abc import Sequence
from email.message import EmailMessage, MIMEPart
from email.policy import SMTP

from evenpost.compose.errors import TemplateError
from evenpost.wire.messages import Attachment

_POLICY = SMTP.clone(max_line_length=76)
_TYPE = re.compile(r"[A-Za-z0-9!#$&^_.+-]{1,64}/[A-Za-z0-9!#$&^_.+-]{1,64}").fullmatch
_CONTENT_ID = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.@-]{1,200}").fullmatch


def build(
    campaign_id: str, bodies: Sequence[tuple[str, str]], attachments: Sequence[Attachment]
) -> list[str]:
    """The message from its MIME-Version on, cut where the bodies go: one string more than there are bodies.

    `bodies` are (subtype, transfer encoding), in order. Raises TemplateError for an attachment that can't be.
    """
    if len(bodies) == 1 and not attachments:
        return list(_of_one_body(*bodies[0]))
    return _build(campaign_id, bodies, attachments)


@functools.lru_cache(16)
def _of_one_body(subtype: str, encoding: str) -> tuple[str, ...]:
    """It has no boundary, so it is the same for all campaigns."""
    return tuple(_build("", [(subtype, encoding)], []))


def _build(
    campaign_id: str, bodies: Sequence[tuple[str, str]], attachments: Sequence[Attachment]
) -> list[str]:
    parts = [_body(subtype, encoding, number) for number, (subtype, encoding) in enumerate(bodies)]
    has_html = any(subtype == "html" for subtype, _ in bodies)
    inline = [a for a in attachments if a.content_id is not None and has_html]
    attached = [a for a in attachments if a.content_id is None or not has_html]

    root = _join("alternative", campaign_id, parts)
    root = _join("related", campaign_id, [root, *(_file(a, "inline") for a in inline)])
    root = _join("mixed", campaign_id, [root, *(_file(a, "attachment") for a in attached)])
    # The standard library builds parts without it; it has to stand in the outermost headers only.
    flat = f"MIME-Version: 1.0\r\n{root.as_bytes(policy=_POLICY).decode('ascii')}"
    pieces = []
    for number in range(len(bodies)):
        before, flat = flat.split(f"{_placeholder(number)}\r\n", 1)
        pieces.append(before)
    return [*pieces, flat]


def _placeholder(number: int) -> str:
    return f"=_body-{number}_="


def _body(subtype: str, encoding: str, number: int) -> MIMEPart:
    part = MIMEPart(_POLICY)
    part["Content-Type"] = f'text/{subtype}; charset="utf-8"'
    part["Content-Transfer-Encoding"] = encoding
    part.set_payload(f"{_placeholder(number)}\r\n")
    return part


def _join(kind: str, campaign_id: str, parts: Sequence[MIMEPart]) -> MIMEPart:
    if len(parts) == 1:
        return parts[0]
    digest = hashlib.sha256(f"{kind}\0{campaign_id}".encode()).hexdigest()[:24]
    # RFC 2387: `type` is that of the first part.
    type_ = f'; type="{parts[0].get_content_type()}"' if kind == "related" else ""
    joined = MIMEPart(_POLICY)
    joined["Content-Type"] = f'multipart/{kind}{type_}; boundary="=_{kind[0]}{digest}"'
    joined.set_payload(list(parts))
    return joined


def _file(attachment: Attachment, disposition: str) -> MIMEPart:
    name = f"attachment {attachment.filename}"
    if _TYPE(attachment.content_type) is None:
        raise TemplateError(
            name, None, f"{attachment.content_type!r} is no content type such as application/pdf"
        )
    filename = attachment.filename
    if not filename.isprintable() or set(filename) & set('/\\"') or "=?" in filename:
        raise TemplateError(name, None, "a filename holds no slashes, quotes, control characters or '=?'")
    maintype, subtype = attachment.content_type.lower().split("/")
    if maintype in ("message", "multipart"):
        # Those may not be base64 (RFC 2046 5.2.1), which is what keeps a file as it is.
        maintype, subtype = "application", "octet-stream"
    cid = attachment.content_id if disposition == "inline" else None
    if cid is not None and _CONTENT_ID(cid) is None:
        raise TemplateError(name, None, f"{cid!r} is no content id: letters, digits and . _ - @ go")
    part = EmailMessage(_POLICY)
    part.set_content(attachment.content, maintype, subtype, disposition=disposition, filename=filename)
    del part["MIME-Version"]
    if cid is not None:
        part["Content-ID"] = f"<{cid}>"
    return part
