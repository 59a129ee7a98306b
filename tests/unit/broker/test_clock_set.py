"""The wall clock was set: durations stay durations, and nobody waits for a time that the old clock meant."""

from pathlib import Path

import pytest

from broker.core import commands as c
from broker.core import events as e
from broker.core.commands import AddCampaign, AddRecipients, SetMessages, ShiftDue
from broker.core.message_state import Stored, message_id
from broker.core.state import Campaign
from broker.journal.sqlite import SqliteJournal
from evenpost.runtime.clock import Now
from evenpost.wire import messages as wire
from tests.unit.broker.playbook import WALL, Playbook

YEAR_S = 365 * 86_400.0


class Jumping(Playbook):
    set_by_s = 0.0

    @property
    def now(self) -> Now:
        return Now(self.mono, WALL + int((self.mono + self.set_by_s) * 1000))

    def set_clock(self, seconds: float) -> list[c.Command]:
        self.set_by_s += seconds
        return self.say(e.ClockSet(seconds)) + self.say(e.Tick())


def _of(seen: list[c.Command], kind: type[c.Command]) -> list[c.Command]:
    return [command for command in seen if isinstance(command, kind)]


def _deferred(book: Jumping) -> Campaign:
    """A campaign of two, one of which waits for its next try."""
    book.hello("a")
    (batch,) = _of(book.submit(1), c.SendBatch)
    assert isinstance(batch, c.SendBatch)
    book.outcomes(batch, "deferred", code=450)
    return book.core.state.campaigns[1]


@pytest.mark.parametrize("seconds", [3_600.0, YEAR_S, -3_600.0, -YEAR_S])
def test_a_retry_waits_as_long_as_it_would_have(seconds: float) -> None:
    book = Jumping()
    campaign = _deferred(book)
    assert campaign.next_due is not None
    wait_ms = campaign.next_due - book.now.wall
    out = book.set_clock(seconds)
    assert campaign.next_due - book.now.wall == wait_ms
    shifts = [change for p in _of(out, c.Persist) for change in p.changes if isinstance(change, ShiftDue)]  # type: ignore[attr-defined]  # Persist, all of them
    assert shifts == [ShiftDue(1, round(seconds * 1000))]
    assert not _of(out, c.ReadRetries)
    (read,) = _of(book.pass_time(wait_ms / 1000 + 1) + book.say(e.Tick()), c.ReadRetries)
    assert isinstance(read, c.ReadRetries) and read.after == (0, 0)


@pytest.mark.parametrize("seconds", [YEAR_S, -YEAR_S])
def test_a_campaign_lives_as_long_as_the_broker_gives_it(seconds: float) -> None:
    book = Jumping()
    campaign = _deferred(book)
    left_ms = campaign.expire_at - book.now.wall
    book.set_clock(seconds)
    assert campaign.expire_at - book.now.wall == left_ms and campaign.closed_as is None


def test_an_expire_at_that_people_gave_is_meant_by_the_clock() -> None:
    book = Jumping()
    book.submit(3, wire.Options(expire_at=WALL + 3_600_000))
    campaign = book.core.state.campaigns[1]
    book.set_clock(1_800.0)
    assert campaign.closed_as is None and campaign.expire_at == WALL + 3_600_000
    book.set_clock(1_800.0)
    assert campaign.closed_as is Stored.EXPIRED


def test_where_a_read_ended_that_was_under_way_says_nothing() -> None:
    book = Jumping()
    campaign = _deferred(book)
    assert campaign.next_due is not None
    book.pass_time((campaign.next_due - book.now.wall) / 1000 + 1)
    assert campaign.reading
    ahead = book.now.wall
    book.set_clock(-YEAR_S)
    # The journal was asked before it shifted anything.
    out = book.say(e.RetriesRead(1, [], (ahead, message_id(1, 0)), None))
    assert campaign.retries_read == (0, 0)
    assert _of(out, c.ReadRetries) == [c.ReadRetries(1, (0, 0), book.now.wall, book.settings.page_rows)]


def test_the_journal_shifts_what_is_due(tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path / "journal.db")
    for number in (1, 2):
        campaign = Campaign(
            number=number, id=f"c{number}", submission=f"s{number}", template=b"t", fingerprint=b"f",
            options=wire.Options(), created_at=0, expire_at=9,
        )  # fmt: skip
        rows = [wire.Recipient(f"u{n}@example.com", b"") for n in range(3)]
        journal.apply([AddCampaign(campaign), AddRecipients(number, 0, rows)])
        deferred = (message_id(number, 1), Stored.DEFERRED, 1, 450, "later", 0, 1, 2, 1_000, None)
        sent = (message_id(number, 2), Stored.SENT, 1, 250, "ok", 0, 1, 2, None, None)
        journal.apply([SetMessages([deferred, sent])])
    journal.apply([ShiftDue(1, 5_000)])
    journal.commit()
    assert journal.retries(1, (0, 0), 5_999, 10) == ([], (0, 0), 6_000)
    assert [row.id for row in journal.retries(1, (0, 0), 6_000, 10)[0]] == [message_id(1, 1)]
    assert [row.id for row in journal.retries(2, (0, 0), 1_000, 10)[0]] == [message_id(2, 1)]
    journal.close()


def test_a_worker_whose_clock_is_off_is_named_once() -> None:
    book = Jumping()
    book.hello("a")

    def beat(skew_s: float) -> list[tuple[str, object]]:
        message = wire.Heartbeat(1, 0, 0, 0, 1, 0, wall=book.now.wall + int(skew_s * 1000))
        logs = _of(book.say(e.FromWorker(b"a", 0, message)), c.Log)
        return [(log.event, log.fields["seconds"]) for log in logs if isinstance(log, c.Log)]

    assert beat(-30.0) == []
    assert beat(-YEAR_S) == [("worker.clock_skew", -YEAR_S)]
    assert beat(-YEAR_S) == []
    assert beat(1.0) == [("worker.clock_right", 1.0)]
    assert beat(61.0) == [("worker.clock_skew", 61.0)]
