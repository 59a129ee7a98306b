"""Virtual time: one heap of events for the whole world, and the clocks that its machines read."""

import heapq
from collections import deque
from collections.abc import Callable

from evenpost.runtime.clock import Now

Callback = Callable[[], None]

_ROUNDING_S = 1e-8
"""Never earlier than asked for, whatever a sum of floats makes of it."""
EPOCH_MS = 1_790_000_000_000
"""The wall clock at time 0."""


class Timer:
    """Something that will happen; `cancel` keeps it from happening."""

    __slots__ = ("callback", "time")

    def __init__(self, time: float, callback: Callback) -> None:
        self.time = time
        self.callback: Callback | None = callback

    def cancel(self) -> None:
        self.callback = None


class Clock:
    """The world's time in seconds, from 0. It moves only from one event to the next."""

    def __init__(self) -> None:
        self.time = 0.0
        self.events = 0
        """How many have happened."""
        self._heap: list[tuple[float, int, Timer]] = []
        self._pushed = 0

    def at(self, time: float, callback: Callback) -> Timer:
        """Calls back at `time`, or now where that has passed; what is due at one time happens in the order in
        which it was asked for."""
        timer = Timer(max(time, self.time), callback)
        self._pushed += 1
        heapq.heappush(self._heap, (timer.time, self._pushed, timer))
        return timer

    def after(self, seconds: float, callback: Callback) -> Timer:
        return self.at(self.time + seconds, callback)

    def step(self) -> bool:
        """The next event. False where there is none."""
        while self._heap:
            self.time, _, timer = heapq.heappop(self._heap)
            if timer.callback is not None:
                self.events += 1
                timer.callback()
                return True
        return False

    def run(self, until: float, stop: Callable[[], bool] | None = None) -> bool:
        """Lets everything up to `until` happen, or until `stop`, asked at each event, says so: True then."""
        while self._heap and self._heap[0][0] <= until:
            if stop is not None and stop():
                return True
            self.step()
        if stop is not None and stop():
            return True
        self.time = max(self.time, until)
        return False


class Host:
    """A machine with one process on it: both clocks, and everything that happens in the process.

    What was scheduled in a process dies with it. While the process is frozen (SIGSTOP, a paused virtual
    machine) nothing happens in it, but its clocks go on; thawed, it meets all that has become due, in order.
    """

    def __init__(self, clock: Clock, *, boot_s: float = 0.0, skew_ms: int = 0) -> None:
        """`boot_s`: how long it has been up at time 0. `skew_ms`: its wall clock is ahead by this."""
        self.clock = clock
        self.boot_s = boot_s
        self.skew_ms = skew_ms
        self.up = False
        self.frozen = False
        self.process = 0
        """Counts its processes; what was scheduled in an earlier one never happens."""
        self._due: deque[Callback] = deque()

    def now(self) -> Now:
        return Now(self.boot_s + self.clock.time, self.wall())

    def mono(self) -> float:
        return self.boot_s + self.clock.time

    def wall(self) -> int:
        return EPOCH_MS + self.skew_ms + int(self.clock.time * 1000)

    def start(self) -> None:
        """A new process."""
        assert not self.up
        self.process += 1
        self.up, self.frozen = True, False

    def die(self) -> None:
        self.process += 1
        self.up = self.frozen = False
        self._due.clear()

    def freeze(self) -> None:
        self.frozen = self.up

    def thaw(self) -> None:
        process = self.process
        self.frozen = False
        while self._due and self.process == process and not self.frozen:
            self._due.popleft()()

    def after(self, seconds: float, callback: Callback) -> Timer:
        """Calls back in this process, should it still be there."""
        return self._at(self.clock.time + seconds, callback)

    def at_mono(self, mono: float, callback: Callback) -> Timer:
        """The same, at a time of this machine's monotonic clock."""
        return self._at(mono - self.boot_s + _ROUNDING_S, callback)

    def _at(self, time: float, callback: Callback) -> Timer:
        def unless_cancelled() -> None:
            if timer.callback is not None:  # it may have been while the process was frozen
                callback()

        timer = self.clock.at(time, self.bound(unless_cancelled))
        return timer

    def bound(self, callback: Callback) -> Callback:
        """The callback as something that comes to this process from outside."""
        process = self.process

        def run() -> None:
            if self.process != process:
                return
            if self.frozen:
                self._due.append(callback)
            else:
                callback()

        return run
