"""The only place where a clock is read; decisions get the result as an argument."""

import time
from typing import NamedTuple


class Now(NamedTuple):
    """One reading of both clocks."""

    mono: float
    """Seconds on a clock that never jumps: leases, heartbeats, back-off."""
    wall: int
    """Milliseconds since the Unix epoch: what is written down and what people asked for."""


def now() -> Now:
    return Now(time.monotonic(), time.time_ns() // 1_000_000)
