"""What the journal answers: the reading half of the SQLite journal."""

import zlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import apsw

from broker.core.buckets import StoredBucket
from broker.core.events import FreshRow, StoredBatch, StoredRow
from broker.core.message_state import Stored, message_id
from broker.core.state import Campaign, Phase
from broker.core.worker_state import Worker
from broker.journal.store import JournalError, ReportLine
from evenpost.wire import codec
from evenpost.wire.messages import Options

_CAMPAIGN = """
SELECT number, id, submission, template, fingerprint, options, created_at, expire_at, phase, chunks, total,
    counts, attempts, unknown, duplicates, marks, finished_at, closed_as, restored, compacted_at FROM campaign
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
_TRACED = """
WHERE m.id IN (SELECT a.id FROM run JOIN address a ON a.run = run.run AND a.hash = ?) ORDER BY m.id DESC
"""


def address_hash(address: str) -> int:
    """For finding an address again; a match is checked against the address itself."""
    return zlib.crc32(address.casefold().encode())


class Reads(ABC):
    """Queries over an open connection."""

    _db: apsw.Connection
    _next_campaign: int

    @abstractmethod
    def _set_campaigns(self) -> None:
        """Writes what is still to be written of campaigns' rows, before they are read."""

    def _rows(self, sql: str, bindings: Sequence[Any] = ()) -> list[Any]:
        try:
            return self._db.execute(sql, bindings).fetchall()
        except apsw.Error as error:
            raise JournalError(f"can't read the journal: {error}") from error

    def campaigns(self) -> list[Campaign]:
        self._set_campaigns()
        return [_campaign(row) for row in self._rows(_CAMPAIGN + " WHERE finished_at = 0")]

    def campaign(self, id_: str) -> Campaign | None:
        return self._one_campaign(" WHERE id = ?", id_)

    def campaign_by_number(self, number: int) -> Campaign | None:
        return self._one_campaign(" WHERE number = ?", number)

    def campaign_by_submission(self, submission: str) -> Campaign | None:
        return self._one_campaign(" WHERE submission = ?", submission)

    def _one_campaign(self, where: str, value: str | int) -> Campaign | None:
        self._set_campaigns()
        for row in self._rows(_CAMPAIGN + where, (value,)):
            return _campaign(row)
        return None

    def newest_campaigns(self, limit: int) -> list[str]:
        query = "SELECT id FROM campaign ORDER BY number DESC LIMIT ?"
        return [id_ for (id_,) in self._rows(query, (limit,))]

    def next_campaign_number(self) -> int:
        newest: int = self._rows("SELECT coalesce(max(number), 0) FROM campaign")[0][0]
        return max(newest + 1, self._next_campaign)

    def workers(self) -> list[Worker]:
        query = "SELECT name, number, server, log, incarnation, gone, state, weight, maxconn FROM worker"
        return [
            Worker(name, number, server, log, incarnation, bool(gone), state, weight, limit)
            for name, number, server, log, incarnation, gone, state, weight, limit in self._rows(query)
        ]

    def quotas(self) -> dict[str, StoredBucket]:
        rows = self._rows("SELECT key, used FROM quota")
        return {key: StoredBucket.from_plain(codec.unpack_values(used)) for key, used in rows}

    def batches(self) -> list[StoredBatch]:
        found = []
        for number, campaign, worker, packed in self._rows("SELECT * FROM batch ORDER BY number"):
            flat = codec.unpack_values(packed)
            rows = self.stored([message_id(campaign, index) for index in flat[::2]])
            attempts = dict(
                zip((message_id(campaign, index) for index in flat[::2]), flat[1::2], strict=True)
            )
            found.append(
                StoredBatch(number, campaign, worker, [attempts[id_] for id_ in rows], list(rows.values()))
            )
        return found

    def fresh(self, after: int, upto: int, limit: int) -> list[FreshRow]:
        query = (
            "SELECT id, address, fields, attempts FROM message"
            " WHERE id > ? AND id < ? AND state = 0 ORDER BY id LIMIT ?"
        )
        return self._rows(query, (after, upto, limit))

    def retries(
        self, campaign: int, after: tuple[int, int], due_upto: int, limit: int
    ) -> tuple[list[StoredRow], tuple[int, int], int | None]:
        position = (
            " FROM message WHERE id >> 32 = ? AND due_at IS NOT NULL AND (due_at, id) > (?, ?)"
            " ORDER BY due_at, id"
        )
        keys = self._rows("SELECT due_at, id" + position + " LIMIT ?", (campaign, *after, limit + 1))
        due = [key for key in keys if key[0] <= due_upto][:limit]
        rows = self.stored([id_ for _, id_ in due])
        rest = keys[len(due) :]
        upto = due[-1] if due else after
        return [rows[id_] for _, id_ in due], upto, rest[0][0] if rest else None

    def stored(self, ids: Sequence[int]) -> dict[int, StoredRow]:
        found: dict[int, StoredRow] = {}
        for id_ in ids:
            for row in self._rows(_STORED + " WHERE m.id = ?", (id_,)):
                found[id_] = StoredRow(*row)
        return found

    def report(
        self, campaign: int, after: int, upto: int, states: Sequence[Stored], limit: int
    ) -> list[ReportLine]:
        some = f" AND m.state IN ({', '.join(str(int(s)) for s in states)})" if states else ""
        query = _LINE + f" WHERE m.id > ? AND m.id <= ?{some} ORDER BY m.id LIMIT ?"
        bounds = (message_id(campaign, 0) + after, message_id(campaign, upto), limit)
        return [ReportLine(*row) for row in self._rows(query, bounds)]

    def trace(self, address: str, limit: int) -> list[ReportLine]:
        wanted = address.casefold()
        rows = (ReportLine(*row) for row in self._rows(_LINE + _TRACED, (address_hash(address),)))
        found = [line for line in rows if line.address.casefold() == wanted]
        return found[:limit]


def _campaign(row: Sequence[Any]) -> Campaign:
    (
        number, id_, submission, template, fingerprint, options, created_at, expire_at, phase, chunks, total,
        counts, attempts, unknown, duplicates, marks, finished_at, closed_as, restored, compacted_at,
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
        marks=tuple(codec.unpack_values(marks)) if marks else (),
        finished_at=finished_at,
        closed_as=None if closed_as is None else Stored(closed_as),
        restored=bool(restored),
        compacted_at=compacted_at,
    )
