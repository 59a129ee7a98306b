"""Tells the log when the SMTP server stops taking mail and when it takes mail again, without flooding it."""

from structlog.typing import FilteringBoundLogger

from evenpost.runtime import clock
from worker.smtp.outcome import Result, Stage

FAILURES_LOGGED_EVERY_S = 10.0


class ServerWatch:
    """What a pool calls its watcher."""

    def __init__(self, logger: FilteringBoundLogger) -> None:
        self._logger = logger
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

    def _failed(self, reason: Result) -> None:
        self._failures += 1
        now = clock.now().mono
        if now >= self._logged_at + FAILURES_LOGGED_EVERY_S:
            self._logged_at = now
            self._logger.warning(
                "server.failed", stage=str(reason.stage), code=reason.code, reason=reason.text,
                failures=self._failures,
            )  # fmt: skip
