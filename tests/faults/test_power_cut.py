"""The power is cut at any moment: the journal opens, is whole, and has all that was acknowledged.

The real GroupCommit drives the real SqliteJournal; between it and the file system a VFS notes every write
and sync. Each cut is a disk made of what was synced by then and a random part of the rest.
"""

import random
import threading
import time
from pathlib import Path
from typing import Any

import apsw
import pytest

from broker.core.commands import (
    AddCampaign,
    AddRecipients,
    Change,
    SetCampaign,
    SetMessages,
    SetSent,
    SetWorker,
)
from broker.core.message_state import Stored, message_id
from broker.core.state import Campaign, Phase
from broker.journal import schema
from broker.journal.group_commit import GroupCommit
from broker.journal.sqlite import SqliteJournal
from evenpost.wire.messages import Options, Recipient
from tests.faults.power import Disk, acknowledged, cut_points
from tests.faults.power_vfs import PowerVfs

SEEDS = [11, 12]
CUTS = 100
GROUPS = 60
CHECKPOINT_PAGES = 60
"""Far fewer than the journal's own: so the file itself, and not only the WAL, is written all the time."""

Content = tuple[tuple[Any, ...], ...]


def content(db: apsw.Connection) -> Content:
    """All rows of all tables but `meta`, which each opening changes."""
    names = [n for (n,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")]
    tables = [db.execute(f"SELECT * FROM {name}").fetchall() for name in names if name != "meta"]
    return tuple(tuple(rows) for rows in tables)


class Remembering(SqliteJournal):
    """A journal that notes what each commit is about to make true."""

    def __init__(self, path: Path, vfs: str) -> None:
        super().__init__(path, vfs=vfs)
        self.commits: list[Content] = [content(self._db)]

    def commit(self) -> None:
        self._set_campaigns()
        self.commits.append(content(self._db))
        super().commit()


class Workload:
    """Submissions, outcomes, deferrals, RETRY_FAILED: drawn from the seed, written by the real queue."""

    def __init__(self, seed: int, path: Path, vfs: PowerVfs, pragmas: tuple[str, ...]) -> None:
        self.rng = random.Random(seed)
        self.vfs = vfs
        self.journal = Remembering(path, vfs.name)
        for pragma in (f"wal_autocheckpoint = {CHECKPOINT_PAGES}", *pragmas):
            self.journal._db.execute(f"PRAGMA {pragma}")
        if self.rng.random() < 0.5:
            self.journal._db.execute("PRAGMA cache_size = 10")  # pages leave memory before their COMMIT
        self._woken = threading.Event()
        self._queue = GroupCommit(self.journal, self._woken.set)
        self.acks: list[int] = []
        """For each commit that was acknowledged: the operations that the disk had seen by then."""
        self._campaigns: list[Campaign] = []
        self.opened = len(vfs.ops)

    def run(self) -> None:
        for _ in range(GROUPS):
            for _ in range(self.rng.randint(1, 4)):
                self._ask()
            self._flush()
        self._queue.finish()

    def _flush(self) -> None:
        deadline = time.monotonic() + 20
        while not self._queue.idle:
            self._queue.step(float("inf"))
            assert self._queue.idle or self._woken.wait(deadline - time.monotonic()), "a commit hangs"
            self._woken.clear()

    def _write(self, *changes: Change) -> None:
        self._queue.write(changes, self._acknowledged)

    def _acknowledged(self) -> None:
        self.acks.extend([len(self.vfs.ops)] * (len(self.journal.commits) - 1 - len(self.acks)))

    def _ask(self) -> None:
        rng = self.rng
        if not self._campaigns or rng.random() < 0.15:
            self._submit()
            return
        campaign = rng.choice(self._campaigns)
        ids = [message_id(campaign.number, rng.randrange(campaign.total)) for _ in range(rng.randint(1, 60))]
        match rng.choice("sssmmrw"):
            case "s":
                campaign.count(Stored.SENT, len(ids))
                rows = [(id_, 1, 250, "2.0.0 Ok", 1, 5, 9) for id_ in ids]
                self._write(SetSent(rows), SetCampaign.of(campaign))
            case "m":
                state = rng.choice([Stored.DEFERRED, Stored.BOUNCED, Stored.HELD])
                due = 77 if state is Stored.DEFERRED else None
                self._write(
                    SetMessages([(i, int(state), 1, 450, "later", 1, 5, 9, due, b"\x90") for i in ids])
                )
            case "r":
                self._restate(campaign)
            case "w":
                number = rng.randint(1, 3)
                log = f"log{rng.randrange(1000)}"
                self._write(SetWorker(f"w{number}", number, "relay:25", log, 7, "ready", 0, 0, False))

    def _submit(self) -> None:
        number, total = len(self._campaigns) + 1, self.rng.choice([1, 40, 600])
        made = Campaign(number, f"c{number}", f"s{number}", b"T" * 300, b"F", Options(), 5, 9)
        rows = [Recipient(f"user{n}@example.com", b"\x91\xa5" + b"v" * 60) for n in range(total)]
        self._write(AddCampaign(made))
        self._write(AddRecipients(number, 0, rows))
        made.total, made.phase = total, Phase.ACTIVE
        self._write(SetCampaign.of(made))
        self._campaigns.append(made)

    def _restate(self, campaign: Campaign) -> None:
        journal, number = self.journal, campaign.number

        def run() -> object:
            journal.reopen(number)
            return journal.restate(number, 0, campaign.total, [Stored.BOUNCED, Stored.HELD], 99)

        self._queue.write_call(run, lambda _: self._acknowledged(), 1)


def cut_and_open(seed: int, tmp_path: Path, cuts: int, pragmas: tuple[str, ...] = ()) -> int:
    """Cuts the power at many moments of one history, and says at how many."""
    (tmp_path / "live").mkdir()
    with PowerVfs(f"power-{seed}-{len(pragmas)}") as vfs:
        work = Workload(seed, tmp_path / "live" / "journal.db", vfs, pragmas)
        work.run()
        ops, commits, acks = vfs.ops[:], work.journal.commits[:], work.acks
        work.journal.close()
    assert len(acks) == len(commits) - 1 > GROUPS / 2
    rng = random.Random(seed)
    disk, done = Disk(), 0
    for cut in cut_points(ops, rng, cuts):
        for op in ops[done:cut]:
            disk.do(op)
        done = cut
        folder = tmp_path / f"cut{cut}"
        folder.mkdir()
        for name, left in disk.after_cut(rng).items():
            (folder / name).write_bytes(left)
        where = f"seed {seed}, power cut after operation {cut} of {len(ops)}"
        check(folder / "journal.db", commits, acknowledged(acks, cut), work.opened <= cut, where)
    return len(list(tmp_path.glob("cut*")))


def check(path: Path, commits: list[Content], acked: int, opened: bool, where: str) -> None:
    """What a broker finds is what one of the commits made, and none that was acknowledged is missing."""
    assert path.exists() or not opened, where
    if opened:
        # Read as it is: a broker makes a campaign's counts anew after a RETRY_FAILED that was cut short.
        db = apsw.Connection(str(path))
        assert db.pragma("integrity_check") == "ok", where
        found = content(db)
        db.close()
        assert found in commits[acked:], f"{where}: {acked} commits were acknowledged, and they aren't there"
    journal = SqliteJournal(path)
    assert journal._db.pragma("user_version") == schema.VERSION, where
    assert len(journal.campaigns()) >= 0 < journal.next_campaign_number(), where
    journal.close()


@pytest.mark.parametrize("seed", SEEDS)
def test_what_was_acknowledged_survives_a_power_cut_at_any_moment(seed: int, tmp_path: Path) -> None:
    print(f"seed {seed}")
    assert cut_and_open(seed, tmp_path, CUTS) == CUTS


@pytest.mark.parametrize("synchronous", ["OFF", "NORMAL"])
def test_a_weaker_flush_is_caught(synchronous: str, tmp_path: Path) -> None:
    """The test above can fail: without a sync at each commit, what was acknowledged is lost."""
    with pytest.raises(AssertionError, match="were acknowledged, and they aren't there"):
        cut_and_open(SEEDS[0], tmp_path, CUTS, (f"synchronous = {synchronous}",))
