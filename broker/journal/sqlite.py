"""The journal in one SQLite file: WAL, synchronous=FULL, one connection that owns the file.

apsw brings its own SQLite; 3.7.0 to 3.51.2 have the WAL-reset bug, so a system library won't do.
"""

import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import apsw

from broker.core.commands import AddCampaign, AddRecipients, Change, SetCampaign, SetMessages, SetWorker
from broker.core.events import FreshRow, StoredRow
from broker.core.state import INDEX_BITS, Campaign, Phase, Stored, Worker, message_id
from broker.journal import schema
from broker.journal.store import JournalError
from evenpost.wire import codec
from evenpost.wire.messages import Options

_CACHE_KIB = 48 * 1024
_RUN_ROWS_MIN = 256
"""Smaller chunks go to run 0."""
_SQLITE_MIN = (3, 51, 3)

_INSERT_MESSAGE = "INSERT INTO message (id, address, fields) VALUES (?, ?, ?)"
_INSERT_ADDRESS = "INSERT INTO address (run, hash, id) VALUES (?, ?, ?)"
_SET_MESSAGE = """
UPDATE message SET state = ?2, attempts = ?3, code = ?4, reply = ?5, worker = ?6,
    first_at = coalesce(first_at, nullif(?7, 0)), last_at = ?8, due_at = ?9, history = ?10
WHERE id = ?1
"""
_SET_CAMPAIGN = """
UPDATE campaign SET phase = ?2, chunks = ?3, total = ?4, counts = ?5, attempts = ?6, unknown = ?7,
    duplicates = ?8, low_water = ?9, expire_at = ?10, finished_at = ?11, closed_as = ?12, recount = 0
WHERE number = ?1
"""
_SET_WORKER = """
INSERT INTO worker (name, number, server, log, incarnation, drained, gone) VALUES (?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (name) DO UPDATE SET server = excluded.server, log = excluded.log,
    incarnation = excluded.incarnation, drained = excluded.drained, gone = excluded.gone
"""
_CAMPAIGN = """
SELECT number, id, submission, template, fingerprint, options, created_at, expire_at, phase, chunks, total,
    counts, attempts, unknown, duplicates, low_water, finished_at, closed_as FROM campaign
"""
_STORED = """
SELECT m.id, m.address, m.fields, m.state, m.attempts, m.history, coalesce(m.code, 0), coalesce(m.reply, ''),
    coalesce(w.name, ''), coalesce(m.last_at, 0)
FROM message m LEFT JOIN worker w ON w.number = m.worker
"""
_LINE = """
SELECT m.id, m.address, m.state, m.attempts, coalesce(m.code, 0), coalesce(m.reply, ''),
    coalesce(w.name, ''), coalesce(w.server, ''), coalesce(m.first_at, 0), coalesce(m.last_at, 0),
    coalesce(m.due_at, 0), m.history
FROM message m LEFT JOIN worker w ON w.number = m.worker
"""


class Line(NamedTuple):
    """A row of a report or trace: store.ReportLine."""

    id: int
    address: str
    state: int
    attempts: int
    code: int
    reply: str
    worker: str
    server: str
    first_at: int
    last_at: int
    due_at: int
    history: bytes | None


def address_hash(address: str) -> int:
    """For finding an address again; a match is checked against the address itself."""
    return zlib.crc32(address.casefold().encode())


class SqliteJournal:
    """A journal.Journal in a file, made if it isn't there.

    Raises JournalError where the file is someone else's, newer than this release, or owned by another broker.
    """

    def __init__(self, path: Path) -> None:
        if _sqlite_version() < _SQLITE_MIN:
            raise JournalError(f"SQLite {apsw.sqlite_lib_version()} can lose data: install apsw from PyPI")
        self.path = path
        try:
            self._db = apsw.Connection(str(path))
            self._open()
        except apsw.BusyError:
            raise JournalError(
                f"{path} is in use by another broker: stop that one, or give this one its own --journal"
            ) from None
        except apsw.NotADBError:
            raise JournalError(f"{path} is no journal: it isn't a database. Name another --journal") from None
        except apsw.Error as error:
            raise JournalError(f"can't open the journal {path}: {error}") from None
        self._in_transaction = False
        self._run = self._value("SELECT coalesce(max(run), 0) FROM run")

    def _open(self) -> None:
        db = self._db
        db.set_busy_timeout(0)
        # Exclusive before WAL: the index of the WAL is then in memory and nobody else can open the file.
        for pragma in (
            "locking_mode = EXCLUSIVE",
            "journal_mode = WAL",
            "synchronous = FULL",
            "wal_autocheckpoint = 4000",
            f"cache_size = -{_CACHE_KIB}",
            "temp_store = MEMORY",
            "journal_size_limit = 67108864",
        ):
            db.execute(f"PRAGMA {pragma}")
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
        self.boot = self._value("UPDATE meta SET value = value + 1 WHERE key = 'boot' RETURNING value")
        for (number,) in db.execute("SELECT number FROM campaign WHERE recount").fetchall():
            self._recount(number)
        db.execute("COMMIT")

    def _recount(self, number: int) -> None:
        """Counts of a campaign from its rows, after a RETRY_FAILED that was cut short."""
        counts: dict[int, int] = {}
        query = "SELECT state, count(*) FROM message WHERE id BETWEEN ? AND ? GROUP BY state"
        for state, count in self._db.execute(query, (message_id(number, 0), message_id(number + 1, 0) - 1)):
            if state != Stored.QUEUED:
                counts[state] = count
        self._db.execute(
            "UPDATE campaign SET counts = ?, recount = 0 WHERE number = ?", (codec.pack(counts), number)
        )

    def _value(self, sql: str, bindings: Sequence[Any] = ()) -> Any:
        return self._db.execute(sql, bindings).get

    # --- writing ---------------------------------------------------------------------------

    def apply(self, changes: Iterable[Change]) -> None:
        try:
            if not self._in_transaction:
                self._db.execute("BEGIN IMMEDIATE")
                self._in_transaction = True
            for change in changes:
                self._apply(change)
        except apsw.Error as error:
            raise JournalError(f"can't write the journal {self.path}: {error}") from error

    def _apply(self, change: Change) -> None:
        db = self._db
        match change:
            case SetMessages(rows):
                db.executemany(_SET_MESSAGE, rows)
            case SetCampaign():
                db.execute(
                    _SET_CAMPAIGN,
                    (
                        change.number, change.phase, change.chunks, change.total, codec.pack(change.counts),
                        change.attempts, change.unknown, change.duplicates, change.low_water,
                        change.expire_at, change.finished_at, change.closed_as,
                    ),
                )  # fmt: skip
            case AddRecipients():
                self._add_recipients(change)
            case AddCampaign(campaign):
                db.execute(
                    "INSERT INTO campaign (number, id, submission, fingerprint, template, options, created_at,"
                    " expire_at, phase, counts, low_water) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (
                        campaign.number, campaign.id, campaign.submission, campaign.fingerprint,
                        campaign.template, codec.pack_struct(campaign.options), campaign.created_at,
                        campaign.expire_at, int(Phase.OPEN), codec.pack({}), campaign.low_water,
                    ),
                )  # fmt: skip
            case SetWorker():
                db.execute(
                    _SET_WORKER,
                    (change.name, change.number, change.server, change.log, change.incarnation,
                     change.drained, change.gone),
                )  # fmt: skip

    def _add_recipients(self, change: AddRecipients) -> None:
        db = self._db
        first = message_id(change.campaign, change.first_index)
        rows = change.rows
        db.executemany(
            _INSERT_MESSAGE, [(id_, row.address, row.values) for id_, row in enumerate(rows, first)]
        )
        run = 0
        if len(rows) >= _RUN_ROWS_MIN:
            self._run = run = self._run + 1
            db.execute("INSERT INTO run VALUES (?)", (run,))
        crc32 = zlib.crc32
        db.executemany(
            _INSERT_ADDRESS,
            sorted((run, crc32(row.address.casefold().encode()), id_) for id_, row in enumerate(rows, first)),
        )

    def commit(self) -> None:
        if not self._in_transaction:
            return
        try:
            self._db.execute("COMMIT")
        except apsw.Error as error:
            raise JournalError(f"can't flush the journal {self.path} to disk: {error}") from error
        self._in_transaction = False

    def reopen(self, campaign: int) -> None:
        self.apply(())
        self._db.execute(
            "UPDATE campaign SET recount = 1, finished_at = 0, closed_as = NULL, phase = ?"
            " WHERE number = ? AND phase <> ?",
            (int(Phase.ACTIVE), campaign, int(Phase.PAUSED)),
        )

    def restate(
        self, campaign: int, index_from: int, index_to: int, states: Sequence[Stored], due_at: int
    ) -> dict[Stored, int]:
        self.apply(())
        changed: dict[Stored, int] = {}
        for state in states:
            self._db.execute(
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
        self._db.execute(
            "UPDATE message SET state = ?, due_at = NULL WHERE id >= ? AND id < ? AND state IN (?, ?)",
            (
                int(as_),
                message_id(campaign, index_from),
                message_id(campaign, index_to),
                int(Stored.QUEUED),
                int(Stored.DEFERRED),
            ),
        )

    # --- reading ---------------------------------------------------------------------------

    def campaigns(self) -> list[Campaign]:
        return [_campaign(row) for row in self._db.execute(_CAMPAIGN + " WHERE finished_at = 0")]

    def campaign(self, id_: str) -> Campaign | None:
        return self._one_campaign(" WHERE id = ?", id_)

    def campaign_by_number(self, number: int) -> Campaign | None:
        return self._one_campaign(" WHERE number = ?", number)

    def campaign_by_submission(self, submission: str) -> Campaign | None:
        return self._one_campaign(" WHERE submission = ?", submission)

    def _one_campaign(self, where: str, value: str | int) -> Campaign | None:
        row = self._db.execute(_CAMPAIGN + where, (value,)).fetchone()
        return None if row is None else _campaign(row)

    def newest_campaigns(self, limit: int) -> list[str]:
        query = "SELECT id FROM campaign ORDER BY number DESC LIMIT ?"
        return [id_ for (id_,) in self._db.execute(query, (limit,))]

    def next_campaign_number(self) -> int:
        number: int = self._value("SELECT coalesce(max(number), 0) + 1 FROM campaign")
        return number

    def workers(self) -> list[Worker]:
        query = "SELECT name, number, server, log, incarnation, drained, gone FROM worker"
        return [
            Worker(name, number, server, log, incarnation, bool(drained), bool(gone))
            for name, number, server, log, incarnation, drained, gone in self._db.execute(query)
        ]

    def fresh(self, campaign: int, after: int, limit: int) -> list[FreshRow]:
        query = (
            "SELECT id, address, fields, attempts FROM message"
            " WHERE id > ? AND id < ? AND state = 0 ORDER BY id LIMIT ?"
        )
        rows: list[FreshRow] = self._db.execute(query, (after, message_id(campaign + 1, 0), limit)).fetchall()
        return rows

    def retries(
        self, campaign: int, after: tuple[int, int], due_upto: int, limit: int
    ) -> tuple[list[StoredRow], tuple[int, int], int | None]:
        position = (
            " FROM message WHERE id >> 32 = ? AND due_at IS NOT NULL AND (due_at, id) > (?, ?)"
            " ORDER BY due_at, id"
        )
        keys = self._db.execute(
            "SELECT due_at, id" + position + " LIMIT ?", (campaign, *after, limit + 1)
        ).fetchall()
        due = [key for key in keys if key[0] <= due_upto][:limit]
        rows = self.stored([id_ for _, id_ in due])
        rest = keys[len(due) :]
        upto = due[-1] if due else after
        return [rows[id_] for _, id_ in due], upto, rest[0][0] if rest else None

    def stored(self, ids: Sequence[int]) -> dict[int, StoredRow]:
        found: dict[int, StoredRow] = {}
        for id_ in ids:
            row = self._db.execute(_STORED + " WHERE m.id = ?", (id_,)).fetchone()
            if row is not None:
                found[id_] = StoredRow(*row)
        return found

    def report(self, campaign: int, after: int, states: Sequence[Stored], limit: int) -> list[Line]:
        some = f" AND m.state IN ({', '.join(str(int(s)) for s in states)})" if states else ""
        query = _LINE + f" WHERE m.id > ? AND m.id < ?{some} ORDER BY m.id LIMIT ?"
        bounds = (message_id(campaign, 0) + after, message_id(campaign + 1, 0), limit)
        return [Line(*row) for row in self._db.execute(query, bounds)]

    def trace(self, address: str, limit: int) -> list[Line]:
        query = (
            _LINE
            + " WHERE m.id IN (SELECT a.id FROM run JOIN address a ON a.run = run.run AND a.hash = ?)"
            + " ORDER BY m.id DESC"
        )
        wanted = address.casefold()
        rows = (Line(*row) for row in self._db.execute(query, (address_hash(address),)))
        found = [line for line in rows if line.address.casefold() == wanted]
        return found[:limit]

    def close(self) -> None:
        self.commit()
        self._db.close()


def _sqlite_version() -> tuple[int, ...]:
    return tuple(int(part) for part in apsw.sqlite_lib_version().split("."))


def _campaign(row: Sequence[Any]) -> Campaign:
    (
        number, id_, submission, template, fingerprint, options, created_at, expire_at, phase, chunks, total,
        counts, attempts, unknown, duplicates, low_water, finished_at, closed_as,
    ) = row  # fmt: skip
    return Campaign(
        number=number,
        id=id_,
        submission=submission,
        template=template,
        fingerprint=fingerprint,
        options=codec.unpack_struct(options, Options),
        created_at=created_at,
        expire_at=expire_at,
        phase=Phase(phase),
        chunks=chunks,
        total=total,
        counts={Stored(state): count for state, count in codec.unpack_counts(counts).items()},
        attempts=attempts,
        unknown=unknown,
        duplicates=duplicates,
        low_water=low_water,
        read_upto=low_water,
        finished_at=finished_at,
        closed_as=None if closed_as is None else Stored(closed_as),
    )


assert INDEX_BITS == 32  # the index on due_at and the ranges above say so in SQL
