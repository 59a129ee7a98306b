"""How much at a time, and how long to wait."""

from collections.abc import Callable
from math import ceil

from evenpost.wire import limits

_FIRST_BATCH = 10
"""For a server whose pace isn't known yet."""
_EWMA_A_MESSAGE = 0.03
"""A batch of ten counts for a quarter, a single message for little: one alone says little of its server."""


FAR_BATCH_MIN = 4
"""For a far server. A message alone takes a round trip, and several in a pipeline hardly more: whoever gives
it one at a time because one is slow never learns that."""


def batch_size(
    seconds_a_message: float, target_s: float, left: int, connections: int, speed: float = 0.0, least: int = 1
) -> int:
    """Messages for one batch: about `target_s` of work or `least`, fewer towards the end of a campaign.

    The end is guided self-scheduling (Polychronopoulos and Kuck, 1987): no batch takes longer than half of
    the time in which all `connections`, which together send `speed` messages a second, would be done with
    what is `left`. So the slowest server doesn't hold the last batch.
    """
    size = max(least, int(target_s / seconds_a_message)) if seconds_a_message > 0 else _FIRST_BATCH
    if speed > 0 and seconds_a_message > 0:
        fair = ceil(left / (2 * speed * seconds_a_message))
    else:
        fair = ceil(left / (2 * max(1, connections)))
    return max(1, min(size, fair, limits.BATCH_MESSAGES_MAX))


SECONDS_A_MESSAGE_MAX = 600.0
"""A server may take ten minutes for its answer to a message (RFC 5321 4.5.3.2.6). A worker whose clock jumps,
or that lies, says anything."""


def pace(before: float, seconds: float, messages: int) -> float:
    """The moving average of seconds a message after a batch. A batch's clock ticks in milliseconds."""
    sample = min(max(seconds, 0.001) / messages, SECONDS_A_MESSAGE_MAX)
    if before <= 0:
        return sample
    return before + (1.0 - (1.0 - _EWMA_A_MESSAGE) ** messages) * (sample - before)


def back_off(tries: int, initial_s: float, max_s: float, uniform: Callable[[float, float], float]) -> float:
    """Seconds until the next try after `tries` failures: doubled each time, up to `max_s`, with half of it
    at random, so that what failed together doesn't come back together."""
    ceiling = min(max_s, initial_s * 2.0 ** min(max(tries - 1, 0), 30))
    return uniform(ceiling / 2, ceiling)
