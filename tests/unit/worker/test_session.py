"""Playbooks: an event in, exactly these commands out."""

from collections.abc import Sequence

import pytest

from evenpost.runtime.clock import Now
from evenpost.wire import messages
from evenpost.wire.messages import Batch, BatchItem, HeldBatch, Message, Type
from worker.outcome_rows import OutcomeRow, Rows
from worker.reporting import FEW_INTERVAL_S, FEW_ROWS, INTERVAL_S, Report
from worker.session import Session
from worker.vocabulary import (
    EXIT_CONFLICT,
    EXIT_LOG,
    EXIT_PROTOCOL,
    EXIT_UNFINISHED,
    AgentSaid,
    BatchBegun,
    BatchEnded,
    Command,
    DrainAsked,
    Event,
    Flushed,
    FlushLog,
    GiveBack,
    LimitChanged,
    Log,
    LogFailed,
    Received,
    SendGoodbye,
    SendHeartbeat,
    SendHello,
    SendOutcomes,
    StartBatch,
    Stop,
    Tick,
    Unsent,
)

LEASE_S = 10.0


def item(index: int) -> BatchItem:
    return BatchItem(index, 1, f"r{index}@example.org", b"\x90")


def batch(number: int, *indices: int) -> Batch:
    return Batch(number, 7, [item(index) for index in indices])


def row(batch: int, index: int, kind: str = "sent") -> OutcomeRow:
    return (batch, 7, index, 1, kind, "recipient", 250, "ok", 1, 2)


class Game:
    """A session with its clock, and a shell that does nothing but note outcomes."""

    def __init__(self, max_connections: int = 2, drain_timeout_s: float = 30.0) -> None:
        self.rows = Rows()
        self.session = Session(self.rows, max_connections=max_connections, drain_timeout_s=drain_timeout_s)
        self.mono = 100.0

    def play(self, event: Event, *, at: float | None = None) -> list[Command]:
        if at is not None:
            self.mono = 100.0 + at
        out = self.session.handle(event, Now(self.mono, int(self.mono * 1_000)))
        for command in out:
            if isinstance(command, GiveBack):
                for given in command.items:
                    self.rows.add(row(command.held.number, given.index, "not_sent"))
        return out

    def receive(self, message: Message, request: int = 0, *, at: float | None = None) -> list[Command]:
        return self.play(Received(message, request), at=at)

    def welcome(self, *, at: float = 0.0, broker: str = "b1", revoke: Sequence[int] = ()) -> list[Command]:
        """HELLO out and WELCOME in."""
        hello = next(c for c in self.play(Tick(), at=at) if isinstance(c, SendHello))
        return self.receive(messages.WorkerWelcome(broker, 1.0, LEASE_S, list(revoke)), hello.request)

    def sent(self, batch: int, *indices: int) -> None:
        """These messages of a running batch go out and are answered."""
        held = self.session.batches[batch]
        for index in indices:
            taken = held.take()
            assert taken is not None
            assert taken.index == index
            del held.on_wire[index]
            self.rows.add(row(batch, index))


def names(commands: list[Command]) -> list[str]:
    return [command.event if isinstance(command, Log) else type(command).__name__ for command in commands]


def test_hello_until_a_welcome() -> None:
    game = Game()
    assert game.play(Tick(), at=0) == [SendHello(1, [], (0, 0))]
    assert game.play(Tick(), at=0.5) == []
    assert game.play(Tick(), at=1) == [SendHello(2, [], (0, 0))]
    assert names(game.receive(messages.WorkerWelcome("b1", 1.0, LEASE_S), 2, at=1.2)) == [
        "worker.welcomed", "FlushLog",
    ]  # fmt: skip
    assert game.play(Tick(), at=2) == [SendHeartbeat(3, 0, "ready"), FlushLog()]
    assert game.receive(messages.HeartbeatAck(3), at=2.1) == []
    assert game.play(Tick(), at=3) == [SendHeartbeat(4, 0, "ready"), FlushLog()]


def test_without_a_connection_hello_is_tried_often_and_silence_is_told_once() -> None:
    game = Game()
    logged = 0
    game.play(Tick(), at=0)
    for tenth in range(50):
        assert game.play(Unsent(Type.WORKER_HELLO), at=tenth / 10) == []
        out = game.play(Tick(), at=tenth / 10 + 0.11)
        assert isinstance(out[-1], SendHello)
        logged += names(out).count("worker.no_broker")
    assert logged == 1


def test_the_lease_counts_from_when_the_hello_was_sent() -> None:
    game = Game()
    game.play(Tick(), at=0)
    game.play(Tick(), at=1)
    game.receive(messages.WorkerWelcome("b1", 1.0, LEASE_S), 2, at=5)
    assert game.session.may_begin(101 + LEASE_S - 0.01)
    assert not game.session.may_begin(101 + LEASE_S)


def test_only_the_last_hellos_welcome_counts_and_batches_before_it_do_not() -> None:
    """The broker that answered the first hello knows less than the second one said: what it gives out
    before it has read the second is given out again."""
    game = Game()
    game.play(Tick(), at=0)
    game.play(Tick(), at=1)
    for number in (1, 0):
        assert game.receive(messages.WorkerWelcome("b1", 1.0, LEASE_S), number, at=1.1) == []
    game.receive(batch(1, 10), at=1.2)
    assert not game.session.batches
    game.receive(messages.WorkerWelcome("b1", 1.0, LEASE_S), 2, at=1.3)
    game.receive(batch(2, 10), at=1.4)
    assert list(game.session.batches) == [2]


def test_hellos_become_rarer_so_that_a_slow_broker_can_answer_the_last() -> None:
    game = Game()
    said = [t for t in range(40) if names(game.play(Tick(), at=t))[-1:] == ["SendHello"]]
    assert said == [0, 1, 3, 6, 10, 15, 20, 25, 30, 35]


def test_hellos_that_never_left_do_not_make_the_next_one_rarer() -> None:
    """A broker that is upgraded, and dies on the first hello: its successor is greeted after a heartbeat."""
    game = Game()
    game.play(Tick(), at=0)
    for tenth in range(10):
        game.play(Unsent(Type.WORKER_HELLO), at=tenth / 10)
        game.play(Tick(), at=tenth / 10 + 0.11)
    said = [t for t in range(2, 8) if names(game.play(Tick(), at=t))[-1:] == ["SendHello"]]
    assert said == [3, 5]


def test_an_acknowledged_heartbeat_prolongs_the_lease_from_when_it_was_sent() -> None:
    game = Game()
    game.welcome()
    game.play(Tick(), at=1)  # heartbeat 2
    game.receive(messages.HeartbeatAck(2), at=2.9)
    assert game.session.may_begin(100 + 1 + LEASE_S - 0.01)
    assert not game.session.may_begin(100 + 1 + LEASE_S)
    game.receive(messages.HeartbeatAck(99), at=2.95)  # never sent: means nothing
    assert not game.session.may_begin(100 + 1 + LEASE_S)


def test_batches_run_up_to_the_limit_and_then_in_their_order() -> None:
    game = Game(max_connections=2)
    game.welcome()
    for number in (1, 2, 3, 4):
        out = game.receive(batch(number, number))
        assert names(out) == (["StartBatch"] if number <= 2 else [])
    game.sent(2, 2)
    out = game.play(BatchEnded(2))
    assert [c.held.number for c in out if isinstance(c, StartBatch)] == [3]
    assert out[-1] == FlushLog()
    assert game.play(Flushed()) == [SendOutcomes(Report(0, [row(2, 2)], [2]))]
    game.play(Tick(), at=0.5)
    assert game.play(Tick(), at=1) == [SendHeartbeat(2, 4, "ready"), FlushLog()]


def test_batches_run_up_to_what_the_server_takes_just_now() -> None:
    game = Game(max_connections=3)
    game.welcome()
    game.play(LimitChanged(1), at=0.5)
    assert names(game.receive(batch(1, 1))) == ["StartBatch"]
    assert names(game.receive(batch(2, 2))) == []
    assert names(game.receive(batch(3, 3))) == []
    out = game.play(LimitChanged(2))
    assert [c.held.number for c in out if isinstance(c, StartBatch)] == [2]
    # Lowered, it takes nothing back: what runs ends, and the next one waits for that.
    assert "StartBatch" not in names(game.play(LimitChanged(1)))
    game.sent(1, 1)
    assert "StartBatch" not in names(game.play(BatchEnded(1)))
    game.sent(2, 2)
    assert "StartBatch" in names(game.play(BatchEnded(2)))


def test_news_is_told_soon_but_not_more_often_than_ten_times_a_heartbeat() -> None:
    game = Game()
    game.welcome()
    assert game.play(LimitChanged(1), at=0.5) == [SendHeartbeat(2, 0, "ready"), FlushLog()]
    assert game.play(AgentSaid("drain", 50), at=0.55) == []
    assert game.session.wake_at() == pytest.approx(100.6)
    assert game.play(Tick(), at=0.6) == [SendHeartbeat(3, 0, "drain", 50), FlushLog()]
    assert game.play(Tick(), at=1.5) == []
    assert game.play(Tick(), at=1.6) == [SendHeartbeat(4, 0, "drain", 50), FlushLog()]


def test_without_a_welcome_news_hurries_no_hello() -> None:
    game = Game()
    game.play(Tick(), at=0)
    assert game.play(LimitChanged(1), at=0.5) == []
    assert game.session.wake_at() == 101


def test_the_workers_own_drain_beats_its_agent() -> None:
    game = Game()
    game.welcome()
    game.receive(batch(1, 10))
    game.session.batches[1].take()
    assert SendHeartbeat(2, 1, "maint") in game.play(AgentSaid("maint", None), at=0.5)
    assert SendHeartbeat(3, 1, "drain") in game.play(DrainAsked("SIGTERM"), at=0.7)
    assert SendHeartbeat(4, 1, "drain", 7) in game.play(AgentSaid("ready", 7), at=0.9)


def test_a_batch_that_is_or_was_here_is_ignored() -> None:
    game = Game()
    game.welcome()
    game.receive(batch(1, 1))
    assert game.receive(batch(1, 1)) == []
    game.sent(1, 1)
    game.play(BatchEnded(1))
    game.play(Flushed())
    assert game.receive(batch(1, 1)) == []


def test_a_batch_that_names_a_message_twice_is_refused() -> None:
    game = Game()
    game.welcome()
    assert names(game.receive(batch(1, 5, 5))) == ["worker.bad_batch"]
    assert game.session.batches == {}


def test_many_outcomes_do_not_wait_as_long_as_few() -> None:
    game = Game()
    game.welcome()
    game.receive(batch(1, *range(1, FEW_ROWS + 2)))
    game.play(Flushed(), at=0.1 * INTERVAL_S)
    for index in range(1, FEW_ROWS):
        game.sent(1, index)
    assert FlushLog() not in game.play(Tick(), at=1.1 * INTERVAL_S)
    game.sent(1, FEW_ROWS)
    assert FlushLog() in game.play(Tick(), at=1.2 * INTERVAL_S)


def test_long_batches_report_what_they_have_all_along() -> None:
    game = Game()
    game.welcome()
    game.receive(batch(1, 1, 2, 3))
    game.play(Flushed(), at=0.1 * FEW_INTERVAL_S)
    game.sent(1, 1)
    assert FlushLog() not in game.play(Tick(), at=0.9 * FEW_INTERVAL_S)
    game.sent(1, 2)
    assert FlushLog() in game.play(Tick(), at=1.1 * FEW_INTERVAL_S)
    assert game.play(Flushed()) == [SendOutcomes(Report(0, [row(1, 1), row(1, 2)], []))]
    assert game.session.wake_at() > game.mono
    game.sent(1, 3)
    game.play(BatchEnded(1))
    assert game.play(Flushed()) == [SendOutcomes(Report(2, [row(1, 3)], [1]))]
    assert game.receive(messages.OutcomesCommitted(3)) == []
    assert len(game.rows) == 0


def test_outcomes_that_nobody_confirms_are_told_again() -> None:
    game = Game()
    game.welcome()
    game.receive(batch(1, 1))
    game.sent(1, 1)
    game.play(BatchEnded(1))
    told = game.play(Flushed(), at=0.5)
    for second in range(1, 6):
        game.play(Tick(), at=second)
        game.receive(messages.HeartbeatAck(1 + second), at=second)
    assert game.play(Flushed()) == []
    assert FlushLog() in game.play(Tick(), at=5.5)
    assert game.play(Flushed()) == told


def test_few_outcomes_are_in_flight_and_the_rest_waits() -> None:
    game = Game()
    game.welcome()
    for number in range(20_000):
        game.rows.add(row(1, number))
    game.play(Tick(), at=1)
    out = [c.report for c in game.play(Flushed()) if isinstance(c, SendOutcomes)]
    assert [(report.first, len(report.rows)) for report in out] == [(2_000 * n, 2_000) for n in range(8)]
    assert game.play(Flushed()) == []
    assert game.session.wake_at() > game.mono
    game.receive(messages.OutcomesCommitted(4_000))
    assert FlushLog() in game.play(Tick(), at=2)
    out = [c.report for c in game.play(Flushed()) if isinstance(c, SendOutcomes)]
    assert [(report.first, len(report.rows)) for report in out] == [(16_000, 2_000), (18_000, 2_000)]


def test_a_batch_is_done_only_with_the_last_of_its_rows() -> None:
    game = Game()
    game.welcome()
    game.receive(batch(1, 1))
    for number in range(16_000):
        game.rows.add(row(9, number))
    game.sent(1, 1)
    game.play(BatchEnded(1))
    out = [c.report for c in game.play(Flushed()) if isinstance(c, SendOutcomes)]
    assert [report.done for report in out] == [[]] * 8
    game.receive(messages.OutcomesCommitted(2_000))
    assert game.play(Flushed()) == [SendOutcomes(Report(16_000, [row(1, 1)], [1]))]


def test_a_lost_broker_is_greeted_with_what_is_here() -> None:
    game = Game(max_connections=1)
    game.welcome()
    game.receive(batch(1, 10, 11, 12), at=0.1)
    game.receive(batch(2, 20, 21))
    game.sent(1, 10)
    game.session.batches[1].take()  # 11 is on the wire
    game.play(Flushed())
    for second in (1, 2, 3):
        assert isinstance(game.play(Tick(), at=second)[0], SendHeartbeat)
    out = game.play(Tick(), at=3.1)
    assert names(out) == ["worker.lost_broker", "SendHello"]
    assert out[1] == SendHello(5, [HeldBatch(1, 7, [11, 12]), HeldBatch(2, 7, [20, 21])], (0, 1))
    assert names(game.play(Tick(), at=4.1)) == ["SendHello"]
    # The lease is still there: work goes on meanwhile.
    assert game.session.may_begin(game.mono)
    out = game.receive(messages.WorkerWelcome("b2", 1.0, LEASE_S, [2]), 6, at=4.2)
    assert names(out) == ["worker.welcomed", "worker.batches_revoked", "FlushLog"]
    assert list(game.session.batches) == [1]
    # All that isn't confirmed goes out again. Batch 2 was never begun: it has no rows, and is done.
    assert game.play(Flushed()) == [SendOutcomes(Report(0, [row(1, 10)], [2]))]


def test_not_found_means_hello_at_once_but_only_once() -> None:
    game = Game()
    game.welcome()
    out = game.receive(messages.Error("not_found", "who?"), at=0.3)
    assert names(out) == ["worker.lost_broker", "SendHello"]
    assert game.receive(messages.Error("not_found", "who?"), at=0.4) == []


def test_a_heartbeat_that_cannot_be_sent_means_hello() -> None:
    game = Game()
    game.welcome()
    game.play(Tick(), at=1)
    assert names(game.play(Unsent(Type.HEARTBEAT), at=1)) == ["worker.lost_broker", "SendHello"]


def test_when_the_lease_ends_what_was_not_begun_goes_back() -> None:
    game = Game(max_connections=1)
    game.welcome()
    game.receive(batch(1, 10, 11, 12))
    game.receive(batch(2, 20))
    game.session.batches[1].take()
    game.receive(messages.OutcomesCommitted(0), at=LEASE_S - 0.5)  # the broker lives, but grants no lease
    out = game.play(Tick(), at=LEASE_S)
    given = [(c.held.number, [i.index for i in c.items], c.reason) for c in out if isinstance(c, GiveBack)]
    assert given == [(1, [11, 12], "the lease has ended"), (2, [20], "the lease has ended")]
    assert "worker.lease_ended" in names(out)
    assert game.session.batches[1].take() is None
    assert list(game.session.batches) == [1]
    assert "worker.lease_ended" not in names(game.play(Tick(), at=LEASE_S + 1))
    # A batch that comes now goes back at once.
    assert "worker.lost_broker" not in names(out)
    out = game.receive(batch(3, 30), at=LEASE_S + 1.1)
    assert [(c.held.number, c.reason) for c in out if isinstance(c, GiveBack)] == [(3, "the lease has ended")]


def test_revoked_messages_are_dropped_and_those_on_the_wire_are_not() -> None:
    game = Game(max_connections=1)
    game.welcome()
    game.receive(batch(1, 10, 11))
    game.receive(batch(2, 20))
    game.session.batches[1].take()
    out = game.receive(messages.Revoke([1, 2, 99]))
    assert not [c for c in out if isinstance(c, GiveBack)]
    held = game.session.batches[1]
    assert held.revoked
    assert held.take() is None
    assert held.open_indices() == [10]
    assert 2 not in game.session.batches
    assert len(game.rows) == 0


def test_drain() -> None:
    game = Game(max_connections=1)
    game.welcome()
    game.receive(batch(1, 10, 11), at=0.1)
    game.receive(batch(2, 20))
    game.session.batches[1].take()
    out = game.play(DrainAsked("SIGTERM"), at=0.2)
    assert names(out) == ["worker.draining", "GiveBack", "GiveBack", "SendHeartbeat", "FlushLog"]
    assert out[-2] == SendHeartbeat(2, 2, "drain")
    assert not game.session.may_begin(game.mono)
    told = game.play(Flushed())
    assert game.play(DrainAsked("SIGTERM")) == []
    assert told == [SendOutcomes(Report(0, [row(1, 11, "not_sent"), row(2, 20, "not_sent")], [2]))]
    del game.session.batches[1].on_wire[10]
    game.rows.add(row(1, 10))
    game.play(BatchEnded(1), at=0.5)
    assert game.play(Flushed()) == [SendOutcomes(Report(2, [row(1, 10)], [1]))]
    assert game.receive(messages.OutcomesCommitted(2), at=0.6) == []
    out = game.receive(messages.OutcomesCommitted(3), at=0.7)
    assert out[-1] == SendGoodbye("SIGTERM")
    assert game.receive(messages.GoodbyeOk(), at=0.8) == [Stop(0)]
    assert game.play(Tick(), at=9) == []
    assert game.session.wake_at() == float("inf")


def test_a_batch_that_crosses_the_goodbye_goes_back_before_the_end() -> None:
    game = Game()
    game.welcome()
    assert names(game.play(DrainAsked("SIGTERM"), at=0.1)) == [
        "worker.draining", "SendGoodbye", "SendHeartbeat", "FlushLog",
    ]  # fmt: skip
    out = game.receive(batch(3, 30), at=0.2)
    assert [c.reason for c in out if isinstance(c, GiveBack)] == ["the worker is draining"]
    assert names(game.receive(messages.GoodbyeOk(), at=1.15)) == ["SendHeartbeat", "FlushLog"]
    assert game.play(Flushed()) == [SendOutcomes(Report(0, [row(3, 30, "not_sent")], [3]))]
    assert game.session.wake_at() > game.mono  # the goodbye is overdue, and waits for the confirmation
    assert SendGoodbye("SIGTERM") in game.receive(messages.OutcomesCommitted(1), at=1.2)
    assert game.receive(messages.GoodbyeOk(), at=1.3) == [Stop(0)]


def test_drain_is_over_at_once_where_there_is_nothing_to_tell_and_nobody() -> None:
    game = Game()
    game.play(Tick(), at=0)
    assert names(game.play(DrainAsked("SIGINT"))) == ["worker.draining", "Stop"]


def test_drain_waits_for_the_broker_and_then_keeps_the_outcomes() -> None:
    game = Game(drain_timeout_s=5)
    game.rows.add(row(1, 1))
    game.play(Tick(), at=0)
    game.play(DrainAsked("SIGTERM"), at=0)
    assert game.session.wake_at() == 102
    assert names(game.play(Tick(), at=2)) == ["SendHello"]
    game.play(Tick(), at=4.9)
    assert game.session.wake_at() == 105
    out = game.play(Tick(), at=5)
    assert names(out) == ["worker.unconfirmed", "Stop"]
    assert out[-1] == Stop(0)


def test_drain_that_leaves_messages_on_the_wire_fails() -> None:
    game = Game(drain_timeout_s=5)
    game.welcome()
    game.receive(batch(1, 10))
    game.session.batches[1].take()
    game.play(DrainAsked("SIGTERM"), at=0)
    out = game.play(Tick(), at=5)
    assert names(out) == ["worker.lost_broker", "worker.unfinished", "Stop"]
    assert out[-1] == Stop(EXIT_UNFINISHED)


def test_a_worker_that_was_taken_over_finishes_the_wire_and_tells_nobody() -> None:
    game = Game()
    game.welcome()
    game.receive(batch(1, 10, 11))
    game.session.batches[1].take()
    out = game.receive(messages.Error("conflict", "w1 is elsewhere"), at=0.1)
    assert names(out) == ["worker.taken_over", "worker.draining", "GiveBack", "FlushLog"]
    assert not game.session.may_begin(game.mono)
    assert game.play(Flushed()) == []
    assert game.play(Tick(), at=1) == []
    del game.session.batches[1].on_wire[10]
    game.rows.add(row(1, 10))
    out = game.play(BatchEnded(1), at=1.5)
    assert names(out) == ["worker.unconfirmed", "Stop"]
    assert out[-1] == Stop(EXIT_CONFLICT)


def test_another_version_ends_the_worker() -> None:
    game = Game()
    game.play(Tick(), at=0)
    out = game.receive(messages.Error("bad_version", "update"), at=0.1)
    assert names(out) == ["worker.wrong_version", "worker.draining", "Stop"]
    assert out[-1] == Stop(EXIT_PROTOCOL)


def test_a_log_that_cannot_be_written_stops_all_and_still_reports() -> None:
    game = Game(max_connections=1)
    game.welcome()
    game.receive(batch(1, 10, 11))
    game.session.batches[1].take()
    out = game.play(LogFailed("disk full"), at=0.1)
    assert names(out)[:3] == ["worker.log_failed", "worker.draining", "GiveBack"]
    assert not game.session.may_begin(game.mono)
    assert game.play(Flushed()) == [SendOutcomes(Report(0, [row(1, 11, "not_sent")], []))]
    assert game.play(LogFailed("disk full")) == []
    del game.session.batches[1].on_wire[10]
    game.rows.add(row(1, 10))
    game.play(BatchEnded(1), at=0.2)
    game.play(Flushed())
    assert game.receive(messages.OutcomesCommitted(2), at=0.3)[-1] == SendGoodbye("disk full")
    assert game.receive(messages.GoodbyeOk(), at=0.4) == [Stop(EXIT_LOG)]


def test_other_refusals_are_logged_and_not_too_often() -> None:
    game = Game()
    game.welcome()
    assert names(game.receive(messages.Error("bad_message", "x"), at=0.1)) == ["worker.refused"]
    assert game.receive(messages.Error("bad_message", "x"), at=0.2) == []


@pytest.mark.parametrize("message", [messages.Goodbye(), messages.Welcome("b", "s")])
def test_messages_that_are_not_for_a_worker(message: Message) -> None:
    game = Game()
    game.welcome()
    assert names(game.receive(message)) == ["worker.unexpected"]


def test_rows_of_an_earlier_run_are_not_mixed_with_those_of_this_one() -> None:
    game = Game()
    game.rows.add(row(1, 1))
    game.rows.jump(2**32)
    game.rows.add(row(1, 2))
    game.welcome()
    assert game.play(Flushed()) == [
        SendOutcomes(Report(0, [row(1, 1)], [])),
        SendOutcomes(Report(2**32, [row(1, 2)], [])),
    ]
    game.receive(messages.OutcomesCommitted(1))
    assert len(game.rows) == 1
    game.receive(messages.OutcomesCommitted(2**32 + 1))
    assert len(game.rows) == 0


def test_behind_a_batch_that_is_all_on_its_way_the_next_one_starts() -> None:
    game = Game(max_connections=1)
    game.welcome()
    for number in (1, 2, 3):
        game.receive(batch(number, 0, 1))
    assert [held.running for held in game.session.batches.values()] == [True, False, False]
    assert "StartBatch" in names(game.play(BatchBegun(1)))
    assert names(game.play(BatchBegun(1))) == [], "it says so again after a lost connection"
    game.sent(1, 0, 1)
    assert "StartBatch" not in names(game.play(BatchEnded(1))), "the second has the connection"
    assert "StartBatch" in names(game.play(BatchBegun(2)))
    assert SendHeartbeat(2, 3, "ready", begun=1) in game.play(Tick(), at=1)
    game.sent(2, 0, 1)
    game.play(BatchEnded(2))
    assert SendHeartbeat(3, 3, "ready", begun=1) in game.play(Tick(), at=2), "at most, since the last one"
    game.receive(messages.HeartbeatAck(3), at=2.1)
    assert SendHeartbeat(4, 3, "ready") in game.play(Tick(), at=3)
