"""A rate at work: how many messages may go just now, over several sliding windows at once.

Each window is a log of grants, merged into at most about SLOTS entries: an entry counts until its newest
grant has left the window. So no stretch of time as long as the window ever gets more than it allows, and at
most one part in SLOTS of the rate is lost. The shortest window is paced too, by GCRA (ITU-T I.371), so that
it isn't spent in its first instant.

A crash must not give a day's quota twice. So long windows are written to the journal, always with an
allowance ahead: what goes beyond the last state that is on disk, plus its allowance, waits for the next one.
After a restart the whole allowance counts as used. Short windows aren't written; then they count as used up.

All times in memory are monotonic, so that nobody can set the clock of a running bucket. Only what is on disk
is in wall-clock time: set back, it makes old grants count for longer; set forward while the broker is down,
it can't be told from time that went by.
"""

from collections import deque
from collections.abc import Sequence
from math import inf
from typing import Any, NamedTuple

from evenpost.runtime.clock import Now
from evenpost.schedule.rate import Quota

SLOTS = 128
"""Entries of a window's log: the part of the rate that is lost by merging is less than 1 %."""
STORED_FROM_S = 10.0
"""Windows as long as this are written to the journal; shorter ones are over soon after any restart."""
ALLOWANCE_S = 2.0
"""What may be granted beyond the state on disk, in seconds' worth: commits are about a second apart."""
ALLOWANCE_PART = 200
"""But at most one such part of a window, for each crash costs it."""
ALLOWANCE_MIN_S = 0.2
"""Less than this would wait for each commit on a slow disk, so a short window may lose more: up to"""
ALLOWANCE_PART_MAX = 50
"""of it."""
BURST_S = 0.05
"""Grants that were possible for so long and not made may be made at once: who asks is sometimes late."""
REFUNDED_FOR_S = 3_600.0
"""Who doesn't say when it took what it brings back took it at most so long ago."""
CLOCK_SET_S = 1.0
"""Further than this, wall clock and monotonic clock only part when one sets the former."""
UNBOUNDED = 2**62

Entry = tuple[int, int]
"""Of a window's log on disk: the wall clock (ms) of its newest grant, and how many grants."""

_Log = tuple[float, list[tuple[float, int]]]
"""A window's seconds; of each entry of its log when (monotonic) the newest grant was, and how many."""


class StoredBucket(NamedTuple):
    """What the journal keeps of a bucket."""

    windows: tuple[tuple[Quota, tuple[Entry, ...]], ...]
    """The long ones, with their logs, oldest entry first."""
    allowance: int
    """Messages that may have been granted since."""

    def to_plain(self) -> list[Any]:
        """Lists and numbers only."""
        return [
            [[quota.messages, quota.seconds, [list(entry) for entry in log]] for quota, log in self.windows],
            self.allowance,
        ]

    @classmethod
    def from_plain(cls, plain: Sequence[Any]) -> "StoredBucket":
        """Raises TypeError or ValueError for what `to_plain` didn't make."""
        windows, allowance = plain
        return cls(
            tuple(
                (Quota(int(messages), float(seconds)), tuple((int(ms), int(count)) for ms, count in log))
                for messages, seconds, log in windows
            ),
            int(allowance),
        )


class _Window:
    """One quota and the log of what was granted in it. Times are monotonic."""

    __slots__ = ("count", "first", "last", "log", "quota", "used", "width")

    def __init__(self, quota: Quota) -> None:
        self.quota = quota
        self.width = quota.seconds / SLOTS
        self.used = 0
        self.log: deque[tuple[float, int]] = deque()
        """The newest grant of each entry and how many there are; without the newest entry, which is here:"""
        self.first = -inf
        self.last = -inf
        self.count = 0

    @property
    def is_long(self) -> bool:
        return self.quota.seconds >= STORED_FROM_S

    def add(self, at: float, count: int) -> None:
        """Grants, none of them later than `at`."""
        if at - self.first >= self.width:
            if self.count:
                self.log.append((self.last, self.count))
            self.first = at
            self.count = 0
        self.last = max(self.last, at)
        self.count += count
        self.used += count

    def expire(self, now: float) -> float:
        """Forgets what has left the window. When the next entry does."""
        log, seconds = self.log, self.quota.seconds
        while log:
            leaves = log[0][0] + seconds
            if leaves > now:
                return leaves
            self.used -= log.popleft()[1]
        if self.count:
            leaves = self.last + seconds
            if leaves > now:
                return leaves
            self.used -= self.count
            self.count = 0
        return inf

    def give_back(self, count: int) -> None:
        """From the oldest on: what stays counts for longer than it should rather than for less."""
        while count and self.log:
            last, there = self.log.popleft()
            part = min(count, there)
            if there > part:
                self.log.appendleft((last, there - part))
            count -= part
            self.used -= part
        part = min(count, self.count)
        self.count -= part
        self.used -= part

    def entries(self) -> list[tuple[float, int]]:
        return [*self.log, (self.last, self.count)] if self.count else list(self.log)

    def room_at(self, now: float) -> float:
        """When it allows at least one more."""
        over = self.used - self.quota.messages + 1
        if over <= 0:
            return now
        for last, count in self.entries():
            over -= count
            if over <= 0:
                return last + self.quota.seconds
        raise AssertionError("the entries add up to what is used")


class Bucket:
    """Holds to several quotas at once. Times (`now: float`) are monotonic seconds that never go back."""

    def __init__(self, quotas: tuple[Quota, ...], now: Now, stored: StoredBucket | None = None) -> None:
        """`quotas`: at least one. `stored`: what the journal has of it, maybe with other quotas."""
        self._granted = 0
        self._limit = 0
        """Grants in all that the journal knows of or allows for."""
        self._next_limit: int | None = None
        """The same once the promise that is under way is on disk."""
        self._allowance = 0
        self._changed = True
        """The journal doesn't know these quotas yet."""
        self._on_disk = False
        """The last promise had times of the wall clock in it, which was then so many seconds ahead of the
        monotonic one:"""
        self._clock = 0.0
        self._earliest = now.mono
        """GCRA's theoretical arrival time less its tolerance: the next grant isn't before it."""
        self._windows: list[_Window] = []
        self._expires_at = inf
        self._free = 0
        """What all windows together allow just now."""
        self._set(quotas, now.mono, _logs_of(stored, now) if stored is not None else [])
        if stored is not None:
            for window in self._windows:
                # Granted at the latest just now.
                window.add(now.mono, stored.allowance if window.is_long else window.quota.messages)
            self._expire(now.mono)

    @property
    def quotas(self) -> tuple[Quota, ...]:
        return tuple(window.quota for window in self._windows)

    # --- what goes ------------------------------------------------------------------------------

    def available(self, now: float, want: int) -> int:
        """How many of `want` messages may go now."""
        if now >= self._expires_at:
            self._expire(now)
        late = now - self._earliest
        if late < 0.0:
            return 0
        if late > self._tolerance:
            late = self._tolerance
        paced = int(late * self._per_second) + 1
        if paced < want:
            want = paced
        if self._free < want:
            want = self._free
        if self._limit - self._granted < want:
            want = self._limit - self._granted
        return want if want > 0 else 0

    def take(self, now: float, n: int) -> None:
        """So many, which were available, go."""
        oldest = now - self._tolerance
        if self._earliest < oldest:
            self._earliest = oldest
        self._earliest += n * self._interval
        self._granted += n
        self._free -= n
        for window in self._windows:
            window.add(now, n)
        if now + self._shortest < self._expires_at:
            self._expires_at = now + self._shortest

    def refund(self, now: float, n: int, taken_at: float | None = None) -> None:
        """So many of those that were taken didn't go after all.

        `taken_at`: when they were taken (monotonic), None for not known. A window from which they may have
        gone already gets nothing back: it would be taken from others that did go."""
        self._expire(now)
        oldest = now - REFUNDED_FOR_S if taken_at is None else taken_at
        for window in self._windows:
            if now - oldest < window.quota.seconds:
                window.give_back(n)
        self._earliest -= n * self._interval
        self._expire(now)

    def postpone(self, now: float, n: int, taken_at: float) -> bool:
        """So many of those that were taken then go only now, and count from now on. False where a window has
        no room for them any more: they were kept for longer than it lasts, and others have gone since."""
        self._expire(now)
        for window in self._windows:
            if now - taken_at < window.quota.seconds:
                window.give_back(n)
            window.add(now, n)
        self._expire(now)
        return self._free >= 0

    def next_at(self, now: float) -> float:
        """When at least one may go; infinity while that takes a word of the journal."""
        if self._limit <= self._granted:
            return inf
        self._expire(now)
        return max(now, self._earliest, *(window.room_at(now) for window in self._windows))

    def left(self, now: float) -> list[tuple[Quota, int]]:
        """What each window still allows."""
        self._expire(now)
        return [(w.quota, max(0, w.quota.messages - w.used)) for w in self._windows]

    def returns(self, now: float) -> list[tuple[Quota, list[tuple[float, int]]]]:
        """Of each window, when what it counts as used comes back: seconds from now, and how many."""
        self._expire(now)
        return [
            (w.quota, [(last + w.quota.seconds - now, count) for last, count in w.entries()])
            for w in self._windows
        ]

    # --- the journal ----------------------------------------------------------------------------

    def promise(self, now: Now) -> StoredBucket | None:
        """What the journal has to know so that more can go: to be written, then `promised` is to be called.
        None where nothing is due or one is under way."""
        if self._next_limit is not None:
            return None
        clock = now.wall / 1000 - now.mono
        clock_was_set = self._on_disk and abs(clock - self._clock) > CLOCK_SET_S
        enough = 2 * (self._limit - self._granted) > self._allowance
        if enough and not self._changed and not clock_was_set:
            return None
        self._expire(now.mono)
        self._allowance = self._allowance_now()
        self._next_limit = self._granted + self._allowance
        # On disk is, after a crash, the former promise or this one: until we know, both hold.
        self._limit = min(self._limit, self._next_limit)
        self._changed = False
        self._clock = clock
        longer = tuple((w.quota, _entries(w, now)) for w in self._windows if w.is_long)
        self._on_disk = bool(longer)
        return StoredBucket(longer, self._allowance if longer else 0)

    def promised(self) -> None:
        """The one that was under way is on disk. Where none is, nothing changes: the word came late, and was
        about a bucket of the same name before."""
        if self._next_limit is not None:
            self._limit, self._next_limit = self._next_limit, None

    def _allowance_now(self) -> int:
        longer = [w.quota.messages for w in self._windows if w.is_long]
        if not longer:
            return UNBOUNDED
        part = min(longer) // ALLOWANCE_PART
        least = min(min(longer) // ALLOWANCE_PART_MAX, int(ALLOWANCE_MIN_S * self._per_second))
        return max(1, min(int(ALLOWANCE_S * self._per_second), max(part, least)))

    # --- its quotas -----------------------------------------------------------------------------

    def change(self, quotas: tuple[Quota, ...], now: Now) -> None:
        """The rate is another one now; what was used stays used. A promise is due then."""
        self._expire(now.mono)
        logs = [(w.quota.seconds, w.entries()) for w in self._windows]
        self._set(quotas, now.mono, logs)
        self._earliest = min(self._earliest, now.mono + self._interval)
        self._changed = True
        if self._allowance == UNBOUNDED and self._allowance_now() != UNBOUNDED:
            # On disk is nothing that a long window could go by.
            self._limit = self._granted
            if self._next_limit is not None:
                self._next_limit = self._granted

    def _set(self, quotas: tuple[Quota, ...], now: float, logs: list[_Log]) -> None:
        """`logs`: what was granted, as windows of so many seconds have it, the shortest first."""
        ordered = sorted(quotas, key=lambda quota: quota.seconds)
        self._windows = [_Window(quota) for quota in ordered]
        for window in self._windows:
            # The shortest log that reaches back far enough; else the longest, which is all that is known.
            reach = window.quota.seconds
            log = next((log for seconds, log in logs if seconds >= reach), logs[-1][1] if logs else [])
            for last, count in log:
                window.add(last, count)
        pace = ordered[0]
        self._shortest = pace.seconds
        self._per_second = pace.messages / pace.seconds
        self._interval = pace.seconds / pace.messages
        self._tolerance = BURST_S
        self._expire(now)

    def _expire(self, now: float) -> None:
        self._expires_at = min(window.expire(now) for window in self._windows)
        self._free = min(window.quota.messages - window.used for window in self._windows)


def _entries(window: _Window, now: Now) -> tuple[Entry, ...]:
    # Up, not down: the wall clock's milliseconds are cut off, and no entry may end before its time.
    return tuple((now.wall + 1 - int((now.mono - last) * 1000), n) for last, n in window.entries())


def _logs_of(stored: StoredBucket, now: Now) -> list[_Log]:
    """The journal's logs in monotonic time. What seems to lie ahead, because the wall clock was set back,
    counts from now on."""
    return [
        (quota.seconds, [(now.mono - max(0, now.wall - ms) / 1000, n) for ms, n in log])
        for quota, log in stored.windows
    ]
