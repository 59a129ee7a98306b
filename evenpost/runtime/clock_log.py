"""Tells an operator that the system's clock jumped, and what became of it."""

from evenpost.runtime import clock, logs

_EVENTS = {
    "jumped": ("clock.jumped", f"times go on as before, unless it stays for {clock.TRUSTED_AFTER_S:g} s"),
    "returned": ("clock.returned", "nothing came of it"),
    "followed": ("clock.followed", "it stayed there: what has a time goes by it from now on"),
}


def follow_clock() -> float:
    """Logs `clock.jumped`, `clock.returned` and `clock.followed`, with the seconds. Gives those by which our
    wall clock has just followed: 0, unless it did."""
    followed_s = 0.0
    for jump in clock.follow():
        event, hint = _EVENTS[jump.what]
        logs.get().warning(event, seconds=round(jump.seconds, 1), hint=hint)
        if jump.what == "followed":
            followed_s += jump.seconds
    return followed_s
