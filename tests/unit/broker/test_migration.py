"""A journal of the release before: its campaigns, whatever state they are in, go on and end."""

from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from broker.core import commands as c
from broker.core.message_state import Stored, message_id
from broker.core.state import Phase
from broker.journal import schema
from broker.journal.sqlite import SqliteJournal
from broker.journal.store import JournalError
from evenpost.wire import codec
from evenpost.wire.messages import Options
from tests.unit.broker.playbook import WALL, only
from tests.unit.broker.test_journaled import Durable

OPEN, ACTIVE, PAUSED, FINISHED, CANCELLED, RETRYING, HOLDING = range(1, 8)
"""A campaign of each kind, by its number."""
OLDER = [1, 2]


def options(number: int) -> bytes:
    return codec.pack_struct(Options(on_unknown="hold" if number == HOLDING else "resend"))


def campaign_row(number: int, **changed: object) -> dict[str, object]:
    row: dict[str, object] = {
        "number": number, "id": f"c{number}", "submission": f"sub-c{number}", "fingerprint": b"F",
        "template": b"T", "options": options(number), "created_at": WALL, "expire_at": WALL + 10**9,
        "phase": int(Phase.ACTIVE), "chunks": 1, "total": 4, "counts": codec.pack({}), "attempts": 0,
        "unknown": 0, "duplicates": 0, "finished_at": 0, "closed_as": None, "recount": 0,
    }  # fmt: skip
    return row | changed


CAMPAIGNS = [
    campaign_row(OPEN, phase=int(Phase.OPEN)),
    campaign_row(ACTIVE, counts=codec.pack({int(Stored.SENT): 1, int(Stored.DEFERRED): 1}), attempts=2),
    campaign_row(PAUSED, phase=int(Phase.PAUSED), counts=codec.pack({int(Stored.SENT): 1})),
    campaign_row(
        FINISHED, phase=int(Phase.FINISHED), finished_at=WALL, counts=codec.pack({3: 4}), attempts=4
    ),
    campaign_row(
        CANCELLED, phase=int(Phase.CANCELLED), finished_at=WALL, closed_as=6, counts=codec.pack({6: 4})
    ),
    # Its broker died in the middle of RETRY_FAILED: the counts are to be made anew.
    campaign_row(RETRYING, counts=codec.pack({int(Stored.BOUNCED): 4}), recount=1),
    campaign_row(HOLDING),
]
STATES = {
    ACTIVE: [Stored.SENT, Stored.DEFERRED, Stored.QUEUED, Stored.QUEUED],
    PAUSED: [Stored.SENT, Stored.QUEUED, Stored.QUEUED, Stored.QUEUED],
    FINISHED: [Stored.SENT] * 4,
    RETRYING: [Stored.DEFERRED, Stored.DEFERRED, Stored.BOUNCED, Stored.BOUNCED],
}


def write(path: Path, version: int) -> None:
    """A journal as the release with that version left it."""
    db = apsw.Connection(str(path))
    db.execute((Path(__file__).parents[2] / "data" / f"journal_v{version}.sql").read_text())
    db.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}; PRAGMA user_version = {version}")
    for row in CAMPAIGNS:
        mark = {"low_water": message_id(int(str(row["number"])), 0) - 1} if version == 1 else {"marks": None}
        row = row | mark
        names, values = ", ".join(row), ", ".join("?" * len(row))
        db.execute(f"INSERT INTO campaign ({names}) VALUES ({values})", tuple(row.values()))
        number = int(str(row["number"]))
        for index, state in enumerate(STATES.get(number, [Stored.QUEUED] * 4)):
            due = WALL if state is Stored.DEFERRED else None
            db.execute(
                "INSERT INTO message (id, address, fields, state, attempts, due_at)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                (
                    message_id(number, index),
                    f"u{index}@example.com",
                    b"\x90",
                    int(state),
                    int(state > 0),
                    due,
                ),
            )
    word = "drained" if version == 1 else "state"
    db.execute(
        f"INSERT INTO worker (number, name, server, log, incarnation, {word}, gone)"
        " VALUES (1, 'a', 'a:25', ?, 1, ?, 0)",
        ("log-a", 0 if version == 1 else "ready"),
    )
    db.close()


@pytest.fixture(params=OLDER)
def book(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Durable]:
    path = tmp_path / "journal.db"
    write(path, request.param)
    book = Durable(path)
    book.start()
    yield book
    book.journal.close()


def test_campaigns_of_every_state_are_what_they_were_and_end(book: Durable) -> None:
    journal = book.journal
    assert {campaign.number for campaign in journal.campaigns()} == {OPEN, ACTIVE, PAUSED, RETRYING, HOLDING}
    found = {number: journal.campaign(f"c{number}") for number in range(1, 8)}
    assert [campaign.phase for campaign in found.values() if campaign] == [
        Phase.OPEN, Phase.ACTIVE, Phase.PAUSED, Phase.FINISHED, Phase.CANCELLED, Phase.ACTIVE, Phase.ACTIVE,
    ]  # fmt: skip
    retrying = found[RETRYING]
    assert retrying and retrying.counts == {Stored.DEFERRED: 2, Stored.BOUNCED: 2}
    assert journal.batches() == []
    book.hello("a", max_connections=20, incarnation=2)
    given: dict[int, list[int]] = {}
    told = 0
    for _ in range(60):
        for batch in only(book.seen, c.SendBatch)[told:]:
            told += 1
            given.setdefault(batch.campaign, []).extend(item[0] for item in batch.items)
            book.outcomes(batch, "sent", first=told * 10)
        book.pass_time(0.5)
    assert {number: sorted(indices) for number, indices in given.items()} == {
        ACTIVE: [1, 2, 3],
        RETRYING: [0, 1],
        HOLDING: [0, 1, 2, 3],
    }
    ended = {number: journal.campaign(f"c{number}") for number in (ACTIVE, RETRYING, HOLDING)}
    assert all(campaign and campaign.phase is Phase.FINISHED for campaign in ended.values())
    assert [campaign.counts[Stored.SENT] for campaign in ended.values() if campaign] == [4, 2, 4]


def test_it_is_migrated_once_and_whole(tmp_path: Path) -> None:
    """The tables of a migrated journal are those of a new one, column by column."""

    def shape(path: Path) -> object:
        db = apsw.Connection(str(path))
        tables = [
            n for (n,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")
        ]
        columns = {t: sorted(r[1:4] for r in db.execute(f"PRAGMA table_info({t})")) for t in tables}
        version = db.pragma("user_version")
        db.close()
        return columns, version

    SqliteJournal(tmp_path / "new.db").close()
    for version in OLDER:
        path = tmp_path / f"v{version}.db"
        write(path, version)
        SqliteJournal(path).close()
        SqliteJournal(path).close()
        assert shape(path) == shape(tmp_path / "new.db")


def test_a_migration_that_fails_leaves_the_old_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "journal.db"
    write(path, 1)
    monkeypatch.setitem(schema.MIGRATIONS, 2, schema.MIGRATIONS[2] + "SELECT no_such_column FROM campaign;")
    with pytest.raises(JournalError, match="can't open the journal"):
        SqliteJournal(path)
    db = apsw.Connection(str(path))
    assert db.pragma("user_version") == 1
    assert db.execute("SELECT count(*) FROM campaign WHERE low_water > 0").get == len(CAMPAIGNS)
    db.close()
