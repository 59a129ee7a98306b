from typing import Any

import pytest


class Logger:
    """Notes events with their fields, of each level but debug."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def info(self, event: str, **fields: Any) -> None:
        self.events.append((event, fields))

    warning = error = info

    def debug(self, event: str, **fields: Any) -> None:
        pass

    @property
    def names(self) -> list[str]:
        return [event for event, _ in self.events]


@pytest.fixture
def logger() -> Any:
    return Logger()
