"""Logs: one JSON object a line, addresses redacted, secrets never."""

import io
import json
from collections.abc import Iterator

import pytest
import structlog

from evenpost.runtime import logs


@pytest.fixture(autouse=True)
def _reset() -> Iterator[None]:
    yield
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def logged(*, addresses: bool = False, level: str = "info", **fields: object) -> dict[str, object]:
    stream = io.StringIO()
    logs.configure("broker", level=level, format="json", addresses=addresses, stream=stream)
    logs.get().info("message.bounced", **fields)
    lines = stream.getvalue().splitlines()
    assert len(lines) <= 1
    found: dict[str, object] = json.loads(lines[0]) if lines else {}
    return found


def test_an_event_is_one_json_object() -> None:
    event = logged(campaign="c1", message=7, reply="550 \n no such user")
    assert event["event"] == "message.bounced" and event["role"] == "broker" and event["level"] == "info"
    assert event["campaign"] == "c1" and event["message"] == 7 and event["reply"] == "550 \n no such user"
    assert str(event["timestamp"]).endswith("Z")


def test_addresses_are_redacted_wherever_they_are() -> None:
    text = "550 5.1.1 <anna.meier@example.com>: no such user; ask bob+x@sub.example.org"
    hidden = "550 5.1.1 <a***@example.com>: no such user; ask b***@sub.example.org"
    assert logged(reply=text)["reply"] == hidden
    assert logged(reply=text, addresses=True)["reply"] == text
    assert "žofie" not in str(logged(reply="<žofie@example.com>"))


def test_secrets_are_hidden_even_when_addresses_are_shown() -> None:
    event = logged(addresses=True, password="hunter2", token="abc")
    assert event["password"] == event["token"] == "[hidden]"


def test_below_the_level_nothing_is_written() -> None:
    assert logged(level="warning") == {}
