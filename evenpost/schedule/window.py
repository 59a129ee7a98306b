"""Sending windows as people write them: "Mon-Fri 08:00-20:00 Europe/Berlin".

Times are wall-clock milliseconds since the Unix epoch. A window is a time of day in its zone, so it moves
with daylight saving time: where the clock jumps over its beginning it opens after the jump, and an hour that
comes twice is open both times.
"""

import difflib
import re
from datetime import date, datetime, time, timedelta
from functools import cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

EXAMPLE = '"08:00-20:00 Europe/Berlin" or "Mon-Fri 08:00-20:00 Europe/Berlin"'
_DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_EVERY_DAY = frozenset(range(7))
_TEXT = re.compile(
    r"(?:(?P<days>[a-z][a-z,\- ]*?)\s+)?"
    r"(?P<opens>\d{1,2}:\d{2})\s*-\s*(?P<closes>\d{1,2}:\d{2})"
    r"(?:\s+(?P<zone>\S+))?",
    re.ASCII | re.IGNORECASE,
)
_DAY_MINUTES = 24 * 60
_DAY_MS = 86_400_000
_DAYS_AHEAD = 16
"""Searched for the next opening: of a weekly one, even where a zone left that day out (Samoa, 2011)."""
_OPENINGS_MAX = 400
"""That `after` walks through one by one; what lies beyond goes by their average."""
_FAR_MS = 200_000_000_000_000
"""The year 8307: the calendar ends soon after, and nobody has a window there."""


class WindowError(ValueError):
    """The text is no sending window; the message says what is wrong and shows one that is right."""


class Window:
    """When a campaign may send. Cheap to ask: it remembers the interval that it found last."""

    def __init__(self, text: str, zone: ZoneInfo, opens: int, closes: int, days: frozenset[int]) -> None:
        """`opens`, `closes`: minutes of the day; `closes` not after `opens` is on the next day. `days`: those
        on which it opens, 0 for Monday."""
        self.text = text
        self._zone = zone
        self._opens = opens
        self._closes = closes if closes > opens else closes + _DAY_MINUTES
        self._days = days
        self._known = (0, 0)
        """The open interval found last: from (incl.) and to (excl.)."""
        self._closed = (0, 0)
        """The same of the closed time before it."""

    def __repr__(self) -> str:
        return f"Window({self.text!r})"

    def is_open(self, wall_ms: int) -> bool:
        """Whether mail may be sent at this time."""
        if self._known[0] <= wall_ms < self._known[1]:
            return True
        if self._closed[0] <= wall_ms < self._closed[1]:
            return False
        if not self._in_calendar(wall_ms):
            return True
        self._find(wall_ms)
        return self._known[0] <= wall_ms

    def opens_at(self, wall_ms: int) -> int:
        """The first moment from this one on at which it is open: this one, if it is."""
        return wall_ms if self.is_open(wall_ms) else self._known[0]

    def closes_at(self, wall_ms: int) -> int:
        """The end of the opening that it is in or, where it is closed, of the next one. A window that never
        closes gives a moment some days ahead."""
        if not self._in_calendar(wall_ms):
            return wall_ms + _DAY_MS
        self.is_open(wall_ms)
        return self._known[1]

    def after(self, wall_ms: int, open_ms: int) -> int:
        """The moment at which so much of open time has gone by since this one."""
        at, left = wall_ms, open_ms
        for _ in range(_OPENINGS_MAX):
            at = self.opens_at(at)
            closes = self.closes_at(at)
            if left <= closes - at:
                return at + left
            left -= closes - at
            at = closes
        return at + left * (at - wall_ms) // (open_ms - left)

    def _in_calendar(self, wall_ms: int) -> bool:
        return 0 <= wall_ms < _FAR_MS

    def _find(self, wall_ms: int) -> None:
        """Sets the interval that is open at this time, or the next one, and the closed time before it."""
        today = datetime.fromtimestamp(wall_ms / 1000, self._zone).date()
        opens = closes = ended = 0
        # From two days before: what began yesterday, or the day before for a zone's jump, may reach over now.
        for offset in range(-2, _DAYS_AHEAD):
            day = today + timedelta(days=offset)
            if day.weekday() not in self._days:
                continue
            begin, end = self._moment(day, self._opens), self._moment(day, self._closes)
            if begin >= end:
                continue  # the clock jumped over all of it
            if closes and begin <= closes:
                closes = max(closes, end)  # round the clock
            elif closes > wall_ms:
                break
            else:
                opens, ended, closes = begin, closes, end
        self._known = (opens, closes)
        self._closed = (ended or min(wall_ms, opens), opens)

    def _moment(self, day: date, minutes: int) -> int:
        """A time of day, in minutes, as milliseconds since the epoch. One that the clock jumps over is the
        moment of the jump; of one that comes twice a beginning is the first, an end the second."""
        day += timedelta(days=minutes // _DAY_MINUTES)
        clock = time(minutes % _DAY_MINUTES // 60, minutes % 60, fold=int(minutes == self._closes))
        moment = int(datetime.combine(day, clock, self._zone).timestamp())
        there = datetime.fromtimestamp(moment, self._zone)
        if (there.hour, there.minute) != (clock.hour, clock.minute):
            moment = _jump(moment, self._zone)
        return moment * 1000


def _jump(near: int, zone: ZoneInfo) -> int:
    """When the zone's clock jumped, within two days of this moment (s)."""
    low, high = near - 2 * 86_400, near + 2 * 86_400
    before = datetime.fromtimestamp(low, zone).utcoffset()
    while high - low > 1:
        middle = (low + high) // 2
        if datetime.fromtimestamp(middle, zone).utcoffset() == before:
            low = middle
        else:
            high = middle
    return high


def parse_window(text: str) -> Window | None:
    """The window of "08:00-20:00 Europe/Berlin", of "Mon-Fri 08:00-20:00 Europe/Berlin", or of
    "22:00-06:00 UTC", which ends on the next day; None for an empty text. Raises WindowError."""
    text = " ".join(text.split())
    if not text:
        return None
    match = _TEXT.fullmatch(text)
    if match is None:
        raise WindowError(f"the window {text!r} is not FROM-TO ZONE. Write it like {EXAMPLE}")
    opens, closes = _minutes(match["opens"], text), _minutes(match["closes"], text)
    if opens == closes:
        raise WindowError(
            f"the window {text!r} has no length. Write 00:00-24:00 for all day, or like {EXAMPLE}"
        )
    if opens == _DAY_MINUTES:
        raise WindowError(f"the window {text!r} begins at 24:00: write 00:00. Like {EXAMPLE}")
    days = _parse_days(match["days"].lower(), text) if match["days"] else _EVERY_DAY
    if not match["zone"]:
        raise WindowError(
            f"the window {text!r} doesn't say in which time zone. Add one, or UTC: write it like {EXAMPLE}"
        )
    return Window(text, _zone(match["zone"], text), opens, closes, days)


def _minutes(clock: str, text: str) -> int:
    hour, minute = (int(part) for part in clock.split(":"))
    if minute > 59 or hour * 60 + minute > _DAY_MINUTES:
        raise WindowError(
            f"the window {text!r}: {clock} is no time of day. Use 00:00 to 24:00, like {EXAMPLE}"
        )
    return hour * 60 + minute


def _parse_days(words: str, text: str) -> frozenset[int]:
    """0 for Monday, of "mon-fri", "sat,sun" or "fri - mon, wed"."""
    days: set[int] = set()
    for part in re.sub(r"\s*-\s*", "-", words).replace(",", " ").split():
        ends = [_day(word, text) for word in part.split("-")]
        if len(ends) > 2:
            raise WindowError(f"the window {text!r}: {part!r} is no range of days. Write it like {EXAMPLE}")
        first, last = ends[0], ends[-1]
        days.update((first + n) % 7 for n in range((last - first) % 7 + 1))
    return frozenset(days)


def _day(word: str, text: str) -> int:
    for number, name in enumerate(_DAYS):
        if len(word) >= 3 and name.startswith(word):
            return number
    raise WindowError(f"the window {text!r}: {word!r} is no day of the week. Use Mon to Sun, like {EXAMPLE}")


def _zone(name: str, text: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        names = _zone_names()
        close = difflib.get_close_matches(name.lower(), names, 1, 0.7)
        hint = f" Did you mean {names[close[0]]!r}?" if close else f" Write it like {EXAMPLE}"
        raise WindowError(f"the window {text!r}: no time zone is called {name!r}.{hint}") from None


@cache
def _zone_names() -> dict[str, str]:
    """Each zone by its name in lower case, and by its city alone."""
    names = sorted(available_timezones())
    return {name.rsplit("/", 1)[-1].lower(): name for name in names} | {name.lower(): name for name in names}
