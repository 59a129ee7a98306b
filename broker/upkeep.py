"""What a broker does for its journal's file beside its work: backups that are asked for, and retention."""

from collections.abc import Callable

from broker.backup import Backups
from broker.control import Control
from broker.journal.group_commit import GroupCommit
from broker.journal.sqlite import SqliteJournal
from broker.retention import Retention
from broker.settings import Settings
from evenpost.runtime import logs
from evenpost.runtime.clock import Now


class Upkeep:
    def __init__(
        self, settings: Settings, journal: SqliteJournal, queue: GroupCommit, wake: Callable[[], None]
    ) -> None:
        """Opens the control socket; without one, because of its folder, say, the broker does its work all the
        same. `wake` is called from another thread: call `tick` then."""
        self._backups = Backups(journal.copy_to, queue, wake)
        self._retention = Retention(journal, queue, settings.retain_days, lambda: self._backups.is_running)
        self._control: Control | None = None
        try:
            self._control = Control(settings.journal, self._backups.ask)
        except OSError as error:
            logs.get().warning("control.unavailable", error=str(error))

    def tick(self, now: Now) -> None:
        if self._control is not None:
            self._control.tick(now.mono)
        self._backups.tick(now.mono)
        self._retention.tick(now)

    def close(self, now: Now) -> None:
        """When the queue has ended: nothing touches the journal any more."""
        self._backups.close(now.mono)
        if self._control is not None:
            self._control.close()
