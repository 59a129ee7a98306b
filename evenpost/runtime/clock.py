"""The only place where a clock is read; decisions get the result as an argument.

The wall clock of a machine may jump: an operator sets it, a virtual machine is moved or wakes up, the battery
of the real-time clock is dead until NTP answers. A jump is no reason to expire campaigns or to make retries
due while nobody knows whether it is a mistake. So our wall clock goes on by the monotonic one, says that the
system's jumped, and follows it only when it has stayed where it is for a minute, and its owner asks.
"""

import time
from collections.abc import Callable
from typing import Literal, NamedTuple

import msgspec

JUMP_S = 1.0
"""What the wall clock may have moved by since it was last read to be followed without a word: NTP slews by at
most 0.5 ms a second."""
TRUSTED_AFTER_S = 60.0
"""A clock that jumped and stays there for so long is believed."""
LOOKED_AT_EVERY_S = 0.02
"""The system's wall clock is compared with ours this often: a reading is taken twice a message."""


class Now(msgspec.Struct, frozen=True, gc=False):
    """One reading of both clocks. A struct: made twice a message, a fifth of what a NamedTuple takes."""

    mono: float
    """Seconds on a clock that never jumps: leases, heartbeats, back-off."""
    wall: int
    """Milliseconds since the Unix epoch: what is written down and what people asked for."""


class Jump(NamedTuple):
    """What the system's wall clock did, for a log."""

    what: Literal["jumped", "returned", "followed"]
    """`jumped`: ours goes on as if it hadn't. `returned`: it is back where ours is. `followed`: it stayed
    there, and ours has jumped too."""
    seconds: float
    """By how much it differs from ours, or differed; below 0: it is behind."""


class Clock:
    """A monotonic and a wall clock, the wall clock steadied."""

    def __init__(
        self,
        monotonic: Callable[[], float] = time.monotonic,
        wall_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._monotonic = monotonic
        self._wall_ns = wall_ns
        self._offset = wall_ns() / 1e9 - monotonic()
        """Of our wall clock to the monotonic one."""
        self._elsewhere: float | None = None
        """Where the system's offset is, while it isn't ours."""
        self._elsewhere_since = 0.0
        self._jumps: list[Jump] = []
        self._look_at = float("-inf")

    def now(self) -> Now:
        mono = self._monotonic()
        if mono < self._look_at:
            return Now(mono, int((mono + self._offset) * 1000))
        return self._compare(mono)

    def _compare(self, mono: float) -> Now:
        self._look_at = mono + LOOKED_AT_EVERY_S
        wall_ns = self._wall_ns()
        offset = wall_ns / 1e9 - mono
        if abs(offset - self._offset) <= JUMP_S:
            self._offset = offset  # also what NTP slews
            if self._elsewhere is not None:
                self._jumps.append(Jump("returned", self._elsewhere - offset))
                self._elsewhere = None
            return Now(mono, wall_ns // 1_000_000)
        if self._elsewhere is None or abs(offset - self._elsewhere) > JUMP_S:
            self._elsewhere_since = mono
            self._jumps.append(Jump("jumped", offset - self._offset))
        self._elsewhere = offset
        return Now(mono, int((mono + self._offset) * 1000))

    def follow(self) -> list[Jump]:
        """What it did since this was last called. Only here ours jumps too, so that whoever has remembered
        times by it can shift them before anything else reads it."""
        mono = self._compare(self._monotonic()).mono
        jumps, self._jumps = self._jumps, []
        if self._elsewhere is not None and mono - self._elsewhere_since >= TRUSTED_AFTER_S:
            jumps.append(Jump("followed", self._elsewhere - self._offset))
            self._offset, self._elsewhere = self._elsewhere, None
        return jumps


_process_clock = Clock()
now = _process_clock.now
follow = _process_clock.follow
