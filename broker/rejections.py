"""Messages of peers that weren't taken: counted, and logged once a tick, however many there are."""

import structlog


class Rejections:
    def __init__(self, log: structlog.typing.FilteringBoundLogger) -> None:
        self._log = log
        self._counts: dict[tuple[str, str], int] = {}

    def count(self, endpoint: str, reason: str) -> None:
        self._counts[endpoint, reason] = self._counts.get((endpoint, reason), 0) + 1

    def report(self) -> None:
        for (endpoint, reason), count in self._counts.items():
            self._log.warning("peer.rejected", endpoint=endpoint, error=reason, count=count)
        self._counts.clear()
