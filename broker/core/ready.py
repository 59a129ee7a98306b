"""The messages of a campaign that wait in memory: where each of them waits, and who takes it from there."""

from collections import deque
from collections.abc import Iterable

from broker.core.groups import Group, domain_of, spread
from broker.core.state import Campaign, Message, State


def put(state: State, campaign: Campaign, messages: Iterable[Message]) -> None:
    """Messages that come from the journal, spread by their domains."""
    plain: list[Message] = []
    for message in messages:
        if _has_place(state, campaign, message):
            continue
        if message.tried:
            campaign.again.append(message)
        else:
            plain.append(message)
    campaign.ready.extend(spread(plain))


def put_back(state: State, campaign: Campaign, message: Message) -> None:
    """A message that was given out and not tried."""
    if _has_place(state, campaign, message, front=not message.tried):
        return
    if message.tried:
        campaign.again.append(message)
    else:
        campaign.ready.appendleft(message)


def _has_place(state: State, campaign: Campaign, message: Message, *, front: bool = False) -> bool:
    """Puts it where its domain's limits are kept, or where it waits to know its domain's mail exchanger."""
    groups = state.groups
    if not groups.all:
        return False
    if message.group is None:
        domain = domain_of(message.address)
        if groups.is_unknown(domain):
            campaign.unresolved.setdefault(domain, []).append(message)
            groups.ask(domain)
            return True
        message.group = groups.by_domain.get(domain)
    if message.group is None:
        return False
    to_lane(campaign, message, message.group, front=front)
    return True


def to_lane(campaign: Campaign, message: Message, group: Group, *, front: bool = False) -> None:
    lane = campaign.lanes.get(group)
    if lane is None:
        lane = campaign.lanes[group] = deque()
    if front:
        lane.appendleft(message)
    else:
        lane.append(message)
    group.waiting += 1


def from_lane(campaign: Campaign, group: Group, count: int) -> list[Message]:
    lane = campaign.lanes[group]
    taken = [lane.popleft() for _ in range(min(count, len(lane)))]
    group.waiting -= len(taken)
    if not lane:
        del campaign.lanes[group]
    return taken


def resolved(state: State, domain: str, exchanger: str) -> None:
    """A domain's mail exchanger is known: its messages go where they belong."""
    state.groups.resolved(domain, exchanger)
    for campaign in state.campaigns.values():
        if (messages := campaign.unresolved.pop(domain, None)) is not None:
            put(state, campaign, messages)
            state.awake[campaign.number] = campaign


def remove(campaign: Campaign, message: Message) -> None:
    """Takes one out, wherever it waits."""
    group = message.group
    if group is not None:
        campaign.lanes[group].remove(message)
        group.waiting -= 1
        if not campaign.lanes[group]:
            del campaign.lanes[group]
        return
    for domain, messages in campaign.unresolved.items():
        if message in messages:
            messages.remove(message)
            if not messages:
                del campaign.unresolved[domain]
            return
    (campaign.again if message in campaign.again else campaign.ready).remove(message)


def everything(campaign: Campaign) -> list[Message]:
    """All that wait, for a campaign that ends and for the invariants."""
    return [
        *campaign.ready,
        *campaign.again,
        *(message for lane in campaign.lanes.values() for message in lane),
        *(message for messages in campaign.unresolved.values() for message in messages),
    ]


def clear(state: State, campaign: Campaign) -> None:
    """Forgets all that wait: they are not to be sent."""
    for message in everything(campaign):
        del state.live[message.id]
    for group, lane in campaign.lanes.items():
        group.waiting -= len(lane)
    campaign.ready.clear()
    campaign.again.clear()
    campaign.lanes.clear()
    campaign.unresolved.clear()
