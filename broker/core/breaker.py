"""What a server's failures do to it: a breaker, a moving average for its key, a pause, and a slow start.

    closed  ----- FAILURES_TO_OPEN failed batches in a row ----->  open
      ^                                                            | back-off, 1 to 60 s
      +-- the probe is answered: slow start -  half-open  <---------+
                                                 | the probe fails: open again, for longer

A server that fails fast always looks idle; without this it would get everything (Nygard, "Release It!").
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from broker.core.pacing import back_off

FAILURES_TO_OPEN = 2
_OPEN_INITIAL_S = 1.0
_OPEN_MAX_S = 60.0
_PAUSE_INITIAL_S = 0.05
_PAUSE_MAX_S = 1.0
"""While its limit can still come down, which slows it, too; rates are mostly counted by the second."""
_PAUSE_LONGEST_S = 30.0
"""For a server that wants less than one connection's worth."""
_EWMA = 0.1
_FORGET_S = 30.0
"""A failure counts for a third of itself after this time, even if nothing was sent since."""

Uniform = Callable[[float, float], float]


@dataclass(slots=True)
class Breaker:
    failures: int = 0
    """Batches in a row that the server, not a recipient, failed."""
    opened_at: float = float("-inf")
    open_until: float = 0.0
    """Monotonic. Once it has come, one message probes the server."""
    pauses: int = 0
    """Batches in a row that the server throttled."""
    paused_at: float = float("-inf")
    paused_until: float = 0.0
    returned_at: float | None = None
    """It came back then: its share rises from there. None: it has its full share."""
    _rate: float = 0.0
    _rated_at: float = 0.0

    @property
    def is_open(self) -> bool:
        """Open or half-open: the server failed too often."""
        return self.failures >= FAILURES_TO_OPEN

    def lets_probe(self, now: float) -> bool:
        """Half-open: it may get one message."""
        return self.is_open and now >= self.open_until

    def failed(self, made_at: float, now: float, uniform: Uniform) -> float:
        """A batch failed by the server; `made_at`: when it was given out. For how many seconds the breaker
        opens by that, 0 for not. What was under way when it opened tells nothing new."""
        self._note(1.0, now)
        if self.is_open and made_at <= self.opened_at:
            return 0.0
        self.failures += 1
        if not self.is_open:
            return 0.0
        self.opened_at = now
        wait = back_off(self.failures - FAILURES_TO_OPEN + 1, _OPEN_INITIAL_S, _OPEN_MAX_S, uniform)
        self.open_until = now + wait
        return wait

    def throttled(self, made_at: float, now: float, uniform: Uniform, *, took: bool, last: bool) -> float:
        """A batch in which the server, which is well, wanted less; `made_at`: when it was given out; `took`:
        it answered about some of it; `last`: it has but one connection. It gets nothing new for as many
        seconds as this gives, longer each time until it takes something. 0: the batch was under way when the
        present pause began, and tells nothing new."""
        if made_at <= self.paused_at:
            return 0.0
        self.pauses = 1 if took else self.pauses + 1
        longest = _PAUSE_LONGEST_S if last else _PAUSE_MAX_S
        wait = back_off(self.pauses, _PAUSE_INITIAL_S, longest, uniform)
        self.paused_at, self.paused_until = now, now + wait
        return wait

    def succeeded(self, made_at: float, now: float) -> bool:
        """The server answered about a message of a batch given out at `made_at`. Whether that closed the
        breaker: what was under way when it opened had its answer before the server failed."""
        was_open = self.is_open
        if was_open and made_at <= self.opened_at:
            return False
        self.failures = 0
        if was_open:
            self.returned_at = now
        return was_open

    def ended_well(self, now: float) -> None:
        """A batch without a failure of the server."""
        self.pauses = 0
        self._note(0.0, now)

    def reset(self) -> None:
        """Another chance: an operator, or its restarted worker, says that it is well."""
        self.failures = self.pauses = 0
        self.open_until = self.paused_until = self._rate = 0.0

    def failure_rate(self, now: float) -> float:
        """The moving average of failed batches, 0 to 1. It fades with time, too: a server that gets nothing
        couldn't show that it is well."""
        if self._rate < 0.001:
            return 0.0
        return self._rate * math.exp((self._rated_at - now) / _FORGET_S)

    def is_changing(self, now: float) -> bool:
        """Whether time alone changes something: a ramp or a fading average."""
        return self.returned_at is not None or self.failures > 0 or self.failure_rate(now) > 0.0

    def _note(self, value: float, now: float) -> None:
        rate = self.failure_rate(now)
        self._rate = rate + _EWMA * (value - rate)
        self._rated_at = now

    def ramp(self, now: float, slow_start_s: float) -> float:
        """The part of its share that a server which came back has: rises linearly from 0 to 1, as HAProxy's
        `slowstart` does."""
        if self.returned_at is None:
            return 1.0
        since = now - self.returned_at
        return since / slow_start_s if since < slow_start_s else 1.0

    def end_ramp(self, now: float, slow_start_s: float) -> None:
        """To be called now and then, once whoever asked for `ramp` has seen its end."""
        if self.ramp(now, slow_start_s) >= 1.0:
            self.returned_at = None
