"""Headers that hold mailboxes, as templates: `{{ shop }} <news@{{ domain }}>`.

Name and address are told apart in the *template*, before anything is filled in. So whatever a merge field
holds, it ends up inside the name or inside the address: a name of `Eve <eve@example.net>, x` is quoted.
"""

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from evenpost.compose import limits
from evenpost.compose.errors import ComposeError, HeaderError, TemplateError
from evenpost.compose.headers import mailbox_value, wire_address
from evenpost.compose.sandbox import Sandbox
from evenpost.compose.template import Part, compile_part

_QUOTED = re.compile(r'(?s)"((?:[^"\\]|\\.)*)"').fullmatch
_PIECES = re.compile(r'(?s)\{\{.*?\}\}|\{%.*?%\}|\{#.*?#\}|"(?:[^"\\]|\\.)*"|<[^<>]*>|,|.')
_TEMPLATED = re.compile(r"\{[{%#]").search


@dataclass(frozen=True, slots=True)
class Mailbox:
    """One mailbox of a header. Without `display` and `address`, `whole` is split once it is rendered."""

    display: Part | None
    address: Part | None
    whole: Part | None

    def render(self, scope: Mapping[str, Any]) -> tuple[str, str]:
        """Display name and address. Raises ComposeError."""
        if self.whole is not None:
            return _split(self.whole.render(scope).strip())
        assert self.address is not None
        display = "" if self.display is None else self.display.render(scope)
        return display, self.address.render(scope).strip()

    @property
    def address_is_constant(self) -> bool:
        return self.address is not None and self.address.constant is not None

    @property
    def parts(self) -> list[Part]:
        return [part for part in (self.display, self.address, self.whole) if part is not None]


class MailboxHeader:
    """A header of one or several mailboxes."""

    def __init__(self, name: str, source: str, sandbox: Sandbox, *, part: str, one: bool = False) -> None:
        """Raises TemplateError."""
        self.name = name
        self.part = part
        if len(source) > limits.MAILBOX_SOURCE_CHARS_MAX:
            most = limits.MAILBOX_SOURCE_CHARS_MAX
            raise TemplateError(part, None, f"{len(source):,} characters; at most {most:,} are accepted")
        sources = _split_list(source)
        if one and len(sources) != 1:
            raise TemplateError(part, None, f"{name} takes exactly one address")
        self.mailboxes = [_compile(part, each, sandbox) for each in sources]
        self.parts = [part for mailbox in self.mailboxes for part in mailbox.parts]
        self.constant: str | None = None
        if all(part.constant is not None for part in self.parts):
            try:
                self.constant = self.render({})
            except ComposeError as error:
                raise TemplateError(part, None, error.message) from None

    def render(self, scope: Mapping[str, Any]) -> str:
        """The header with its CRLF. Raises ComposeError."""
        try:
            column = len(self.name) + 2
            values = []
            for mailbox in self.mailboxes:
                values.append(mailbox_value(column, *mailbox.render(scope)))
                column = 1
            return f"{self.name}: {f',{_FOLD}'.join(values)}\r\n"
        except HeaderError as error:
            raise ComposeError(self.part, str(error)) from None

    def address(self, scope: Mapping[str, Any]) -> str:
        """The address of the first mailbox, as it goes out. Raises ComposeError."""
        try:
            return wire_address(self.mailboxes[0].render(scope)[1])
        except HeaderError as error:
            raise ComposeError(self.part, str(error)) from None


_FOLD = "\r\n "


def _split(text: str) -> tuple[str, str]:
    found = _name_and_address(text)
    if found is None:
        return "", text
    display, address = found
    if (quoted := _QUOTED(display)) is not None:
        display = re.sub(r"(?s)\\(.)", r"\1", quoted[1])
    return display, address


def _name_and_address(text: str) -> tuple[str, str] | None:
    """What is before and in the angle brackets at the end; None where there are none. By hand: a pattern
    would look for them from each space on, and a recipient may have a million spaces for a name."""
    text = text.strip()
    start = text.rfind("<")
    if start < 0 or text.find(">", start) != len(text) - 1:
        return None
    return text[:start].rstrip(), text[start + 1 : -1].strip()


def _split_list(source: str) -> list[str]:
    """Splits at commas, but not at those in quotes, in angle brackets or in Jinja2's tags."""
    sources = [""]
    for piece in _PIECES.findall(source):
        if piece == ",":
            sources.append("")
        else:
            sources[-1] += piece
    return [each.strip() for each in sources if each.strip()] or [""]


def _compile(part: str, source: str, sandbox: Sandbox) -> Mailbox:
    if "{%" not in source:
        return _compile_split(part, source, sandbox)
    if _name_and_address(source) is not None:
        with suppress(TemplateError):
            return _compile_split(part, source, sandbox)
    # A condition around name and address both: they can be told apart only afterwards.
    return Mailbox(None, None, compile_part(part, source, sandbox))


def _compile_split(part: str, source: str, sandbox: Sandbox) -> Mailbox:
    display, address = _split(source)
    if not _TEMPLATED(address):
        try:
            wire_address(address)
        except HeaderError as error:
            raise TemplateError(part, None, str(error)) from None
    return Mailbox(
        compile_part(part, display, sandbox) if display else None, compile_part(part, address, sandbox), None
    )
