"""The journal's twin in memory: the same answers as broker.journal.sqlite, a crash that forgets what wasn't
committed, and no disk. tests/simulation/test_journal_twin.py holds the two against each other."""

import random
from bisect import bisect_right, insort
from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import Any, NamedTuple

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
from broker.core.events import FreshRow, StoredBatch, StoredRow
from broker.core.message_state import INDEX_BITS, Stored, message_id
from broker.core.state import Campaign, Phase
from broker.core.worker_state import Worker
from broker.journal.store import Compacted, ReportLine

INDICES_MAX = 1 << INDEX_BITS
_MISSING: Any = object()
_NEVER = (1 << 63, 0)


class _Row(NamedTuple):
    """A message, column by column."""

    address: str
    values: bytes
    state: int = 0
    attempts: int = 0
    code: int = 0
    reply: str = ""
    worker: int = 0
    first_at: int = 0
    last_at: int = 0
    due_at: int | None = None
    history: bytes | None = None


_KEPT = [field.name for field in fields(SetCampaign) if field.name not in ("number", "recount")]
"""What SetCampaign says of a campaign; its other fields never change."""


class MemoryJournal:
    """A journal.store.Journal. It outlives its brokers: `crash` and `open` are what happens between them."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.boot = rng.randrange(1, 1 << 30)
        self._next_campaign = rng.randrange(1, 1 << 30)
        self._campaigns: dict[int, Campaign] = {}
        """What never changes of each."""
        self._by_submission: dict[str, int] = {}
        self._changing: dict[int, dict[str, Any]] = {}
        self._messages: dict[int, _Row] = {}
        self._due: dict[int, list[tuple[int, int]]] = {}
        """By campaign, in order: when its rows are due, and their numbers."""
        self._workers: dict[str, SetWorker] = {}
        self._quotas: dict[str, Any] = {}
        self._batches: dict[int, AddBatch | None] = {}
        """None: it has ended."""
        self._undo: list[tuple[dict[Any, Any], Any, Any]] = []
        """Of the open transaction: where, which, and what was there before."""
        self._meta: dict[str, int] = {}
        self.commits = 0

    # --- between brokers -------------------------------------------------------------------

    def open(self) -> None:
        """A broker starts."""
        self.boot += 1 + self._rng.randrange(1 << 14)
        self._next_campaign += 1 + self._rng.randrange(1 << 14)
        for number, row in self._changing.items():
            if row["recount"]:
                self._put(self._changing, number, row | {"counts": self._count(number), "recount": False})
        self.commit()

    def crash(self) -> None:
        """What wasn't committed never was."""
        for where, key, before in reversed(self._undo):
            if before is _MISSING:
                del where[key]
            else:
                where[key] = before
        self._undo.clear()
        self._due = {number: [] for number in self._campaigns}
        for id_, row in self._messages.items():
            if row.due_at is not None:
                self._due[id_ >> INDEX_BITS].append((row.due_at, id_))
        for due in self._due.values():
            due.sort()

    def close(self) -> None:
        self.commit()

    # --- writing ---------------------------------------------------------------------------

    def commit(self) -> None:
        self._undo.clear()
        self.commits += 1

    def apply(self, changes: Iterable[Change]) -> None:
        for change in changes:
            self._apply(change)

    def _put(self, where: dict[Any, Any], key: Any, value: Any) -> None:
        self._undo.append((where, key, where.get(key, _MISSING)))
        where[key] = value

    def _apply(self, change: Change) -> None:
        match change:
            case SetSent(sent):
                for id_, attempts, code, reply, worker, began_at, ended_at in sent:
                    if (row := self._messages.get(id_)) is not None:
                        first_at = row.first_at or began_at
                        after = _Row(row.address, row.values, 3, attempts, code, reply, worker, first_at,
                                     ended_at, row.due_at, row.history)  # fmt: skip
                        self._set(id_, row, after)
            case SetHistory(histories):
                for id_, attempts_told in histories:
                    if (row := self._messages.get(id_)) is not None:
                        self._set(id_, row, row._replace(history=attempts_told))
            case PutOff(put_off):
                for id_, due, why in put_off:
                    if (row := self._messages.get(id_)) is not None:
                        reply = row.reply or why
                        self._set(id_, row, row._replace(state=1, due_at=due, reply=reply))
            case ShiftDue(number, by_ms):
                for id_, row in list(self._messages.items()):
                    if id_ >> 32 == number and row.due_at is not None:
                        self._set(id_, row, row._replace(due_at=row.due_at + by_ms))
            case SetMessages(rows):
                for id_, state, attempts, code, reply, worker, began_at, ended_at, due_at, history in rows:
                    if (row := self._messages.get(id_)) is not None:
                        first_at = row.first_at or began_at
                        after = _Row(row.address, row.values, state, attempts, code, reply, worker, first_at,
                                     ended_at, due_at, history)  # fmt: skip
                        self._set(id_, row, after)
            case SetCampaign():
                values = {name: getattr(change, name) for name in _KEPT}
                before = self._changing[change.number]
                kept = {"recount": change.recount, "compacted_at": before["compacted_at"]}
                self._put(self._changing, change.number, values | kept)
            case AddRecipients(campaign, first_index, recipients):
                for id_, recipient in enumerate(recipients, message_id(campaign, first_index)):
                    self._put(self._messages, id_, _Row(recipient.address, recipient.values))
            case AddCampaign(campaign):
                self._add_campaign(campaign)
            case SetWorker():
                known = self._workers.get(change.name)
                assert known is None or known.number == change.number
                self._put(self._workers, change.name, change)
            case SetQuota(key, stored):
                self._put(self._quotas, key, stored)
            case AddBatch():
                self._put(self._batches, change.number, change)
            case EndBatches(numbers):
                for number in numbers:
                    self._put(self._batches, number, None)

    def _add_campaign(self, campaign: Campaign) -> None:
        static = Campaign(
            number=campaign.number,
            id=campaign.id,
            submission=campaign.submission,
            template=campaign.template,
            fingerprint=campaign.fingerprint,
            options=campaign.options,
            created_at=campaign.created_at,
            expire_at=campaign.expire_at,
        )
        assert campaign.number not in self._campaigns
        first = SetCampaign.of(static)
        self._put(self._campaigns, campaign.number, static)
        self._put(self._by_submission, campaign.submission, campaign.number)
        more = {"recount": False, "compacted_at": 0}
        self._put(self._changing, campaign.number, {n: getattr(first, n) for n in _KEPT} | more)
        self._due[campaign.number] = []

    def _set(self, id_: int, before: _Row, after: _Row) -> None:
        self._undo.append((self._messages, id_, before))
        self._messages[id_] = after
        if before.due_at != after.due_at:
            due = self._due[id_ >> INDEX_BITS]
            if before.due_at is not None:
                del due[bisect_right(due, (before.due_at, id_)) - 1]
            if after.due_at is not None:
                insort(due, (after.due_at, id_))

    def _count(self, campaign: int) -> dict[int, int]:
        counts: dict[int, int] = {}
        for _, row in self._range(campaign, 0, INDICES_MAX):
            if row.state:
                counts[row.state] = counts.get(row.state, 0) + 1
        return counts

    def _range(self, campaign: int, index_from: int, index_to: int) -> Iterable[tuple[int, _Row]]:
        """Rows of a campaign: they are numbered without gaps."""
        first = message_id(campaign, 0)
        for id_ in range(first + index_from, first + index_to):
            row = self._messages.get(id_)
            if row is None:
                return
            yield id_, row

    def reopen(self, campaign: int) -> None:
        row = self._changing[campaign]
        if row["phase"] == Phase.CANCELLED or row["compacted_at"]:
            return
        phase = row["phase"] if row["phase"] == Phase.PAUSED else int(Phase.ACTIVE)
        change = {"recount": True, "finished_at": 0, "closed_as": None, "phase": phase}
        self._put(self._changing, campaign, row | change)

    def restate(
        self, campaign: int, index_from: int, index_to: int, states: Sequence[Stored], due_at: int
    ) -> dict[Stored, int]:
        changed = dict.fromkeys(states, 0)
        for id_, row in list(self._range(campaign, index_from, index_to)):
            if row.state in changed:
                changed[Stored(row.state)] += 1
                self._set(id_, row, row._replace(state=int(Stored.DEFERRED), due_at=due_at))
        return changed

    def end_open_rows(self, campaign: int, index_from: int, index_to: int, as_: Stored) -> None:
        for id_, row in list(self._range(campaign, index_from, index_to)):
            if row.state in (Stored.QUEUED, Stored.DEFERRED):
                self._set(id_, row, row._replace(state=int(as_), due_at=None))

    def compact(self, ended_before: int, at: int) -> Compacted:
        """All of one campaign a step."""
        for number, row in self._changing.items():
            ended = 0 < row["finished_at"] < ended_before
            if ended and not row["compacted_at"] and not row["counts"].get(int(Stored.HELD)):
                self._put(self._changing, number, row | {"compacted_at": at})
                for id_, _ in list(self._range(number, 0, INDICES_MAX)):
                    self._undo.append((self._messages, id_, self._messages.pop(id_)))
                self._due[number].clear()
                self.set_meta("compacted", self.meta("compacted") + 1)
                self.set_meta("compacted_upto", max(self.meta("compacted_upto"), row["finished_at"]))
                return Compacted(1, [self._campaigns[number].id], True)
        return Compacted(0, [], False)

    def shrink(self, pages: int) -> bool:
        return False

    def meta(self, key: str) -> int:
        return self._meta.get(key, 0)

    def set_meta(self, key: str, value: int) -> None:
        self._put(self._meta, key, value)

    def newest_end(self) -> int:
        ends = (row["finished_at"] for row in self._changing.values() if not row["compacted_at"])
        return max(ends, default=0)

    # --- reading ---------------------------------------------------------------------------

    def _campaign(self, number: int) -> Campaign:
        static, row = self._campaigns[number], self._changing[number]
        campaign = Campaign(
            number=number,
            id=static.id,
            submission=static.submission,
            template=b"" if row["compacted_at"] else static.template,
            fingerprint=static.fingerprint,
            options=static.options,
            created_at=static.created_at,
            expire_at=static.expire_at,
        )
        for name, value in row.items():
            if name != "recount":
                setattr(campaign, name, value)
        campaign.phase = Phase(row["phase"])
        campaign.counts = {Stored(state): count for state, count in row["counts"].items()}
        campaign.closed_as = None if row["closed_as"] is None else Stored(row["closed_as"])
        return campaign

    def campaigns(self) -> list[Campaign]:
        return [self._campaign(n) for n, row in sorted(self._changing.items()) if not row["finished_at"]]

    def workers(self) -> list[Worker]:
        by_number = sorted(self._workers.values(), key=lambda change: change.number)
        return [
            Worker(w.name, w.number, w.server, w.log, w.incarnation, w.gone, w.state, w.weight, w.limit)  # type: ignore[arg-type]
            for w in by_number
        ]

    def quotas(self) -> dict[str, Any]:
        return {key: stored for key, stored in self._quotas.items() if stored is not None}

    def batches(self) -> list[StoredBatch]:
        found = []
        for number, batch in sorted(self._batches.items()):
            if batch is not None:
                attempts = {message_id(batch.campaign, index): n for index, n in batch.attempts}
                rows = self.stored(list(attempts))
                numbers = [attempts[id_] for id_ in rows]
                found.append(StoredBatch(number, batch.campaign, batch.worker, numbers, list(rows.values())))
        return found

    def campaign(self, id_: str) -> Campaign | None:
        return next((self._campaign(n) for n, c in self._campaigns.items() if c.id == id_), None)

    def campaign_by_number(self, number: int) -> Campaign | None:
        return self._campaign(number) if number in self._campaigns else None

    def campaign_by_submission(self, submission: str) -> Campaign | None:
        number = self._by_submission.get(submission)
        return None if number is None else self._campaign(number)

    def newest_campaigns(self, limit: int) -> list[str]:
        return [self._campaigns[number].id for number in sorted(self._campaigns, reverse=True)[:limit]]

    def next_campaign_number(self) -> int:
        return max(max(self._campaigns, default=0) + 1, self._next_campaign)

    def fresh(self, after: int, upto: int, limit: int) -> list[FreshRow]:
        found: list[FreshRow] = []
        for id_ in range(after + 1, upto):
            row = self._messages.get(id_)
            if row is not None and row.state == 0:
                found.append((id_, row.address, row.values, row.attempts))
                if len(found) == limit:
                    break
        return found

    def retries(
        self, campaign: int, after: tuple[int, int], due_upto: int, limit: int
    ) -> tuple[list[StoredRow], tuple[int, int], int | None]:
        due = self._due.get(campaign, [])
        start = bisect_right(due, after)
        end = min(bisect_right(due, (due_upto, _NEVER[0])), start + limit)
        rows = self.stored([id_ for _, id_ in due[start:end]])
        end = max(start, end)
        upto = due[end - 1] if end > start else after
        return list(rows.values()), upto, due[end][0] if end < len(due) else None

    def _worker(self, number: int) -> SetWorker | None:
        return next((w for w in self._workers.values() if w.number == number), None)

    def stored(self, ids: Sequence[int]) -> dict[int, StoredRow]:
        found: dict[int, StoredRow] = {}
        for id_ in ids:
            row = self._messages.get(id_)
            if row is not None:
                worker = self._worker(row.worker)
                found[id_] = StoredRow(
                    id_, row.address, row.values, row.state, row.attempts, row.history, row.code, row.reply,
                    worker.name if worker else "", row.last_at,
                )  # fmt: skip
        return found

    def report(
        self, campaign: int, after: int, upto: int, states: Sequence[Stored], limit: int
    ) -> list[ReportLine]:
        found = []
        for id_, row in self._range(campaign, after + 1, upto + 1):
            if not states or row.state in states:
                found.append(self._line(id_, row))
                if len(found) == limit:
                    break
        return found

    def trace(self, address: str, limit: int) -> list[ReportLine]:
        wanted = address.casefold()
        ids = sorted(
            (i for i, row in self._messages.items() if row.address.casefold() == wanted), reverse=True
        )
        return [self._line(id_, self._messages[id_]) for id_ in ids[:limit]]

    def _line(self, id_: int, row: _Row) -> ReportLine:
        worker = self._worker(row.worker)
        return ReportLine(
            id_, row.address, row.state, row.attempts, row.code, row.reply, worker.name if worker else "",
            worker.server if worker else "", row.first_at, row.last_at, row.due_at or 0, row.history,
        )  # fmt: skip
