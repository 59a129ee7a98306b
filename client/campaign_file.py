"""campaign.toml to a `Campaign`. Everything that is wrong is told at once: file, key, why and what to do."""

import difflib
import re
import tomllib
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from client.input_attachments import read_attachment
from client.input_campaign import Campaign, Time, checked
from client.input_text import STANDARD_INPUT
from client.problems import InputError, Problem, shown

__all__ = ["Campaign", "Time", "load_values"]

_PLAIN_KEYS = (
    "subject", "reply_to", "envelope_from", "to_name", "headers", "name", "start_at", "expire_at",
    "priority", "pool", "on_unknown", "submission_id", "encoding", "delimiter", "email_column",
)  # fmt: skip
_KEYS = ("from", "html", "text", "recipients", "attachments", *_PLAIN_KEYS)
_MEANT = {
    "sender": "from", "to": "recipients", "list": "recipients", "body": "html", "title": "subject",
    "attachment": "attachments", "header": "headers", "return_path": "envelope_from",
    "expires": "expire_at", "start": "start_at", "send_at": "start_at",
}  # fmt: skip
_ATTACHMENT_KEYS = ("path", "filename", "content_type", "cid", "inline")
_RECIPIENTS_KEYS = ("path", "encoding", "delimiter", "email_column")
_TOML_PLACE = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")


def load_values(
    path: Path | None,
    *,
    options: Mapping[str, Any] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Campaign's keywords from a file, `options` (keys as in the file, paths relative to the working folder)
    and `overrides` (Campaign's keywords; None is unset). The later beat the earlier. Raises InputError."""
    options, overrides = options or {}, overrides or {}
    values: dict[str, Any] = {"sender": None, "subject": None, "recipients": None, "file": "", "files": {}}
    told: list[Problem] = []
    if path is not None:
        table = {key: value for key, value in parse_toml(path).items() if key not in options}
        reader = _Reader(table, path.parent, str(path))
        values |= reader.values | {"file": str(path)}
        told += reader.problems
    if options:
        reader = _Reader(options, Path(), "options")
        files = {**values["files"], **reader.values["files"]}
        values |= reader.values | {"files": files}
        told += reader.problems
    values |= {key: value for key, value in overrides.items() if value is not None}
    values, problems = checked(values, datetime.now(UTC))
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


def parse_toml(path: Path) -> dict[str, Any]:
    """A TOML file's table. Raises InputError with line and column."""
    line = column = 0
    try:
        return tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        reason, hint = "there is no such file" if missing else f"can't be read: {error.strerror}", ""
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        reason, hint = f"byte 0x{error.object[error.start]:02X} is not UTF-8", "Save the file as UTF-8"
    except tomllib.TOMLDecodeError as error:
        place = _TOML_PLACE.search(str(error))
        if place and place[1]:
            line, column = int(place[1]), int(place[2])
        reason = _TOML_PLACE.sub("" if column else " at the end of the file", str(error))
        hint = 'Text goes into quotes: key = "value". The rules: https://toml.io'
    raise InputError([Problem("bad_campaign", reason, hint, str(path), line, column)])


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
        if isinstance(value, Path):
            value = str(value)
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
            line = error.object.count(b"\n", 0, error.start) + 1
            self._add(
                key, f"{path}:{line}: byte 0x{error.object[error.start]:02X} is not UTF-8", "Save it as UTF-8"
            )
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
        if isinstance(value, str | Path) and str(value) not in ("", STANDARD_INPUT):
            value = self._folder / value
        self.values["recipients"] = value

    def _read_attachments(self, value: object) -> None:
        if not isinstance(value, list | tuple):
            self._add("attachments", f"expected a list, got {shown(value)}", 'For example: ["offer.pdf"]')
            return
        attachments = []
        for number, item in enumerate(value, 1):
            key = f"attachments[{number}]"
            table = {"path": str(item)} if isinstance(item, str | Path) else item
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
