"""Who hears of a pool's connections."""

from typing import Protocol

from worker.smtp.outcome import Result


class Watcher(Protocol):
    """Hears of each connection, and of how many there may be."""

    def opened(self, seconds: float, *, tls: bool) -> None:
        """It takes messages; `seconds` after its dialling began."""

    def closed(self, messages: int, reason: Result | None) -> None:
        """It has ended, or couldn't be opened; None after a QUIT that we wanted."""

    def limited(self, limit: int, max_connections: int) -> None:
        """So many connections from now on, of at most `max_connections`."""
