"""A campaign's template in, a recipient's message out.

The message is composed once a campaign and spliced once a recipient. It is 7-bit (but for addresses that
only SMTPUTF8 can carry), its lines end in CRLF, are at most 998 long and never begin with a dot.
"""

import copy
import re
from collections.abc import Callable, Mapping, Sequence
from email.utils import formatdate
from typing import Any, NamedTuple

from evenpost.compose import headers
from evenpost.compose.addresses import MailboxHeader
from evenpost.compose.errors import ComposeError, HeaderError, TemplateError
from evenpost.compose.filling import Filling
from evenpost.compose.lines import Line, TextHeader, ToHeader, is_safe, own_header
from evenpost.compose.sandbox import Sandbox
from evenpost.compose.skeleton import build
from evenpost.compose.template import ALWAYS, Part, compile_part
from evenpost.compose.text import template_to_text
from evenpost.compose.unguarded import unguarded
from evenpost.wire.messages import Template

_DOMAIN = re.compile(r"[A-Za-z0-9.-]{1,253}").fullmatch
_ID = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]{1,100}").fullmatch
_CID = re.compile(r"""(?i)["'(\s]cid:([^"'()\s{}<>]+)(?=["')\s])""")

_TAIL_COPIED_MAX = 16 * 1024
"""What follows the bodies is joined to them as text up to this; larger attachments stay bytes."""
SHORT_VALUE_CHARS = 100
"""Values up to this can't make any header of a plain template too long for check()."""


class Envelope(NamedTuple):
    """What goes before a message (RFC 5321 MAIL FROM and RCPT TO), domains in ASCII."""

    sender: str
    """'' is the null sender."""
    recipient: str


class Composer:
    """Makes the messages of one campaign. One thread at a time; the same input gives the same bytes."""

    uses: frozenset[str]
    """The fields that the template reads, `email` and `campaign` left out."""
    unknown: tuple[TemplateError, ...]
    """Names that the template reads, that no field has and that nothing in it provides for: each recipient
    will fail. They are told apart from TemplateErrors that are raised so that a client can show them all."""
    takes_simple: bool
    """No row fails whose address is plain ASCII (RFC 5321's Dot-string, @, letters, digits, dots and hyphens)
    and whose values, one for each field, are printable texts of at most SHORT_VALUE_CHARS: no need to
    check() it."""
    envelope_from: str | None
    """The envelope sender if it is everybody's; None where it depends on the recipient."""

    def __init__(self, template: Template, *, campaign_id: str, created_at_ms: int) -> None:
        """Use compile_template(). Raises TemplateError."""
        _check_id(campaign_id)
        self._template = template
        self.campaign_id = campaign_id
        self.created_at_ms = created_at_ms
        self._fields = tuple(template.fields)
        if len(set(self._fields)) != len(self._fields):
            raise TemplateError("fields", None, "two fields have the same name")
        self._plain_text = Sandbox()
        self._html = Sandbox(html=True)
        self._sandboxes = [self._plain_text, self._html]
        self._globals = dict(self._plain_text.globals)

        self._sender = MailboxHeader("From", template.sender, self._plain_text, part="sender", one=True)
        lines = self._header_lines(template)
        self._bodies = bodies = self._compile_bodies(template)
        attachments = template.attachments
        if template.html is not None:
            _check_cids(template)
        pieces = build(campaign_id, [(subtype, part.encoding) for subtype, part in bodies], attachments)

        self._wired = ("", "")
        self._filling = Filling([*self._fields, "email", "campaign"], self._wire)
        for line in lines:
            self._filling.add_line(line)
        for piece, (_, part) in zip(pieces[:-1], bodies, strict=True):
            self._filling.add(piece)
            self._filling.add_body(part)
        self._tail = b""
        if len(pieces[-1]) <= _TAIL_COPIED_MAX:
            self._filling.add(pieces[-1])
        else:
            self._tail = pieces[-1].encode("ascii")

        self._envelope = self._compile_envelope(template)
        self._domain = self._message_id_domain()
        self._date = (-1, "")

        header_parts = [part for line in lines for part in line.parts]
        if self._envelope is not None:
            header_parts.append(self._envelope)
        body_parts = [part for _, part in bodies]
        parts = header_parts + body_parts
        names = frozenset().union(*(part.uses for part in parts))
        self.uses = names - ALWAYS
        self.unknown = self._find_unknown(template)
        position = {name: number for number, name in enumerate(self._fields) if name not in ALWAYS}
        self._used = [position[name] for name in sorted(self.uses & position.keys())]
        # A short printable value can't make a plain part fail. check() renders only the others.
        self._risky: list[Callable[[Mapping[str, Any]], str]] = [
            line.render for line in lines if not is_safe(line)
        ]
        self._risky += [part.body for part in body_parts if not part.plain]
        if self.envelope_from is None:
            self._risky.append(self._render_envelope)
        self._checkable = self.uses <= position.keys()
        self.takes_simple = self._checkable and not self._risky

    def again(self, campaign_id: str, created_at_ms: int) -> "Composer":
        """One for another campaign with this very template, for a tenth of the price where nothing that was
        compiled has the campaign's id in it: boundaries have. They belong to the same thread."""
        if len(self._bodies) > 1 or self._template.attachments or self.envelope_from is None:
            return Composer(self._template, campaign_id=campaign_id, created_at_ms=created_at_ms)
        _check_id(campaign_id)
        other = copy.copy(self)
        other.campaign_id, other.created_at_ms = campaign_id, created_at_ms
        return other

    # --- making messages ----------------------------------------------------------------------

    def compose(self, index: int, address: str, values: Sequence[object], date: float) -> bytes:
        """The message to one recipient, as an .eml file holds it. A value of None is an undefined field.

        `date` is in seconds since the Unix epoch. Raises ComposeError.
        """
        now = int(date)
        if self._date[0] != now:
            self._date = (now, formatdate(now).replace("-0000", "+0000"))
        domain, scope = self._domain, None
        if domain is None or self._filling.renders:
            scope = self._scope(address, values)
            domain = domain or _domain_of(self._sender.address(scope))
        head = f"Message-ID: <{self.campaign_id}.{index}@{domain}>\r\nDate: {self._date[1]}\r\n"
        text = None
        if len(values) == len(self._fields):
            text = self._filling.fill(head, [*values, address, self.campaign_id], scope)
        if text is None:
            text = self._filling.render(head, self._scope(address, values))
        return text.encode() + self._tail

    def envelope(self, address: str, values: Sequence[object]) -> Envelope:
        """Sender and recipient for SMTP. Raises ComposeError."""
        recipient = self.recipient(address)
        sender = self.envelope_from
        if sender is None:
            sender = self._render_envelope(self._scope(address, values))
        return Envelope(sender, recipient)

    def recipient(self, address: str) -> str:
        """The recipient for SMTP, where `envelope_from` has the sender. Raises ComposeError."""
        try:
            return self._wire(address)
        except HeaderError as error:
            raise ComposeError("recipient", str(error)) from None

    def check(self, index: int, address: str, values: Sequence[object]) -> None:
        """Raises the ComposeError that compose() or envelope() would raise. Much faster than those: what is
        only filled in is judged by its value, and only parts that do more are rendered."""
        if self._checkable and len(values) == len(self._fields):
            for position in self._used:
                value = values[position]
                if not (isinstance(value, str) and value.isprintable() and len(value) <= SHORT_VALUE_CHARS):
                    break
            else:
                try:
                    headers.wire_address(address)
                except HeaderError as error:
                    raise ComposeError("recipient", str(error)) from None
                if self._risky:
                    scope = self._scope(address, values)
                    for render in self._risky:
                        render(scope)
                return
        self.envelope(address, values)
        self.compose(index, address, values, 0.0)

    def _wire(self, address: str) -> str:
        """wire_address(), remembered: envelope and To want the same one."""
        if address != self._wired[0]:
            self._wired = (address, headers.wire_address(address))
        return self._wired[1]

    def _scope(self, address: str, values: Sequence[object]) -> dict[str, Any]:
        if len(values) != len(self._fields):
            raise ComposeError(
                "values", f"{len(values)} values for the {len(self._fields)} fields of this campaign"
            )
        for sandbox in self._sandboxes:
            sandbox.budget.renew()
        scope = self._globals.copy()
        if None in values:
            scope.update({k: v for k, v in zip(self._fields, values, strict=True) if v is not None})
        else:
            scope.update(zip(self._fields, values, strict=True))
        scope["email"] = address
        scope["campaign"] = self.campaign_id
        return scope

    def _render_envelope(self, scope: Mapping[str, Any]) -> str:
        if self._envelope is None:
            return self._sender.address(scope)
        sender = self._envelope.render(scope).strip()
        try:
            return headers.wire_address(sender) if sender else ""
        except HeaderError as error:
            raise ComposeError("envelope_from", str(error)) from None

    # --- compiling ----------------------------------------------------------------------------

    def _header_lines(self, template: Template) -> list[Line]:
        sandbox = self._plain_text
        to = ToHeader(compile_part("to_name", template.to_name, sandbox) if template.to_name else None)
        subject = compile_part("subject", template.subject, sandbox)
        lines: list[Line] = [self._sender, to, TextHeader("Subject", subject, headers.unstructured)]
        if template.reply_to:
            lines.append(MailboxHeader("Reply-To", template.reply_to, sandbox, part="reply_to"))
        lines += [own_header(name, source, sandbox) for name, source in template.headers]
        return lines

    def _compile_bodies(self, template: Template) -> list[tuple[str, Part]]:
        html, text = template.html, template.text
        bodies = []
        if text is not None:
            bodies.append(("plain", compile_part("text", _ended(text), self._plain_text, body=True)))
        if html is not None:
            compiled = compile_part("html", _ended(html), self._html, body=True)
            if text is None:
                derived = Sandbox(derived=True)
                self._sandboxes.append(derived)
                source = template_to_text(html, derived)
                try:
                    part = compile_part("text made from html", source, derived, body=True, report_lines=False)
                except TemplateError as error:
                    raise TemplateError(
                        error.part, None, f"{error.message}; give a text part of your own"
                    ) from error
                bodies.append(("plain", part))
            bodies.append(("html", compiled))
        if not bodies:
            raise TemplateError("html", None, "neither HTML nor text: there is nothing to send")
        return bodies

    def _compile_envelope(self, template: Template) -> Part | None:
        self.envelope_from = None
        if template.envelope_from is None:
            envelope = None
            constant = all(part.constant is not None for part in self._sender.parts)
        else:
            envelope = compile_part("envelope_from", template.envelope_from, self._plain_text)
            constant = envelope.constant is not None
        self._envelope = envelope
        if constant:
            try:
                self.envelope_from = self._render_envelope({})
            except ComposeError as error:
                raise TemplateError(error.part, None, error.message) from None
        return envelope

    def _message_id_domain(self) -> str | None:
        """From's, if it is the same for everybody."""
        if all(part.constant is not None for part in self._sender.parts):
            return _domain_of(self._sender.address({}))
        return None

    def _find_unknown(self, template: Template) -> tuple[TemplateError, ...]:
        known = frozenset(self._fields)
        if self.uses <= known:
            return ()  # all parts would have to be parsed again to say so
        errors: list[TemplateError] = []
        for name, source in sources(template):
            errors += unguarded(name, source, self._html if name == "html" else self._plain_text, known)
        return tuple(errors)


def compile_template(template: Template, *, campaign_id: str, created_at_ms: int) -> Composer:
    """Compiles a campaign's template, once: takes some milliseconds. Raises TemplateError."""
    return Composer(template, campaign_id=campaign_id, created_at_ms=created_at_ms)


def fields_used(template: Template) -> frozenset[str]:
    """The fields that a template reads, whatever its `fields` say: what a client has to pack.
    Raises TemplateError."""
    sandbox, html = Sandbox(), Sandbox(html=True)
    used: frozenset[str] = frozenset()
    for name, source in sources(template):
        part = compile_part(name, source, html if name == "html" else sandbox, body=name in ("html", "text"))
        used |= part.uses
    return used - ALWAYS


def sources(template: Template) -> list[tuple[str, str]]:
    """Each part that is a template, with its name in errors."""
    named = [
        ("sender", template.sender), ("to_name", template.to_name), ("subject", template.subject),
        ("reply_to", template.reply_to), ("envelope_from", template.envelope_from),
        *((f"header {name}", value) for name, value in template.headers),
        ("text", template.text), ("html", template.html),
    ]  # fmt: skip
    return [(name, source) for name, source in named if source is not None]


def _check_id(campaign_id: str) -> None:
    if _ID(campaign_id) is None:
        raise ValueError(f"a campaign id that doesn't fit into a Message-ID: {campaign_id!r}")


def _ended(source: str) -> str:
    return source if source.endswith("\n") else source + "\n"


def _domain_of(address: str) -> str:
    domain = address.rpartition("@")[2]
    return domain if _DOMAIN(domain) is not None else domain.strip("[]").replace(":", ".")


def _check_cids(template: Template) -> None:
    html = template.html or ""
    known = {a.content_id for a in template.attachments if a.content_id is not None}
    for match in _CID.finditer(html):
        if match[1] not in known:
            line = html.count("\n", 0, match.start()) + 1
            raise TemplateError(
                "html", line, f"there is no inline image with the content id {match[1]!r} (cid:{match[1]})"
            )
