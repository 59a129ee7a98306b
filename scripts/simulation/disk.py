"""The broker's disk: what its journal leaves for the next process."""

import random
from pathlib import Path
from typing import Any, Protocol

from broker.journal.sqlite import SqliteJournal
from broker.journal.store import Journal
from scripts.simulation.journal import MemoryJournal


class Disk(Protocol):
    def open(self) -> Journal:
        """What a new process finds."""

    def crash(self) -> None:
        """The process is gone; what wasn't committed never was."""

    def close(self) -> None:
        """The process has ended in good order."""


class MemoryDisk:
    def __init__(self, rng: random.Random) -> None:
        self._journal = MemoryJournal(rng)

    def open(self) -> Any:
        self._journal.open()
        return self._journal

    def crash(self) -> None:
        self._journal.crash()

    def close(self) -> None:
        self._journal.close()


class SqliteDisk:
    """The journal that ships, on a real file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._journal: SqliteJournal | None = None

    def open(self) -> Any:
        self._journal = SqliteJournal(self._path)
        return self._journal

    def crash(self) -> None:
        assert self._journal is not None
        self._journal._db.close()  # rolls back what is open

    def close(self) -> None:
        assert self._journal is not None
        self._journal.close()
