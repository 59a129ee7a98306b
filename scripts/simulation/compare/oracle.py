"""A sender with perfect knowledge: what no balancer can beat by much.

It knows the present mean service time and the free connections of each server at every moment, without any
delay; there are no batches, no network and no journal. Messages go in the order in which they come. Service
times are exponential, as the simulated servers' are.
"""

import heapq
import random
from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

RUNS = 5
"""The mean of so many: the last message's chance shouldn't decide."""


@dataclass(frozen=True, slots=True)
class Site:
    """One server: its connections, and the mean seconds a message from each of these times on."""

    connections: int
    means: tuple[tuple[float, float], ...]
    """(from when, mean), the first from 0; a mean of 0: it takes nothing."""

    def mean(self, time: float) -> float:
        return self.means[bisect_right(self.means, (time, float("inf"))) - 1][1]


def makespan(sites: Sequence[Site], messages: int, seed: int, runs: int = RUNS) -> float:
    """Seconds from the first message to the last 250, of a campaign whose messages are all there at once."""
    return fmean(_makespan(sites, messages, random.Random(f"{seed} oracle {n}")) for n in range(runs))  # noqa: S311


def _makespan(sites: Sequence[Site], messages: int, rng: random.Random) -> float:
    """Each message goes to the connection with the earliest expected completion. That is the one that is free
    now, as long as there is plenty; in the end a slow one stays idle where a faster one, which is busy yet,
    is expected to be done with the message earlier."""
    changes = sorted({since for site in sites for since, _ in site.means if since > 0.0})
    # Connections become free; at a change all that are idle are looked at again.
    due = [(0.0, n, 0) for n in range(len(sites)) for _ in range(sites[n].connections)]
    due += [(since, -1, 0) for since in changes]
    heapq.heapify(due)
    idle = [0] * len(sites)
    left, time, last = messages, 0.0, 0.0
    while left and due:
        time, n, _ = heapq.heappop(due)
        if n >= 0:
            idle[n] += 1
        means = [site.mean(time) for site in sites]
        for m in sorted((m for m in range(len(sites)) if means[m] and idle[m]), key=means.__getitem__):
            faster = [k for k in range(len(sites)) if 0 < means[k] < means[m]]
            speed = sum(sites[k].connections / means[k] for k in faster)
            while idle[m] and left:
                if faster and means[m] > left / speed + min(means[k] for k in faster):
                    break
                left -= 1
                idle[m] -= 1
                end = time + rng.expovariate(1.0 / means[m])
                last = max(last, end)
                heapq.heappush(due, (end, m, 0))
    if left:
        raise ValueError(f"{left} messages are left: no server takes anything any more")
    return last


def times(sites: Sequence[Site], arrivals: Sequence[float], seed: int) -> list[float]:
    """Seconds from each arrival to its 250, where each message goes to the fastest free connection, or waits
    in line for the first that becomes free."""
    rng = random.Random(f"{seed} oracle")  # noqa: S311  # repeatable on purpose
    free = [site.connections for site in sites]
    ends: list[tuple[float, int]] = []
    waiting: deque[float] = deque()
    took: list[float] = []

    def begin(arrived: float, now: float) -> bool:
        means = [(site.mean(now), n) for n, site in enumerate(sites) if free[n] and site.mean(now)]
        if not means:
            return False
        mean, n = min(means)
        free[n] -= 1
        end = now + rng.expovariate(1.0 / mean)
        heapq.heappush(ends, (end, n))
        took.append(end - arrived)
        return True

    for arrived in [*arrivals, float("inf")]:
        while ends and ends[0][0] <= arrived:
            end, n = heapq.heappop(ends)
            free[n] += 1
            if waiting:
                begin(waiting.popleft(), end)
        if arrived < float("inf") and (waiting or not begin(arrived, arrived)):
            waiting.append(arrived)
    return took
