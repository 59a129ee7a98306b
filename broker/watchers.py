"""Clients that watch: each gets an update at its interval until it stops saying WATCH."""

from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from dataclasses import dataclass

from broker.core.state import State
from broker.queries import Queries
from evenpost.runtime.clock import Now
from evenpost.wire import messages as wire

RENEW_WITHIN_S = 30.0
CAMPAIGNS_MAX = 100
"""In one update."""
WATCHES_MAX = 20
"""Of one client."""

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
    def __init__(
        self,
        state: State,
        queries: Queries,
        send: Send,
        asking: Callable[[bytes], AbstractContextManager[None]],
        may_ask: Callable[[bytes], bool],
    ) -> None:
        """`asking`: in it, what is done is done for this peer. `may_ask`: whether its update is made now, or
        waits for the next tick."""
        self._state = state
        self._queries = queries
        self._send = send
        self._asking = asking
        self._may_ask = may_ask
        self._watchers: dict[tuple[bytes, int], _Watcher] = {}
        self._counts: dict[bytes, int] = {}

    def watch(self, peer: bytes, request: int, message: wire.Watch, now: Now, key: str = "") -> bool:
        """Begins a watch or goes on with it; False: this client has as many as it may."""
        known = self._watchers.get((peer, request))
        if known is None:
            count = self._counts.get(peer, 0)
            if count >= WATCHES_MAX:
                return False
            self._counts[peer] = count + 1
        next_at = known.next_at if known else now.mono
        until = now.mono + RENEW_WITHIN_S
        watcher = _Watcher(message.campaign, message.interval_s, next_at, until, key)
        self._watchers[peer, request] = watcher
        return True

    def forget(self, peer: bytes) -> None:
        if peer in self._counts:
            for key in [key for key in self._watchers if key[0] == peer]:
                self._end(*key)

    def _end(self, peer: bytes, request: int) -> None:
        if self._watchers.pop((peer, request), None) is not None:
            self._counts[peer] -= 1
            if not self._counts[peer]:
                del self._counts[peer]

    def revoke(self, keys: Collection[str]) -> None:
        """Whoever came by one of these keys gets nothing more."""
        for which in [which for which, watcher in self._watchers.items() if watcher.key in keys]:
            self._end(*which)

    def tick(self, now: Now) -> None:
        for (peer, request), watcher in list(self._watchers.items()):
            if now.mono >= watcher.until:
                self._end(peer, request)
            elif now.mono >= watcher.next_at and self._may_ask(peer):
                watcher.next_at = now.mono + watcher.interval_s
                with self._asking(peer):
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
            self._end(peer, request)
            if isinstance(answer, wire.StatusReply):
                tell(answer.campaigns)
            else:
                self._send(peer, request, answer)

        self._queries.one_status(watcher.campaign, now, ended)
