"""The journal in memory and the one that ships answer alike, whatever is written and wherever it is cut."""

import random
from pathlib import Path
from typing import Any

import pytest

from broker.core.buckets import StoredBucket
from broker.core.commands import (
    AddBatch,
    AddCampaign,
    AddRecipients,
    Change,
    EndBatches,
    SetCampaign,
    SetHistory,
    SetMessages,
    SetQuota,
    SetSent,
    SetWorker,
)
from broker.core.message_state import Stored, message_id
from broker.core.state import Campaign, Phase
from broker.journal.sqlite import SqliteJournal
from evenpost.schedule.rate import Quota
from evenpost.wire.messages import Options, Recipient
from scripts.simulation.journal import MemoryJournal

STEPS = 250
RECIPIENTS_MAX = 30


class Pair:
    """Both journals, the same done to each."""

    def __init__(self, seed: int, path: Path) -> None:
        self.rng = random.Random(seed)
        self.path = path
        self.memory = MemoryJournal(random.Random(seed))
        self.memory.open()
        self.sqlite = SqliteJournal(path)
        self.totals: dict[int, int] = {}
        """By campaign: how many recipients it has."""
        self.committed: dict[int, int] = {}
        self.workers = 0
        self.batches: list[int] = []
        """All that were ever added."""

    def apply(self, *changes: Change) -> None:
        self.memory.apply(changes)
        self.sqlite.apply(changes)

    def commit(self) -> None:
        self.memory.commit()
        self.sqlite.commit()
        self.committed = dict(self.totals)

    def crash(self) -> None:
        self.memory.crash()
        self.memory.open()
        self.sqlite._db.close()
        self.sqlite = SqliteJournal(self.path)
        self.totals = dict(self.committed)
        self.workers = len(self.memory.workers())

    def same(self, name: str, *arguments: Any) -> Any:
        """Both answers, which are one."""
        one = plain(getattr(self.memory, name)(*arguments))
        other = plain(getattr(self.sqlite, name)(*arguments))
        assert one == other, (name, arguments)
        return one

    # --- what is written -------------------------------------------------------------------

    def step(self) -> None:
        rng = self.rng
        number = rng.choice(list(self.totals)) if self.totals else 0
        match rng.choice("cccrrrrmmmmssshwqtexobbk" if self.totals else "c"):
            case "c":
                self.add_campaign()
            case "r":
                self.add_recipients(number)
            case "m":
                self.apply(SetMessages([self.message(number) for _ in range(rng.randint(1, 5))]))
            case "s":
                rows = [self.message(number) for _ in range(rng.randint(1, 5))]
                self.apply(SetSent([(r[0], r[2], r[3], r[4], r[5], r[6], r[7]) for r in rows]))
            case "h":
                ids = [self.message(number)[0] for _ in range(rng.randint(1, 3))]
                self.apply(SetHistory([(id_, bytes([0x91, rng.randint(0, 9)])) for id_ in ids]))
            case "w":
                self.set_worker()
            case "q":
                self.set_quota()
            case "t":
                self.apply(self.set_campaign(number))
            case "e":
                self.commit()
            case "x":
                self.crash()
            case "o":
                self.reopen(number)
            case "b":
                self.add_or_end_batch(number)
            case "k":
                self.compact()

    def add_campaign(self) -> None:
        number = max(self.totals, default=0) + self.rng.randint(1, 3)
        campaign = Campaign(
            number, f"c{number}", f"s{number}", b"template", b"print", Options(name="n"), 5, 1_000
        )
        self.apply(AddCampaign(campaign))
        self.totals[number] = 0

    def add_recipients(self, number: int) -> None:
        if self.same("campaign", f"c{number}")[1]["compacted_at"]:
            return  # it had ended: no more recipients come
        count = self.rng.randint(1, RECIPIENTS_MAX)
        rows = [Recipient(f"U{self.rng.randint(0, 9)}@example.com", b"\x90") for _ in range(count)]
        self.apply(AddRecipients(number, self.totals[number], rows))
        self.totals[number] += count

    def message(self, number: int) -> tuple[int, int, int, int, str, int, int, int, int | None, bytes | None]:
        rng = self.rng
        state = rng.choice([Stored.DEFERRED, Stored.DEFERRED, Stored.HELD, Stored.SENT, Stored.BOUNCED])
        due_at = rng.randint(1, 50) if state is Stored.DEFERRED else None
        id_ = message_id(number, rng.randint(0, RECIPIENTS_MAX))  # maybe one that doesn't exist
        return (
            id_, int(state), rng.randint(0, 3), rng.choice([0, 250, 450]), rng.choice(["", "ok"]),
            rng.randint(0, 3), rng.choice([0, 7]), rng.choice([0, 9]), due_at, rng.choice([None, b"\x90"]),
        )  # fmt: skip

    def set_campaign(self, number: int) -> SetCampaign:
        rng = self.rng
        return SetCampaign(
            number=number,
            phase=int(rng.choice(list(Phase))),
            chunks=rng.randint(0, 3),
            total=self.totals[number],
            counts={int(Stored.SENT): rng.randint(0, 9), int(Stored.DEFERRED): rng.randint(0, 3)},
            attempts=rng.randint(0, 9),
            unknown=rng.randint(0, 2),
            duplicates=rng.randint(0, 2),
            marks=rng.choice([(), (message_id(number, 0) - 1, message_id(number, 3))]),
            expire_at=rng.randint(1, 99),
            finished_at=rng.choice([0, 0, 77]),
            closed_as=rng.choice([None, int(Stored.EXPIRED)]),
            recount=rng.random() < 0.2,
            restored=rng.random() < 0.2,
        )

    def set_worker(self) -> None:
        rng = self.rng
        number = rng.randint(1, self.workers + 1)
        self.workers = max(self.workers, number)
        words = (rng.choice(["ready", "drain"]), rng.choice([0, 50]), rng.choice([0, 3]))
        self.apply(SetWorker(f"w{number}", number, f"relay{rng.randint(0, 2)}", "log", 3, *words, False))

    def set_quota(self) -> None:
        rng = self.rng
        stored = StoredBucket(((Quota(9, 60.0), ((5, rng.randint(1, 9)),)),), 2)
        self.apply(SetQuota(rng.choice(["server:a", "server:b"]), rng.choice([None, stored, stored])))

    def add_or_end_batch(self, number: int) -> None:
        rng = self.rng
        if self.batches and rng.random() < 0.5:
            self.apply(EndBatches(rng.sample(self.batches, min(2, len(self.batches)))))
            return
        self.batches.append((7 << 32) + len(self.batches))
        indices = sorted(rng.sample(range(RECIPIENTS_MAX), 3))  # maybe some that don't exist
        attempts = [(index, rng.randint(1, 3)) for index in indices]
        self.apply(AddBatch(self.batches[-1], number, rng.randint(1, 3), attempts))

    def reopen(self, number: int) -> None:
        """RETRY_FAILED, as broker.reopening does it."""
        self.memory.reopen(number)
        self.sqlite.reopen(number)
        if self.rng.random() < 0.5:
            self.same("end_open_rows", number, 0, self.totals[number], Stored.EXPIRED)
        first = self.rng.randint(0, 5)
        self.same("restate", number, first, self.totals[number], (Stored.BOUNCED, Stored.HELD), 44)

    def compact(self) -> None:
        """Retention, until nothing is left to do: the two differ in how much they do in a step."""
        before = self.rng.choice([50, 78])
        for journal in (self.memory, self.sqlite):
            for _ in range(100):
                if not journal.compact(before, 99).more:
                    break
            else:
                raise AssertionError("it never ends")

    # --- what is read ----------------------------------------------------------------------

    def compare(self) -> None:
        rng = self.rng
        for name in ("campaigns", "workers", "quotas", "batches", "newest_end"):
            self.same(name)
        self.same("meta", "compacted")
        self.same("meta", "compacted_upto")
        self.same("newest_campaigns", 3)
        self.same("trace", f"u{rng.randint(0, 9)}@EXAMPLE.com", 20)
        for number, total in self.totals.items():
            self.same("campaign", f"c{number}")
            self.same("campaign_by_number", number)
            self.same("campaign_by_submission", f"s{number}")
            start = message_id(number, 0) - 1 + rng.randint(0, 5)
            self.same("fresh", start, message_id(number, rng.randint(0, total + 2)), rng.randint(1, 9))
            self.same("retries", number, (rng.randint(0, 30), 0), rng.randint(1, 60), rng.randint(1, 9))
            self.same("stored", [message_id(number, index) for index in (0, 3, 99)])
            self.same("report", number, rng.randint(-1, 3), total, [], 50)
            self.same("report", number, -1, total, [Stored.SENT, Stored.DEFERRED], rng.randint(1, 9))
        assert self.same("campaign", "nobody") is None


def plain(answer: Any) -> Any:
    """An answer that can be compared: campaigns and workers are compared by what they hold."""
    if isinstance(answer, list):
        return [plain(one) for one in answer]
    if type(answer).__module__.startswith("broker.core") and hasattr(type(answer), "__slots__"):
        names = [name for name in type(answer).__slots__ if not name.startswith("_")]
        return type(answer).__name__, {name: getattr(answer, name) for name in names}
    return answer


@pytest.mark.parametrize("seed", range(15))
def test_both_answer_alike(seed: int, tmp_path: Path) -> None:
    pair = Pair(seed, tmp_path / "journal.db")
    for number in range(STEPS):
        pair.step()
        if number % 10 == 0:
            pair.compare()
    pair.crash()
    pair.compare()
    assert len(pair.totals) > 3
    pair.sqlite.close()


def test_each_opening_jumps_ahead() -> None:
    journal = MemoryJournal(random.Random(1))
    boots, numbers = [], []
    for _ in range(3):
        journal.open()
        boots.append(journal.boot)
        numbers.append(journal.next_campaign_number())
    assert sorted(set(boots)) == boots
    assert sorted(set(numbers)) == numbers
