"""Campaigns that ended long ago become summaries: what goes, what stays, and when."""

from pathlib import Path

import apsw
import pytest

from broker.core.commands import SetCampaign
from broker.core.message_state import Stored, message_id
from broker.core.state import Campaign, Phase
from broker.journal import compaction
from broker.journal.group_commit import GroupCommit
from broker.journal.sqlite import SqliteJournal
from broker.retention import DAY_MS, LOOK_S, STEP_S, ClockTrust, Retention, compacted_error
from evenpost.runtime.clock import Now
from tests.unit.broker.test_sqlite_journal import fill, sent

WALL = 1_790_000_000_000
OLD = WALL - 100 * DAY_MS


def ended(journal: SqliteJournal, number: int, count: int, *, at: int = OLD, held: int = 0) -> Campaign:
    """A campaign with chunks of 300 and a rest, all of it sent but what is held."""
    made = fill(journal, number, [f"u{n}@example.com" for n in range(count)])
    for index in range(count):
        state = Stored.HELD if index < held else Stored.SENT
        journal.apply([sent(index, state, number=number)])
    made.counts = {Stored.HELD: held, Stored.SENT: count - held} if held else {Stored.SENT: count}
    made.phase, made.finished_at, made.attempts = Phase.FINISHED, at, count
    journal.apply([SetCampaign.of(made)])
    journal.commit()
    return made


def compact(journal: SqliteJournal, before: int = WALL - 90 * DAY_MS, steps_max: int = 500) -> list[str]:
    gone: list[str] = []
    for _ in range(steps_max):
        did = journal.compact(before, WALL)
        journal.commit()
        gone += did.ended
        if not did.more:
            return gone
    raise AssertionError("it never ends")


def rows(journal: SqliteJournal, number: int) -> tuple[int, int, int]:
    """Messages, addresses to look up, and runs of a campaign."""
    bounds = (message_id(number, 0), message_id(number + 1, 0))
    messages = journal._value("SELECT count(*) FROM message WHERE id >= ? AND id < ?", bounds)
    addresses = journal._value("SELECT count(*) FROM address WHERE id >= ? AND id < ?", bounds)
    return messages, addresses, journal._value("SELECT count(*) FROM run WHERE campaign = ?", (number,))


@pytest.fixture
def journal(tmp_path: Path) -> SqliteJournal:
    return SqliteJournal(tmp_path / "journal.db")


def test_a_summary_stays_and_nothing_else(journal: SqliteJournal) -> None:
    made, newer = ended(journal, 1, 700), ended(journal, 2, 700, at=WALL - 80 * DAY_MS)
    running = fill(journal, 3, [f"u{n}@example.com" for n in range(700)])
    assert rows(journal, 1) == (700, 700, 2)
    assert compact(journal) == ["c1"]
    assert rows(journal, 1) == (0, 0, 0)
    assert rows(journal, 2) == rows(journal, 3) == (700, 700, 2)
    left = journal.campaign("c1")
    assert left is not None and left.compacted_at == WALL and left.template == b""
    assert (left.counts, left.total, left.attempts) == (made.counts, 700, 700)
    assert (left.finished_at, left.options) == (made.finished_at, made.options)
    # Its submission id still counts once.
    again = journal.campaign_by_submission("s1")
    assert again is not None and again.fingerprint == made.fingerprint
    assert (journal.meta("compacted"), journal.meta("compacted_upto")) == (1, OLD)
    assert [line.id >> 32 for line in journal.trace("u5@example.com", 10)] == [3, 2]
    assert compact(journal) == [] and newer.finished_at and running.total


def test_a_kill_in_the_middle_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "ROWS_A_STEP", 100)
    path = tmp_path / "journal.db"
    journal = SqliteJournal(path)
    ended(journal, 1, 700)
    ended(journal, 2, 700, at=OLD + 1)
    gone: list[str] = []
    left = []
    for _ in range(100):
        gone += journal.compact(WALL - 90 * DAY_MS, WALL).ended
        journal.commit()
        left.append(rows(journal, 1)[0] + rows(journal, 2)[0])
        journal.compact(WALL - 90 * DAY_MS, WALL)  # this one is lost
        journal._db.close()
        journal = SqliteJournal(path)
        if gone == ["c1", "c2"]:
            break
        assert not gone or rows(journal, 1) == (0, 0, 0)
    assert gone == ["c1", "c2"] and rows(journal, 2) == (0, 0, 0)
    assert journal.meta("compacted") == 2
    # A step is small, however much there is to do.
    assert all(before - after <= 100 for before, after in zip([1400, *left], left, strict=False))


def test_what_was_begun_is_ended_whatever_the_clock_says(
    journal: SqliteJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compaction, "ROWS_A_STEP", 100)
    ended(journal, 1, 700)
    ended(journal, 2, 10)
    assert journal.compact(WALL - 90 * DAY_MS, WALL).more
    assert compact(journal, before=0) == ["c1"]
    assert rows(journal, 2)[0] == 10


def test_campaigns_with_held_messages_are_kept_whole(
    journal: SqliteJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They wait for a person; those that ended after them are not kept up."""
    monkeypatch.setattr(compaction, "_CANDIDATES", 2)
    for number in range(1, 7):
        ended(journal, number, 20, at=OLD + number, held=3 if number in (1, 2, 3, 5) else 0)
    assert compact(journal) == ["c4", "c6"]
    for number in (1, 2, 3, 5):
        assert rows(journal, number)[0] == 20
    # Somebody decided: it goes with the next look.
    decided = journal.campaign("c2")
    assert decided is not None
    decided.counts = {Stored.SENT: 20}
    journal.apply([SetCampaign.of(decided)])
    assert compact(journal) == ["c2"]


def test_many_small_campaigns_are_bounded_too(journal: SqliteJournal) -> None:
    for number in range(1, 301):
        ended(journal, number, 1, at=OLD + number)
    did = journal.compact(WALL - 90 * DAY_MS, WALL)
    assert 50 < len(did.ended) < 120 and did.more
    assert len(did.ended) + len(compact(journal)) == 300
    assert journal._value("SELECT count(*) FROM address") == 0


def test_the_file_shrinks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "_FREE_PAGES_KEPT", 16)
    path = tmp_path / "journal.db"
    journal = SqliteJournal(path)
    ended(journal, 1, 30_000)
    keeps = ended(journal, 2, 1_000, at=WALL)
    journal.close()
    before = path.stat().st_size
    journal = SqliteJournal(path)
    compact(journal)
    steps = 0
    while journal.shrink(16):
        journal.commit()
        steps += 1
        assert steps < 500
    assert steps > 5
    assert [line.address for line in journal.report(2, -1, 3, [], 2)] == ["u0@example.com", "u1@example.com"]
    journal.close()
    assert path.stat().st_size < before / 2 and keeps.total == 1_000
    db = apsw.Connection(str(path))
    assert db.execute("PRAGMA integrity_check").get == "ok"


def test_a_campaign_that_is_gone_is_not_reopened(journal: SqliteJournal) -> None:
    ended(journal, 1, 10)
    compact(journal)
    journal.reopen(1)
    left = journal.campaign("c1")
    assert left is not None and left.phase is Phase.FINISHED and left.finished_at == OLD
    assert compacted_error(left).message == (
        "the recipients of campaign c1 were removed on 2026-09-21, 100 days after it ended (--retain-days of "
        "the broker). What is left: 10 sent, of 10"
    )


# --- when ---------------------------------------------------------------------------------------------


def test_a_clock_that_goes_is_believed() -> None:
    trust = ClockTrust(WALL)
    for hours in range(1, 200):
        trust, believed = trust.look(WALL + hours * 3_600_000)
        assert believed and trust.doubted == 0
    # Over a weekend it was off; and a clock that was set back only makes less seem old.
    assert ClockTrust(WALL).look(WALL + 2 * DAY_MS)[1]
    assert ClockTrust(WALL).look(WALL - 900 * DAY_MS) == (ClockTrust(WALL - 900 * DAY_MS), True)


def test_a_clock_that_jumps_is_believed_after_a_day() -> None:
    trust = ClockTrust(WALL)
    jumped = WALL + 400 * DAY_MS
    for hours in range(24):
        trust, believed = trust.look(jumped + hours * 3_600_000)
        assert not believed and trust.believed == WALL
    assert trust.look(jumped + DAY_MS) == (ClockTrust(jumped + DAY_MS), True)
    # Set right in time: as if nothing had been.
    assert trust.look(WALL + DAY_MS) == (ClockTrust(WALL + DAY_MS), True)
    # A second jump begins its own day.
    later, believed = trust.look(jumped + 300 * DAY_MS)
    assert not believed and later.doubted == jumped + 300 * DAY_MS
    assert not later.look(jumped + 300 * DAY_MS + 1)[1]


class Desk:
    """Retention on a journal, driven by hand."""

    def __init__(self, journal: SqliteJournal, days: float = 90.0) -> None:
        self.journal = journal
        self.queue = GroupCommit(journal, lambda: None)
        self.held_up = False
        self.retention = Retention(journal, self.queue, days, lambda: self.held_up)
        self.mono = 0.0

    def look(self, wall: int, *, seconds: float = LOOK_S, ticks: int = 50) -> list[str]:
        """Ticks after so long; what is compacted now."""
        self.mono += seconds
        for _ in range(ticks):
            self.retention.tick(Now(self.mono, wall))
            while not self.queue.idle:
                self.queue.step(float("inf"))
            self.mono += STEP_S
        query = "SELECT id FROM campaign WHERE compacted_at > 0 ORDER BY number"
        return [id_ for (id_,) in self.journal._rows(query)]


def test_each_tick_does_a_step_until_nothing_is_left(
    journal: SqliteJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compaction, "ROWS_A_STEP", 50)
    ended(journal, 1, 700)
    desk = Desk(journal)
    assert desk.look(OLD + 90 * DAY_MS) == []  # 90 days after what the journal saw last: not believed
    desk.held_up = True
    assert desk.look(OLD + 91 * DAY_MS) == []
    desk.held_up = False
    assert desk.look(OLD + 91 * DAY_MS, ticks=1) == ["c1"]
    assert rows(journal, 1)[0] >= 650
    desk.look(OLD + 91 * DAY_MS, seconds=0)
    assert rows(journal, 1) == (0, 0, 0)
    assert Desk(journal, days=0).look(WALL + 999 * DAY_MS) == ["c1"]


def test_a_jumping_clock_throws_nothing_away_across_restarts(journal: SqliteJournal) -> None:
    ended(journal, 1, 10, at=WALL)
    ahead = WALL + 3_000 * DAY_MS
    for hours in (0, 3, 12, 23):
        assert Desk(journal).look(ahead + hours * 3_600_000) == []
    assert Desk(journal).look(WALL + 3 * 3_600_000) == []  # set right
    assert Desk(journal).look(ahead) == []
    assert Desk(journal).look(ahead + 25 * 3_600_000) == ["c1"]


def test_zero_days_keep_everything(journal: SqliteJournal) -> None:
    ended(journal, 1, 10, at=1)
    desk = Desk(journal, days=0)
    assert desk.look(1 + DAY_MS) == desk.look(WALL) == desk.look(WALL + 2 * DAY_MS) == []
