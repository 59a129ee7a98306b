"""From the journal into memory, and from memory to the least loaded worker."""

from broker.core import pacing
from broker.core.balancer import Balancer, eligible, held
from broker.core.batches import LOOK_FOR_ANOTHER_S
from broker.core.commands import Command, ReadFresh, ReadRetries, SendBatch, SendTemplate
from broker.core.events import FreshRead, RetriesRead
from broker.core.late import history
from broker.core.outcomes import another, move_low_water
from broker.core.state import Batch, Campaign, Message, Page, State, Stored, Worker, index_of
from evenpost.runtime.clock import Now
from evenpost.wire import limits

_BATCH_BITS = 32
_PLENTY_A_CONNECTION = 4 * limits.BATCH_MESSAGES_MAX


def fresh_read(state: State, event: FreshRead) -> None:
    campaign = state.campaigns.get(event.campaign)
    if campaign is None:
        return
    campaign.reading = False
    campaign.read_upto, campaign.fresh_done = event.upto, event.complete
    page = Page(event.upto)
    keep = campaign.closed_as is None
    live, ready, stale = state.live, campaign.ready, campaign.settled_while_reading
    for id_, address, values, attempts in event.rows:
        if id_ in stale:
            continue
        message = live.get(id_)
        if message is None:
            if not keep:
                continue
            message = live[id_] = Message(id_, address, values, attempts)
            ready.append(message)
        message.page = page
        page.outstanding += 1
    campaign.settled_while_reading = set()
    campaign.pages.append(page)
    move_low_water(campaign)
    state.awake[campaign.number] = campaign


def retries_read(state: State, event: RetriesRead, now: Now) -> None:
    campaign = state.campaigns.get(event.campaign)
    if campaign is None:
        return
    campaign.reading = False
    campaign.retries_read = event.upto
    if event.next_due is not None:
        campaign.next_due = min(event.next_due, campaign.next_due or event.next_due)
    stale, campaign.settled_while_reading = campaign.settled_while_reading, set()
    if campaign.closed_as is not None:
        return
    for row in event.rows:
        if row.id in state.live or row.id in stale:
            continue
        message = Message(row.id, row.address, row.values, row.attempts, retry=True, earlier=history(row))
        # A reply of its own server was the last word on a message: another server may think otherwise.
        message.tried = frozenset(worker for _, worker, *_ in message.earlier)
        message.untried_until = now.mono + LOOK_FOR_ANOTHER_S
        state.live[row.id] = message
        (campaign.again if message.tried else campaign.ready).append(message)
    state.awake[campaign.number] = campaign


def _in_turn(state: State, campaign: Campaign) -> None:
    if not campaign.in_turn and (campaign.ready or campaign.again):
        campaign.in_turn = True
        state.turns[campaign.options.priority].append(campaign)


def reads(state: State, now: Now) -> list[Command]:
    """Asks the journal for more where a campaign's window runs low or retries are due. Looks only at
    campaigns to which something has happened."""
    if state.recovering_until is not None:
        return []
    out: list[Command] = []
    rows = state.settings.page_rows
    for campaign in state.awake.values():
        _in_turn(state, campaign)
        if campaign.reading or not started(campaign, now) or len(campaign.ready) >= rows:
            continue
        due = campaign.next_due is not None and campaign.next_due <= now.wall
        if due and len(campaign.again) < rows:
            campaign.reading = True
            campaign.next_due = None
            out.append(ReadRetries(campaign.number, campaign.retries_read, now.wall, rows))
        elif not campaign.fresh_done:
            campaign.reading = True
            out.append(ReadFresh(campaign.number, campaign.read_upto, rows))
    state.awake.clear()
    return out


def started(campaign: Campaign, now: Now) -> bool:
    return campaign.sendable and (campaign.options.start_at or 0) <= now.wall


def dispatch(state: State, balancer: Balancer, now: Now) -> list[Command]:
    """Gives out batches as long as there is both a message that waits and a worker that is free."""
    if state.recovering_until is not None:
        return []
    out: list[Command] = []
    for turns in reversed(state.turns):
        stuck = 0
        while turns and stuck < len(turns):
            campaign = turns[0]
            if not started(campaign, now) or not (campaign.ready or campaign.again):
                turns.popleft()
                campaign.in_turn = False
                continue
            turns.rotate(-1)
            worker, messages = _next(state, balancer, campaign, now)
            if worker is None:
                stuck += 1
                continue
            stuck = 0
            state.awake[campaign.number] = campaign
            _send(state, worker, campaign, messages, out)
            balancer.update(worker, now.mono)
    return out


def _next(
    state: State, balancer: Balancer, campaign: Campaign, now: Now
) -> tuple[Worker | None, list[Message]]:
    """A worker for this campaign's next batch and the messages of it."""
    pool = campaign.options.pool

    def in_pool(worker: Worker) -> bool:
        return pool is None or pool in worker.pools

    again = campaign.again
    if again:
        tried = again[0].tried
        worker = balancer.pick(lambda w: in_pool(w) and w.name not in tried)
        if worker is None and (now.mono >= again[0].untried_until or not another(state, campaign, tried)):
            worker = balancer.pick(in_pool)
        if worker is not None:
            size = _size(state, balancer, worker, campaign)
            messages: list[Message] = []
            while again and len(messages) < size and again[0].tried == tried:
                messages.append(again.popleft())
            return worker, messages
    ready = campaign.ready
    if ready:
        # Ahead only while there is plenty: what waits inside a worker can't go to one that is free earlier.
        plenty = campaign.unfinished > balancer.connections * _PLENTY_A_CONNECTION
        worker = balancer.pick(in_pool, ahead=plenty)
        if worker is not None:
            size = _size(state, balancer, worker, campaign)
            return worker, [ready.popleft() for _ in range(min(size, len(ready)))]
    return None, []


def _size(state: State, balancer: Balancer, worker: Worker, campaign: Campaign) -> int:
    if worker.failures:
        return 1  # a probe: if the server is still down, one message learns it
    left = len(campaign.ready) + len(campaign.again) if campaign.fresh_done else campaign.unfinished
    return pacing.batch_size(
        worker.seconds_a_message, state.settings.batch_target_s, left, balancer.connections
    )


def _send(
    state: State, worker: Worker, campaign: Campaign, messages: list[Message], out: list[Command]
) -> None:
    state.batches_made += 1
    number = state.boot << _BATCH_BITS | state.batches_made
    by_id = {message.id: message for message in messages}
    batch = Batch(number, worker, campaign, by_id)
    state.batches[number] = worker.batches[number] = batch
    campaign.in_flight += len(messages)
    items = []
    for message in messages:
        message.batch = number
        campaign.in_flight_retries += message.retry
        items.append((index_of(message.id), message.attempts + 1, message.address, message.values))
    if campaign.number in worker.templates:
        worker.templates.move_to_end(campaign.number)
    else:
        _remember_template(worker, campaign)
        out.append(SendTemplate(worker.peer, campaign))
    out.append(SendBatch(worker.peer, number, campaign.number, items))


def _remember_template(worker: Worker, campaign: Campaign) -> None:
    """The worker keeps more than this: what is still here is certainly still there."""
    worker.templates[campaign.number] = len(campaign.template)
    worker.templates_bytes += len(campaign.template)
    while len(worker.templates) > 1 and (
        len(worker.templates) > limits.TEMPLATES_SENT_MAX
        or worker.templates_bytes > limits.TEMPLATES_SENT_BYTES_MAX
    ):
        _, size = worker.templates.popitem(last=False)
        worker.templates_bytes -= size


def why_waiting(state: State, campaign: Campaign, now: Now) -> str:
    """Why nothing of this campaign is in flight, in words; empty where something is."""
    if campaign.in_flight or not campaign.unfinished or campaign.closed_as is not None:
        return ""
    if not campaign.sendable:
        return "" if campaign.stored else "its recipients are still coming in"
    if not started(campaign, now):
        return "its start_at has not come"
    if state.recovering_until is not None:
        return "the broker has restarted and waits for its workers' reports"
    here = [w for w in state.workers.values() if w.connected]
    if not here:
        return "no worker is connected"
    pool = campaign.options.pool
    here = [w for w in here if pool is None or pool in w.pools]
    if not here:
        return f"no connected worker is in pool {pool!r}"
    here = [w for w in here if not w.drained and not w.leaving]
    if not here:
        return "all its workers are draining"
    failing = [w for w in here if held(w)]
    if len(failing) == len(here):
        return f"all its servers fail; {failing[0].name}: {failing[0].reason}"
    if not campaign.ready and not campaign.again and campaign.counts.get(Stored.DEFERRED):
        due = campaign.next_due
        wait = "" if due is None else f" in {max(0, (due - now.wall) // 1000)} s"
        return f"deferred messages are due again{wait}"
    if not any(eligible(w, now.mono) for w in here):
        return "all connections are in use"
    return ""
