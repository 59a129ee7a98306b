"""The journal in one SQLite file: WAL, synchronous=FULL, one connection that owns the file.

apsw brings its own SQLite; 3.7.0 to 3.51.2 have the WAL-reset bug, so a system library won't do.
"""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import apsw

from broker.core.commands import (
    AddBatch,
    AddCampaign,
    AddRecipients,
    Change,
    EndBatches,
    PutOff,
    SetCampaign,
    SetHistory,
    SetMessages,
    SetQuota,
    SetSent,
    SetWorker,
    ShiftDue,
)
from broker.core.message_state import INDEX_BITS, Stored, message_id
from broker.core.state import Phase
from broker.journal import schema
from broker.journal.compaction import Compaction
from broker.journal.copying import Copy
from broker.journal.reads import Reads, address_hash
from broker.journal.store import JournalError, JournalInUseError
from evenpost.wire import codec

_CACHE_KIB = 48 * 1024
_RUN_ROWS_MIN = 256
"""Smaller chunks go to run 0."""
_SQLITE_MIN = (3, 51, 3)

_TRIPLES = 200
"""Rows of three values that one statement inserts: two thirds of the time of one statement a row."""
_MANY = ", ".join(["(?, ?, ?)"] * _TRIPLES)
_INSERT_MESSAGE = "INSERT INTO message (id, address, fields) VALUES "
_INSERT_ADDRESS = "INSERT INTO address (run, hash, id) VALUES "
_SET_MESSAGE = """
UPDATE message SET state = ?2, attempts = ?3, code = ?4, reply = ?5, worker = ?6,
    first_at = coalesce(first_at, nullif(?7, 0)), last_at = ?8, due_at = ?9, history = ?10
WHERE id = ?1
"""
_SET_SENT = """
UPDATE message SET state = 3, attempts = ?2, code = ?3, reply = ?4, worker = ?5,
    first_at = coalesce(first_at, nullif(?6, 0)), last_at = ?7
WHERE id = ?1
"""
_SET_HISTORY = "UPDATE message SET history = ?2 WHERE id = ?1"
_PUT_OFF = "UPDATE message SET state = 1, due_at = ?2, reply = coalesce(nullif(reply, ''), ?3) WHERE id = ?1"
_SHIFT_DUE = "UPDATE message SET due_at = due_at + ? WHERE id >> 32 = ? AND due_at IS NOT NULL"
_SET_CAMPAIGN = """
UPDATE campaign SET phase = ?2, chunks = ?3, total = ?4, counts = ?5, attempts = ?6, unknown = ?7,
    duplicates = ?8, marks = ?9, expire_at = ?10, finished_at = ?11, closed_as = ?12, recount = ?13,
    restored = ?14
WHERE number = ?1
"""
_SET_WORKER = """
INSERT INTO worker (name, number, server, log, incarnation, state, weight, maxconn, gone)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (name) DO UPDATE SET server = excluded.server, log = excluded.log,
    incarnation = excluded.incarnation, state = excluded.state, weight = excluded.weight,
    maxconn = excluded.maxconn, gone = excluded.gone
"""
_SET_QUOTA = """
INSERT INTO quota (key, used) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET used = excluded.used
"""


class SqliteJournal(Reads, Compaction):
    """A journal.Journal in a file, made if it isn't there.

    Raises JournalError where the file is someone else's, newer than this release, or owned by another broker.
    """

    def __init__(self, path: Path, *, vfs: str | None = None) -> None:
        """`vfs`: SQLite's way to the disk, where it isn't the usual one: tests cut the power with it."""
        if _sqlite_version() < _SQLITE_MIN:
            raise JournalError(f"SQLite {apsw.sqlite_lib_version()} can lose data: install apsw from PyPI")
        self.path = path
        try:
            # Every address and merge field is in it: not for other users of this machine.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        except OSError as error:
            raise JournalError(f"can't open the journal {path}: {error.strerror}") from None
        try:
            self._db = apsw.Connection(str(path), vfs=vfs)
            self._open()
        except apsw.BusyError:
            raise JournalInUseError(
                f"{path} is in use by another broker: stop that one, or give this one its own --journal"
            ) from None
        except apsw.NotADBError:
            raise JournalError(f"{path} is no journal: it isn't a database. Name another --journal") from None
        except apsw.Error as error:
            raise self._failed("open", error) from None
        self._in_transaction = False
        self._campaign_changes: dict[int, SetCampaign] = {}
        self._run = self._value("SELECT coalesce(max(run), 0) FROM run")

    def _open(self) -> None:
        db = self._db
        db.set_busy_timeout(0)
        # Exclusive before WAL: the index of the WAL is then in memory and nobody else can open the file. Of
        # auto_vacuum a file has to know before anything is written to it.
        for pragma in (
            "auto_vacuum = INCREMENTAL",
            "locking_mode = EXCLUSIVE",
            "journal_mode = WAL",
            "synchronous = FULL",
            "wal_autocheckpoint = 4000",
            f"cache_size = -{_CACHE_KIB}",
            "temp_store = MEMORY",
            "journal_size_limit = 67108864",
        ):
            db.execute(f"PRAGMA {pragma}")
        # After a flush that failed, Linux takes for written what the disk never got, and shows it all the
        # same. What the WAL holds goes to the file, and that to the disk, before anything is built upon it.
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        db.execute("BEGIN IMMEDIATE")
        application, version = self._value("PRAGMA application_id"), self._value("PRAGMA user_version")
        if application == 0 and self._value("SELECT count(*) FROM sqlite_schema") == 0:
            db.execute(schema.CREATE)
            db.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}")
            version = schema.VERSION
        elif application != schema.APPLICATION_ID:
            raise JournalError(f"{self.path} is the database of another program: name another --journal")
        if version > schema.VERSION:
            raise JournalError(
                f"{self.path} was written by a newer release (format {version}; this release reads up to "
                f"{schema.VERSION}): run that release"
            )
        while version < schema.VERSION:
            db.execute(schema.MIGRATIONS[version])
            version += 1
        db.execute(f"PRAGMA user_version = {version}")
        jump = "UPDATE meta SET value = value + 1 + abs(random() % 16384) WHERE key = ? RETURNING value"
        self.boot = self._value(jump, ("boot",))
        self._next_campaign = self._value(jump, ("campaign",))
        for (number,) in self._rows("SELECT number FROM campaign WHERE recount"):
            self._recount(number)
        db.execute("COMMIT")

    def _recount(self, number: int) -> None:
        """Counts of a campaign from its rows, after a RETRY_FAILED that was cut short."""
        query = "SELECT state, count(*) FROM message WHERE id >= ? AND id < ? AND state <> 0 GROUP BY state"
        counts = dict(self._rows(query, (message_id(number, 0), message_id(number + 1, 0))))
        self._db.execute(
            "UPDATE campaign SET counts = ?, recount = 0 WHERE number = ?", (codec.pack(counts), number)
        )

    def _value(self, sql: str, bindings: Sequence[Any] = ()) -> Any:
        return self._db.execute(sql, bindings).get

    def _failed(self, what: str, error: apsw.Error) -> JournalError:
        """What went wrong and what to do. Nothing that was acknowledged is in danger by it."""
        if isinstance(error, apsw.FullError):
            to_do = f"make room on the disk of {self.path.absolute().parent} and start the broker again"
        else:
            to_do = "look after its disk (the system's log says more) and start the broker again"
        return JournalError(f"can't {what} the journal {self.path}: {error}; {to_do}")

    # --- writing ---------------------------------------------------------------------------

    def _write(self, sql: str, bindings: Sequence[Any]) -> None:
        try:
            self._db.execute(sql, bindings)
        except apsw.Error as error:
            raise self._failed("write", error) from error

    def apply(self, changes: Iterable[Change]) -> None:
        try:
            if not self._in_transaction:
                self._db.execute("BEGIN IMMEDIATE")
                self._in_transaction = True
            for change in changes:
                self._apply(change)
        except apsw.Error as error:
            raise self._failed("write", error) from error

    def _apply(self, change: Change) -> None:
        db = self._db
        match change:
            case SetSent(sent):
                db.executemany(_SET_SENT, sent)
            case SetMessages(rows):
                db.executemany(_SET_MESSAGE, rows)
            case SetHistory(histories):
                db.executemany(_SET_HISTORY, histories)
            case PutOff(put_off):
                db.executemany(_PUT_OFF, put_off)
            case ShiftDue(number, by_ms):
                db.execute(_SHIFT_DUE, (by_ms, number))
            case SetCampaign():
                # Every report of a worker changes it; only the last change of a group is worth a statement.
                self._campaign_changes[change.number] = change
            case AddRecipients():
                self._add_recipients(change)
            case AddCampaign(campaign):
                db.execute(
                    "INSERT INTO campaign (number, id, submission, fingerprint, template, options,"
                    " created_at, expire_at, phase, counts)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (
                        campaign.number, campaign.id, campaign.submission, campaign.fingerprint,
                        campaign.template, codec.pack_struct(campaign.options), campaign.created_at,
                        campaign.expire_at, int(Phase.OPEN), codec.pack({}),
                    ),
                )  # fmt: skip
            case SetWorker():
                db.execute(
                    _SET_WORKER,
                    (change.name, change.number, change.server, change.log, change.incarnation,
                     change.state, change.weight, change.limit, change.gone),
                )  # fmt: skip
            case SetQuota(key, stored):
                if stored is None:
                    db.execute("DELETE FROM quota WHERE key = ?", (key,))
                else:
                    db.execute(_SET_QUOTA, (key, codec.pack(stored.to_plain())))
            case AddBatch(number, campaign, worker, attempts):
                packed = codec.pack([part for pair in attempts for part in pair])
                db.execute(
                    "INSERT OR REPLACE INTO batch VALUES (?, ?, ?, ?)", (number, campaign, worker, packed)
                )
            case EndBatches(numbers):
                db.executemany("DELETE FROM batch WHERE number = ?", [(number,) for number in numbers])

    def _add_recipients(self, change: AddRecipients) -> None:
        db = self._db
        first = message_id(change.campaign, change.first_index)
        rows = change.rows
        flat = [value for n, row in enumerate(rows, first) for value in (n, row.address, row.values)]
        _insert(db, _INSERT_MESSAGE, flat)
        run = 0
        if len(rows) >= _RUN_ROWS_MIN:
            self._run = run = self._run + 1
            db.execute("INSERT INTO run (run, campaign) VALUES (?, ?)", (run, change.campaign))
        # In the order of the table, as numbers: they are sorted in a third of the time of tuples.
        keys = sorted([address_hash(row.address) << INDEX_BITS | n for n, row in enumerate(rows)])
        mask = (1 << INDEX_BITS) - 1
        flat = [value for key in keys for value in (run, key >> INDEX_BITS, first + (key & mask))]
        _insert(db, _INSERT_ADDRESS, flat)

    def _set_campaigns(self) -> None:
        changes, self._campaign_changes = self._campaign_changes, {}
        for change in changes.values():
            self._write(
                _SET_CAMPAIGN,
                (
                    change.number, change.phase, change.chunks, change.total, codec.pack(change.counts),
                    change.attempts, change.unknown, change.duplicates, codec.pack(list(change.marks)),
                    change.expire_at, change.finished_at, change.closed_as, change.recount,
                    change.restored,
                ),
            )  # fmt: skip

    def commit(self) -> None:
        if not self._in_transaction:
            return
        try:
            self._set_campaigns()
            self._db.execute("COMMIT")
        except apsw.Error as error:
            raise self._failed("flush", error) from error
        self._in_transaction = False

    def reopen(self, campaign: int) -> None:
        self.apply(())
        self._set_campaigns()
        self._write(
            "UPDATE campaign SET recount = 1, finished_at = 0, closed_as = NULL,"
            " phase = CASE phase WHEN ?1 THEN ?1 ELSE ?2 END WHERE number = ?3 AND phase <> ?4"
            " AND compacted_at = 0",
            (int(Phase.PAUSED), int(Phase.ACTIVE), campaign, int(Phase.CANCELLED)),
        )

    def restate(
        self, campaign: int, index_from: int, index_to: int, states: Sequence[Stored], due_at: int
    ) -> dict[Stored, int]:
        self.apply(())
        changed: dict[Stored, int] = {}
        for state in states:
            self._write(
                "UPDATE message SET state = ?, due_at = ? WHERE id >= ? AND id < ? AND state = ?",
                (
                    int(Stored.DEFERRED),
                    due_at,
                    message_id(campaign, index_from),
                    message_id(campaign, index_to),
                    int(state),
                ),
            )
            changed[state] = self._db.changes()
        return changed

    def end_open_rows(self, campaign: int, index_from: int, index_to: int, as_: Stored) -> None:
        self.apply(())
        self._write(
            "UPDATE message SET state = ?, due_at = NULL WHERE id >= ? AND id < ? AND state IN (?, ?)",
            (
                int(as_),
                message_id(campaign, index_from),
                message_id(campaign, index_to),
                int(Stored.QUEUED),
                int(Stored.DEFERRED),
            ),
        )

    def copy_to(self, file: Path, force: bool) -> Copy:
        """Begins a copy; its steps are made while no transaction is open. Raises JournalError."""
        return Copy(self._db, file, force=force)

    def close(self) -> None:
        self.commit()
        self._db.close()


def _insert(db: apsw.Connection, sql: str, values: list[Any]) -> None:
    """`sql` for rows of three values each, which stand one behind the other."""
    size = 3 * _TRIPLES
    whole = len(values) - len(values) % size
    for start in range(0, whole, size):
        db.execute(sql + _MANY, values[start : start + size])
    rest = iter(values[whole:])
    db.executemany(sql + "(?, ?, ?)", zip(rest, rest, rest, strict=True))


def _sqlite_version() -> tuple[int, ...]:
    return tuple(int(part) for part in apsw.sqlite_lib_version().split("."))


assert INDEX_BITS == 32  # the index on due_at and the ranges above say so in SQL
assert (int(Stored.DEFERRED), int(Stored.SENT)) == (1, 3)  # so say _PUT_OFF and _SET_SENT
