"""Files that go with a message."""

import mimetypes
from pathlib import Path

from client.problems import shown, unreadable
from evenpost.wire import limits
from evenpost.wire.messages import Attachment


def read_attachment(
    path: object,
    *,
    filename: str | None = None,
    content_type: str | None = None,
    cid: str | None = None,
    inline: bool = False,
) -> Attachment:
    """Reads a file to be attached; its type is told by its name. With `cid`, or `inline` (its name is its
    cid then), it is an image that the HTML shows with `cid:NAME`.

    Raises ValueError (reason, what to do)."""
    if not isinstance(path, str | Path) or not str(path):
        raise ValueError(f"expected a file, got {shown(path)}", "Give its path")
    path = Path(path)
    try:
        size = path.stat().st_size
        if size > limits.TEMPLATE_BYTES_MAX:
            most = limits.TEMPLATE_BYTES_MAX // 1024**2
            raise ValueError(f"{path} has {size / 1024**2:.1f} MB; at most {most} MB can be sent", "")
        content = path.read_bytes()
    except OSError as error:
        hint = "Is the path right? It is relative to the campaign file"
        raise ValueError(f"{path}: {unreadable(error)}", hint) from None
    filename = filename or path.name
    if len(filename) > limits.NAME_CHARS_MAX or not filename.isprintable():
        raise ValueError(f"{shown(filename)} can't be a file's name", "Give a filename of one short line")
    if content_type is None:
        content_type = mimetypes.guess_type(filename)[0] or "application/octet-stream"
    elif content_type.count("/") != 1 or not content_type.isprintable() or not content_type.isascii():
        raise ValueError(f"{shown(content_type)} is no content type", 'Such as "image/png"; or leave it out')
    if inline and cid is None:
        cid = filename
    if cid is not None and (not cid or any(c in "<>\"'(){} \t\r\n" for c in cid) or not cid.isascii()):
        raise ValueError(
            f"{shown(cid)} can't be a cid", 'Give it one of plain characters, such as "logo.png"'
        )
    return Attachment(filename=filename, content_type=content_type, content=content, content_id=cid)
