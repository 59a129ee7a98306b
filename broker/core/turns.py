"""Whose turn it is: priorities first, then weighted fair shares, in messages.

Within a priority each campaign has a virtual time that grows by messages / weight as it is served, and the
one that is behind is next: start-time fair queueing (Goyal, Vin, Cheng, SIGCOMM 1996). One that comes, or
comes back, begins at the present virtual time: what it didn't use it can't claim later. Pools take turns in
the same way, each with the weight of all its campaigns and with a virtual time of its own for them: a fast
pool's doesn't run away with those of a slow one.
"""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from broker.core.state import Campaign

PRIORITIES = 10

Pools = tuple[str | None, str | None]
"""The pool that a campaign uses, and the one it may use too."""


@dataclass(slots=True)
class _Pool:
    """The campaigns of one priority that use the same pools."""

    share: float
    """Its virtual time among the pools of its priority."""
    now: float = 0.0
    """The virtual time of its campaigns."""
    weight: int = 0
    """Of its campaigns together."""
    heap: list[tuple[float, int, "Campaign"]] = field(default_factory=list)


class Turns:
    """Campaigns that have something to send, one heap a priority and pool: where a pool is full, nobody has
    to look at the campaigns that wait for it."""

    def __init__(self) -> None:
        self._pools: list[dict[Pools, _Pool]] = [{} for _ in range(PRIORITIES)]
        self._now = [0.0] * PRIORITIES
        self._members: set[int] = set()

    def add(self, campaign: "Campaign") -> None:
        """It has something to send; nothing changes where it is here already."""
        if campaign.number in self._members:
            return
        self._members.add(campaign.number)
        priority = campaign.options.priority
        pool = self._pools[priority].get(_pools_of(campaign))
        if pool is None:
            pool = self._pools[priority][_pools_of(campaign)] = _Pool(self._now[priority])
        elif not pool.heap:
            pool.share = max(pool.share, self._now[priority])
        campaign.share = max(campaign.share, pool.now)
        pool.weight += campaign.options.weight
        heapq.heappush(pool.heap, (campaign.share, campaign.number, campaign))

    def first(self, priority: int, full: set[Pools]) -> "Campaign | None":
        """Whose turn it is, but for those that wait for one of the pools in `full`."""
        best: _Pool | None = None
        for pools, pool in self._pools[priority].items():
            if pool.heap and pools not in full and (best is None or pool.share < best.share):
                best = pool
        return best.heap[0][2] if best is not None else None

    def served(self, campaign: "Campaign", messages: int) -> None:
        """The first of its pool got so many messages out."""
        priority, pool = campaign.options.priority, self._pool(campaign)
        self._now[priority] = max(self._now[priority], pool.share)
        pool.share += messages / pool.weight
        pool.now = max(pool.now, campaign.share)
        campaign.share += messages / campaign.options.weight
        heapq.heapreplace(pool.heap, (campaign.share, campaign.number, campaign))

    def leave(self, campaign: "Campaign") -> None:
        """The first of its pool has nothing to send just now."""
        pool = self._pool(campaign)
        heapq.heappop(pool.heap)
        pool.weight -= campaign.options.weight
        self._members.discard(campaign.number)

    def _pool(self, campaign: "Campaign") -> _Pool:
        pool = self._pools[campaign.options.priority][_pools_of(campaign)]
        assert pool.heap[0][2] is campaign
        return pool

    def __iter__(self) -> Iterator["Campaign"]:
        """All that have something to send, in no order; for those who check."""
        for pools in self._pools:
            for pool in pools.values():
                yield from (entry[2] for entry in pool.heap)


def _pools_of(campaign: "Campaign") -> Pools:
    return campaign.options.pool, campaign.options.overflow
