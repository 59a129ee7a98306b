"""campaign.toml to a `Campaign`: its keywords. All that is wrong is told at once: file, key and remedy."""

import difflib
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from client.input_attachments import read_attachment
from client.input_check import checked
from client.input_text import STANDARD_INPUT
from client.input_toml import parse_toml
from client.problems import InputError, Problem, not_utf8, shown

_PLAIN_KEYS = (
    "subject", "reply_to", "envelope_from", "to_name", "headers", "name", "start_at", "expire_at",
    "priority", "pool", "overflow", "weight", "rate", "window", "on_unknown", "submission_id",
    "encoding", "delimiter", "email_column",
)  # fmt: skip
_KEYS = ("from", "html", "text", "recipients", "attachments", *_PLAIN_KEYS)
_MEANT = {
    "sender": "from", "to": "recipients", "list": "recipients", "body": "html", "title": "subject",
    "attachment": "attachments", "header": "headers", "return_path": "envelope_from",
    "expires": "expire_at", "start": "start_at", "send_at": "start_at",
    "rate_limit": "rate", "limit": "rate", "throttle": "rate", "send_window": "window", "hours": "window",
    "overflow_pool": "overflow", "fallback_pool": "overflow", "share": "weight",
}  # fmt: skip
_ATTACHMENT_KEYS = ("path", "filename", "content_type", "cid", "inline")
_RECIPIENTS_KEYS = ("path", "encoding", "delimiter", "email_column")


def load_values(path: Path, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Campaign's keywords from a file, and `overrides`, which beat it (None is unset). Raises InputError."""
    reader = _Reader(parse_toml(path, "bad_campaign"), path.parent, str(path))
    values: dict[str, Any] = {"sender": None, "subject": None, "recipients": None, "file": str(path)}
    values |= reader.values | {key: value for key, value in overrides.items() if value is not None}
    values, problems = checked(values, datetime.now(UTC))
    told = reader.problems
    problems = told + [problem for problem in problems if not _follows(problem, told)]
    errors = [problem for problem in problems if problem.severity == "error"]
    if errors:
        raise InputError(errors)
    return {**values, "warnings": tuple(problems)}


def _follows(problem: Problem, told: list[Problem]) -> bool:
    """Whether a problem is only the shadow of one that is told: what couldn't be read is missing, too."""
    keys = {each.field for each in told}
    if problem.field in keys and "missing" in problem.reason:
        return True
    if "nothing to send" in problem.reason:
        return bool(keys & {"html", "text"})
    return "no such inline" in problem.reason and any(key.startswith("attachments") for key in keys)


class _Reader:
    """The file's tables to keywords; the files that it names are read."""

    def __init__(self, table: Mapping[str, Any], folder: Path, file: str) -> None:
        self._file = file
        self._folder = folder
        self.problems: list[Problem] = []
        self.values: dict[str, Any] = {"files": {}}
        self._check_keys(table, _KEYS, "")
        for key in _PLAIN_KEYS:
            if key in table:
                self.values[key] = table[key]
        if "from" in table:
            self.values["sender"] = table["from"]
        for key in ("html", "text"):
            if key in table:
                self._read_body(key, table[key])
        if "recipients" in table:
            self._read_recipients(table["recipients"])
        if "attachments" in table:
            self._read_attachments(table["attachments"])

    def _add(self, key: str, reason: str, hint: str = "") -> None:
        self.problems.append(Problem("bad_campaign", reason, hint, self._file, field=key))

    def _check_keys(self, table: Mapping[str, Any], known: tuple[str, ...], prefix: str) -> None:
        for key in table:
            if key in known:
                continue
            plain = key.lower().replace("-", "_")
            meant = plain if plain in known else _MEANT.get(plain, "")
            if meant not in known:
                meant = next(iter(difflib.get_close_matches(plain, known, 1)), "")
            hint = f"Did you mean {meant!r}?" if meant else f"Known are {', '.join(known)}"
            self._add(f"{prefix}{key}", "unknown key", hint)

    def _read_body(self, key: str, value: object) -> None:
        """A text with a line break, or HTML with a `<`, is the body itself; anything else names its file."""
        if not isinstance(value, str):
            self._add(key, f"expected a file or a text, got {shown(value)}", "Put it into quotes")
            return
        if "\n" in value or (key == "html" and "<" in value):
            self.values[key] = value
            return
        path = self._folder / value
        hint = f'To write the {key} itself here: {key} = """ and then a line break'
        try:
            self.values[key] = path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n")
            self.values["files"][key] = str(path)
        except UnicodeDecodeError as error:
            line, reason = not_utf8(error)
            self._add(key, f"{path}:{line}: {reason}", "Save it as UTF-8")
        except FileNotFoundError:
            self._add(key, f"there is no file {str(path)!r}", hint)
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else str(error)
            self._add(key, f"{str(path)!r} can't be read: {why}", hint)

    def _read_recipients(self, value: object) -> None:
        if isinstance(value, dict):
            self._check_keys(value, _RECIPIENTS_KEYS, "recipients.")
            for key in _RECIPIENTS_KEYS[1:]:
                if key in value:
                    self.values[key] = value[key]
            value = value.get("path", "")
        if isinstance(value, str) and value not in ("", STANDARD_INPUT):
            value = self._folder / value
        self.values["recipients"] = value

    def _read_attachments(self, value: object) -> None:
        if not isinstance(value, list):
            self._add("attachments", f"expected a list, got {shown(value)}", 'For example: ["offer.pdf"]')
            return
        attachments = []
        for number, item in enumerate(value, 1):
            key = f"attachments[{number}]"
            table = {"path": item} if isinstance(item, str) else item
            if not isinstance(table, dict):
                self._add(key, f"expected a file or a table, got {shown(item)}")
                continue
            self._check_keys(table, _ATTACHMENT_KEYS, f"{key}.")
            before = len(self.problems)
            for name in _ATTACHMENT_KEYS:
                kind = bool if name == "inline" else str
                if name in table and not isinstance(table[name], kind):
                    words = "true or false" if kind is bool else "a text"
                    self._add(f"{key}.{name}", f"expected {words}, got {shown(table[name])}")
            if not table.get("path"):
                self._add(key, "has no path", 'For example: path = "offer.pdf"')
            if len(self.problems) > before:
                continue
            try:
                attachments.append(read_attachment(
                    self._folder / table["path"], filename=table.get("filename"), cid=table.get("cid"),
                    content_type=table.get("content_type"), inline=table.get("inline", False),
                ))  # fmt: skip
            except ValueError as error:
                self._add(key, *(str(arg) for arg in error.args))
        self.values["attachments"] = attachments
