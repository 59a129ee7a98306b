"""Tells the log when the SMTP server stops taking mail and when it takes mail again, without flooding it."""

from structlog.typing import FilteringBoundLogger

from evenpost.runtime import clock
from worker.smtp.outcome import Result, Stage

FAILURES_LOGGED_EVERY_S = 10.0


class ServerWatch:
    def __init__(self, logger: FilteringBoundLogger) -> None:
        self._logger = logger
        self._failing = False
        self._failures = 0
        self._logged_at = float("-inf")

    def connection(self, name: str, fields: dict[str, object]) -> None:
        """What the pool says of a connection."""
        if name == "smtp_connection_opened":
            if self._failing:
                self._failing = False
                self._logger.info("server.recovered", failures=self._failures)
                self._failures, self._logged_at = 0, float("-inf")
            self._logger.debug("server.connected", **fields)
            return
        reason = fields.get("reason")
        if isinstance(reason, Result) and reason.scope == "server" and reason.stage is not Stage.IDLE:
            self._failed(reason)
        else:
            text = reason.text if isinstance(reason, Result) else ""
            self._logger.debug("server.disconnected", messages=fields.get("messages"), reason=text)

    def _failed(self, reason: Result) -> None:
        self._failing = True
        self._failures += 1
        now = clock.now().mono
        if now >= self._logged_at + FAILURES_LOGGED_EVERY_S:
            self._logged_at = now
            self._logger.warning(
                "server.failed", stage=str(reason.stage), code=reason.code, reason=reason.text,
                failures=self._failures,
            )  # fmt: skip
