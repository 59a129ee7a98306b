"""The broker's disk: what its journal leaves for the next process."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from broker.core.state import Stored
from broker.journal.sqlite import SqliteJournal
from broker.journal.store import Journal
from scripts.simulation.clock import Host
from scripts.simulation.journal import MemoryJournal


class Disk(Protocol):
    def open(self, host: Host) -> Journal:
        """What a new process finds."""

    def crash(self) -> None:
        """The process is gone; what wasn't committed never was."""

    def close(self) -> None:
        """The process has ended in good order."""


class _OnHost:
    """A journal whose RETRY_FAILED is due by the simulated clock, not by the real one, which
    broker.reopening reads."""

    def __init__(self, journal: Any, host: Host) -> None:
        self._journal = journal
        self._host = host

    def __getattr__(self, name: str) -> Any:
        return getattr(self._journal, name)

    def restate(
        self, campaign: int, index_from: int, index_to: int, states: Sequence[Stored], _: int
    ) -> dict[Stored, int]:
        changed: dict[Stored, int] = self._journal.restate(
            campaign, index_from, index_to, states, self._host.wall()
        )
        return changed


class MemoryDisk:
    def __init__(self, rng: random.Random) -> None:
        self._journal = MemoryJournal(rng)

    def open(self, host: Host) -> Any:
        self._journal.open()
        return _OnHost(self._journal, host)  # it passes everything on

    def crash(self) -> None:
        self._journal.crash()

    def close(self) -> None:
        self._journal.close()


class SqliteDisk:
    """The journal that ships, on a real file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._journal: SqliteJournal | None = None

    def open(self, host: Host) -> Any:
        self._journal = SqliteJournal(self._path)
        return _OnHost(self._journal, host)  # it passes everything on

    def crash(self) -> None:
        assert self._journal is not None
        self._journal._db.close()  # rolls back what is open

    def close(self) -> None:
        assert self._journal is not None
        self._journal.close()
