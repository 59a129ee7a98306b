"""The journal's queue: order, grouping, and that nothing is answered before the flush."""

import math
import threading
from collections.abc import Iterable

import pytest

from broker.core.commands import Change, SetMessages
from broker.journal.group_commit import GroupCommit
from broker.journal.store import JournalError


class FakeJournal:
    """Notes what happens; a commit lasts until the test lets it end."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.may_commit = threading.Event()
        self.fail = False

    def apply(self, changes: Iterable[Change]) -> None:
        self.calls.append("apply")

    def commit(self) -> None:
        assert self.may_commit.wait(10)
        self.calls.append("commit")
        if self.fail:
            raise JournalError("disk")


WAIT_S = 0.02


class Shell:
    def __init__(self) -> None:
        self.journal = FakeJournal()
        self.woken = threading.Event()
        self.queue = GroupCommit(self.journal, self.woken.set)  # type: ignore[arg-type]  # the part it uses
        self.done: list[str] = []

    def write(self, name: str, rows: int = 1, wait_s: float = 0.0) -> None:
        changes = [SetMessages([(0,) * 10] * rows)]  # type: ignore[list-item]  # only counted
        self.queue.write(changes, lambda: self.done.append(name), wait_s=wait_s)

    def commit_ends(self) -> None:
        self.journal.may_commit.set()
        assert self.woken.wait(10)
        self.woken.clear()
        self.journal.may_commit.clear()


def test_nothing_is_done_before_the_flush() -> None:
    shell = Shell()
    shell.write("a")
    shell.queue.step(0.0)
    shell.queue.step(0.0)
    assert shell.done == [] and shell.journal.calls == ["apply"]
    shell.commit_ends()
    assert shell.done == []  # the wake-up only wakes: callbacks run on the caller's thread
    shell.queue.step(0.0)
    assert shell.done == ["a"] and shell.queue.idle


def test_what_comes_during_a_flush_is_the_next_group() -> None:
    shell = Shell()
    shell.write("a")
    shell.queue.step(0.0)
    for name in "bcd":
        shell.write(name)
    shell.queue.step(0.0)
    assert shell.journal.calls == ["apply"]
    shell.commit_ends()
    shell.queue.step(0.0)
    assert shell.done == ["a"] and shell.journal.calls == ["apply", "commit", "apply", "apply", "apply"]
    shell.commit_ends()
    shell.queue.step(0.0)
    assert shell.done == ["a", "b", "c", "d"]


def test_reads_keep_their_place_in_the_queue_and_need_no_flush() -> None:
    shell = Shell()
    shell.queue.read(lambda: "first", shell.done.append)
    shell.write("a")
    shell.queue.read(lambda: "second", shell.done.append)
    shell.queue.step(0.0)
    assert shell.done == ["first", "second"] and shell.journal.calls == ["apply"]
    shell.commit_ends()
    shell.queue.step(0.0)
    assert shell.done[-1] == "a"


def test_a_group_is_bounded() -> None:
    shell = Shell()
    for _ in range(3):
        shell.write("x", rows=15_000)
    assert shell.queue.rows_waiting == 45_000
    shell.queue.step(0.0)
    assert shell.journal.calls == ["apply", "apply"] and shell.queue.rows_waiting == 15_000
    shell.journal.may_commit.set()
    shell.queue.finish()
    assert len(shell.done) == 3


def test_a_failed_flush_answers_nobody() -> None:
    shell = Shell()
    shell.journal.fail = True
    shell.write("a")
    shell.queue.step(0.0)
    shell.commit_ends()
    with pytest.raises(JournalError):
        shell.queue.step(0.0)
    assert shell.done == []


def test_a_group_that_nobody_waits_for_grows_first() -> None:
    shell = Shell()
    shell.write("a", wait_s=WAIT_S)
    shell.queue.step(10.0)
    assert shell.journal.calls == ["apply"] and not shell.queue.idle
    assert shell.queue.wait_s(10.0) == pytest.approx(WAIT_S)
    shell.write("b", wait_s=WAIT_S)
    shell.queue.step(10.0 + WAIT_S / 2)
    assert shell.queue._commit is None
    shell.queue.step(10.0 + WAIT_S)
    assert shell.queue._commit is not None
    shell.commit_ends()
    shell.queue.step(11.0)
    assert shell.done == ["a", "b"] and shell.queue.idle


def test_one_urgent_write_takes_all_before_it_along() -> None:
    shell = Shell()
    shell.write("a", wait_s=WAIT_S)
    shell.queue.step(10.0)
    shell.write("b")
    shell.queue.step(10.0)
    shell.commit_ends()
    shell.queue.step(10.0)
    assert shell.done == ["a", "b"]


def test_what_runs_between_two_groups_meets_no_open_transaction() -> None:
    shell = Shell()
    times: list[float] = []

    def work(now: float) -> float | None:
        times.append(now)
        shell.journal.calls.append("work")
        return now + 5.0 if len(times) < 2 else None

    shell.write("a")
    shell.queue.step(1.0)
    shell.queue.between(work)
    assert shell.queue.wait_s(1.0) == math.inf  # the commit wakes us
    shell.queue.step(1.0)
    shell.write("b")
    shell.commit_ends()
    shell.queue.step(2.0)
    assert shell.journal.calls == ["apply", "commit", "work", "apply"]  # before the next group is opened
    shell.commit_ends()
    shell.queue.step(3.0)
    assert times == [2.0] and shell.queue.wait_s(3.0) == 4.0
    shell.queue.step(7.0)
    assert times == [2.0, 7.0] and shell.queue.wait_s(7.0) == math.inf


def test_a_group_that_waits_for_more_is_an_open_transaction_too() -> None:
    shell = Shell()
    times: list[float] = []
    shell.write("a", wait_s=WAIT_S)
    shell.queue.step(1.0)
    shell.queue.between(times.append)  # returns None: once
    shell.queue.step(1.0 + WAIT_S / 2)
    assert times == []
    shell.queue.step(1.0 + WAIT_S)
    shell.commit_ends()
    shell.queue.step(2.0)
    assert times == [2.0]
