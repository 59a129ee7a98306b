"""Retention in the journal: campaigns that ended long ago become summaries, in small steps.

A step is part of one transaction, and what is left to do is seen from the tables themselves: so a broker that
dies in the middle goes on where it was. What stays of a campaign is its own row, without the template: its
counts, its options, and its submission id, which still counts once.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

import apsw

from broker.core.commands import Change
from broker.core.message_state import Stored, message_id
from broker.journal.reads import address_hash
from broker.journal.store import Compacted, JournalError
from evenpost.wire import codec

ROWS_A_STEP = 1_000
"""A few ms of statements: less than a group of outcomes."""
_CAMPAIGN_ROWS = 10
"""What a campaign itself costs of that: there are many with a single message."""
_CANDIDATES = 100
_FREE_PAGES_KEPT = 512
"""2 MiB, for what is written next: a file that shrinks and grows by turns is no use."""


class Compaction(ABC):
    """Over an open connection."""

    _db: apsw.Connection
    _looked_upto: tuple[int, int] = (0, 0)
    """Of the campaign that was looked at last: when it ended, and its number. Some are passed by."""

    @abstractmethod
    def apply(self, changes: Iterable[Change]) -> None: ...

    @abstractmethod
    def _set_campaigns(self) -> None: ...

    @abstractmethod
    def _rows(self, sql: str, bindings: Sequence[Any] = ()) -> list[Any]: ...

    @abstractmethod
    def _write(self, sql: str, bindings: Sequence[Any]) -> None: ...

    def compact(self, ended_before: int, at: int) -> Compacted:
        self.apply(())
        self._set_campaigns()
        rows = 0
        ended: list[str] = []
        while rows < ROWS_A_STEP:
            begun = self._rows("SELECT number, id, finished_at FROM campaign WHERE rows_left LIMIT 1")
            if not begun:
                number = self._next(ended_before)
                if number is None:
                    return Compacted(rows, ended, False)
                self._write(
                    "UPDATE campaign SET compacted_at = ?, rows_left = 1, template = x'' WHERE number = ?",
                    (at, number),
                )
                rows += _CAMPAIGN_ROWS
                continue
            ((number, id_, finished_at),) = begun
            deleted = self._delete_some(number, ROWS_A_STEP - min(rows, ROWS_A_STEP - 1))
            rows += deleted
            if not deleted:
                self._write("UPDATE campaign SET rows_left = 0 WHERE number = ?", (number,))
                self.set_meta("compacted", self.meta("compacted") + 1)
                self.set_meta("compacted_upto", max(self.meta("compacted_upto"), finished_at))
                ended.append(id_)
        return Compacted(rows, ended, True)

    def _next(self, ended_before: int) -> int | None:
        """The campaign that ended first of those that may go; None: there is none, and the look has to begin
        anew."""
        query = (
            "SELECT finished_at, number, counts FROM campaign WHERE finished_at > 0 AND compacted_at = 0"
            " AND finished_at < ? AND (finished_at, number) > (?, ?) ORDER BY finished_at, number LIMIT ?"
        )
        while candidates := self._rows(query, (ended_before, *self._looked_upto, _CANDIDATES)):
            for finished_at, number, counts in candidates:
                self._looked_upto = (finished_at, number)
                if not codec.unpack_counts(counts).get(Stored.HELD):
                    found: int = number
                    return found
        self._looked_upto = (0, 0)
        return None

    def _delete_some(self, campaign: int, limit: int) -> int:
        """Deletes up to `limit` messages, or the look-up of a chunk; how many rows. 0: none are left."""
        runs = self._rows("SELECT run FROM run WHERE campaign = ? LIMIT 1", (campaign,))
        if runs:
            run = runs[0]
            ((first, last),) = self._rows("SELECT min(id), max(id) FROM address WHERE run = ?", run)
            if deleted := self._delete_messages(first, last, limit):
                return deleted
            self._write("DELETE FROM address WHERE run = ?", run)
            deleted = self._db.changes()
            self._write("DELETE FROM run WHERE run = ?", run)
            return deleted + 1
        bounds = (message_id(campaign, 0), message_id(campaign + 1, 0), limit)
        rows = self._rows(
            "SELECT id, address FROM message WHERE id >= ? AND id < ? ORDER BY id LIMIT ?", bounds
        )
        for id_, address in rows:
            self._write(
                "DELETE FROM address WHERE run = 0 AND hash = ? AND id = ?", (address_hash(address), id_)
            )
        return self._delete_messages(rows[0][0], rows[-1][0], limit) if rows else 0

    def _delete_messages(self, first: int, last: int, limit: int) -> int:
        some = "SELECT id FROM message WHERE id >= ? AND id <= ? ORDER BY id LIMIT ?"
        self._write(f"DELETE FROM message WHERE id IN ({some})", (first, last, limit))  # noqa: S608  # ours
        return self._db.changes()

    def shrink(self, pages: int) -> bool:
        if self._db.pragma("auto_vacuum") != 2 or self._db.pragma("freelist_count") <= _FREE_PAGES_KEPT:
            return False
        self.apply(())
        try:
            self._db.execute(f"PRAGMA incremental_vacuum({pages:d})").fetchall()
        except apsw.Error as error:
            raise JournalError(f"can't shrink the journal: {error}") from error
        return True

    def meta(self, key: str) -> int:
        rows = self._rows("SELECT value FROM meta WHERE key = ?", (key,))
        return rows[0][0] if rows else 0

    def set_meta(self, key: str, value: int) -> None:
        self.apply(())
        self._write(
            "INSERT INTO meta VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
            (key, value),
        )

    def newest_end(self) -> int:
        self._set_campaigns()
        query = "SELECT max(finished_at) FROM campaign WHERE finished_at > 0 AND compacted_at = 0"
        return self._rows(query)[0][0] or 0
