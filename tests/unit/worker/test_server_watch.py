from typing import Any

import pytest

from evenpost.runtime import clock
from worker.server_watch import FAILURES_LOGGED_EVERY_S, ServerWatch
from worker.smtp.outcome import Result, Stage

REFUSED = Result(
    "not_sent", Stage.CONNECT, 0, "4.4.1", "no connection to mx:25: Connection refused", "server"
)
THROTTLED = Result("not_sent", Stage.GREETING, 421, "4.7.0", "too many connections", "throttled")
IDLE_421 = Result("not_sent", Stage.IDLE, 421, "4.4.2", "timeout exceeded", "server")


class Logger:
    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def debug(self, event: str, **fields: Any) -> None:
        pass

    def info(self, event: str, **fields: Any) -> None:
        self.events.append((event, fields))

    warning = info


def test_a_server_that_is_down_does_not_flood_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    logger, mono = Logger(), 0.0
    monkeypatch.setattr(clock, "now", lambda: clock.Now(mono, 0))
    watch = ServerWatch(logger, lambda _: None)  # type: ignore[arg-type]  # all that it uses
    for _ in range(1_000):
        watch.closed(0, REFUSED)
    assert [(event, fields["failures"]) for event, fields in logger.events] == [("server.failed", 1)]
    mono = FAILURES_LOGGED_EVERY_S
    watch.closed(0, REFUSED)
    assert logger.events[-1][1]["failures"] == 1_001
    watch.opened(0.1, tls=False)
    watch.opened(0.1, tls=False)
    assert [event for event, _ in logger.events] == ["server.failed", "server.failed", "server.recovered"]
    watch.closed(0, REFUSED)  # another failure: told at once
    assert logger.events[-1] == (
        "server.failed",
        {"stage": "connect", "code": 0, "reason": REFUSED.text, "failures": 1},
    )


def test_an_idle_connection_that_the_server_closes_is_no_failure() -> None:
    logger = Logger()
    watch = ServerWatch(logger, lambda _: None)  # type: ignore[arg-type]  # all that it uses
    watch.closed(3, IDLE_421)
    watch.closed(3, None)
    assert logger.events == []


def test_a_connection_too_many_is_no_failure() -> None:
    logger = Logger()
    watch = ServerWatch(logger, lambda _: None)  # type: ignore[arg-type]  # all that it uses
    watch.closed(0, THROTTLED)
    assert logger.events == []


def test_the_limit_is_passed_on_each_time_and_logged_sometimes(monkeypatch: pytest.MonkeyPatch) -> None:
    logger, mono, limits = Logger(), 0.0, list[int]()
    monkeypatch.setattr(clock, "now", lambda: clock.Now(mono, 0))
    watch = ServerWatch(logger, limits.append)  # type: ignore[arg-type]  # all that it uses
    watch.limited(20, 20)  # it wasn't throttled: the agent gave it more
    for limit in (3, 2, 3, 4):
        watch.limited(limit, 20)
    assert logger.events == [("server.throttled", {"limit": 3, "max_connections": 20})]
    mono = FAILURES_LOGGED_EVERY_S
    watch.limited(5, 20)
    watch.limited(20, 20)
    watch.limited(19, 20)  # told at once again
    assert [(event, fields["limit"]) for event, fields in logger.events[1:]] == [
        ("server.throttled", 5), ("server.unthrottled", 20), ("server.throttled", 19),
    ]  # fmt: skip
    assert limits == [20, 3, 2, 3, 4, 5, 20, 19]
