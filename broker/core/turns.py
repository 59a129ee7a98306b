"""Whose turn it is: priorities first, then weighted fair shares, in messages.

Within a priority each campaign has a virtual time that grows by messages / weight as it is served, and the
one that is behind is next: start-time fair queueing (Goyal, Vin, Cheng, SIGCOMM 1996). One that comes, or
comes back, begins at the present virtual time: what it didn't use it can't claim later.
"""

import heapq
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from broker.core.state import Campaign

PRIORITIES = 10

Pools = tuple[str | None, str | None]
"""The pool that a campaign uses, and the one it may use too."""
_Heap = list[tuple[float, int, "Campaign"]]


class Turns:
    """Campaigns that have something to send, one heap a priority and pool: where a pool is full, nobody has
    to look at the campaigns that wait for it."""

    def __init__(self) -> None:
        self._heaps: list[dict[Pools, _Heap]] = [{} for _ in range(PRIORITIES)]
        self._now = [0.0] * PRIORITIES
        self._members: set[int] = set()

    def add(self, campaign: "Campaign") -> None:
        """It has something to send; nothing changes where it is here already."""
        if campaign.number in self._members:
            return
        self._members.add(campaign.number)
        options = campaign.options
        campaign.share = max(campaign.share, self._now[options.priority])
        heap = self._heaps[options.priority].setdefault((options.pool, options.overflow), [])
        heapq.heappush(heap, (campaign.share, campaign.number, campaign))

    def first(self, priority: int, full: set[Pools]) -> "Campaign | None":
        """Whose turn it is, but for those that wait for one of the pools in `full`."""
        best: tuple[float, int, Campaign] | None = None
        for pools, heap in self._heaps[priority].items():
            if heap and pools not in full and (best is None or heap[0] < best):
                best = heap[0]
        return best[2] if best is not None else None

    def served(self, campaign: "Campaign", messages: int) -> None:
        """The first of its pool got so many messages out."""
        priority = campaign.options.priority
        self._now[priority] = max(self._now[priority], campaign.share)
        campaign.share = self._now[priority] + messages / campaign.options.weight
        heap = self._heap(campaign)
        heapq.heapreplace(heap, (campaign.share, campaign.number, campaign))

    def leave(self, campaign: "Campaign") -> None:
        """The first of its pool has nothing to send just now."""
        heap = self._heap(campaign)
        heapq.heappop(heap)
        self._members.discard(campaign.number)
        if not heap:
            options = campaign.options
            del self._heaps[options.priority][options.pool, options.overflow]

    def _heap(self, campaign: "Campaign") -> _Heap:
        options = campaign.options
        heap = self._heaps[options.priority][options.pool, options.overflow]
        assert heap[0][2] is campaign
        return heap

    def __iter__(self) -> Iterator["Campaign"]:
        for heaps in self._heaps:
            for heap in heaps.values():
                yield from (entry[2] for entry in heap)
