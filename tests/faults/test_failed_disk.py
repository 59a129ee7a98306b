"""A disk that fails or fills up, under the journal: no acknowledgement, a clear word, and nothing lost."""

import random
from pathlib import Path

import apsw
import pytest

from broker.core.commands import SetSent
from broker.core.message_state import message_id
from broker.disk_space import DiskSpace, Room
from broker.journal.group_commit import GroupCommit
from broker.journal.sqlite import SqliteJournal
from broker.journal.store import JournalError
from tests.faults.power import Disk
from tests.faults.power_vfs import PowerVfs
from tests.unit.broker.test_sqlite_journal import fill


def failure(kind: type[apsw.Error], code: int) -> apsw.Error:
    error = kind("a test's own")
    error.extendedresult = code
    return error


EIO_SYNC = failure(apsw.IOError, apsw.SQLITE_IOERR_FSYNC)
EIO_WRITE = failure(apsw.IOError, apsw.SQLITE_IOERR_WRITE)
FULL = failure(apsw.FullError, apsw.SQLITE_FULL)


def sent(index: int) -> SetSent:
    return SetSent([(message_id(1, index), 1, 250, "2.0.0 Ok", 1, 5, 9)])


def die(journal: SqliteJournal) -> None:
    """kill -9: nothing is tidied up."""
    journal._db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
    journal._db.close()


def states(path: Path) -> list[int]:
    journal = SqliteJournal(path)
    try:
        return [line.state for line in journal.report(1, -1, 99, [], 99)]
    finally:
        journal.close()


@pytest.mark.parametrize(
    ("fail", "error", "what"),
    [
        ("fail_sync", EIO_SYNC, "can't flush the journal .*look after its disk"),
        ("fail_write", EIO_WRITE, "can't flush the journal .*look after its disk"),
        ("fail_write", FULL, "can't flush the journal .*make room on the disk of .* and start the broker"),
    ],
)
def test_a_commit_that_fails_acknowledges_nothing(
    fail: str, error: apsw.Error, what: str, tmp_path: Path
) -> None:
    path = tmp_path / "journal.db"
    with PowerVfs("failing") as vfs:
        journal = SqliteJournal(path, vfs=vfs.name)
        fill(journal, 1, ["a@example.com", "b@example.com"])
        acks: list[str] = []
        queue = GroupCommit(journal, lambda: None)
        queue.write([sent(0)], lambda: acks.append("first"))
        queue.finish()
        setattr(vfs, fail, error)
        queue = GroupCommit(journal, lambda: None)
        queue.write([sent(1)], lambda: acks.append("second"))
        with pytest.raises(JournalError, match=what):
            queue.finish()
        assert acks == ["first"]
        setattr(vfs, fail, None)
        die(journal)
    assert states(path)[0] == 3


def test_what_a_failed_flush_left_in_memory_is_not_built_upon(tmp_path: Path) -> None:
    """Linux marks pages clean whose flush failed. A new process sees them and would append to a WAL with a
    hole in it: at the next power cut all behind that would be gone, though it was acknowledged."""
    path = tmp_path / "journal.db"
    with PowerVfs("fsync-gate") as vfs:
        journal = SqliteJournal(path, vfs=vfs.name)
        fill(journal, 1, ["a@example.com", "b@example.com", "c@example.com"])
        vfs.fail_sync = EIO_SYNC
        journal.apply([sent(0)])
        with pytest.raises(JournalError):
            journal.commit()
        die(journal)
        vfs.fail_sync = None
        journal = SqliteJournal(path, vfs=vfs.name)
        journal.apply([sent(1)])
        journal.commit()  # acknowledged
        ops = vfs.ops[:]
        journal.close()
    disk = Disk()
    for op in ops:
        disk.do(op)
    for seed in range(20):
        folder = tmp_path / f"cut{seed}"
        folder.mkdir()
        for name, left in disk.after_cut(random.Random(seed)).items():
            (folder / name).write_bytes(left)
        assert states(folder / "journal.db")[1] == 3, f"seed {seed}"


class Log:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def info(self, event: str, **fields: object) -> None:
        self.lines.append(event)

    def warning(self, event: str, **fields: object) -> None:
        self.lines.append(f"{event}: {fields['stopped']}")


def test_the_broker_stops_before_the_disk_is_full_and_goes_on_by_itself(tmp_path: Path) -> None:
    log, free = Log(), [0]
    disk = DiskSpace(tmp_path / "journal.db", 100, log, lambda folder: free[0])
    seen = []
    for free[0] in (1_000, 99, 98, 101, 24, 26, 29, 105, 113, 1_000):
        disk.look()
        seen.append(disk.room)
    some, none, everything = Room.NO_SUBMISSIONS, Room.NOTHING_NEW, Room.ALL
    assert seen == [everything, some, some, some, none, none, some, some, everything, everything]
    assert log.lines == [
        "journal.disk_low: submissions",
        "journal.disk_low: submissions and sending",
        "journal.disk_low: submissions",
        "journal.disk_ok",
    ]


def test_a_reserve_of_nothing_never_looks(tmp_path: Path) -> None:
    disk = DiskSpace(tmp_path / "journal.db", 0, Log(), lambda folder: 0)
    disk.look()
    assert disk.room is Room.ALL
