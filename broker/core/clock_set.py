"""The wall clock was set, and the shell's follows it: what was remembered by the old one is shifted.

Durations stay durations: back-off, and the lifetime of a campaign without an `expire_at`. What people asked
for by the clock stays where it is: `start_at`, `expire_at`, windows.
"""

from broker.core.commands import Command, Persist, SetCampaign, ShiftDue
from broker.core.events import ClockSet
from broker.core.state import State


def clock_set(state: State, event: ClockSet) -> list[Command]:
    by_ms = round(event.seconds * 1000)
    changes: list[SetCampaign | ShiftDue] = []
    for campaign in state.campaigns.values():
        if campaign.options.expire_at is None:
            campaign.expire_at += by_ms
        if campaign.next_due is not None:
            campaign.next_due += by_ms
        campaign.put_off_until = {group: at + by_ms for group, at in campaign.put_off_until.items()}
        # What was read is in memory, or settled: reading it again finds that.
        campaign.retries_read, campaign.reading_upto = (0, 0), 0
        campaign.read_again = campaign.reading
        state.awake[campaign.number] = campaign
        changes += [ShiftDue(campaign.number, by_ms), SetCampaign.of(campaign)]
    return [Persist(tuple(changes))] if changes else []
