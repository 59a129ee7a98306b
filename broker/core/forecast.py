"""When a campaign's last message will go: a forecast from its present pace, quotas and sending window.

Messages are a fluid here. Time is walked from event to event: a quota is used up, some of it comes back, the
sending window opens or closes. What a quota gets is taken to come back just as it went, one window later.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from math import inf
from typing import NamedTuple

from evenpost.schedule.rate import Quota
from evenpost.schedule.window import Window

EVENTS_MAX = 1_000
"""At most some 4 ms of work; what is left then goes on at the average until there."""
PACE_BELOW_S = 60.0
"""A shorter window is a limit of the pace; a longer one is a stock that is used up and comes back."""
HORIZON_MS = 10 * 366 * 86_400_000
"""Beyond ten years it is not a time but a wrong rate."""


class Cap(NamedTuple):
    """One quota that the campaign's messages count in."""

    messages: int
    seconds: float
    left: int
    """What it allows now."""
    returns: tuple[tuple[float, int], ...] = ()
    """When what is used comes back: seconds from now, and how many (Bucket.returns). Empty for not known:
    then evenly over the window."""


def caps_of(
    left: Iterable[tuple[Quota, int]], returns: Iterable[tuple[Quota, Sequence[tuple[float, int]]]]
) -> list[Cap]:
    """What Bucket.left and Bucket.returns say, as caps."""
    return [
        Cap(quota.messages, quota.seconds, free, tuple(back))
        for (quota, free), (_, back) in zip(left, returns, strict=True)
    ]


def pooled(servers: Sequence[Sequence[Cap]]) -> list[Cap]:
    """The caps of several servers together, window by window. A window that one of them doesn't have is no
    cap of all."""
    sums: dict[float, list[Cap]] = {}
    for caps in servers:
        for cap in caps:
            sums.setdefault(cap.seconds, []).append(cap)
    return [
        Cap(
            sum(cap.messages for cap in caps),
            seconds,
            sum(cap.left for cap in caps),
            tuple(sorted(back for cap in caps for back in cap.returns)),
        )
        for seconds, caps in sorted(sums.items())
        if len(caps) == len(servers)
    ]


def eta(
    left: int,
    per_second: float,
    caps: Sequence[Cap],
    window: Window | None,
    now_wall: int,
    start_at: int = 0,
) -> int | None:
    """When (wall clock, ms) the last of `left` messages will go, or None where nothing tells.

    `per_second`: the pace while nothing holds it up; 0 for not known: then what the caps allow.
    `caps`: each holds for all of these messages."""
    pace = min(
        [per_second or inf, *(cap.messages / cap.seconds for cap in caps if cap.seconds < PACE_BELOW_S)]
    )
    stocks = [_Stock(cap) for cap in caps if cap.seconds >= PACE_BELOW_S]
    if pace == inf:
        pace = min((stock.mean for stock in stocks), default=0.0)
    if pace <= 0:
        return None
    at = _walk(float(left), pace, stocks, window, now_wall, max(now_wall, start_at))
    return at if at is not None and at - now_wall <= HORIZON_MS else None


class _Stock:
    """A long quota: what it allows now, and what comes back later."""

    def __init__(self, cap: Cap) -> None:
        self.free = float(max(0, cap.left))
        self.seconds = cap.seconds
        self.mean = cap.messages / cap.seconds
        self.coming: deque[tuple[float, float, float]] = deque()
        """From when to when (s from now) so many a second come back."""
        used = cap.messages - cap.left
        if cap.returns:
            before = 0.0
            for seconds, count in cap.returns:
                before = max(before, seconds - 1.0) if seconds - before > 1.0 else before
                after = max(seconds, before + 0.001)
                self.coming.append((before, after, count / (after - before)))
                before = after
        elif used > 0:
            self.coming.append((0.0, cap.seconds, used / cap.seconds))

    def refill(self, at: float) -> tuple[float, float]:
        """How many a second come back at this time, and until when that stays so."""
        while self.coming and self.coming[0][1] <= at:
            self.coming.popleft()
        if not self.coming:
            return 0.0, inf
        begin, end, rate = self.coming[0]
        return (0.0, begin) if at < begin else (rate, end)

    def went(self, at: float, for_s: float, rate: float) -> None:
        """So many a second went: they come back one window later."""
        if rate <= 0 or for_s <= 0:
            return
        begin, end = at + self.seconds, at + for_s + self.seconds
        if self.coming and self.coming[-1][1] >= begin and self.coming[-1][2] == rate:
            begin = self.coming.pop()[0]
        self.coming.append((begin, end, rate))


def _walk(
    left: float, pace: float, stocks: list[_Stock], window: Window | None, now_wall: int, begin: int
) -> int | None:
    """None where it can't end."""
    total = left
    at = (begin - now_wall) / 1000
    for stock in stocks:
        _idle(stock, 0.0, at)
    for _ in range(EVENTS_MAX):
        wall = now_wall + round(at * 1000)
        if left <= total * 1e-6:
            return wall
        closes = inf
        if window is not None:
            opens = (window.opens_at(wall) - now_wall) / 1000
            if opens > at:
                for stock in stocks:
                    _idle(stock, at, opens)
                at = opens
                wall = now_wall + round(at * 1000)
            closes = (window.closes_at(wall) - now_wall) / 1000
        flow, until = pace, closes
        refills = []
        for stock in stocks:
            refill, changes = stock.refill(at)
            refills.append(refill)
            until = min(until, changes)
            if stock.free <= 1e-6:
                flow = min(flow, refill)
        for stock, refill in zip(stocks, refills, strict=True):
            if stock.free > 1e-6 and flow > refill:
                until = min(until, at + stock.free / (flow - refill))
        if flow > 0:
            until = min(until, at + left / flow)
        if until == inf:
            return None
        step = max(until - at, 0.001)
        for stock, refill in zip(stocks, refills, strict=True):
            stock.free = max(0.0, stock.free + (refill - flow) * step)
            stock.went(at, step, flow)
        left -= flow * step
        at += step
    gone = total - left
    if gone <= 0:
        return None
    return begin + round((at * 1000 - (begin - now_wall)) * total / gone)


def _idle(stock: _Stock, at: float, until: float) -> None:
    """Nothing goes; what comes back is there to be used."""
    while at < until:
        refill, changes = stock.refill(at)
        end = min(until, changes)
        stock.free += refill * (end - at)
        at = end
