"""No input from the network raises past its peer, out of the core either, and no word of a peer tears its
state: what it says in the protocol's own words, about anything, in any order.

More seeds: EVENPOST_HOSTILE_SEEDS=1000, from EVENPOST_FIRST_SEED."""

import os
import traceback
from pathlib import Path

import pytest

from broker.core.commands import SetCampaign
from broker.core.events import MxFound, SubmissionOpened
from broker.core.message_state import Stored
from broker.core.pacing import pace
from evenpost.wire import messages as wire
from tests.property.hostile_peers import WALL, Hostile

SEEDS = int(os.environ.get("EVENPOST_HOSTILE_SEEDS", "10"))
FIRST = int(os.environ.get("EVENPOST_FIRST_SEED", "1"))
STEPS = 250
FOUND = (183, 8321)
"""Seeds that found something once."""


@pytest.mark.parametrize("seed", sorted({*FOUND, *range(FIRST, FIRST + SEEDS)}))
def test_nothing_that_a_peer_says_raises_in_the_core_or_tears_its_state(tmp_path: Path, seed: int) -> None:
    peers = Hostile(tmp_path / "journal.db", seed)
    try:
        for _ in range(STEPS):
            peers.step()
        peers.balance()
    except Exception:  # noqa: BLE001  # whatever it is, it is what is looked for
        said = "\n".join(peers.last)
        pytest.fail(
            f"seed {seed}, the last that was said:\n{said}\n\n{traceback.format_exc()}", pytrace=False
        )
    assert peers.batches, "the peers never got as far as a batch"


def test_the_peers_get_far_enough(tmp_path: Path) -> None:
    """A harness whose words are all refused would find nothing."""
    states: set[Stored] = set()
    for seed in range(1, 4):
        peers = Hostile(tmp_path / f"{seed}.db", seed)
        for _ in range(STEPS):
            peers.step()
        peers.settle()
        for number in range(1, peers.next_number):
            states |= {Stored(line.state) for line in peers.journal.report(number, -1, 100, [], 200)}
    assert states >= {Stored.QUEUED, Stored.DEFERRED, Stored.HELD, Stored.SENT, Stored.BOUNCED}


# --- what it found ---------------------------------------------------------------------------------


@pytest.fixture
def peers(tmp_path: Path) -> Hostile:
    return Hostile(tmp_path / "journal.db", 1)


def submit(peers: Hostile, recipients: int = 2, *, commit: bool = True) -> str:
    id_ = peers.open_campaign(wire.Options(), f"whole{peers.next_number}")
    peers.settle()
    rows = [wire.Recipient(f"u{n}@example.com") for n in range(recipients)]
    peers.from_client(wire.Recipients(id_, 0, rows))
    if commit:
        peers.from_client(wire.Commit(id_, 1, recipients))
    peers.settle()
    return id_


def hello(peers: Hostile, name: str, *holding: wire.HeldBatch) -> None:
    peers.rng.choice = lambda given: given[0]  # type: ignore[method-assign]  # one peer for all
    peers.from_worker(wire.WorkerHello(name, 1, "relay:25", "log", 5, holding=list(holding)))
    peers.settle()


def give_out(peers: Hostile) -> None:
    """Time passes, and everybody answers."""
    for _ in range(3):
        peers.pass_time(0.3)
        for domain in peers.asked:
            peers.handle(MxFound(domain, "elsewhere.example"))
        peers.asked.clear()
        peers.settle()
        peers.dispatch()


def test_a_sender_of_nothing_but_parentheses_is_a_sender_without_a_domain(peers: Hostile) -> None:
    """email.utils.parseaddr recurses for each of them, and the broker died of it."""
    template = wire.Template("(" * 1_000, "s", text="t")
    opened = wire.OpenCampaign("s", template)
    peers.handle(SubmissionOpened(b"client", 1, opened, b"T", b"F", None, "c1", 1))
    assert "c1" in peers.core.state.by_id


def test_a_state_named_twice_is_retried_once(peers: Hostile) -> None:
    """The second time found nothing to change, and that was what counted: the messages were lost."""
    id_ = submit(peers)
    peers.core.state.by_id[id_].expire_at = 1
    peers.pass_time(1.0)
    assert not peers.core.state.campaigns
    peers.from_client(wire.RetryFailed(id_, ["expired", "expired"]))
    peers.settle()
    campaign = peers.core.state.by_id[id_]
    assert campaign.counts[Stored.DEFERRED] == 2 and campaign.unfinished == 2
    peers.balance()


@pytest.mark.parametrize("batches", [(9, 9), (0, 9), (1 << 62, 9)], ids=["twice", "zero", "of_the_future"])
def test_what_a_worker_says_it_holds_may_be_nonsense(peers: Hostile, batches: tuple[int, int]) -> None:
    """Two batches of one number, or one with the number that says that a message waits."""
    submit(peers)
    peers.restart()
    held = [wire.HeldBatch(number, 1, [index]) for index, number in enumerate(batches)]
    hello(peers, "w", *held)
    assert set(peers.core.state.batches) == {9}
    peers.balance()


def test_what_two_workers_say_they_hold_is_the_first_ones(peers: Hostile) -> None:
    submit(peers)
    peers.restart()
    first = wire.WorkerHello("w1", 1, "relay:25", "log", 5, holding=[wire.HeldBatch(9, 1, [0])])
    other = wire.WorkerHello("w2", 1, "relay:25", "log", 5, holding=[wire.HeldBatch(9, 1, [1])])
    peers.hear(b"p1", first)
    peers.hear(b"p2", other)
    peers.settle()
    assert peers.core.state.batches[9].worker.name == "w1" and len(peers.core.state.live) == 1


def test_a_campaign_that_is_not_accepted_yet_has_no_outcomes_that_would_be_forgotten(peers: Hostile) -> None:
    """A worker that a backup's broker doesn't know of may tell; the message would be sent once more."""
    id_ = submit(peers, commit=False)
    hello(peers, "w")
    told = wire.Outcome(7, 1, 0, 1, "sent", "recipient", 250, "ok", WALL, WALL + 9)
    peers.from_worker(wire.Outcomes(0, [told]))
    peers.settle()
    peers.from_client(wire.Commit(id_, 1, 2))
    peers.settle()
    give_out(peers)
    assert {item[0] for sent in peers.given for item in sent.items} == {1}
    peers.balance()


def test_what_is_not_accepted_yet_is_held_by_nobody(peers: Hostile) -> None:
    submit(peers, commit=False)
    peers.restart()
    hello(peers, "w", wire.HeldBatch(9, 1, [0]))
    assert not peers.core.state.batches


def test_a_retry_that_comes_twice_is_done_once(peers: Hostile) -> None:
    """The second found rows of an expired campaign that the first had made due, and counted them again."""
    id_ = submit(peers)
    peers.core.state.by_id[id_].expire_at = 1
    peers.pass_time(1.0)
    for _ in range(2):
        peers.from_client(wire.RetryFailed(id_, []))
    peers.settle()
    assert peers.core.state.by_id[id_].counts[Stored.DEFERRED] == 2
    peers.balance()
    # Its end lets the next one in, and so does a refusal.
    assert not peers.core.state.reopening
    peers.from_client(wire.RetryFailed("nobody", []))
    peers.settle()
    assert not peers.core.state.reopening


def test_an_outcome_that_comes_while_its_campaign_is_retried_waits_for_that(peers: Hostile) -> None:
    id_ = submit(peers)
    peers.core.state.by_id[id_].expire_at = 1
    peers.pass_time(1.0)
    hello(peers, "w")
    peers.from_client(wire.RetryFailed(id_, ["expired"]))
    told = wire.Outcome(7, 1, 0, 1, "sent", "recipient", 250, "ok", WALL, WALL + 9)
    peers.from_worker(wire.Outcomes(0, [told]))
    peers.settle()
    counts = peers.core.state.by_id[id_].counts
    assert (counts[Stored.SENT], counts[Stored.DEFERRED], counts[Stored.EXPIRED]) == (1, 1, 0)
    assert not peers.core.state.looking_up
    peers.balance()


def test_what_a_worker_measures_is_bounded(peers: Hostile) -> None:
    """A pace of a hundred million years was when the next message of the domain would go, and no integer."""
    assert pace(0.0, 9e15, 1) == pace(0.0, 601.0, 1) == 600.0


def test_a_batch_that_ends_after_its_campaign_tells_nothing_of_it(peers: Hostile) -> None:
    id_ = submit(peers)
    hello(peers, "w")
    give_out(peers)
    given = peers.given[0]
    peers.from_client(wire.Cancel(id_))
    rows = [
        wire.Outcome(given.batch, 1, index, 1, "sent", "recipient", 250, "x", WALL, WALL + 9)
        for index, *_ in given.items
    ]
    peers.hear(given.peer, wire.Outcomes(0, rows))
    for other in list(peers.core.state.batches.values()):
        peers.hear(given.peer, wire.Outcomes(0, [], [other.number] if other.number != given.batch else []))
    peers.settle()
    ended = peers.journal.campaign(id_)
    assert ended is not None and ended.finished_at
    # The journal learns more of it, and then the batch ends together with something else.
    ended.duplicates = 5
    peers.journal.apply([SetCampaign.of(ended)])
    submit(peers, 1)
    give_out(peers)
    more = peers.given[-1]
    assert more.campaign == 2
    row = wire.Outcome(more.batch, more.campaign, 0, 1, "sent", "recipient", 250, "x", WALL, WALL + 9)
    peers.hear(more.peer, wire.Outcomes(9, [row], [given.batch, more.batch]))
    peers.settle()
    peers.journal.commit()
    left = peers.journal.campaign(id_)
    assert left is not None and left.duplicates == 5
