from typing import Any

import pytest

from evenpost.runtime import clock
from worker.server_watch import FAILURES_LOGGED_EVERY_S, ServerWatch
from worker.smtp.outcome import Result, Stage

REFUSED = Result(
    "not_sent", Stage.CONNECT, 0, "4.4.1", "no connection to mx:25: Connection refused", "server"
)
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
    watch = ServerWatch(logger)  # type: ignore[arg-type]  # all that it uses
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
    watch = ServerWatch(logger)  # type: ignore[arg-type]  # all that it uses
    watch.closed(3, IDLE_421)
    watch.closed(3, None)
    assert logger.events == []
