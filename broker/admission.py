"""Which of a client's requests are taken on now, and which shall wait: the guard's limits, and the disk's."""

from broker.core.state import Phase, State
from broker.guard import Campaigns, Guard
from broker.journal.group_commit import GroupCommit
from evenpost.wire import messages as wire

ROWS_WAITING_MAX = 200_000
"""Rows in front of the journal at which clients are asked to wait: about 50 MB."""
REFRESH_EVERY_S = 1.0
"""How often it is counted anew what each client's campaigns hold."""


class Admission:
    def __init__(self, guard: Guard, state: State, queue: GroupCommit) -> None:
        self._guard = guard
        self._state = state
        self._queue = queue
        self._refreshed_at = 0.0

    def refusal(self, peer: bytes, request: int, message: wire.Message, size: int) -> str:
        """What a request of `size` bytes has to wait for, in words; empty: nothing, and until `answered` it
        counts as open. A watch has no end that could be waited for, so it isn't counted here."""
        if isinstance(message, wire.Watch):
            return ""
        if wait := self._guard.begin(peer, request, size):
            return wait
        if isinstance(message, wire.OpenCampaign):
            return "" if message.submission in self._state.by_submission else self._guard.may_open(peer)
        if isinstance(message, wire.Recipients):
            if self._queue.rows_waiting > ROWS_WAITING_MAX:
                return "more recipients are coming in than the disk takes: wait"
            return self._guard.may_add(peer, len(message.rows))
        return ""

    def answered(self, peer: bytes, request: int, answer: wire.Message) -> None:
        self._guard.answered(peer, request)
        if isinstance(answer, wire.CampaignOpen) and not answer.committed:
            campaign = self._state.by_id.get(answer.campaign)
            if campaign is not None:
                self._guard.opened(peer, campaign.id, len(campaign.template))

    def tick(self, now: float) -> None:
        """`now`: monotonic seconds."""
        if now - self._refreshed_at < REFRESH_EVERY_S:
            return
        self._refreshed_at = now
        self._guard.refresh(
            {
                campaign.id: Campaigns(
                    campaign.unfinished, campaign.phase is Phase.OPEN, len(campaign.template)
                )
                for campaign in self._state.campaigns.values()
            }
        )
