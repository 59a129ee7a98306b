"""Copies of a journal, and other files in its place."""

import os
import random
import signal
import time
from pathlib import Path

import apsw
import pytest

from broker.core.commands import AddCampaign, SetCampaign
from broker.core.message_state import Stored
from broker.core.state import Phase
from broker.journal import copying
from broker.journal.checking import check
from broker.journal.copying import open_alone
from broker.journal.replacing import restore, rewrite
from broker.journal.sqlite import SqliteJournal
from broker.journal.store import JournalError, JournalInUseError
from tests.unit.broker.test_sqlite_journal import campaign, fill, sent


def copied(journal: SqliteJournal, file: Path, *, force: bool = False) -> Path:
    copy = journal.copy_to(file, force)
    while not copy.step(0.01):
        pass
    copy.finish()
    return file


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def journal(tmp_path: Path) -> SqliteJournal:
    return SqliteJournal(tmp_path / "journal.db")


def test_a_copy_has_what_was_committed_while_it_was_made(
    journal: SqliteJournal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in pages that had been copied already: it is the journal as of its end."""
    monkeypatch.setattr(copying, "PAGES_A_STEP", 1)
    fill(journal, 1, [f"user{n}@example.com" for n in range(3_000)])
    copy = journal.copy_to(tmp_path / "copy.db", False)
    steps = 0
    while not copy.step(0.0):
        steps += 1
        journal.apply([sent(steps)])
        if steps < 30:  # it grows, too
            fill(journal, steps + 1, ["someone@example.com"] * 20)
        journal.commit()
        assert steps < 2_000, "it never ends"
    assert copy.finish() == (tmp_path / "copy.db").stat().st_size
    assert copy.copied == copy.pages > 50 and steps > 50
    found = check(tmp_path / "copy.db")
    assert found.problems == [] and len(found.campaigns) == 30
    db = apsw.Connection(str(tmp_path / "copy.db"))
    assert db.execute("SELECT count(*) FROM message WHERE state = 3").get == steps
    assert (tmp_path / "copy.db").stat().st_mode & 0o777 == 0o600
    journal.close()
    assert files(tmp_path) == ["copy.db", "journal.db"]


def test_a_copy_that_is_given_up_leaves_nothing_and_what_was_there(
    journal: SqliteJournal, tmp_path: Path
) -> None:
    fill(journal, 1, [f"user{n}@example.com" for n in range(3_000)])
    (tmp_path / "copy.db").write_text("an older one")
    with pytest.raises(JournalError, match="is there already"):
        journal.copy_to(tmp_path / "copy.db", False)
    copy = journal.copy_to(tmp_path / "copy.db", True)
    copy.step(0.0)
    copy.drop()
    assert (tmp_path / "copy.db").read_text() == "an older one"
    assert files(tmp_path) == ["copy.db", "journal.db", "journal.db-wal"]
    copied(journal, tmp_path / "copy.db", force=True)
    assert check(tmp_path / "copy.db").problems == []
    with pytest.raises(JournalError, match="No such file"):
        journal.copy_to(tmp_path / "nowhere" / "copy.db", False)


def test_a_copy_never_takes_the_place_of_its_journal(
    journal: SqliteJournal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not by another spelling of its name, not as FILE.part, not that of a file beside it."""
    fill(journal, 1, ["a@example.com"])
    (tmp_path / "link").symlink_to(tmp_path)
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path)
    before = {path.name: path.stat().st_ino for path in tmp_path.iterdir()}
    for file in (
        tmp_path / "link/journal.db", tmp_path / "sub/../journal.db", Path("journal.db"),
        tmp_path / "journal.db-wal", tmp_path / "link/journal.db-shm", tmp_path / "journal.db-journal",
        tmp_path / "journal.db.control",
    ):  # fmt: skip
        with pytest.raises(JournalError, match="the journal's own"):
            journal.copy_to(file, True)
    for file in (Path("/"), tmp_path / "a\0b", tmp_path / "\udcff"):
        with pytest.raises(JournalError, match="can't be a file's name"):
            journal.copy_to(file, True)
    assert {path.name: path.stat().st_ino for path in tmp_path.iterdir()} == before
    other = SqliteJournal(tmp_path / "sub" / "x.part")
    with pytest.raises(JournalError, match="the journal's own"):
        other.copy_to(tmp_path / "sub" / "x", True)
    assert other.path.exists()


def test_a_restore_spares_the_copy_that_it_restores(journal: SqliteJournal, tmp_path: Path) -> None:
    """What an interrupted backup or restore left is called journal.db.part, too."""
    fill(journal, 1, ["a@example.com"])
    part = copied(journal, tmp_path / "journal.db.part")
    content = part.read_bytes()
    journal.close()
    for file, said in ((part, "rename it"), (journal.path, "is the journal itself")):
        (tmp_path / "link").symlink_to(tmp_path)
        for name in (file, tmp_path / "link" / file.name):
            with pytest.raises(JournalError, match=said):
                restore(name, journal.path, force=True)
        (tmp_path / "link").unlink()
    assert part.read_bytes() == content and len(check(journal.path).campaigns) == 1


def test_damage_is_found(journal: SqliteJournal, tmp_path: Path) -> None:
    fill(journal, 1, [f"user{n}@example.com" for n in range(3_000)])
    copy = copied(journal, tmp_path / "copy.db")
    damaged = tmp_path / "damaged.db"
    content = bytearray(copy.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 4096] = b"\xff" * 4096
    damaged.write_bytes(content)
    assert check(damaged).problems
    with pytest.raises(JournalError, match="is damaged"):
        restore(damaged, tmp_path / "new.db", force=False)
    assert not (tmp_path / "new.db").exists()
    db = apsw.Connection(str(copy))
    db.execute("DELETE FROM message WHERE id & 7 = 0")
    db.close()
    assert check(copy).problems == ["campaign c1: 375 of 3000 rows are missing"]


def test_a_restored_journal_sends_nothing_by_itself(journal: SqliteJournal, tmp_path: Path) -> None:
    """Neither what ran nor what was still coming in; what had ended stays as it is."""
    running, opened, ended = (
        fill(journal, 1, ["a@example.com"] * 3),
        campaign(2),
        fill(journal, 3, ["b@x.org"]),
    )
    ended.phase, ended.finished_at, ended.counts = Phase.FINISHED, 5, {Stored.SENT: 1}
    journal.apply([AddCampaign(opened), SetCampaign.of(ended), sent(0), sent(0, number=3)])
    journal.commit()
    copy = copied(journal, tmp_path / "copy.db")
    boot, number = journal.boot, journal.next_campaign_number()
    journal.close()
    found = restore(copy, tmp_path / "new.db", force=False)
    assert [(held.campaign, held.open) for held in found.held] == [("c1", False), ("c2", True)]
    assert (found.campaigns, found.moved) == (3, None)
    assert files(tmp_path) == ["copy.db", "journal.db", "new.db"]
    assert (tmp_path / "new.db").stat().st_mode & 0o777 == 0o600
    new = SqliteJournal(tmp_path / "new.db")
    assert {c.id: (c.phase, c.restored) for c in new.campaigns()} == {
        "c1": (Phase.PAUSED, True),
        "c2": (Phase.OPEN, True),
    }
    old = new.campaign("c3")
    assert old is not None and old.phase is Phase.FINISHED and running.phase is Phase.ACTIVE
    # What the lost journal gave out after the backup means nothing here.
    assert boot + 2**24 <= new.boot < 2**31 and number + 2**24 <= new.next_campaign_number() < 2**31


def test_a_journal_in_use_is_not_replaced(journal: SqliteJournal, tmp_path: Path) -> None:
    fill(journal, 1, ["a@example.com"])
    copy = copied(journal, tmp_path / "copy.db")
    for force, said in ((False, "--force moves it aside"), (True, "in use by a broker")):
        with pytest.raises(JournalError, match=said):
            restore(copy, journal.path, force=force)
    with pytest.raises(JournalError, match="in use by a broker"):
        rewrite(journal.path)
    journal.close()
    found = restore(copy, journal.path, force=True)
    assert found.moved is not None and check(found.moved).problems == []
    assert files(tmp_path) == sorted(["copy.db", "journal.db", found.moved.name])
    assert check(journal.path).campaigns[0].state == "paused"


def test_a_journal_that_is_damaged_is_moved_aside(journal: SqliteJournal, tmp_path: Path) -> None:
    fill(journal, 1, ["a@example.com"])
    copy = copied(journal, tmp_path / "copy.db")
    journal.close()
    journal.path.write_text("no database at all " * 1_000)
    (tmp_path / "journal.db-wal").write_text("nor this")
    found = restore(copy, journal.path, force=True)
    assert found.moved is not None and found.moved.read_text().startswith("no database")
    assert not (tmp_path / "journal.db-wal").exists()
    SqliteJournal(journal.path).close()


def test_nobody_gets_in_while_a_journal_is_replaced(
    journal: SqliteJournal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broker that is started in the middle of it ends, and doesn't go on with a file that has no name."""
    fill(journal, 1, ["a@example.com"])
    copy = copied(journal, tmp_path / "copy.db")
    journal.close()
    refused = []

    def flush(path: Path) -> int:
        if path.parent == tmp_path:
            with pytest.raises(JournalInUseError):
                open_alone(journal.path)
            refused.append(path.name)
        return 0

    monkeypatch.setattr("broker.journal.copying.flush", flush)
    restore(copy, journal.path, force=True)
    rewrite(journal.path)
    assert refused == ["journal.db.part", "journal.db.part"]


def test_an_older_journal_shrinks_once_it_was_rewritten(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    journal = SqliteJournal(path)
    fill(journal, 1, [f"user{n}@example.com" for n in range(5_000)])
    journal.close()
    db = apsw.Connection(str(path))
    db.execute("PRAGMA journal_mode = DELETE; PRAGMA auto_vacuum = NONE; VACUUM").fetchall()
    db.execute("DELETE FROM message WHERE id & 1")
    assert db.pragma("auto_vacuum") == 0
    db.close()
    before, after = rewrite(path)
    assert after < before * 0.8 and path.stat().st_size == after
    journal = SqliteJournal(path)
    assert journal._db.pragma("auto_vacuum") == 2 and journal._db.pragma("freelist_count") == 0


def test_a_rewrite_that_is_killed_at_any_moment_leaves_a_whole_journal(
    journal: SqliteJournal, tmp_path: Path
) -> None:
    """As `evenpost-broker compact` under `kill -9`: the old journal or the new one, with all its messages."""
    fill(journal, 1, [f"user{n}@example.com" for n in range(20_000)])
    path = journal.path
    journal.close()
    whole = path.read_bytes()
    seed = random.randrange(2**32)
    print("seed", seed)
    rng = random.Random(seed)
    killed = 0
    for _ in range(25):
        path.write_bytes(whole)
        child = os.fork()
        if child == 0:  # it must not come back to pytest, whatever happens
            try:
                rewrite(path)
            finally:
                os._exit(0)
        time.sleep(rng.uniform(0.0, 0.06))  # where it is by then is chance, and that is the point
        os.kill(child, signal.SIGKILL)
        killed += os.WIFSIGNALED(os.waitpid(child, 0)[1])
        found = check(path)
        assert found.problems == [], found.problems
        assert [c.rows for c in found.campaigns] == [20_000]
        SqliteJournal(path).close()
    assert killed, "it was always done sooner"
