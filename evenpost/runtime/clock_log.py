"""Tells an operator that the system's clock jumped, and what became of it."""

from evenpost.runtime import clock, logs

_HINTS = {
    "jumped": f"times go on as before, unless it stays there for {clock.TRUSTED_AFTER_S:g} s",
    "returned": "nothing came of it",
    "followed": "it stayed there: what has a time goes by it from now on",
}


def follow_clock() -> float:
    """Logs `clock.jumped`, `clock.returned` and `clock.followed`, with the seconds. Gives those by which our
    wall clock has just followed: 0, unless it did."""
    followed_s = 0.0
    for jump in clock.follow():
        logs.get().warning(f"clock.{jump.what}", seconds=round(jump.seconds, 1), hint=_HINTS[jump.what])
        if jump.what == "followed":
            followed_s += jump.seconds
    return followed_s
