"""What is wrong or odd with a campaign: its keywords, checked all at once."""

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from client.addresses import AddressError, clean_address
from client.input_attachments import read_attachment
from client.input_times import TIME_HINT, parse_time, to_ms
from client.problems import Problem, shown
from evenpost.schedule.rate import EXAMPLE as _RATE
from evenpost.schedule.rate import parse_rate
from evenpost.schedule.window import parse_window
from evenpost.wire import limits
from evenpost.wire.messages import Attachment

_KEYS = {"sender": "from"}
"""What a keyword is called in a campaign.toml, where that differs."""

_HEADER_NAME = re.compile(r"[!-9;-~]+")
_CID = re.compile(r"""(?i)["'(\s]cid:([^"'()\s{}<>]+)(?=["')\s])""")
_TEMPLATED = re.compile(r"\{[{%]")
_ONE_LINE = (
    "sender", "subject", "to_name", "reply_to", "envelope_from", "name", "pool", "overflow", "submission_id",
)  # fmt: skip
_WINDOW = '"08:00-20:00 Europe/Berlin"'
_REQUIRED = {"sender": "from = 'News <news@example.com>'", "subject": "subject = 'Hello {{ first_name }}'"}


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
        self._check_pools()
        self._check_schedule()

    def _add(self, key: str, reason: str, hint: str = "", *, warning: bool = False) -> None:
        self.problems.append(Problem(
            "bad_campaign", reason, hint, self.values.get("file") or "", field=_KEYS.get(key, key),
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
        weight = values.get("weight", 100)
        if not isinstance(weight, int) or isinstance(weight, bool) or not 1 <= weight <= limits.WEIGHT_MAX:
            reason = f"expected a whole number from 1 to {limits.WEIGHT_MAX:,}, got {shown(weight)}"
            self._add("weight", reason, "100 is the usual one; 200 gets twice the share")
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
        for key in ("name", "pool", "overflow", "submission_id"):
            if len(self._text(key)) > limits.NAME_CHARS_MAX:
                self._add(key, f"longer than {limits.NAME_CHARS_MAX} characters")
        for key in ("pool", "overflow", "submission_id"):
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
            pairs = header_pairs(headers)
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

    def _check_pools(self) -> None:
        overflow = self._text("overflow")
        if overflow and not self._text("pool"):
            hint = "Give the pool too, unless the broker's settings name one for the sender's domain"
            self._add("overflow", "there is no pool that could overflow", hint, warning=True)
        elif overflow and overflow == self._text("pool"):
            self._add("overflow", "is the pool itself", "Name another pool, or leave it out")

    def _check_schedule(self) -> None:
        for key, parse, example in (("rate", parse_rate, _RATE), ("window", parse_window, _WINDOW)):
            value = self.values.get(key)
            if value is None:
                self.values[key] = ""
            elif not isinstance(value, str):
                self._add(key, f"expected a text, got {shown(value)}", f"For example: {key} = {example}")
            elif len(value) > limits.SCHEDULE_CHARS_MAX:
                self._add(key, f"longer than {limits.SCHEDULE_CHARS_MAX} characters")
            else:
                try:
                    parse(value)
                except ValueError as error:
                    reason, _, hint = str(error).partition(". ")
                    self._add(key, reason, hint)

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


def header_pairs(headers: Any) -> tuple[tuple[Any, Any], ...]:
    """Headers as name and value; several values of one name become several headers."""
    items = headers.items() if isinstance(headers, Mapping) else headers
    pairs: list[tuple[Any, Any]] = []
    for name, value in items:
        several = isinstance(value, Sequence) and not isinstance(value, str | bytes)
        pairs += [(name, each) for each in (value if several else [value])]
    return tuple(pairs)
