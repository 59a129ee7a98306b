"""Rates as people write them: "14/s, 50000/day".

Several windows hold at once, and each slides: in no stretch of time as long as a window goes more than it
allows.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

EXAMPLE = '"14/s, 50000/day"'
MESSAGES_MAX = 10**12
"""In one window: more is a slip of the finger."""
SECONDS_MAX = 366 * 86_400
"""Of a window: a year. Nothing is counted for longer."""
WINDOWS_MAX = 8
"""In one rate: each costs memory and time at every message."""

_UNITS = {
    "s": 1, "sec": 1, "second": 1, "seconds": 1,
    "min": 60, "minute": 60, "minutes": 60,
    "h": 3_600, "hour": 3_600, "hours": 3_600,
    "d": 86_400, "day": 86_400, "days": 86_400,
}  # fmt: skip
_PART = re.compile(r"([0-9]+)\s*(?:/|\bper\b)\s*([0-9]*)\s*([a-z]+)", re.ASCII)


class RateError(ValueError):
    """The text is no rate; the message says what is wrong with it and shows one that is right."""


@dataclass(frozen=True, slots=True)
class Quota:
    """At most so many messages in any stretch of so many seconds."""

    messages: int
    seconds: float


def parse_rate(text: str) -> tuple[Quota, ...]:
    """The windows of a rate, the shortest first; none for an empty text. Raises RateError.

    Units: s, min, h, day (sec, second, minute, hour and d too), and several of them: "100/10s", "5/2h".
    """
    if not text.strip():
        return ()
    parts = text.split(",")
    if len(parts) > WINDOWS_MAX:
        raise RateError(f"the rate {text!r} has {len(parts)} windows; at most {WINDOWS_MAX} are kept to")
    quotas: dict[float, Quota] = {}
    for part in parts:
        quota = _parse_part(part.strip().lower(), text)
        if quota.seconds in quotas:
            raise RateError(
                f"the rate {text!r} has two limits for a window of {quota.seconds:g} s: keep one of them"
            )
        quotas[quota.seconds] = quota
    return tuple(quotas[seconds] for seconds in sorted(quotas))


def _parse_part(part: str, text: str) -> Quota:
    where = f"the rate {text!r}: " if part != text.strip().lower() else "the rate "
    match = _PART.fullmatch(part)
    if match is None:
        raise RateError(f"{where}{part!r} is not MESSAGES/TIME. Write it like {EXAMPLE} or 100/10s")
    number, times, unit = match.groups()
    if unit not in _UNITS:
        raise RateError(
            f"{where}{part!r}: no unit of time is called {unit!r}. Use s, min, h or day, as in {EXAMPLE}"
        )
    messages = _number(number)
    if not 1 <= messages <= MESSAGES_MAX:
        hint = "; to send nothing, pause the campaign or drain the server" if messages < 1 else ""
        raise RateError(f"{where}{part!r} must allow 1 to {MESSAGES_MAX} messages, as in {EXAMPLE}{hint}")
    seconds = (_number(times) if times else 1) * _UNITS[unit]
    if not 1 <= seconds <= SECONDS_MAX:
        raise RateError(f"{where}{part!r}: the window must be 1 second to 366 days, as in {EXAMPLE}")
    return Quota(messages, float(seconds))


def _number(digits: str) -> int:
    """Its length is bounded: Python refuses to read numbers of thousands of digits."""
    return int(digits) if len(digits) <= 20 else MESSAGES_MAX * SECONDS_MAX


def rate_text(quotas: Iterable[Quota]) -> str:
    """As people write it; the reverse of parse_rate."""
    units = {1: "s", 60: "min", 3_600: "h", 86_400: "day"}
    parts = []
    for quota in quotas:
        seconds = int(quota.seconds)
        unit = max(unit for unit in units if seconds % unit == 0)
        count = seconds // unit
        parts.append(f"{quota.messages}/{count if count > 1 else ''}{units[unit]}")
    return ", ".join(parts)


def strictest(rates: Iterable[str]) -> str:
    """The rate that keeps to all of these. Raises RateError."""
    least: dict[float, int] = {}
    for rate in rates:
        for quota in parse_rate(rate):
            least[quota.seconds] = min(quota.messages, least.get(quota.seconds, quota.messages))
    quotas = [Quota(messages, seconds) for seconds, messages in least.items()]
    quotas.sort(key=lambda quota: quota.messages / quota.seconds)
    return rate_text(sorted(quotas[:WINDOWS_MAX], key=lambda quota: quota.seconds))
