"""The latest picks: why a message went where it went. For `evenpost explain`, and sampled for the log."""

from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

MESSAGES_REMEMBERED_MAX = 100_000
"""Messages whose pick is remembered: about 5 MB."""


class Choice(NamedTuple):
    """What the balancer chose, and what it would have chosen otherwise."""

    worker: str
    key: float
    runner_up: str
    """Empty where there was no other."""
    runner_up_key: float


class Picked(NamedTuple):
    at: int
    """Milliseconds since the epoch."""
    batch: int
    choice: Choice
    messages: tuple[int, ...]
    """Their numbers."""


@dataclass(slots=True)
class Picks:
    _latest: deque[Picked] = field(default_factory=deque)
    _messages: int = 0
    logged_at: float = float("-inf")
    """When a pick was told to the log."""

    def add(self, picked: Picked) -> None:
        self._latest.append(picked)
        self._messages += len(picked.messages)
        while self._messages > MESSAGES_REMEMBERED_MAX:
            self._messages -= len(self._latest.popleft().messages)

    def of(self, message: int) -> Picked | None:
        """The last one of a message, while it is remembered."""
        return next((picked for picked in reversed(self._latest) if message in picked.messages), None)
