"""What must hold after every event. The simulation checks it; a running broker doesn't pay for it."""

from broker.core.message_state import Stored
from broker.core.ready import everything
from broker.core.state import Phase, State


def violations(state: State) -> list[str]:
    """What is wrong, in words; empty where all is well."""
    found: list[str] = []
    for number, batch in state.batches.items():
        if batch.worker.batches.get(number) is not batch:
            found.append(f"batch {number} is not with its worker {batch.worker.name}")
        for id_, message in batch.messages.items():
            if message.batch != number:
                found.append(f"message {id_:#x} is in batch {number} but says {message.batch}")
            if state.live.get(id_) is not message:
                found.append(f"message {id_:#x} of batch {number} is not the one in memory")
    for worker in state.workers.values():
        strangers = worker.batches.keys() - state.batches.keys()
        found.extend(f"worker {worker.name} has batch {n}, which nobody knows" for n in strangers)
    waiting: dict[int, int] = {}
    for campaign in state.campaigns.values():
        for message in everything(campaign):
            waiting[message.id] = waiting.get(message.id, 0) + 1
            if message.batch:
                found.append(f"message {message.id:#x} waits and is in flight")
            if state.live.get(message.id) is not message:
                found.append(f"message {message.id:#x} waits but is not the one in memory")
        flying = [b for b in state.batches.values() if b.campaign is campaign]
        in_flight = sum(len(b.messages) for b in flying)
        retries = sum(m.retry for b in flying for m in b.messages.values())
        if (in_flight, retries) != (campaign.in_flight, campaign.in_flight_retries):
            found.append(f"campaign {campaign.id}: {in_flight} in flight, {campaign.in_flight} counted")
        if campaign.phase is not Phase.OPEN and not campaign.reopening:
            if campaign.queued < 0 or any(count < 0 for count in campaign.counts.values()):
                found.append(f"campaign {campaign.id}: counts {campaign.counts} of {campaign.total}")
            if campaign.in_flight > campaign.unfinished:
                found.append(f"campaign {campaign.id}: more in flight than unfinished")
        pages = {page for stripe in campaign.stripes for page in stripe.pages}
        outstanding = sum(page.outstanding for page in pages)
        with_page = sum(1 for m in state.live.values() if m.page in pages)
        if outstanding != with_page and campaign.closed_as is None:
            found.append(f"campaign {campaign.id}: {outstanding} outstanding, {with_page} in memory")
    found.extend(f"message {id_:#x} waits twice" for id_, times in waiting.items() if times > 1)
    for id_, message in state.live.items():
        if not message.batch and id_ not in waiting:
            found.append(f"message {id_:#x} is in memory and nowhere")
    for group in state.groups.all:
        every = (lane for c in state.campaigns.values() for lane in c.lanes.items())
        lanes = sum(len(waiting) for lane, waiting in every if lane.group is group)
        flying = [b for b in state.batches.values() if b.group is group]
        if (lanes, len(flying)) != (group.waiting, group.in_flight):
            found.append(f"group {group.name}: {lanes} wait, {len(flying)} batches, counted otherwise")
        made_here = [b for b in flying if b.made_at >= 0]
        if 0 < group.settings.connections < len(made_here):
            found.append(f"group {group.name}: {len(flying)} batches, more than its connections")
    assert Stored.QUEUED not in {s for c in state.campaigns.values() for s in c.counts}
    return found
