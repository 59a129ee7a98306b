"""From the journal into memory: a window of each campaign's messages, taken from all parts of its list."""

from broker.core import ready
from broker.core.batches import LOOK_FOR_ANOTHER_S
from broker.core.commands import (
    Command,
    Persist,
    PutOff,
    ReadFresh,
    ReadRetries,
    ResolveMx,
    SetCampaign,
)
from broker.core.events import CampaignStored, FreshRead, MxFound, RetriesRead
from broker.core.groups import domain_of
from broker.core.late import history
from broker.core.message_state import Message, Page, Stored
from broker.core.outcomes import move_low_water
from broker.core.state import Campaign, State
from evenpost.runtime.clock import Now


def reads(state: State, now: Now) -> list[Command]:
    """Asks the journal for more where a campaign's window runs low or retries are due. Looks only at
    campaigns to which something has happened."""
    if state.recovering_until is not None:
        return []
    out: list[Command] = []
    rows = state.settings.page_rows
    for campaign in state.awake.values():
        if campaign.waiting:
            state.turns.add(campaign)
        if not campaign.started(now):
            state.sleeping.put(campaign, campaign.opens_at(now))
            continue
        if campaign.reading:
            continue
        # What waits for limited domains has a window of its own for each: see `_put_off`.
        free_to_go = len(campaign.ready) + sum(map(len, campaign.unresolved.values()))
        free_to_go += sum(len(waiting) for lane, waiting in campaign.lanes.items() if lane.group is None)
        if free_to_go >= rows:
            continue
        due = campaign.next_due is not None and campaign.next_due <= now.wall
        if due:
            campaign.reading = True
            campaign.next_due = None
            campaign.reading_upto = max(campaign.reading_upto, now.wall)
            out.append(ReadRetries(campaign.number, campaign.retries_read, now.wall, rows))
        elif not campaign.fresh_done:
            campaign.reading = True
            unread = [stripe for stripe in campaign.stripes if not stripe.is_read]
            ranges = [(stripe.read_upto, stripe.upto) for stripe in unread]
            out.append(ReadFresh(campaign.number, ranges, max(1, rows // len(unread))))
    state.awake.clear()
    out.extend(ResolveMx(domain) for domain in state.groups.to_ask)
    state.groups.to_ask.clear()
    return out


def stored(state: State, event: CampaignStored, now: Now) -> list[Command]:
    """A campaign's COMMIT is on disk: it may be sent. A small one is at hand already."""
    campaign = state.campaigns.get(event.campaign)
    if campaign is None:
        return []
    campaign.stored = True
    state.awake[campaign.number] = campaign
    rows, campaign.early = campaign.early, []
    if len(rows) < campaign.total or len(campaign.stripes) != 1 or campaign.fresh_done:
        return []
    return fresh_read(state, FreshRead(campaign.number, [rows], [rows[-1][0]]), now)


def fresh_read(state: State, event: FreshRead, now: Now) -> list[Command]:
    campaign = state.campaigns.get(event.campaign)
    if campaign is None:
        return []
    campaign.reading = False
    unread = [stripe for stripe in campaign.stripes if not stripe.is_read]
    pages = []
    for stripe, upto in zip(unread, event.upto, strict=True):
        stripe.read_upto = upto
        pages.append(Page(stripe, upto))
        stripe.pages.append(pages[-1])
    keep = campaign.closed_as is None
    live, stale = state.live, campaign.settled_while_reading
    new: list[Message] = []
    for page, rows in zip(pages, event.rows, strict=True):
        if keep and not stale and live.keys().isdisjoint([row[0] for row in rows]):
            come = [Message(id_, address, values, attempts, page) for id_, address, values, attempts in rows]
            live.update([(message.id, message) for message in come])
            page.outstanding = len(come)
            new += come
            continue
        for id_, address, values, attempts in rows:
            if id_ in stale:
                continue
            message = live.get(id_)
            if message is None:
                if not keep:
                    continue
                message = live[id_] = Message(id_, address, values, attempts)
                new.append(message)
            message.page = page
            page.outstanding += 1
    campaign.settled_while_reading = set()
    out = _take_in(state, campaign, new, now)
    for stripe in unread:
        move_low_water(stripe)
    state.awake[campaign.number] = campaign
    return out


def retries_read(state: State, event: RetriesRead, now: Now) -> list[Command]:
    campaign = state.campaigns.get(event.campaign)
    if campaign is None:
        return []
    campaign.reading = False
    if campaign.read_again:
        campaign.read_again, campaign.next_due = False, now.wall
    else:
        campaign.retries_read = event.upto
        campaign.reading_upto = max(campaign.reading_upto, event.upto[0])
        if event.next_due is not None:
            campaign.next_due = min(event.next_due, campaign.next_due or event.next_due)
    stale, campaign.settled_while_reading = campaign.settled_while_reading, set()
    if campaign.closed_as is not None:
        return []
    new: list[Message] = []
    for row in event.rows:
        if row.id in state.live or row.id in stale:
            continue
        message = Message(row.id, row.address, row.values, row.attempts, retry=True, earlier=history(row))
        # A reply of its own server was the last word on a message: another server may think otherwise.
        message.tried = frozenset(worker for _, worker, *_ in message.earlier)
        message.untried_until = now.mono + LOOK_FOR_ANOTHER_S
        state.live[row.id] = message
        new.append(message)
    state.awake[campaign.number] = campaign
    return _take_in(state, campaign, new, now)


def _take_in(state: State, campaign: Campaign, messages: list[Message], now: Now) -> list[Command]:
    """Messages find their places; those of a group that has plenty waiting go back to the journal."""
    out: list[Command] = []
    if state.groups.all:
        messages, rows = _put_off(state, campaign, messages, now)
        if rows:
            out.append(Persist((PutOff(rows), SetCampaign.of(campaign))))
    ready.put(state, campaign, messages)
    return out


def _put_off(
    state: State, campaign: Campaign, messages: list[Message], now: Now
) -> tuple[list[Message], list[tuple[int, int, str]]]:
    """Where a group's limits let nothing more of it go soon, the journal keeps its messages until then: they
    would fill the window, and the other domains would wait with them. What stays, and what PutOff takes."""
    kept: list[Message] = []
    rows: list[tuple[int, int, str]] = []
    window = state.settings.page_rows
    room = dict.fromkeys(state.groups.all, window)
    for lane, waiting in campaign.lanes.items():
        if lane.group is not None:
            room[lane.group] -= len(waiting)
    for message in messages:
        group = state.groups.by_domain.get(domain_of(message.address))
        if group is None or room[group] > 0:
            kept.append(message)
            if group is not None:
                room[group] -= 1
            continue
        ms_each = 1000 / group.rate
        until = max(campaign.put_off_until.get(group, 0.0), now.wall + window * ms_each) + ms_each
        campaign.put_off_until[group] = until
        due_at = max(int(until), campaign.reading_upto + 1)
        rows.append((message.id, due_at, f"not tried yet: many messages wait for the limits of {group.name}"))
        _forget(state, campaign, message)
        campaign.next_due = due_at if campaign.next_due is None else min(campaign.next_due, due_at)
    return kept, rows


def _forget(state: State, campaign: Campaign, message: Message) -> None:
    """The journal is about to have it as DEFERRED: it leaves memory."""
    del state.live[message.id]
    if not message.retry:
        campaign.count(Stored.DEFERRED)
    if message.page is not None:
        message.page.outstanding -= 1
        move_low_water(message.page.stripe)


def mx_found(state: State, event: MxFound, now: Now) -> list[Command]:
    """A domain's mail exchanger is known: its messages go where they belong."""
    state.groups.resolved(event.domain, event.exchanger)
    out: list[Command] = []
    for campaign in state.campaigns.values():
        if (messages := campaign.unresolved.pop(event.domain, None)) is not None:
            out.extend(_take_in(state, campaign, messages, now))
            state.awake[campaign.number] = campaign
    return out
