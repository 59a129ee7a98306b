"""Who waits for nothing but time."""

import heapq
from math import inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from broker.core.groups import Group
    from broker.core.state import Campaign


class Sleepers:
    """Campaigns and groups of domains that wait for a rate's next token, or for their time to come, the first
    to wake first. One is in it once."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Campaign | Group]] = []
        self._pushed = 0

    def __len__(self) -> int:
        return len(self._heap)

    def put(self, who: "Campaign | Group", wakes_at: float) -> None:
        if wakes_at >= who.wakes_at:
            return  # it wakes before that
        who.wakes_at = wakes_at
        self._pushed += 1
        heapq.heappush(self._heap, (wakes_at, self._pushed, who))

    def next_at(self) -> float:
        heap = self._heap
        while heap and heap[0][0] != heap[0][2].wakes_at:
            heapq.heappop(heap)
        return heap[0][0] if heap else inf

    def woken(self, now: float) -> "list[Campaign | Group]":
        found: list[Campaign | Group] = []
        while self.next_at() <= now:
            who = heapq.heappop(self._heap)[2]
            who.wakes_at = inf
            found.append(who)
        return found

    def tidy(self) -> None:
        """Drops what is void: a token may be a day away. To be called now and then."""
        self._heap = [entry for entry in self._heap if entry[0] == entry[2].wakes_at]
        heapq.heapify(self._heap)
