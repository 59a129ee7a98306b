"""The checks can fail: each of these breaks one promise of the core, of a worker or of a disk, and the sweep
says so, in the right words. What can't be seen to fail proves nothing."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest

from broker.core import batches
from broker.core.balancer import Balancer
from broker.core.buckets import Bucket
from broker.core.commands import Command
from broker.core.dispatcher import Dispatcher
from broker.core.events import Event, Tick
from broker.core.message_state import Stored
from evenpost.runtime.clock import Now
from scripts.simulation.journal import MemoryJournal
from scripts.simulation.pool import Pool
from scripts.simulation.sweep import History, run
from scripts.simulation.worker_log import WorkerLog
from worker.lease import Lease
from worker.session import Session

SEEDS_MAX = 150
"""A fault as gross as these shows itself within so many seeds."""


def caught(*words: str, dispatchers: Callable[..., Dispatcher] = Dispatcher) -> History:
    """The first seed that fails with one of these words."""
    others = []
    for seed in range(1, SEEDS_MAX + 1):
        history = run(seed, dispatchers=dispatchers)
        if any(word in history.violation for word in words):
            assert f"--seed {seed} " in history.command
            assert history.last
            return history
        if history.violation:
            others.append(history.violation)
    raise AssertionError(f"it wasn't found in {SEEDS_MAX} seeds, only {others[:3]}")


class DoesNotFence(Dispatcher):
    """Gives out a silent worker's batches at once, without waiting for the end of its lease."""

    def handle(self, event: Event, now: Now) -> list[Command]:
        out = super().handle(event, now)
        if isinstance(event, Tick):
            for worker in self.state.workers.values():
                if not worker.connected:
                    for batch in list(worker.batches.values()):
                        out.extend(batches.drop(self.state, batch, now))
                        self.balancer.update(worker, now.mono)
        return out


class LosesMessages(Dispatcher):
    """Forgets one message that waits in memory, now and then."""

    def dispatch(self, now: Now) -> list[Command]:
        for campaign in self.state.campaigns.values():
            if len(campaign.ready) > 5 and campaign.stripes:
                message = campaign.ready.pop()
                del self.state.live[message.id]
                if message.page is not None:
                    message.page.outstanding -= 1
        return super().dispatch(now)


class SendsTwice(Dispatcher):
    """Leaves a message in the queue that it has given out."""

    def dispatch(self, now: Now) -> list[Command]:
        out = super().dispatch(now)
        for batch in itertools.islice(self.state.batches.values(), 1):
            for message in batch.messages.values():
                batch.campaign.ready.append(message)
        return out


class Miscounts(Dispatcher):
    """Counts a sent message twice."""

    def handle(self, event: Event, now: Now) -> list[Command]:
        out = super().handle(event, now)
        for campaign in self.state.campaigns.values():
            if campaign.counts.get(Stored.SENT, 0) == 3 and campaign.total > 10:
                campaign.count(Stored.SENT)
        return out


class Spins(Dispatcher):
    """Says that there is something to do, and does nothing."""

    def next_at(self) -> float:
        return 0.0


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (DoesNotFence, ("can begin it too", "taken from it")),
        (LosesMessages, ("never ended", "outstanding")),
        (SendsTwice, ("waits and is in flight",)),
        (Miscounts, ("counts", "add up")),
        (Spins, ("spins",)),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_a_broken_core_is_caught(broken: type[Dispatcher], words: tuple[str, ...]) -> None:
    caught(*words, dispatchers=broken)


def test_too_many_batches_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Balancer, "limit", lambda self, worker, now: worker.limit + 5)
    caught("is the most")


def test_starvation_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    pick = Balancer.pick

    def seldom(self: Balancer, *arguments: Any, **more: Any) -> Any:
        return pick(self, *arguments, **more) if self._uses % 7 != 6 else None

    monkeypatch.setattr(Balancer, "pick", seldom)
    caught("is free")


def test_an_overdrawn_bucket_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Bucket, "available", lambda self, now, want: want)
    caught("are allowed in")


def test_a_quota_granted_again_by_a_restart_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MemoryJournal, "quotas", lambda self: {})
    caught("are allowed in")


def test_a_worker_that_ignores_its_lease_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Session, "may_begin", lambda self, mono: True)
    monkeypatch.setattr(
        Lease, "end", property(lambda self: float("inf"), lambda self, end: None), raising=False
    )
    caught("can begin it too", "taken from it")


def test_a_worker_that_forgets_what_it_began_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WorkerLog, "begin", lambda self, *row: None)
    caught("copies", "never took")


def test_a_worker_above_its_limit_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """It dials for each batch, and miscounts what it has."""
    monkeypatch.setattr(Pool, "idle", lambda self: None)
    monkeypatch.setattr(Pool, "open", property(lambda self: max(0, len(self.connections) - 2)))
    caught("connections, at most")


def test_a_disk_that_lies_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says that it has flushed, and hasn't."""

    def commit(self: MemoryJournal) -> None:
        self.commits += 1
        if self.commits % 3 == 0:
            self._undo.clear()

    monkeypatch.setattr(MemoryJournal, "commit", commit)
    caught("copies", "hasn't got it", "never ended", "in the journal", "its counts", "was accepted")
