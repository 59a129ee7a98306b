"""Reports, traces, watching and retrying, on a real journal with a queue that is driven by hand."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest

from broker import queries, reopening
from broker.core import commands as c
from broker.core.dispatcher import Dispatcher
from broker.core.events import Event, NotReopened, Reopened
from broker.core.message_state import Stored, message_id
from broker.core.settings import Settings
from broker.core.state import Campaign, Phase
from broker.journal.group_commit import GroupCommit
from broker.journal.sqlite import SqliteJournal
from broker.queries import Queries
from broker.reopening import Reopening
from broker.watchers import RENEW_WITHIN_S, Watchers
from evenpost.runtime.clock import Now
from evenpost.wire import messages as wire
from evenpost.wire.messages import Options, Recipient

WALL = 1_790_000_000_000
NOW = Now(10.0, WALL)


class Desk:
    """A journal with one campaign of ten, and what asks it."""

    def __init__(self, path: Path) -> None:
        self.journal = SqliteJournal(path)
        self.core = Dispatcher(
            Settings(), boot=1, broker="b", uniform=lambda a, b: b, campaigns=[], workers=[], now=NOW
        )
        self.state = self.core.state
        self.queue = GroupCommit(self.journal, lambda: None)
        self.queries = Queries(self.core, self.journal, self.queue)
        self.answers: list[wire.Message] = []
        self.campaign = Campaign(1, "c1", "s1", b"", b"", Options(), WALL, WALL)
        self.campaign.total, self.campaign.phase = 10, Phase.FINISHED
        rows = [Recipient(f"u{n}@example.com") for n in range(10)]
        self.journal.apply([c.AddCampaign(self.campaign), c.AddRecipients(1, 0, rows)])
        self.set(Stored.BOUNCED, 2, 7)
        self.set(Stored.SENT, 0, 1, 3, 4, 5)
        self.campaign.counts = {Stored.BOUNCED: 2, Stored.SENT: 5}
        self.campaign.finished_at = WALL
        self.journal.apply([c.SetCampaign.of(self.campaign)])
        self.journal.commit()

    def set(self, state: Stored, *indices: int) -> None:
        rows = [(message_id(1, n), int(state), 1, 250, "r", 1, WALL, WALL, None, None) for n in indices]
        self.journal.apply([c.SetMessages(rows)])  # type: ignore[arg-type]  # the tuples are right

    def report(self, **fields: object) -> list[wire.ReportPage]:
        """All pages, as a client asks for them."""
        pages: list[wire.ReportPage] = []
        after: int | None = -1
        while after is not None:
            request = wire.Report("c1", after=after, **fields)  # type: ignore[arg-type]  # a test's own
            self.queries.report(request, self.answers.append)
            self.run()
            page = self.answers.pop()
            assert isinstance(page, wire.ReportPage)
            pages.append(page)
            assert len(pages) < 50
            after = page.next
        return pages

    def run(self) -> None:
        while not self.queue.idle:
            if self.queue._commit is not None:
                self.queue._commit.result(10)
            self.queue.step(1e9)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path / "journal.db")
    yield made
    made.run()
    made.queue.finish()
    made.journal.close()


def indices(pages: list[wire.ReportPage]) -> list[int]:
    return [row.index for page in pages for row in page.rows]


@pytest.mark.parametrize("limit", [1, 3, 5, 10, 100])
def test_a_report_has_every_line_once(desk: Desk, limit: int) -> None:
    assert indices(desk.report(limit=limit)) == list(range(10))


@pytest.mark.parametrize("scan", [1, 3, 4, 100])
@pytest.mark.parametrize("limit", [1, 2, 5])
def test_a_filtered_report_looks_at_a_bounded_piece_and_goes_on(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, scan: int, limit: int
) -> None:
    monkeypatch.setattr(queries, "SCAN_ROWS_MAX", scan)
    pages = desk.report(only=["bounced"], limit=limit)
    assert indices(pages) == [2, 7]
    if scan == 3:
        assert len(pages) >= 3  # some are empty, and still say where to go on


def test_an_expired_campaign_names_its_open_rows_expired(desk: Desk) -> None:
    desk.campaign.closed_as = Stored.EXPIRED
    desk.journal.apply([c.SetCampaign.of(desk.campaign)])
    assert indices(desk.report(only=["expired"])) == [6, 8, 9]
    assert indices(desk.report(only=["queued", "deferred", "sending"])) == []
    states = [row.state for page in desk.report() for row in page.rows]
    assert states.count("expired") == 3 and states.count("sent") == 5


def test_unknown_campaigns_are_refused_in_words(desk: Desk) -> None:
    desk.queries.report(wire.Report("nope"), desk.answers.append)
    desk.run()
    (error,) = desk.answers
    assert isinstance(error, wire.Error) and "evenpost status" in error.message


def retry(desk: Desk, *states: Stored) -> list[Event]:
    events: list[Event] = []
    command = c.Reopen(b"k", 1, "c1", states)
    Reopening(command, desk.journal, desk.queue, events.append, lambda: WALL).start()
    desk.run()
    return events


def test_retrying_goes_piece_by_piece_and_counts_all(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reopening, "PIECE_ROWS", 3)
    (event,) = retry(desk, Stored.BOUNCED)
    assert isinstance(event, Reopened) and event.changed == {Stored.BOUNCED: 2}
    due = desk.journal.retries(1, (0, 0), WALL * 2, 100)[0]
    assert [row.id & 0xFF for row in due] == [2, 7]


def test_retrying_expired_mail_writes_the_end_into_the_rows_first(desk: Desk) -> None:
    desk.campaign.closed_as = Stored.EXPIRED
    desk.journal.apply([c.SetCampaign.of(desk.campaign)])
    (event,) = retry(desk, Stored.BOUNCED)
    assert isinstance(event, Reopened) and event.changed == {Stored.BOUNCED: 2}
    states = [line.state for line in desk.journal.report(1, -1, 9, [], 10)]
    assert states.count(Stored.EXPIRED) == 3 and states.count(Stored.DEFERRED) == 2


def test_a_cancelled_campaign_is_not_retried(desk: Desk) -> None:
    desk.campaign.phase = Phase.CANCELLED
    desk.journal.apply([c.SetCampaign.of(desk.campaign)])
    (event,) = retry(desk, Stored.BOUNCED)
    assert isinstance(event, NotReopened) and event.error.code == "wrong_state"


def nullcontext_of(_: bytes) -> AbstractContextManager[None]:
    return nullcontext()


def test_watchers_are_told_at_their_interval_until_they_fall_silent(desk: Desk) -> None:
    told: list[tuple[bytes, int, wire.Message]] = []
    watchers = Watchers(
        desk.state, desk.queries, lambda *update: told.append(update), nullcontext_of, lambda peer: True
    )
    watchers.watch(b"k", 7, wire.Watch(interval_s=1.0), Now(0.0, WALL))
    for tenth in range(100):
        watchers.tick(Now(tenth / 10, WALL))
    assert 9 <= len(told) <= 11 and told[0][:2] == (b"k", 7)
    told.clear()
    watchers.tick(Now(RENEW_WITHIN_S + 0.1, WALL))
    watchers.tick(Now(RENEW_WITHIN_S + 5, WALL))
    assert told == []


def test_the_last_word_on_a_campaign_that_has_ended(desk: Desk) -> None:
    told: list[wire.Message] = []
    watchers = Watchers(
        desk.state,
        desk.queries,
        lambda peer, request, message: told.append(message),
        nullcontext_of,
        lambda peer: True,
    )
    for id_ in ("c1", "nope"):
        watchers.watch(b"k", 7, wire.Watch(id_), Now(0.0, WALL))
        for tick in range(5):
            watchers.tick(Now(float(tick), WALL))
            desk.run()
    update, error = told
    assert isinstance(update, wire.WatchUpdate) and update.campaigns[0].state == "finished"
    assert isinstance(error, wire.Error)


def explained(desk: Desk, index: int | None = None, campaign: str = "c1") -> wire.Message:
    desk.queries.explain(wire.Explain(campaign, index), NOW, desk.answers.append)
    desk.run()
    return desk.answers.pop()


def test_a_message_of_an_ended_campaign_is_explained_from_its_row(desk: Desk) -> None:
    found = explained(desk, 2)
    assert isinstance(found, wire.Explanation)
    assert (found.index, found.summary[:24]) == (2, " refused it for good: 25")
    assert found.row is not None and found.row.address == "u2@example.com"
    ended = explained(desk)
    assert isinstance(ended, wire.Explanation) and ended.summary == "It has ended."


def test_what_there_is_not_cannot_be_explained(desk: Desk) -> None:
    for found in (explained(desk, 10), explained(desk, campaign="zz")):
        assert isinstance(found, wire.Error) and found.code == "not_found"


def compacted(desk: Desk) -> None:
    while desk.journal.compact(WALL + 1, WALL + 2).more:
        pass


def test_what_was_compacted_is_told_and_keeps_its_counts(desk: Desk) -> None:
    compacted(desk)
    desk.queries.report(wire.Report("c1"), desk.answers.append)
    desk.run()
    for found in (desk.answers.pop(), explained(desk, 2)):
        assert isinstance(found, wire.Error) and found.code == "wrong_state"
        assert "were removed on" in found.message and "5 sent, 2 bounced, of 10" in found.message
    desk.queries.one_status("c1", NOW, desk.answers.append)
    desk.run()
    status = desk.answers.pop()
    assert isinstance(status, wire.StatusReply)
    assert status.campaigns[0].compacted_at == WALL + 2 and status.campaigns[0].counts["sent"] == 5
    desk.queries.trace(wire.Trace("u1@example.com"), desk.answers.append)
    desk.run()
    assert desk.answers.pop() == wire.TracePage([], compacted=1, compacted_upto=WALL)


def test_what_was_compacted_is_not_retried(desk: Desk) -> None:
    compacted(desk)
    (event,) = retry(desk, Stored.BOUNCED)
    assert isinstance(event, NotReopened) and event.campaign == "c1"
    assert event.error.code == "wrong_state" and "were removed" in event.error.message


def test_retention_that_is_faster_than_a_retry_wins(desk: Desk) -> None:
    """Between the look at the campaign and its first piece: nothing is reopened that has no rows."""
    events: list[Event] = []
    command = c.Reopen(b"k", 1, "c1", (Stored.BOUNCED,))
    Reopening(command, desk.journal, desk.queue, events.append, lambda: WALL).start()
    desk.queue.write_call(lambda: compacted(desk), lambda _: None, 1)
    desk.run()
    assert [type(event) for event in events] == [NotReopened]
    left = desk.journal.campaign("c1")
    assert left is not None and left.phase is Phase.FINISHED and left.finished_at
