"""Tells the log when the SMTP server stops taking mail and when it takes mail again, without flooding it."""

from collections.abc import Callable

from structlog.typing import FilteringBoundLogger

from evenpost.runtime import clock
from worker.smtp.outcome import Result, Stage

FAILURES_LOGGED_EVERY_S = 10.0


class ServerWatch:
    """What a pool calls its watcher."""

    def __init__(self, logger: FilteringBoundLogger, on_limit: Callable[[int], None]) -> None:
        """`on_limit` gets the new limit whenever it changes."""
        self._logger = logger
        self._on_limit = on_limit
        self._throttled = False
        """It is below what it may be."""
        self._throttled_logged_at = float("-inf")
        self._failures = 0
        """Since a connection last was opened."""
        self._logged_at = float("-inf")

    def opened(self, seconds: float, *, tls: bool) -> None:
        if self._failures:
            self._logger.info("server.recovered", failures=self._failures)
            self._failures, self._logged_at = 0, float("-inf")
        self._logger.debug("server.connected", seconds=seconds, tls=tls)

    def closed(self, messages: int, reason: Result | None) -> None:
        if reason is not None and reason.scope == "server" and reason.stage is not Stage.IDLE:
            self._failed(reason)
        else:
            text = reason.text if reason is not None else ""
            self._logger.debug("server.disconnected", messages=messages, reason=text)

    def limited(self, limit: int, max_connections: int) -> None:
        now = clock.now().mono
        if limit < max_connections:
            self._throttled = True
            if now >= self._throttled_logged_at + FAILURES_LOGGED_EVERY_S:
                self._throttled_logged_at = now
                self._logger.info("server.throttled", limit=limit, max_connections=max_connections)
        elif self._throttled:
            self._throttled, self._throttled_logged_at = False, float("-inf")
            self._logger.info("server.unthrottled", limit=limit)
        self._on_limit(limit)

    def _failed(self, reason: Result) -> None:
        self._failures += 1
        now = clock.now().mono
        if now >= self._logged_at + FAILURES_LOGGED_EVERY_S:
            self._logged_at = now
            self._logger.warning(
                "server.failed", stage=str(reason.stage), code=reason.code, reason=reason.text,
                failures=self._failures,
            )  # fmt: skip
