"""The headers of a message, each as something that is constant or renders to a line."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from evenpost.compose import headers
from evenpost.compose.addresses import MailboxHeader
from evenpost.compose.errors import ComposeError, HeaderError, TemplateError
from evenpost.compose.sandbox import Sandbox
from evenpost.compose.template import Part, compile_part

_NAME = re.compile(r"[!-9;-~]{1,60}").fullmatch

_OWN_FIELD = {
    "from": "the sender", "to": "to_name and the recipient", "subject": "the subject",
    "reply-to": "reply_to", "return-path": "envelope_from",
}  # fmt: skip
"""Headers that come from elsewhere in a template, and from where."""
_OURS = frozenset({"date", "message-id", "mime-version", "cc", "bcc", "received", "dkim-signature"})
_MAILBOXES = frozenset({"sender", "disposition-notification-to", "errors-to"})
_STRUCTURED = frozenset(
    {
        "list-unsubscribe", "list-unsubscribe-post", "list-help", "list-subscribe", "list-post",
        "list-owner", "list-archive", "in-reply-to", "references", "precedence", "auto-submitted",
        "feedback-id", "importance", "priority", "x-priority",
    }
)  # fmt: skip
"""Headers that programs read: an encoded word in them would be read to the letter."""


class TextHeader:
    """A header whose whole value is one template."""

    def __init__(self, name: str, part: Part, encode: Callable[[str, str], str]) -> None:
        self.name, self.part, self.parts, self.encode = name, part.name, [part], encode
        self.constant: str | None = None
        if part.constant is not None:
            try:
                self.constant = encode(name, part.constant)
            except HeaderError as error:
                raise TemplateError(part.name, None, str(error)) from None

    def render(self, scope: Mapping[str, Any]) -> str:
        try:
            return self.encode(self.name, self.parts[0].render(scope))
        except HeaderError as error:
            raise ComposeError(self.part, str(error)) from None


class ToHeader:
    """The recipient: an address that is at hand, and a name if there is one."""

    name = "To"
    constant = None

    def __init__(self, display: Part | None) -> None:
        self.parts = [] if display is None else [display]
        self._display = display

    def render(self, scope: Mapping[str, Any]) -> str:
        address = scope["email"]
        display = "" if self._display is None else self._display.render(scope)
        try:
            return headers.mailbox("To", display, address)
        except HeaderError as error:
            raise ComposeError("to_name" if display else "recipient", str(error)) from None


Line = MailboxHeader | TextHeader | ToHeader


def is_safe(line: Line) -> bool:
    """Whether short printable values can't make this header fail."""
    if line.constant is not None:
        return True
    if isinstance(line, TextHeader):
        return line.encode is headers.unstructured and line.parts[0].plain
    if isinstance(line, MailboxHeader):
        return all(box.whole is None and box.address_is_constant for box in line.mailboxes) and all(
            part.plain for part in line.parts
        )
    return all(part.plain for part in line.parts)


def own_header(name: str, source: str, sandbox: Sandbox) -> Line:
    """A header of the author's own. Raises TemplateError."""
    part, lower = f"header {name}", name.lower()
    if _NAME(name) is None:
        raise TemplateError(part, None, "a header's name is printable ASCII without spaces or colons")
    if lower in _OWN_FIELD:
        raise TemplateError(part, None, f"{name} is made from {_OWN_FIELD[lower]}: set that instead")
    if lower in _OURS or lower.startswith(("content-", "resent-", "arc-")):
        raise TemplateError(part, None, f"{name} is written by Evenpost or by the servers on the way")
    if lower in _MAILBOXES:
        return MailboxHeader(name, source, sandbox, part=part)
    encode = headers.structured if lower in _STRUCTURED else headers.unstructured
    return TextHeader(name, compile_part(part, source, sandbox), encode)
