"""`Campaign`: what is to be sent, to whom and how. Built in Python or loaded from a campaign.toml."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import unquote

from client.addresses import AddressError, clean_address
from client.input_attachments import read_attachment
from client.input_times import TIME_HINT, parse_time, to_ms
from client.problems import InputError, Problem, shown
from client.recipients import RecipientList, RecipientSource
from evenpost.wire import limits
from evenpost.wire.messages import Attachment, Options, Template

Time = datetime | timedelta | str
"""With a zone; without one it is local time. A timedelta or "+2h" counts from now; for `expire_at` from
`start_at`, where there is one."""

KEYS = {"sender": "from"}
"""What a keyword is called in a campaign.toml, where that differs."""

_HEADER_NAME = re.compile(r"[!-9;-~]+")
_CID = re.compile(r"""(?i)["'(\s]cid:([^"'()\s{}<>]+)(?=["')\s])""")
_TEMPLATED = re.compile(r"\{[{%]")
_ONE_LINE = ("sender", "subject", "to_name", "reply_to", "envelope_from", "name", "pool", "submission_id")
_REQUIRED = {"sender": "from = 'News <news@example.com>'", "subject": "subject = 'Hello {{ first_name }}'"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Campaign:
    """One submission: a message, its recipients and how to send it.

        Campaign(
            sender="News <news@example.com>",
            subject="Hello {{ first_name }}",
            html="<p>Dear {{ first_name }}, ...",
            recipients=[{"email": "anna@example.com", "first_name": "Anna"}],
        )

    `sender`, `subject`, `html`, `text`, `to_name`, `reply_to` and header values are Jinja2 templates over the
    recipients' fields and `email`. Raises InputError that names everything that is wrong.
    """

    sender: str
    subject: str
    recipients: RecipientSource
    """A path, "-" for standard input, or an iterable of addresses or of mappings with `email` and fields."""
    html: str | None = None
    text: str | None = None
    """None: made from the HTML."""
    reply_to: str | None = None
    envelope_from: str | None = None
    """Where bounces go. None: the address of `sender`. "": nowhere (the null sender)."""
    to_name: str | None = None
    headers: Mapping[str, str | Sequence[str]] | Sequence[tuple[str, str]] = ()
    attachments: Sequence[Attachment | str | Path] = ()
    """Paths, or Attachments; one with a `content_id` is an inline image, `cid:NAME` in the HTML."""
    name: str = ""
    start_at: Time | None = None
    expire_at: Time | None = None
    priority: int = 4
    """0 (least) to 9."""
    pool: str | None = None
    on_unknown: Literal["resend", "hold"] = "resend"
    submission_id: str | None = None
    """The same id again is the same submission: it counts once."""
    encoding: str | None = None
    delimiter: str | None = None
    email_column: str | None = None
    file: str = ""
    """The campaign.toml that this came from, for messages."""
    files: Mapping[str, str] | None = None
    """Which file `html` and `text` came from, for messages."""
    warnings: tuple[Problem, ...] = ()
    """What is odd but no error."""

    def __post_init__(self) -> None:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values, problems = checked(values, datetime.now(UTC))
        errors = [problem for problem in problems if problem.severity == "error"]
        if errors:
            raise InputError(errors)
        for name, value in values.items():
            object.__setattr__(self, name, value)
        object.__setattr__(self, "warnings", (*self.warnings, *problems))

    @classmethod
    def load(cls, path: str | Path, **overrides: Any) -> Self:
        """Reads a campaign.toml. Keywords replace what the file says; None leaves it.

        Raises InputError that names everything that is wrong."""
        from client.campaign_file import load_values  # it needs this module

        return cls(**load_values(Path(path), overrides=overrides))

    @classmethod
    def from_options(cls, options: Mapping[str, Any], path: str | Path | None = None) -> Self:
        """For a command line: `options` have the keys and the meaning that they have in a campaign.toml (html
        and text are files), relative to the working folder. They beat what the file at `path` says; None is
        unset. Raises InputError that names everything that is wrong."""
        from client.campaign_file import load_values

        given = {key: value for key, value in options.items() if value is not None}
        return cls(**load_values(None if path is None else Path(path), options=given))

    @property
    def reads_file(self) -> bool:
        """Whether the recipients come from a file or standard input, not from Python."""
        return isinstance(self.recipients, str | Path)

    def template(self, fields: Sequence[str] = ()) -> Template:
        """The message, for the wire. `fields`: the merge fields, in the order in which they are packed."""
        return Template(
            sender=self.sender, subject=self.subject, html=self.html, text=self.text, to_name=self.to_name,
            reply_to=self.reply_to, envelope_from=self.envelope_from, headers=list(_pairs(self.headers)),
            attachments=[part for part in self.attachments if isinstance(part, Attachment)],
            fields=list(fields),
        )  # fmt: skip

    def options(self) -> Options:
        """How to send it, for the wire."""
        return Options(
            name=self.name, priority=self.priority, pool=self.pool, on_unknown=self.on_unknown,
            start_at=to_ms(self.start_at) if isinstance(self.start_at, datetime) else None,
            expire_at=to_ms(self.expire_at) if isinstance(self.expire_at, datetime) else None,
        )  # fmt: skip

    def open_recipients(self, fields: Sequence[str]) -> RecipientList:
        """The recipients, to be checked and streamed. `fields`: those that the template uses."""
        return RecipientList.open(
            self.recipients, fields=fields, encoding=self.encoding, delimiter=self.delimiter,
            email_column=self.email_column,
        )  # fmt: skip


def checked(values: dict[str, Any], now: datetime) -> tuple[dict[str, Any], list[Problem]]:
    """Campaign's keywords with attachments read and times made exact, and all that is wrong or odd."""
    check = _Check(values, now)
    return check.values, check.problems


class _Check:
    """One look at everything. A value of a wrong type is reported once and then left alone."""

    def __init__(self, values: dict[str, Any], now: datetime) -> None:
        self.values = dict(values)
        self.problems: list[Problem] = []
        self._check_types()
        self._check_texts()
        self._check_addresses()
        self._check_headers()
        self._check_attachments()
        self._check_cids()
        self._check_times(now)

    def _add(self, key: str, reason: str, hint: str = "", *, warning: bool = False) -> None:
        self.problems.append(Problem(
            "bad_campaign", reason, hint, self.values.get("file") or "", field=KEYS.get(key, key),
            severity="warning" if warning else "error",
        ))  # fmt: skip

    def _text(self, key: str) -> str:
        value = self.values.get(key)
        return value if isinstance(value, str) else ""

    def _check_types(self) -> None:
        values = self.values
        for key in (*_ONE_LINE, "html", "text", "encoding", "delimiter", "email_column"):
            value = values.get(key)
            if value is not None and not isinstance(value, str):
                self._add(key, f"expected a text, got {shown(value)}", "Put it into quotes")
        priority = values.get("priority", 4)
        if not isinstance(priority, int) or isinstance(priority, bool) or not 0 <= priority <= 9:
            self._add("priority", f"expected a whole number from 0 (least) to 9, got {shown(priority)}")
        if values.get("on_unknown", "resend") not in ("resend", "hold"):
            self._add("on_unknown", f'expected "resend" or "hold", got {shown(values["on_unknown"])}')
        recipients = values.get("recipients")
        if recipients is None or recipients == "":
            self._add("recipients", "missing", "Give a CSV or JSONL file, such as recipients = 'list.csv'")
        elif isinstance(recipients, Mapping | bytes) or not isinstance(recipients, str | Path | Iterable):
            self._add("recipients", f"expected a file or a list, got {shown(recipients)}")

    def _check_texts(self) -> None:
        for key, example in _REQUIRED.items():
            if self.values.get(key) in (None, ""):
                self._add(key, "missing", f"For example: {example}")
        for key in _ONE_LINE:
            if re.search(r"[\r\n\0]", self._text(key)):
                self._add(key, "has a line break or NUL in it", "Write it on one line")
        for key in ("name", "pool", "submission_id"):
            if len(self._text(key)) > limits.NAME_CHARS_MAX:
                self._add(key, f"longer than {limits.NAME_CHARS_MAX} characters")
        for key in ("pool", "submission_id"):
            if self.values.get(key) == "":
                self._add(key, "is empty", "Give it a value or leave it out")
        if not self._text("html").strip() and not self._text("text").strip():
            self._add("html", "neither html nor text: there is nothing to send", "Give one of them, or both")

    def _check_addresses(self) -> None:
        for key in ("sender", "envelope_from"):
            value = self._text(key)
            if value and not _TEMPLATED.search(value):
                try:
                    clean_address(value)
                except AddressError as error:
                    self._add(key, error.reason, error.hint)

    def _check_headers(self) -> None:
        headers = self.values.get("headers") or ()
        try:
            pairs = _pairs(headers)
        except (TypeError, ValueError):
            self._add("headers", f"expected names with their values, got {shown(headers)}")
            return
        self.values["headers"] = pairs
        for name, value in pairs:
            if not isinstance(name, str) or not isinstance(value, str):
                self._add("headers", f"expected a text for {name}, got {shown(value)}", "Put it into quotes")
                continue
            if not _HEADER_NAME.fullmatch(name):
                hint = "A name is printable ASCII without spaces or colons"
                self._add(f"headers.{name}", f"{shown(name)} can't be a header's name", hint)
            if re.search(r"[\r\n\0]", value):
                self._add(f"headers.{name}", "has a line break or NUL in it", "Write it on one line")
        if len(pairs) > limits.HEADERS_MAX:
            self._add("headers", f"{len(pairs)} headers; at most {limits.HEADERS_MAX}")

    def _check_attachments(self) -> None:
        given = self.values.get("attachments") or ()
        if isinstance(given, str | bytes | Path | Mapping) or not isinstance(given, Iterable):
            self._add("attachments", f"expected a list, got {shown(given)}")
            return
        attachments = []
        for number, part in enumerate(given, 1):
            try:
                part = part if isinstance(part, Attachment) else read_attachment(part)
            except ValueError as error:
                self._add(f"attachments[{number}]", *(str(arg) for arg in error.args))
                continue
            attachments.append(part)
        self.values["attachments"] = tuple(attachments)
        ids = [part.content_id for part in attachments if part.content_id is not None]
        for double in sorted({name for name in ids if ids.count(name) > 1}):
            self._add("attachments", f"two of them are cid:{double}", "Give each its own cid")
        size = sum(len(part.content) for part in attachments)
        size += len(self._text("html").encode("utf-8", "replace"))
        size += len(self._text("text").encode("utf-8", "replace"))
        if size > limits.TEMPLATE_BYTES_MAX:
            most = limits.TEMPLATE_BYTES_MAX // 1024**2
            hint = "Put large files on a web server and link to them"
            self._add("attachments", f"{size / 1024**2:.1f} MB with the texts; at most {most} MB", hint)

    def _check_cids(self) -> None:
        attachments = [part for part in self.values.get("attachments") or () if isinstance(part, Attachment)]
        ids = {part.content_id for part in attachments if part.content_id is not None}
        names = {part.filename for part in attachments if part.content_id is None}
        html = self._text("html")
        used = dict.fromkeys(unquote(cid) for cid in _CID.findall(html))
        for cid in used:
            if cid not in ids:
                if cid in names:
                    hint = f"The attachment {cid} isn't inline: give it cid = {cid!r}"
                else:
                    hint = f"Attach it, with cid = {cid!r}"
                self._add("html", f"shows the image cid:{cid}, but there is no such inline attachment", hint)
        for cid in sorted(ids - used.keys()):
            if "cid:{" not in html.replace(" ", ""):  # the HTML may compute which image it shows
                hint = f'Show it with <img src="cid:{cid}">, or attach it without cid'
                self._add(
                    "attachments", f"the HTML doesn't use the inline image cid:{cid}", hint, warning=True
                )

    def _check_times(self, now: datetime) -> None:
        start = self._time("start_at", now)
        expire = self._time("expire_at", max(start or now, now))
        if expire is not None and expire <= max(start or now, now):
            than = "start_at" if start is not None and start > now else "now"
            self._add("expire_at", f"{expire.isoformat()} isn't later than {than}: nothing would be sent")
        for key, time in (("start_at", start), ("expire_at", expire)):
            if time is not None and to_ms(time) < 0:
                self._add(key, f"{time.isoformat()} is before 1970", TIME_HINT)

    def _time(self, key: str, base: datetime) -> datetime | None:
        value = self.values.get(key)
        if value is None:
            return None
        try:
            time, assumed = parse_time(value, base)
        except (ValueError, OverflowError) as error:
            self._add(key, str(error), TIME_HINT)
            return None
        self.values[key] = time
        if assumed:
            hint = "Write the zone to be sure, such as Z or +02:00"
            self._add(key, f"has no zone: taken as local time, {time.isoformat()}", hint, warning=True)
        return time


def _pairs(headers: Any) -> tuple[tuple[Any, Any], ...]:
    """Headers as name and value; several values of one name become several headers."""
    items = headers.items() if isinstance(headers, Mapping) else headers
    pairs: list[tuple[Any, Any]] = []
    for name, value in items:
        several = isinstance(value, Sequence) and not isinstance(value, str | bytes)
        pairs += [(name, each) for each in (value if several else [value])]
    return tuple(pairs)
