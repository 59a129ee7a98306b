"""When to start and when to give up, in whatever way a person writes it."""

import re
from datetime import UTC, datetime, timedelta

TIME_HINT = 'Write "2026-05-01T09:00:00+02:00", or from now on: "+2h", "+1d12h" (w, d, h, m, s)'

_RELATIVE = re.compile(r"\+((?:[0-9]+[wdhms])+)")
_PARTS = re.compile(r"([0-9]+)([wdhms])")
_SECONDS = {"w": 604_800, "d": 86_400, "h": 3_600, "m": 60, "s": 1}
_DAYS_MAX = 366 * 100


def parse_time(value: object, base: datetime) -> tuple[datetime, bool]:
    """The time with its zone, and whether the local zone was assumed. A relative one counts from `base`.

    Raises ValueError with the reason."""
    if isinstance(value, timedelta):
        return base + value, False
    if isinstance(value, str):
        text = value.strip().replace(" ", "T", 1) if not value.startswith("+") else value.replace(" ", "")
        if relative := _RELATIVE.fullmatch(text):
            seconds = sum(int(number) * _SECONDS[unit] for number, unit in _PARTS.findall(relative[1]))
            if seconds > _DAYS_MAX * 86_400:
                raise ValueError(f"{value!r} is more than a hundred years away")
            return base + timedelta(seconds=seconds), False
        try:
            value = datetime.fromisoformat(text)
        except ValueError:
            raise ValueError(f"{value!r} is no time") from None
    if not isinstance(value, datetime):
        raise ValueError(f"{value!r} is no time with a date")
    if value.tzinfo is not None and value.utcoffset() is not None:
        return value, False
    try:
        return value.astimezone(), True
    except (OverflowError, OSError, ValueError):
        raise ValueError(f"{value!r} is out of range") from None


def to_ms(time: datetime) -> int:
    """Milliseconds since the Unix epoch, as on the wire."""
    return (time - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
