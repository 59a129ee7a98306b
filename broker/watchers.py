"""Clients that watch: each gets an update at its interval until it stops saying WATCH."""

from collections.abc import Callable, Collection
from dataclasses import dataclass

from broker.core.state import State
from broker.queries import Queries
from evenpost.runtime.clock import Now
from evenpost.wire import messages as wire

RENEW_WITHIN_S = 30.0
CAMPAIGNS_MAX = 100
"""In one update."""

Send = Callable[[bytes, int, wire.Message], None]


@dataclass(slots=True)
class _Watcher:
    campaign: str | None
    interval_s: float
    next_at: float
    until: float
    key: str
    """By which its peer came; empty without CURVE."""


class Watchers:
    def __init__(self, state: State, queries: Queries, send: Send) -> None:
        self._state = state
        self._queries = queries
        self._send = send
        self._watchers: dict[tuple[bytes, int], _Watcher] = {}

    def watch(self, peer: bytes, request: int, message: wire.Watch, now: Now, key: str = "") -> None:
        known = self._watchers.get((peer, request))
        next_at = known.next_at if known else now.mono
        until = now.mono + RENEW_WITHIN_S
        watcher = _Watcher(message.campaign, message.interval_s, next_at, until, key)
        self._watchers[peer, request] = watcher

    def forget(self, peer: bytes) -> None:
        for key in [key for key in self._watchers if key[0] == peer]:
            del self._watchers[key]

    def revoke(self, keys: Collection[str]) -> None:
        """Whoever came by one of these keys gets nothing more."""
        for which in [which for which, watcher in self._watchers.items() if watcher.key in keys]:
            del self._watchers[which]

    def tick(self, now: Now) -> None:
        for (peer, request), watcher in list(self._watchers.items()):
            if now.mono >= watcher.until:
                del self._watchers[peer, request]
            elif now.mono >= watcher.next_at:
                watcher.next_at = now.mono + watcher.interval_s
                self._update(peer, request, watcher, now)

    def _update(self, peer: bytes, request: int, watcher: _Watcher, now: Now) -> None:
        def tell(campaigns: list[wire.CampaignStatus]) -> None:
            self._send(peer, request, wire.WatchUpdate(campaigns, self._queries.workers(now)))

        if watcher.campaign is None:
            running = [c for c in self._state.campaigns.values() if c.stored][:CAMPAIGNS_MAX]
            tell([self._queries.campaign(campaign, now) for campaign in running])
            return
        campaign = self._state.by_id.get(watcher.campaign)
        if campaign is not None:
            tell([self._queries.campaign(campaign, now)])
            return

        def ended(answer: wire.Message) -> None:
            # It has ended, or never was: the last word, and nothing follows.
            self._watchers.pop((peer, request), None)
            if isinstance(answer, wire.StatusReply):
                tell(answer.campaigns)
            else:
                self._send(peer, request, answer)

        self._queries.one_status(watcher.campaign, now, ended)
