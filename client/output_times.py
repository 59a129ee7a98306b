"""Times and durations as people read them: local, and no longer than they have to be."""

import time
from datetime import UTC, datetime

_DAY_S = 86_400


def local_time(at_ms: int | None) -> str:
    """ "2026-05-01 14:05:10", or nothing."""
    if not at_ms:
        return ""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at_ms / 1000))


def clock_time(at_ms: int | None, *, seconds: bool = True) -> str:
    """ "14:05:10" for a time of today, with its date for any other."""
    text = local_time(at_ms)
    if not seconds:
        text = text[:-3]
    return text[11:] if text[:10] == time.strftime("%Y-%m-%d") else text


def utc_time(at_ms: int | None) -> str:
    """ISO 8601, for files."""
    if not at_ms:
        return ""
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def duration(seconds: float) -> str:
    """ "3 s", "1 min 15 s", "2 h 1 min" """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def expected(at_ms: int | None) -> str:
    """When something that is foreseen will be: "about 14:05, in 12 min". Nothing for None."""
    if at_ms is None:
        return ""
    left_s = at_ms / 1000 - time.time()
    if left_s < 1:
        return "any moment"
    # Within a day "in 2 h" says which 00:05 is meant; the date would be too much for a line of 80 columns.
    at = local_time(at_ms)[11:16] if left_s < _DAY_S else clock_time(at_ms, seconds=False)
    return f"about {at}, in {_roughly(left_s)}"


def _roughly(seconds: float) -> str:
    """No more exact than anybody can foresee."""
    minutes = round(seconds / 60)
    if seconds < 60:
        return f"{max(1, round(seconds))} s"
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min" if minutes % 60 else f"{minutes // 60} h"
    return f"{round(minutes / 1440)} days"
