"""Playbooks for a submission, and a broker in miniature that loses, doubles and forgets."""

import random
from dataclasses import replace

import pytest

from client.session import Send, Timing
from client.submission import Phase, Submission
from evenpost.wire import codec
from evenpost.wire.errors import Code
from evenpost.wire.messages import (
    FROM_CLIENT,
    CampaignOpen,
    Commit,
    Error,
    Message,
    OpenCampaign,
    Recipients,
    RecipientsStored,
    SubmitOk,
    Template,
)

TIMING = Timing(timeout_s=30, retry_s=2, retry_s_max=8, busy_s=0.1, unsent_s=0.05)
OPENING = OpenCampaign("sub-1", Template("a@b.example", "hello"))
FIRST = 1 << 40


def submission(in_flight: int = 2, timing: Timing = TIMING) -> Submission:
    return Submission(OPENING, in_flight, timing, FIRST)


def rows(start: int, count: int = 2) -> list[list[object]]:
    return [[f"u{i}@example.com", b"\x90"] for i in range(start, start + count)]


def messages(sends: list[Send]) -> list[Message]:
    return [codec.decode(send.frames, FROM_CLIENT).message for send in sends]


def chunks(sends: list[Send]) -> list[int]:
    found = messages(sends)
    assert all(isinstance(m, Recipients) for m in found), found
    return [m.chunk for m in found if isinstance(m, Recipients)]


def opened(in_flight: int = 2, next_chunk: int = 0, recipients: int = 0) -> Submission:
    machine = submission(in_flight)
    [send] = machine.start(0.0)
    assert machine.receive(send.request, CampaignOpen("c1", next_chunk, recipients, False), 0.1) == []
    return machine


def test_the_straight_way() -> None:
    machine = opened()
    assert chunks(machine.add(rows(0), 1.0)) == [0]
    assert machine.room
    assert chunks(machine.add(rows(2), 1.0)) == [1]
    assert not machine.room, "only as many in flight as the broker allows"
    assert machine.receive(FIRST + 1, RecipientsStored("c1", 0), 1.1) == []
    assert machine.room and machine.stored == 2
    assert chunks(machine.add(rows(4), 1.2)) == [2]
    commit = machine.end(1.3)
    assert messages(commit) == [Commit("c1", chunks=3, recipients=6)], "at once: one flush stores both"
    machine.receive(FIRST + 2, RecipientsStored("c1", 1), 1.4)
    machine.receive(FIRST + 3, RecipientsStored("c1", 2), 1.5)
    assert machine.phase is Phase.COMMITTING
    machine.receive(commit[0].request, SubmitOk("c1", 6), 1.6)
    assert (machine.phase, machine.stored, machine.again) == (Phase.DONE, 6, False)
    assert machine.wake_at is None


def test_a_slow_source_is_no_time_out() -> None:
    machine = opened()
    assert machine.wake_at is None, "nothing is owed by the broker"
    machine.add(rows(0), 1000.0)
    assert machine.wake_at == pytest.approx(1002.0, abs=0.01)
    machine.receive(FIRST + 1, RecipientsStored("c1", 0), 1000.1)
    assert machine.wake_at is None


def test_an_accepted_submission_is_not_sent_again() -> None:
    machine = submission()
    [send] = machine.start(0.0)
    machine.receive(send.request, CampaignOpen("c1", 3, 6, True), 0.1)
    assert (machine.phase, machine.stored, machine.again, machine.campaign) == (Phase.DONE, 6, True, "c1")


def test_an_earlier_run_is_taken_up() -> None:
    machine = opened(next_chunk=2, recipients=4)
    assert machine.skip == 4 and machine.stored == 4
    assert chunks(machine.add(rows(4), 0.2)) == [2]
    assert messages(machine.end(0.3)) == [Commit("c1", chunks=3, recipients=6)]


def test_a_commit_whose_chunk_was_lost_follows_it_again() -> None:
    machine = opened()
    machine.add(rows(0), 1.0)
    [commit] = machine.end(1.0)
    machine.receive(commit.request, Error(Code.OUT_OF_ORDER, "0 chunks are stored"), 1.1)
    [again] = machine.tick(1.1)
    sends = machine.receive(again.request, CampaignOpen("c1", 0, 0, False), 1.2)
    chunk, second = messages(sends)
    assert isinstance(chunk, Recipients) and chunk.chunk == 0
    assert second == Commit("c1", chunks=1, recipients=2)


def test_after_a_lost_acknowledgement_it_opens_again_and_goes_on_from_what_is_stored() -> None:
    machine = opened()
    machine.add(rows(0), 1.0)
    machine.add(rows(2), 1.0)
    assert machine.tick(2.9) == []
    [again] = machine.tick(3.1)
    assert messages([again]) == [OPENING]
    assert chunks(machine.receive(again.request, CampaignOpen("c1", 1, 2, False), 3.2)) == [1]
    assert machine.stored == 2 and machine.room


@pytest.mark.parametrize("code", [Code.OUT_OF_ORDER, Code.NOT_FOUND, Code.WRONG_STATE])
def test_a_broker_that_lost_the_thread_is_asked_at_once_what_it_has(code: Code) -> None:
    machine = opened()
    machine.add(rows(0), 1.0)
    machine.add(rows(2), 1.0)
    machine.receive(FIRST + 2, Error(code, "expected 0"), 1.1)
    [again] = machine.tick(1.1)
    # The second refusal of the same burst is old news.
    assert machine.receive(FIRST + 1, Error(code, "expected 0"), 1.1) == []
    assert chunks(machine.receive(again.request, CampaignOpen("c1", 0, 0, False), 1.2)) == [0, 1]


def test_an_endless_refusal_comes_to_an_end() -> None:
    machine = opened()
    [send] = machine.add(rows(0), 1.0)
    now, refusals = 1.0, 0
    while not machine.over:
        machine.receive(send.request, Error(Code.OUT_OF_ORDER, "expected 7"), now)
        refusals += 1
        while not (sends := machine.tick(now)) and not machine.over:
            assert machine.wake_at is not None
            now = machine.wake_at
        if sends:
            [send] = machine.receive(sends[0].request, CampaignOpen("c1", 0, 0, False), now)
    assert machine.error is not None
    assert machine.error.message == "expected 7"
    assert 30 < now <= 32 and refusals < 20, "it backs off"


def test_busy_backs_off_and_loses_nothing() -> None:
    machine = opened()
    [send] = machine.add(rows(0), 1.0)
    machine.receive(send.request, Error(Code.BUSY, "later"), 1.0)
    assert machine.tick(1.05) == []
    [again] = machine.tick(1.1)
    assert chunks(machine.receive(again.request, CampaignOpen("c1", 0, 0, False), 1.2)) == [0]


def test_a_lost_answer_to_the_commit_counts_once_and_is_no_second_submission() -> None:
    machine = opened()
    machine.add(rows(0), 1.0)
    machine.end(1.0)
    machine.receive(FIRST + 1, RecipientsStored("c1", 0), 1.1)
    assert machine.phase is Phase.COMMITTING
    [again] = machine.tick(3.2)
    machine.receive(again.request, CampaignOpen("c1", 1, 2, True), 3.3)
    assert (machine.phase, machine.again, machine.stored) == (Phase.DONE, False, 2)


def test_a_commit_that_never_arrives_is_given_up() -> None:
    machine = opened()
    machine.add(rows(0), 1.0)
    machine.end(1.0)
    machine.receive(FIRST + 1, RecipientsStored("c1", 0), 1.1)
    now = 1.1
    while not machine.over:
        assert machine.wake_at is not None and machine.wake_at >= now
        now = machine.wake_at
        for send in machine.tick(now):  # the broker answers OPEN and never COMMIT
            machine.receive(send.request, CampaignOpen("c1", 1, 2, False), now)
    assert machine.error is not None and machine.error.code == Code.UNAVAILABLE
    assert now == pytest.approx(31.1, abs=0.1)


def test_chunks_that_the_broker_acknowledged_and_lost_are_an_error() -> None:
    machine = opened()
    machine.add(rows(0), 1.0)
    machine.receive(FIRST + 1, RecipientsStored("c1", 0), 1.1)
    machine.add(rows(2), 1.2)
    [again] = machine.tick(3.3)
    machine.receive(again.request, CampaignOpen("c2", 0, 0, False), 3.4)
    assert machine.error is not None and machine.error.code == Code.CONFLICT


def test_two_at_the_same_submission_are_told() -> None:
    machine = opened()
    machine.add(rows(0), 1.0)
    [again] = machine.tick(3.1)
    machine.receive(again.request, CampaignOpen("c1", 9, 18, False), 3.2)
    assert machine.error is not None and machine.error.code == Code.CONFLICT


def test_a_late_answer_to_an_old_opening_is_not_taken_for_a_new_one() -> None:
    machine = opened()
    machine.add(rows(0), 1.0)
    [second] = machine.tick(3.1)
    [third] = machine.tick(7.2)  # the second's answer is late; the third's pause has doubled
    assert chunks(machine.receive(second.request, CampaignOpen("c1", 0, 0, False), 7.3)) == [0]
    machine.receive(FIRST + 9, RecipientsStored("c1", 0), 7.4)
    [send] = machine.add(rows(2), 7.5)
    machine.receive(send.request, Error(Code.BUSY, "x"), 7.6)
    [fourth] = machine.tick(7.8)
    assert machine.receive(third.request, CampaignOpen("c1", 0, 0, False), 7.9) == []
    assert machine.error is None
    assert chunks(machine.receive(fourth.request, CampaignOpen("c1", 1, 2, False), 8.0)) == [1]


def test_without_a_connection_it_tries_again_soon() -> None:
    machine = submission()
    [send] = machine.start(0.0)
    machine.unsent(send.request, 0.0)
    assert machine.wake_at == pytest.approx(0.05)
    assert messages(machine.tick(0.05)) == [OPENING]


class Broker:
    """What a broker keeps, and a network that drops, doubles and delays by chance."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.stored: list[list[str]] = []
        self.committed = False
        self.commits = 0

    def answers(self, message: Message) -> list[Message]:
        match message:
            case OpenCampaign():
                count = sum(map(len, self.stored))
                return [CampaignOpen("c1", len(self.stored), count, self.committed)]
            case Recipients() if message.chunk <= len(self.stored):
                if message.chunk == len(self.stored):
                    self.stored.append([row.address for row in message.rows])
                return [RecipientsStored("c1", message.chunk)]
            case Recipients():
                return [Error(Code.OUT_OF_ORDER, f"expected {len(self.stored)}")]
            case Commit() if message.chunks != len(self.stored):
                return [Error(Code.OUT_OF_ORDER, f"{len(self.stored)} chunks are stored")]
            case Commit():
                self.commits += not self.committed
                self.committed = True
                return [SubmitOk("c1", message.recipients)]
        raise AssertionError(message)


@pytest.mark.parametrize("seed", range(200))
def test_whatever_the_network_does_each_recipient_is_stored_once_and_in_order(seed: int) -> None:
    chance = random.Random(seed)
    broker = Broker(chance)
    machine = submission(in_flight=chance.randint(1, 4), timing=replace(TIMING, timeout_s=600))
    total = chance.randint(1, 12)
    added, now = 0, 0.0
    flying: list[tuple[float, int, Message]] = []

    def transmit(sends: list[Send]) -> None:
        for send in sends:
            lost = chance.random()
            if lost < 0.1:
                machine.unsent(send.request, now)
                continue
            if lost < 0.2:
                continue
            for answer in broker.answers(messages([send])[0]):
                if chance.random() < 0.15:
                    answer = Error(Code.BUSY, "later") if chance.random() < 0.3 else answer
                copies = chance.choice([0, 1, 1, 1, 2])
                delays = [chance.choice([0.001, 0.01, 3.0]) for _ in range(copies)]
                flying.extend((now + delay, send.request, answer) for delay in delays)

    transmit(machine.start(now))
    for _ in range(5_000):
        while machine.room and added < total:
            transmit(machine.add(rows(2 * added), now))
            added += 1
        if machine.phase is Phase.STREAMING and added == total and not machine._ended:
            transmit(machine.end(now))
        if machine.over:
            break
        flying.sort(key=lambda f: f[0])
        wake_at = machine.wake_at
        if flying and (wake_at is None or flying[0][0] <= wake_at):
            at, request, message = flying.pop(0)
            now = max(now, at)
            transmit(machine.receive(request, message, now))
        else:
            assert wake_at is not None, "it waits for nothing"
            now = max(now, wake_at)
            transmit(machine.tick(now))
    assert machine.phase is Phase.DONE, (machine.phase, machine.error)
    assert machine.stored == 2 * total
    assert [a for chunk in broker.stored for a in chunk] == [f"u{i}@example.com" for i in range(2 * total)]
    assert broker.commits == 1
