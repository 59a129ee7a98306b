"""The journal on a real file."""

import sqlite3
import subprocess
import sys
from pathlib import Path

import apsw
import pytest

from broker.core.buckets import Bucket
from broker.core.commands import (
    AddCampaign,
    AddRecipients,
    SetCampaign,
    SetMessages,
    SetQuota,
    SetSent,
    SetWorker,
)
from broker.core.message_state import Stored, message_id
from broker.core.state import Campaign, Phase
from broker.journal import schema
from broker.journal.reads import address_hash
from broker.journal.sqlite import SqliteJournal
from broker.journal.store import JournalError
from evenpost.runtime.clock import Now
from evenpost.schedule.rate import Quota
from evenpost.wire import codec
from evenpost.wire.messages import Options, Recipient

WALL = 1_790_000_000_000


def campaign(number: int = 1, **fields: object) -> Campaign:
    return Campaign(number, f"c{number}", f"s{number}", b"T", b"F", Options(), WALL, WALL + 1000, **fields)  # type: ignore[arg-type]  # a test's own


def fill(journal: SqliteJournal, number: int, addresses: list[str], chunk: int = 300) -> Campaign:
    made = campaign(number)
    journal.apply([AddCampaign(made)])
    for first in range(0, len(addresses), chunk):
        rows = [Recipient(a, codec.pack_values([a])) for a in addresses[first : first + chunk]]
        journal.apply([AddRecipients(number, first, rows)])
    made.total, made.phase = len(addresses), Phase.ACTIVE
    journal.apply([SetCampaign.of(made)])
    journal.commit()
    return made


@pytest.fixture
def journal(tmp_path: Path) -> SqliteJournal:
    return SqliteJournal(tmp_path / "journal.db")


def sent(index: int, state: Stored = Stored.SENT, due: int | None = None, number: int = 1) -> SetMessages:
    row = (message_id(number, index), state, 1, 250, "ok", 1, WALL, WALL + 5, due, None)
    return SetMessages([row])


def test_what_is_committed_is_there_after_the_process_dies(tmp_path: Path) -> None:
    """The child kills itself after a commit and in the middle of the next transaction."""
    path = tmp_path / "journal.db"
    child = f"""
import os, signal, sys
sys.path.insert(0, {str(Path(__file__).parents[3])!r})
from pathlib import Path
from tests.unit.broker.test_sqlite_journal import *
journal = SqliteJournal(Path({str(path)!r}))
fill(journal, 1, ["a@example.com", "b@example.com"])
journal.apply([sent(0)]); journal.commit()
journal.apply([sent(1)])
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", child]).returncode == -9
    journal = SqliteJournal(path)
    lines = journal.report(1, -1, 10, [], 10)
    assert [(line.address, line.state) for line in lines] == [("a@example.com", 3), ("b@example.com", 0)]


def test_a_second_broker_on_the_same_journal_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    first = SqliteJournal(path)
    with pytest.raises(JournalError, match="in use by another broker"):
        SqliteJournal(path)
    first.close()
    SqliteJournal(path).close()


def test_what_is_no_journal_is_refused(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("these are my notes, not a database\n" * 100)
    with pytest.raises(JournalError, match="isn't a database"):
        SqliteJournal(text)
    other = tmp_path / "other.db"
    with sqlite3.connect(other) as db:
        db.execute("CREATE TABLE people (name)")
    db.close()
    with pytest.raises(JournalError, match="another program"):
        SqliteJournal(other)
    with sqlite3.connect(other) as db:
        assert db.execute("SELECT name FROM sqlite_schema").fetchall() == [("people",)]
    db.close()
    with pytest.raises(JournalError, match="can't open"):
        SqliteJournal(tmp_path / "no such folder" / "journal.db")


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    SqliteJournal(path).close()
    db = apsw.Connection(str(path))
    db.execute(f"PRAGMA user_version = {schema.VERSION + 1}")
    db.close()
    with pytest.raises(JournalError, match="newer release"):
        SqliteJournal(path)


def test_it_is_flushed_at_each_commit(journal: SqliteJournal) -> None:
    pragmas = ["journal_mode", "synchronous", "locking_mode"]
    assert [journal._db.pragma(name) for name in pragmas] == ["wal", 2, "exclusive"]


def test_campaigns_come_back_as_they_were(journal: SqliteJournal) -> None:
    made = fill(journal, 1, ["a@example.com"] * 3)
    made.count(Stored.SENT, 2)
    made.attempts, made.unknown, made.duplicates, made.marks = 5, 1, 1, (message_id(1, 1),)
    journal.apply([SetCampaign.of(made)])
    (found,) = journal.campaigns()
    for name in ("id", "submission", "template", "options", "total", "counts", "attempts", "marks"):
        assert getattr(found, name) == getattr(made, name), name
    assert found.queued == 1
    made.finished_at = WALL
    journal.apply([SetCampaign.of(made)])
    assert journal.campaigns() == []
    assert journal.campaign("c1") and journal.campaign_by_submission("s1") and not journal.campaign("c9")


def test_fresh_messages_are_read_page_by_page_without_the_settled(journal: SqliteJournal) -> None:
    fill(journal, 1, [f"u{n}@example.com" for n in range(10)])
    fill(journal, 2, ["other@example.com"])
    journal.apply([sent(1), sent(4, Stored.DEFERRED, WALL)])
    page = journal.fresh(message_id(1, 0) - 1, message_id(2, 0), 5)
    assert [row[0] & 0xFF for row in page] == [0, 2, 3, 5, 6]
    assert page[0][1:] == ("u0@example.com", codec.pack_values(["u0@example.com"]), 0)
    assert [row[0] & 0xFF for row in journal.fresh(page[-1][0], message_id(2, 0), 5)] == [7, 8, 9]


def test_retries_come_in_the_order_they_are_due(journal: SqliteJournal) -> None:
    fill(journal, 1, [f"u{n}@example.com" for n in range(6)])
    journal.apply([SetWorker("w", 1, "s:25", "log", 1, "ready", 0, 0, False)])
    for index, due in [(0, 50), (1, 10), (2, 30), (3, 30), (4, 90)]:
        journal.apply([sent(index, Stored.DEFERRED, due)])
    rows, upto, next_due = journal.retries(1, (0, 0), 60, 3)
    assert [r.id & 0xFF for r in rows] == [1, 2, 3] and next_due == 50
    assert rows[0].worker == "w" and rows[0].attempts == 1
    rows, upto, next_due = journal.retries(1, upto, 60, 3)
    assert [r.id & 0xFF for r in rows] == [0] and next_due == 90
    assert journal.retries(1, upto, 60, 3) == ([], upto, 90)
    plan = journal._db.execute(
        "EXPLAIN QUERY PLAN SELECT due_at, id FROM message WHERE id >> 32 = 1 AND due_at IS NOT NULL"
        " AND (due_at, id) > (1, 1) ORDER BY due_at, id LIMIT 5"
    ).fetchall()
    assert "message_due" in str(plan) and "TEMP B-TREE" not in str(plan)


def test_a_report_is_paged_and_filtered(journal: SqliteJournal) -> None:
    fill(journal, 1, [f"u{n}@example.com" for n in range(10)])
    journal.apply([sent(3), sent(7)])
    assert [line.id & 0xFF for line in journal.report(1, 4, 9, [], 3)] == [5, 6, 7]
    assert [line.id & 0xFF for line in journal.report(1, -1, 9, [Stored.SENT], 10)] == [3, 7]
    assert [line.id & 0xFF for line in journal.report(1, -1, 5, [Stored.SENT], 10)] == [3]


@pytest.mark.parametrize("chunk", [1, 300])
def test_trace_finds_every_message_to_an_address(journal: SqliteJournal, chunk: int) -> None:
    many = [f"u{n}@example.com" for n in range(700)]
    fill(journal, 1, many, chunk if chunk > 1 else 50)
    fill(journal, 2, ["Someone@Example.com", "u3@example.com"], chunk)
    found = journal.trace("U3@example.com", 10)
    assert [(line.id >> 32, line.address) for line in found] == [(2, "u3@example.com"), (1, "u3@example.com")]
    assert journal.trace("someone@example.com", 10)[0].address == "Someone@Example.com"
    assert journal.trace("nobody@example.com", 10) == []


def test_restating_makes_failed_messages_due_and_survives_being_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    journal = SqliteJournal(path)
    made = fill(journal, 1, [f"u{n}@example.com" for n in range(4)])
    journal.apply([sent(0), sent(1, Stored.BOUNCED), sent(2, Stored.BOUNCED), sent(3, Stored.HELD)])
    made.counts = {Stored.SENT: 1, Stored.BOUNCED: 2, Stored.HELD: 1}
    made.phase, made.finished_at = Phase.FINISHED, WALL
    journal.apply([SetCampaign.of(made)])
    journal.reopen(1)
    assert journal.restate(1, 0, 2, [Stored.BOUNCED], WALL) == {Stored.BOUNCED: 1}
    journal.commit()
    journal._db.close()  # the broker dies before it has written the new counts
    journal = SqliteJournal(path)
    (found,) = journal.campaigns()
    assert found.counts == {Stored.SENT: 1, Stored.BOUNCED: 1, Stored.HELD: 1, Stored.DEFERRED: 1}


def test_a_disk_that_is_full_is_an_error_and_not_a_commit(tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path / "journal.db")
    fill(journal, 1, ["a@example.com"])
    journal._db.pragma("max_page_count", journal._db.pragma("page_count"))
    with pytest.raises(JournalError, match=r"can't (write|flush) the journal"):
        fill(journal, 2, [f"{'x' * 50}{n}@example.com" for n in range(5_000)])


def test_a_hash_is_only_a_hint(journal: SqliteJournal) -> None:
    fill(journal, 1, ["somebody@example.com", "else@example.com"])
    (line,) = journal.trace("somebody@example.com", 10)
    collision = (0, address_hash("nobody@example.com"), line.id)
    journal._db.execute("INSERT INTO address (run, hash, id) VALUES (?, ?, ?)", collision)
    assert journal.trace("nobody@example.com", 10) == []


def test_the_first_attempt_is_remembered(journal: SqliteJournal) -> None:
    fill(journal, 1, ["a@example.com"])
    journal.apply([sent(0, Stored.DEFERRED, WALL)])
    later = (message_id(1, 0), 2, 250, "ok", 1, WALL + 900, WALL + 905)
    journal.apply([SetSent([later])])
    (line,) = journal.report(1, -1, 0, [], 10)
    assert (line.first_at, line.last_at, line.attempts, line.state) == (WALL, WALL + 905, 2, Stored.SENT)


def test_no_two_journals_and_no_two_openings_share_their_numbers(tmp_path: Path) -> None:
    """Workers keep batches and outcomes by number: another journal's must not mean something here."""
    journals = [SqliteJournal(tmp_path / f"{n}.db") for n in range(20)]
    assert len({j.boot for j in journals}) == len({j.next_campaign_number() for j in journals}) == 20
    assert all(0 < j.boot < 2**31 and 0 < j.next_campaign_number() < 2**31 for j in journals)
    number, boot = journals[0].next_campaign_number(), journals[0].boot
    fill(journals[0], number, ["a@example.com"])
    assert journals[0].next_campaign_number() == number + 1
    for journal in journals:
        journal.close()
    reopened = SqliteJournal(tmp_path / "0.db")
    assert reopened.boot > boot and reopened.next_campaign_number() > number


def test_nobody_else_on_the_machine_can_read_it(tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path / "journal.db")
    fill(journal, 1, ["a@example.com"])
    modes = {file.name: file.stat().st_mode & 0o777 for file in tmp_path.iterdir()}
    assert set(modes.values()) == {0o600}, modes


def test_every_write_that_fails_is_a_journal_error(journal: SqliteJournal) -> None:
    made = fill(journal, 1, ["a@example.com"])
    journal._db.execute("ALTER TABLE message RENAME TO gone")
    journal._db.execute("ALTER TABLE campaign RENAME TO gone_too")
    for write in (
        lambda: journal.restate(1, 0, 1, [Stored.BOUNCED], WALL),
        lambda: journal.end_open_rows(1, 0, 1, Stored.EXPIRED),
        lambda: journal.reopen(1),
        lambda: journal.apply([sent(0)]),
        lambda: journal.apply([SetCampaign.of(made)]) or journal.campaigns(),
    ):
        with pytest.raises(JournalError):
            write()


def test_a_journal_of_version_1_is_migrated(tmp_path: Path) -> None:
    """Written by the release before rates: its campaigns go on, and an operator's drain still stands."""
    path = tmp_path / "old.db"
    db = apsw.Connection(str(path))
    db.execute((Path(__file__).parents[2] / "data" / "journal_v1.sql").read_text())
    db.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}; PRAGMA user_version = 1")
    db.execute(
        "INSERT INTO campaign"
        " VALUES (7, 'c7', 's7', x'00', x'00', ?, 1, 2, 1, 1, 3, ?, 0, 0, 0, ?, 0, NULL, 0)",
        (codec.pack_struct(Options()), codec.pack({}), message_id(7, 0)),
    )
    for index in range(3):
        db.execute(
            "INSERT INTO message (id, address, fields, state) VALUES (?, 'u@example.com', x'90', ?)",
            (message_id(7, index), 3 if index == 0 else 0),
        )
    for name, drained in (("a", 1), ("b", 0)):
        db.execute("INSERT INTO worker VALUES (NULL, ?, 's:25', 'log', 1, ?, 0)", (name, drained))
    db.close()
    journal = SqliteJournal(path)
    (campaign,) = journal.campaigns()
    assert (campaign.id, campaign.total, campaign.marks) == ("c7", 3, ())
    assert [row[0] for row in journal.fresh(message_id(7, 0) - 1, message_id(8, 0), 10)] == [
        message_id(7, 1),
        message_id(7, 2),
    ]
    assert {w.name: w.operator_state for w in journal.workers()} == {"a": "drain", "b": "ready"}
    assert journal.quotas() == {}
    journal.close()
    SqliteJournal(path).close()  # and once only


def test_what_rates_granted_comes_back(journal: SqliteJournal) -> None:
    bucket = Bucket((Quota(100, 86_400.0),), Now(0.0, WALL))
    stored = bucket.promise(Now(0.0, WALL))
    assert stored is not None
    journal.apply([SetQuota("server:a", stored), SetQuota("campaign:b", stored)])
    journal.apply([SetQuota("campaign:b", None)])
    journal.commit()
    assert journal.quotas() == {"server:a": stored}


def test_a_journal_of_version_2_is_migrated(tmp_path: Path) -> None:
    """Written by the release before retention: what ended long ago in it is compacted like anything else."""
    path = tmp_path / "old.db"
    db = apsw.Connection(str(path))
    db.execute((Path(__file__).parents[2] / "data" / "journal_v2.sql").read_text())
    db.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}; PRAGMA user_version = 2")
    for number, ended_at in ((7, 5), (8, 0)):
        columns = (
            "number, id, submission, fingerprint, template, options, created_at, expire_at, phase, total"
        )
        db.execute(
            f"INSERT INTO campaign ({columns}, counts, finished_at)"
            " VALUES (?1, 'c'||?1, 's'||?1, x'00', x'01', ?2, 1, 2, 1, 3, ?3, ?4)",
            (number, codec.pack_struct(Options()), codec.pack({}), ended_at),
        )
        db.execute("INSERT INTO run VALUES (?)", (number,))
        for index in range(3):
            address = f"u{index}@example.com"
            id_ = message_id(number, index)
            db.execute("INSERT INTO message (id, address, fields) VALUES (?, ?, x'90')", (id_, address))
            run = number if index else 0  # one came in a chunk too small for a run
            db.execute("INSERT INTO address VALUES (?, ?, ?)", (run, address_hash(address), id_))
    db.close()
    journal = SqliteJournal(path)
    assert [(c.id, c.restored, c.compacted_at) for c in journal.campaigns()] == [("c8", False, 0)]
    while journal.compact(6, WALL).more:
        pass
    journal.commit()
    counts = [journal._value(f"SELECT count(*) FROM {table}") for table in ("message", "address", "run")]
    assert counts == [3, 3, 2]
    assert journal.shrink(10) is False  # such a file keeps its pages: `evenpost-broker compact`
    journal.close()
    SqliteJournal(path).close()  # and once only
