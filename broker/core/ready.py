"""The messages of a campaign that wait in memory: where each of them waits, and who takes it from there."""

from collections import deque
from collections.abc import Iterable

from broker.core.groups import Lane, domain_of, spread
from broker.core.message_state import Message
from broker.core.state import Campaign, State


def put(state: State, campaign: Campaign, messages: Iterable[Message]) -> None:
    """Messages that come from the journal, spread by their domains."""
    if state.groups.all:
        plain = [message for message in messages if not _has_lane(state, campaign, message)]
    else:
        plain = [m for m in messages if not (m.tried and _has_lane(state, campaign, m))]
    campaign.ready.extend(spread(plain))


def put_back(state: State, campaign: Campaign, message: Message) -> None:
    """A message that was given out and not tried."""
    if not _has_lane(state, campaign, message, front=True):
        campaign.ready.appendleft(message)


def _has_lane(state: State, campaign: Campaign, message: Message, *, front: bool = False) -> bool:
    """Puts it where its domain's limits are kept, or where it looks for another server, or where it waits to
    know its domain's mail exchanger; False where nothing holds it."""
    groups = state.groups
    if groups.all and message.group is None:
        domain = domain_of(message.address)
        if groups.is_unknown(domain):
            campaign.unresolved.setdefault(domain, []).append(message)
            groups.ask(domain)
            return True
        message.group = groups.by_domain.get(domain)
    if message.group is None and not message.tried:
        return False
    key = Lane(message.group, message.tried)
    lane = campaign.lanes.get(key)
    if lane is None:
        lane = campaign.lanes[key] = deque()
    if front and not message.tried:
        lane.appendleft(message)
    else:
        lane.append(message)
    if message.group is not None:
        message.group.waiting += 1
    return True


def take(campaign: Campaign, lane: Lane, count: int) -> list[Message]:
    """The first messages of a lane, to be given out."""
    waiting = campaign.lanes[lane]
    taken = [waiting.popleft() for _ in range(min(count, len(waiting)))]
    if lane.group is not None:
        lane.group.waiting -= len(taken)
    if not waiting:
        del campaign.lanes[lane]
    return taken


def remove(campaign: Campaign, message: Message) -> None:
    """Takes one out, wherever it waits."""
    lane = Lane(message.group, message.tried)
    waiting = campaign.lanes.get(lane)
    if waiting is not None and message in waiting:
        waiting.remove(message)
        if message.group is not None:
            message.group.waiting -= 1
        if not waiting:
            del campaign.lanes[lane]
        return
    for domain, messages in campaign.unresolved.items():
        if message in messages:
            messages.remove(message)
            if not messages:
                del campaign.unresolved[domain]
            return
    campaign.ready.remove(message)


def everything(campaign: Campaign) -> list[Message]:
    """All that wait, for a campaign that ends and for the invariants."""
    return [
        *campaign.ready,
        *(message for lane in campaign.lanes.values() for message in lane),
        *(message for messages in campaign.unresolved.values() for message in messages),
    ]


def clear(state: State, campaign: Campaign) -> None:
    """Forgets all that wait: they are not to be sent."""
    for message in everything(campaign):
        del state.live[message.id]
    for lane, waiting in campaign.lanes.items():
        if lane.group is not None:
            lane.group.waiting -= len(waiting)
    campaign.ready.clear()
    campaign.lanes.clear()
    campaign.unresolved.clear()
