"""Attempts that are told of after another one has decided: each that may be a copy is counted, once."""

from pathlib import Path

import pytest

from broker.core import commands as c
from broker.core import events as e
from broker.core.message_state import Stored
from broker.core.outcomes import LOST
from broker.core.state import Campaign
from evenpost.wire import codec
from evenpost.wire import messages as wire
from tests.unit.broker.playbook import WALL, only
from tests.unit.broker.test_journaled import HOLD, LEASE_S, Durable


@pytest.fixture
def book(tmp_path: Path) -> Durable:
    book = Durable(tmp_path / "journal.db")
    book.hello("a", max_connections=1)
    return book


def counts(book: Durable) -> tuple[int, int]:
    """Of the only campaign: (unknown, duplicates)."""
    campaign: Campaign | None = book.journal.campaign("c1")
    assert campaign is not None
    return campaign.unknown, campaign.duplicates


def history(book: Durable) -> list[tuple[str, str]]:
    """Worker and outcome of each attempt before the one that the row tells of."""
    (line,) = book.journal.report(1, -1, 1, [], 1)
    attempts = codec.unpack_values(line.history) if line.history else []
    return [(worker, kind) for _, worker, kind, _, _ in attempts]


def pass_lease(book: Durable, name: str) -> None:
    """A lease ends in which only this worker is heard."""
    book.mono += LEASE_S + 1
    book.say(e.FromWorker(name.encode(), 0, wire.Heartbeat(1, 0, 0, 0, 1, 0)))
    book.pass_time(0.0)


def given_to(book: Durable, name: str) -> c.SendBatch:
    return [sent for sent in only(book.seen, c.SendBatch) if sent.peer == name.encode()][-1]


def silent_while_the_broker_dies(book: Durable) -> tuple[c.SendBatch, c.SendBatch]:
    """`a` has the message, and what became of it can't be known; `b` gets it after the restart."""
    book.submit(1)
    first = given_to(book, "a")
    book.die()
    book.hello("b", max_connections=1)
    pass_lease(book, "b")
    return first, given_to(book, "b")


def silent_for_a_lease(book: Durable) -> tuple[c.SendBatch, c.SendBatch]:
    """The same, and the broker lives and knows."""
    book.submit(1)
    first = given_to(book, "a")
    book.hello("b", max_connections=1)
    pass_lease(book, "b")
    return first, given_to(book, "b")


@pytest.mark.parametrize("dies", [True, False])
def test_a_copy_is_unknown_and_then_a_known_duplicate(book: Durable, dies: bool) -> None:
    first, second = (silent_while_the_broker_dies if dies else silent_for_a_lease)(book)
    book.outcomes(second, "sent")
    assert counts(book) == (0 if dies else 1, 0)
    book.hello("a", max_connections=1, outcomes_upto=1)
    for _ in range(2):  # the confirmation may get lost
        book.outcomes(first, "sent", ended_at=WALL + 5)
        assert counts(book) == (1, 1) and book.states() == [Stored.SENT]
    assert ("a", "sent") in history(book)


@pytest.mark.parametrize("dies", [True, False])
def test_a_copy_that_is_told_of_first(book: Durable, dies: bool) -> None:
    first, second = (silent_while_the_broker_dies if dies else silent_for_a_lease)(book)
    book.hello("a", max_connections=1, outcomes_upto=1)
    book.outcomes(first, "sent", ended_at=WALL + 5)
    assert book.states() == [Stored.SENT] and counts(book)[1] == 0
    for _ in range(2):
        book.outcomes(second, "sent", done=False)
        assert counts(book) == (1, 1)


@pytest.mark.parametrize("dies", [True, False])
@pytest.mark.parametrize("sent_again", [True, False])
def test_what_was_lost_and_is_told_to_be_unknown_counts_once(
    book: Durable, dies: bool, sent_again: bool
) -> None:
    first, second = (silent_while_the_broker_dies if dies else silent_for_a_lease)(book)
    if sent_again:
        book.outcomes(second, "sent")
    book.hello("a", max_connections=1, outcomes_upto=1)
    for _ in range(2):
        book.outcomes(first, "unknown", code=0, reply="connection lost", ended_at=WALL + 5)
        assert counts(book) == (1, 0)
    if not sent_again:
        book.outcomes(second, "sent")
    assert counts(book) == (1, 0) and book.states() == [Stored.SENT]


def test_a_lost_attempt_is_counted_once_though_its_worker_tells_while_it_waits_for_its_next(
    book: Durable,
) -> None:
    """Nobody else is there: the message is deferred in the journal, or waits in memory, when `a` tells."""
    book.submit(1)
    first = given_to(book, "a")
    book.pass_time(LEASE_S + 1)
    book.pass_time(1.0)
    assert counts(book) == (1, 0)
    book.hello("a", max_connections=1, incarnation=2, outcomes_upto=1)
    book.outcomes(first, "unknown", done=False, code=0, reply="ended too soon", ended_at=WALL + 5)
    assert counts(book) == (1, 0)
    book.hello("b", max_connections=1)
    for _ in range(10):
        book.pass_time(0.1)
    again = given_to(book, "b")
    assert again.items[0][1] == 2
    book.outcomes(again, "sent")
    assert counts(book) == (1, 0) and book.states() == [Stored.SENT]


def test_two_reports_of_one_message_at_once_know_of_each_other(book: Durable) -> None:
    first, second = silent_while_the_broker_dies(book)
    book.outcomes(second, "sent")
    book.hello("a", max_connections=1, outcomes_upto=2)
    (index, attempt, *_), kinds = first.items[0], ("sent", "unknown", "sent")
    rows = [
        wire.Outcome(first.batch, 1, index, attempt, kind, "recipient", 250, "ok", WALL, WALL + 20 + n)  # type: ignore[arg-type]  # a kind each
        for n, kind in enumerate(kinds)
    ]
    book.say(e.FromWorker(b"a", 0, wire.Outcomes(0, rows)))
    assert counts(book) == (3, 2)
    assert sorted(history(book)) == [("a", "sent"), ("a", "sent"), ("a", "unknown")]


def test_a_held_message_is_held_for_one_unknown(book: Durable) -> None:
    book.submit(1, HOLD)
    first = given_to(book, "a")
    book.pass_time(LEASE_S + 1)
    assert book.states() == [Stored.HELD] and counts(book) == (1, 0)
    book.hello("a", max_connections=1, outcomes_upto=1)
    book.outcomes(first, "unknown", done=False, code=0, reply="connection lost", ended_at=WALL + 5)
    assert book.states() == [Stored.HELD] and counts(book) == (1, 0)
    (line,) = book.journal.report(1, -1, 1, [], 1)
    assert line.history is not None and LOST not in [each[4] for each in codec.unpack_values(line.history)]


def test_the_newest_attempt_of_a_report_is_in_the_history_too(book: Durable) -> None:
    first, second = silent_while_the_broker_dies(book)
    book.outcomes(second, "deferred", code=450, reply="later")
    book.hello("a", max_connections=1, outcomes_upto=2)
    kinds = ("unknown", "deferred")
    rows = [
        wire.Outcome(first.batch, 1, 0, n, kind, "recipient", 450, "no", WALL, WALL + 20 + n)  # type: ignore[arg-type]  # a kind each
        for n, kind in enumerate(kinds, 1)
    ]
    book.say(e.FromWorker(b"a", 0, wire.Outcomes(0, rows)))
    assert history(book) == [("a", "unknown"), ("b", "deferred"), ("a", "deferred")]


# --- the message is in memory when it is told of -------------------------------------------------


def waiting(book: Durable, options: wire.Options, recipients: int = 1) -> None:
    """Another broker's batch was about a message that waits here: nobody is there to send it."""
    book.say(e.FromWorker(b"a", 0, wire.Goodbye("")))
    book.submit(recipients, options)
    book.hello("a", max_connections=1, state="drain", outcomes_upto=1)


def tell(book: Durable, kind: str, batch: int = 7, attempt: int = 1) -> None:
    row = wire.Outcome(batch, 1, 0, attempt, kind, "recipient", 250, "x", WALL, WALL + 5)  # type: ignore[arg-type]  # a kind
    book.say(e.FromWorker(b"a", 0, wire.Outcomes(0, [row])))


def later(book: Durable) -> list[c.SendBatch]:
    """What is given out once somebody is there."""
    before = len(book.seen)
    book.hello("b", max_connections=1)
    for _ in range(12):
        book.pass_time(0.1)
    return only(book.seen[before:], c.SendBatch)


def test_what_waits_and_was_sent_is_sent_no_more(book: Durable) -> None:
    waiting(book, wire.Options(), 2)
    tell(book, "sent")
    assert book.states() == [Stored.SENT, Stored.QUEUED]
    assert [[item[0] for item in given.items] for given in later(book)] == [[1]]


@pytest.mark.parametrize("options", [wire.Options(), HOLD], ids=["resend", "hold"])
def test_what_waits_and_may_have_been_sent_is_held_where_that_is_wanted(
    book: Durable, options: wire.Options
) -> None:
    waiting(book, options)
    tell(book, "unknown")
    assert counts(book) == (1, 0)
    assert len(later(book)) == (options is not HOLD)
    assert (book.states() == [Stored.HELD]) == (options is HOLD)


def test_what_another_worker_has_just_now_stays_with_it(book: Durable) -> None:
    waiting(book, HOLD)
    (given,) = later(book)
    tell(book, "unknown")
    assert counts(book) == (1, 0) and book.states() == [Stored.QUEUED]
    assert book.core.state.batches[given.batch].messages
    book.outcomes(given, "sent")
    assert book.states() == [Stored.SENT] and counts(book) == (1, 0)


def test_what_a_person_has_released_is_not_held_again_for_the_same_attempt(book: Durable) -> None:
    book.submit(1, HOLD)
    first = given_to(book, "a")
    book.pass_time(LEASE_S + 1)
    assert book.states() == [Stored.HELD]
    book.journal.reopen(1)
    changed = book.journal.restate(1, 0, 1, [Stored.HELD], book.now.wall)
    campaign = book.journal.campaign("c1")
    assert campaign is not None
    book.say(e.Reopened(b"client", 1, campaign, changed))
    book.pass_time(0.1)
    assert len(book.core.state.live) == 1
    book.hello("a", max_connections=1, state="drain", outcomes_upto=1)
    book.outcomes(first, "unknown", done=False, code=0, reply="ended too soon")
    assert counts(book) == (1, 0) and book.states() == [Stored.DEFERRED]
    assert [sent.items[0][0] for sent in later(book)] == [0]
