"""Retention: finished campaigns become summaries after a time, a little at each tick: nothing waits for it.

A wall clock that has jumped ahead must not throw away what isn't old. So one that is more than two days ahead
of what the journal saw last isn't believed: only once it has gone on from there for a day, across restarts.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import NamedTuple

from broker.core.message_state import Stored
from broker.core.state import Campaign
from broker.journal.group_commit import GroupCommit
from broker.journal.store import Compacted, Journal
from evenpost.runtime import logs
from evenpost.runtime.clock import Now
from evenpost.wire import messages as wire
from evenpost.wire.errors import Code

DAY_MS = 86_400_000
AHEAD_MS_MAX = 2 * DAY_MS
"""A broker that was off for longer waits a day before it goes on to compact: that is all that it costs."""
PROBATION_MS = DAY_MS
LOOK_S = 60.0
STEP_S = 0.1
"""Between two steps: 10,000 rows a second, so that one in twenty or so of the loop's time goes into it."""
_STEP_ROWS = 1_000
_PAGES_A_STEP = 256
"""1 MiB given back to the disk."""
_NOTE_MS = 3_600_000
"""So often what the clock says is written down."""


class ClockTrust(NamedTuple):
    """What retention holds of the wall clock; all in ms since the epoch."""

    believed: int
    doubted: int = 0
    """Where the clock was when it was first found too far ahead; 0: it isn't."""
    seen: int = 0
    """Where the doubted clock was last seen."""

    def look(self, wall: int) -> "tuple[ClockTrust, bool]":
        """What to hold of it now, and whether its time is believed. A clock that was set back always is: it
        only makes less seem old."""
        if wall <= self.believed + AHEAD_MS_MAX:
            return ClockTrust(wall), True
        if not self.doubted or not self.doubted <= wall <= self.seen + AHEAD_MS_MAX:
            return ClockTrust(self.believed, wall, wall), False
        if wall - self.doubted >= PROBATION_MS:
            return ClockTrust(wall), True
        return self._replace(seen=wall), False


class Retention:
    def __init__(
        self, journal: Journal, queue: GroupCommit, retain_days: float, is_held_up: Callable[[], bool]
    ) -> None:
        """`retain_days`: 0 keeps everything. While `is_held_up`, nothing is begun."""
        self._journal = journal
        self._queue = queue
        self._days = retain_days
        self._is_held_up = is_held_up
        self._log = logs.get()
        self._clock: ClockTrust | None = None
        self._noted = ClockTrust(0)
        self._look_at = 0.0
        self._busy = False

    def tick(self, now: Now) -> None:
        """Begins a step, if one is due."""
        if not self._days or self._busy or now.mono < self._look_at or self._is_held_up():
            return
        if self._clock is None:
            believed = self._journal.meta("retention_clock") or self._journal.newest_end() or now.wall
            doubted, seen = self._journal.meta("retention_doubted"), self._journal.meta("retention_seen")
            self._clock = self._noted = ClockTrust(believed, doubted, seen)
        before = self._clock
        self._clock, trusted = before.look(now.wall)
        if self._clock.doubted and self._clock.doubted != before.doubted:
            fields = {"clock": _day(now.wall), "last_seen": _day(before.believed)}
            self._log.warning("retention.clock_doubted", **fields)
        self._busy = True
        self._queue.write_call(lambda: self._step(now, trusted), lambda did: self._done(now, did), _STEP_ROWS)

    def _step(self, now: Now, trusted: bool) -> Compacted:
        self._note()
        # What was begun is ended even while the clock isn't believed.
        ended_before = now.wall - int(self._days * DAY_MS) if trusted else 0
        did = self._journal.compact(ended_before, now.wall)
        return did if did.more else did._replace(more=self._journal.shrink(_PAGES_A_STEP))

    def _note(self) -> None:
        clock, noted = self._clock, self._noted
        assert clock is not None
        moved = abs(clock.believed - noted.believed) + abs(clock.seen - noted.seen)
        if clock.doubted == noted.doubted and moved < _NOTE_MS:
            return
        self._noted = clock
        self._journal.set_meta("retention_clock", clock.believed)
        self._journal.set_meta("retention_doubted", clock.doubted)
        self._journal.set_meta("retention_seen", clock.seen)

    def _done(self, now: Now, did: Compacted) -> None:
        self._busy = False
        self._look_at = now.mono + (STEP_S if did.more else LOOK_S)
        for campaign in did.ended:
            self._log.info("campaign.compacted", campaign=campaign, retain_days=self._days)


def compacted_error(campaign: Campaign) -> wire.Error:
    """Why nothing can be said of a campaign's recipients any more, and what can."""
    days = (campaign.compacted_at - campaign.finished_at) / DAY_MS
    counts = ", ".join(f"{n} {Stored(s).name.lower()}" for s, n in sorted(campaign.counts.items()) if n)
    text = (
        f"the recipients of campaign {campaign.id} were removed on {_day(campaign.compacted_at)}, {days:.0f} "
        f"days after it ended (--retain-days of the broker). What is left: {counts}, of {campaign.total}"
    )
    return wire.Error(Code.WRONG_STATE, text)


def _day(at_ms: int) -> str:
    try:
        return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d")
    except (OverflowError, ValueError, OSError):
        return f"{at_ms} ms"
