"""The wall clock is steady: a jump of the system's is told of, and followed only when it stays."""

from evenpost.runtime.clock import LOOKED_AT_EVERY_S, TRUSTED_AFTER_S, Clock, Jump

START_MS = 1_790_000_000_000
YEAR_S = 365 * 86_400.0


class Machine:
    def __init__(self) -> None:
        self.mono = 100.0
        self.set_by = 0.0
        self.clock = Clock(lambda: self.mono, self.wall_ns)

    def wall_ns(self) -> int:
        return START_MS * 1_000_000 + round((self.mono - 100 + self.set_by) * 1e9)

    def passed_ms(self) -> int:
        """By our clock, since the start."""
        return self.clock.now().wall - START_MS


def test_it_is_the_systems_clock_as_long_as_that_is_slewed_only() -> None:
    machine = Machine()
    for _ in range(1_000):
        machine.mono += 10
        machine.set_by += 0.005
        assert machine.passed_ms() == round((machine.mono - 100 + machine.set_by) * 1000)
    assert machine.clock.follow() == []


def test_a_jump_is_told_of_once_and_not_followed() -> None:
    machine = Machine()
    for seconds in (3_600.0, 86_400.0, YEAR_S, -YEAR_S):
        machine.set_by = seconds
        machine.mono += 10
        before = machine.mono - 100
        for _ in range(5):
            machine.mono += 1
            assert abs(machine.passed_ms() - (machine.mono - 100) * 1000) <= 1
        (jump,) = machine.clock.follow()
        assert jump.what == "jumped" and abs(jump.seconds - seconds) < 0.001
        machine.set_by = 0.0
        assert machine.passed_ms() - before * 1000 >= 0
        (jump,) = machine.clock.follow()
        assert jump.what == "returned" and abs(jump.seconds - seconds) < 0.001


def test_a_clock_that_stays_where_it_jumped_is_followed_when_its_owner_asks() -> None:
    machine = Machine()
    machine.set_by = -YEAR_S
    machine.clock.now()
    assert [jump.what for jump in machine.clock.follow()] == ["jumped"]
    machine.mono += TRUSTED_AFTER_S + 1
    assert machine.passed_ms() > 0, "not before it is asked for: times have to be shifted"
    assert machine.clock.follow() == [Jump("followed", -YEAR_S)]
    assert abs(machine.passed_ms() + (YEAR_S - TRUSTED_AFTER_S - 1) * 1000) <= 1
    assert machine.clock.follow() == []


def test_each_further_jump_begins_the_minute_anew() -> None:
    machine = Machine()
    for seconds in (100.0, 200.0, 300.0):
        machine.set_by = seconds
        machine.mono += LOOKED_AT_EVERY_S
        machine.clock.now()
        machine.mono += TRUSTED_AFTER_S - 1
        assert [jump.what for jump in machine.clock.follow()] == ["jumped"]
    machine.mono += 1
    assert machine.clock.follow() == [Jump("followed", 300.0)]
