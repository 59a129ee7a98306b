"""Structured logs: colours on a terminal, JSON lines otherwise; addresses redacted unless asked for.

One event a state change, with stable names: docs/operations.md lists them.
"""

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any, Literal, TextIO

import msgspec
import structlog

Format = Literal["auto", "console", "json"]
_ADDRESS = re.compile(r"([^\s@<>\"'(),;:])[^\s@<>\"'(),;:]*@([\w.-]+)")
_SECRET_KEYS = frozenset({"password", "secret", "token", "key", "authorization"})
_encode_json = msgspec.json.Encoder(enc_hook=repr).encode


def redact(text: str) -> str:
    """Addresses in `text` with all but their first letter and domain hidden: a***@example.com."""
    return _ADDRESS.sub(r"\1***@\2", text) if "@" in text else text


def _redact_event(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for key, value in event.items():
        if isinstance(value, str):
            event[key] = redact(value)
    return event


def _hide_secrets(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for key in event.keys() & _SECRET_KEYS:
        event[key] = "[hidden]"
    return event


def _console(colors: bool) -> structlog.dev.ConsoleRenderer:
    # Its own choice, where rich is installed, shows each frame's local variables: passwords, addresses, mail.
    return structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=structlog.dev.plain_traceback)


def _to_json(_: Any, __: str, event: MutableMapping[str, Any]) -> str:
    return _encode_json(dict(event)).decode()


def configure(
    role: str,
    *,
    level: str = "info",
    format: Format = "auto",
    addresses: bool = False,
    stream: TextIO | None = None,
) -> None:
    """Sets up logging for this process; every event carries `role`. To standard error unless told."""
    out = stream or sys.stderr
    console = format == "console" or (format == "auto" and out.isatty())
    processors: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _hide_secrets,
    ]
    if not console:
        processors.append(structlog.processors.format_exc_info)
    if not addresses:
        processors.append(_redact_event)
    processors.append(_console(out.isatty()) if console else _to_json)
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.WriteLoggerFactory(file=out),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(role=role)


def get() -> structlog.typing.FilteringBoundLogger:
    """The process's logger."""
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger()
    return logger
