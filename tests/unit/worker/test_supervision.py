"""Which processes of a worker run, when one is started again, and how all of them end."""

import signal

import pytest

from worker.supervision import (
    RESTART_S_MAX,
    STEADY_S,
    Command,
    EndAsked,
    Event,
    Log,
    PassOn,
    ProcessEnded,
    StartProcess,
    Stop,
    Supervision,
    Tick,
)


class Playbook:
    def __init__(self, processes: int = 2) -> None:
        self.supervision = Supervision(processes)
        self.logged: list[Log] = []
        assert self.on(Tick(), 0.0) == [StartProcess(n) for n in range(1, processes + 1)]

    def on(self, event: Event, now: float) -> list[Command]:
        commands = self.supervision.handle(event, now)
        self.logged += [command for command in commands if isinstance(command, Log)]
        return [command for command in commands if not isinstance(command, Log)]


def test_who_dies_is_started_again_after_pauses_that_grow_and_the_others_go_on() -> None:
    play = Playbook()
    assert play.supervision.wake_at is None
    now = 0.0
    for pause_s in (1, 2, 4, 8, 16, RESTART_S_MAX, RESTART_S_MAX):
        assert play.on(ProcessEnded(2, -signal.SIGKILL), now) == []
        assert play.supervision.wake_at == now + pause_s
        assert play.on(Tick(), now + pause_s - 0.01) == []
        now += pause_s
        assert play.on(Tick(), now) == [StartProcess(2)]
        assert play.supervision.wake_at is None
    assert play.logged[0].fields == {"process": 2, "status": "SIGKILL", "again_in_s": 1.0}


def test_who_ran_for_long_is_started_again_soon() -> None:
    play = Playbook()
    play.on(ProcessEnded(1, 70), 0.0)
    assert play.on(Tick(), 1.0) == [StartProcess(1)]
    play.on(ProcessEnded(1, 70), 1.0 + STEADY_S)
    assert play.supervision.wake_at == 2.0 + STEADY_S


def test_told_to_end_all_drain_and_the_worst_status_counts() -> None:
    play = Playbook(3)
    assert play.on(EndAsked("SIGTERM"), 5.0) == [PassOn()]
    assert play.on(ProcessEnded(1, 0), 6.0) == []
    assert play.on(ProcessEnded(2, 1), 6.0) == []
    assert play.on(ProcessEnded(3, 0), 7.0) == [Stop(1)]


def test_told_again_that_is_passed_on_too() -> None:
    play = Playbook()
    play.on(EndAsked("SIGINT"), 5.0)
    assert play.on(EndAsked("SIGINT"), 5.1) == [PassOn()]
    assert [entry.fields["at_once"] for entry in play.logged] == [False, True]


def test_who_waits_for_its_start_when_the_end_comes_is_not_started() -> None:
    play = Playbook()
    play.on(ProcessEnded(1, -signal.SIGSEGV), 0.0)
    assert play.on(EndAsked("SIGTERM"), 0.5) == [PassOn()]
    assert play.supervision.wake_at is None
    assert play.on(Tick(), 9.0) == []
    assert play.on(ProcessEnded(2, 0), 9.5) == [Stop(0)]


def test_with_nobody_left_the_end_is_at_once() -> None:
    play = Playbook(1)
    play.on(ProcessEnded(1, 1), 0.0)
    assert play.on(EndAsked("SIGTERM"), 0.1) == [PassOn(), Stop(0)]


@pytest.mark.parametrize("status", [2, 76, 77, 78])
def test_where_a_new_start_would_not_help_all_of_them_end(status: int) -> None:
    play = Playbook(3)
    assert play.on(ProcessEnded(2, status), 1.0) == [PassOn()]
    assert play.on(ProcessEnded(1, -signal.SIGKILL), 2.0) == []
    assert play.on(ProcessEnded(3, 0), 2.0) == [Stop(status)]


def test_a_process_that_was_killed_while_all_end_is_told_as_a_shell_does() -> None:
    play = Playbook(1)
    play.on(EndAsked("SIGTERM"), 0.0)
    assert play.on(ProcessEnded(1, -signal.SIGKILL), 0.1) == [Stop(137)]
