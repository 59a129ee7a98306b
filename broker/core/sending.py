"""From memory to the least loaded worker: whose turn it is, what goes into a batch, and who gets it."""

import itertools
from dataclasses import dataclass
from math import inf

from broker.core import journaled, pacing, quotas, ready
from broker.core.balancer import WAIT_S_MIN, Accept, Balancer
from broker.core.batches import WOKEN_MAX
from broker.core.campaigns import SMALL_ROWS_MAX
from broker.core.commands import Command, Log, Persist, Raise, SendBatch, SendTemplate, SetQuota
from broker.core.events import QuotaStored
from broker.core.groups import Group, Lane
from broker.core.message_state import Message
from broker.core.outcomes import another
from broker.core.picks import Choice, Picked
from broker.core.state import BATCH_BITS, Batch, Campaign, State
from broker.core.turns import PRIORITIES, Pools
from broker.core.worker_state import Worker
from evenpost.runtime.clock import Now
from evenpost.wire import limits

_PLENTY_A_CONNECTION = 4 * limits.BATCH_MESSAGES_MAX
_FOLLOWING_BATCHES = 4
"""While there is as much left for each connection, batches may follow on a far server's connections."""
TAIL_WAIT = 3.0
"""For so many times `tail_s` the end of a campaign waits for a faster server: others may keep those busy."""
TAIL_LOOK_S = 0.05
"""It looks this often, and whenever a batch ends."""
LANES_A_LOOK_MAX = 16
"""Of a campaign's lanes so many are looked at in a turn: each asks for a worker."""


@dataclass(slots=True)
class _Given:
    """What goes to whom."""

    worker: Worker
    choice: Choice
    messages: list[Message]
    group: Group | None = None


def dispatch(state: State, balancer: Balancer, now: Now) -> list[Command]:
    """Gives out batches as long as there is both a message that may go and a worker that is free."""
    if state.recovering_until is not None:
        return []
    out: list[Command] = []
    full: set[Pools] = set()
    for priority in range(PRIORITIES - 1, -1, -1):
        while (campaign := state.turns.first(priority, full)) is not None:
            if not campaign.waiting or not campaign.started(now):
                state.turns.leave(campaign)
                state.sleeping.put(campaign, campaign.opens_at(now) if campaign.waiting else inf)
                continue
            given = _next(state, balancer, campaign, now)
            if given is None:
                full.add((campaign.options.pool, campaign.options.overflow))
            elif isinstance(given, float):
                state.turns.leave(campaign)
                _sleep(state, campaign, given, now)
            else:
                state.awake[campaign.number] = campaign
                _send(state, campaign, given, now, out)
                state.turns.served(campaign, len(given.messages))
                balancer.update(given.worker, now.mono)
    return out


def _next(state: State, balancer: Balancer, campaign: Campaign, now: Now) -> _Given | float | None:
    """A campaign's next batch; or when to look again (monotonic, infinity: when something happens); or None,
    where no worker of its pools has room."""
    budget = limits.BATCH_MESSAGES_MAX
    if campaign.bucket is not None:
        budget = campaign.bucket.available(now.mono, budget)
        if not budget:
            return campaign.bucket.next_at(now.mono)
    follows = _may_follow(state, balancer, campaign)
    if not follows and not _has_room(balancer, campaign) and not _has_plenty(balancer, campaign):
        return None
    for lane in list(itertools.islice(campaign.lanes, LANES_A_LOOK_MAX)):
        most = _allowed(state, campaign, lane.group, budget, now)
        if most:
            found = _worker_for(state, balancer, campaign, lane, now)
            if found is not None:
                size = _size(state, balancer, found[0], campaign, most, now)
                return _Given(*found, ready.take(campaign, lane, size), lane.group)
            if not lane.tried:
                return None
            state.looking[campaign.number] = campaign
        campaign.lanes[lane] = campaign.lanes.pop(lane)  # the others are looked at before it next time
    if campaign.ready:
        most_s = tail_s(balancer, campaign, now)
        if most_s < inf:
            found = _pick(balancer, campaign, now, accept=lambda worker: worker.seconds_a_message <= most_s)
            if found is None and follows:
                found = _behind_another(balancer, campaign, now, most_s)
            if found is None and (slower := _pick(balancer, campaign, now)) is not None:
                balancer.update(slower[0], now.mono)  # it stays free
                state.looking[campaign.number] = campaign
                campaign.tail_since = min(campaign.tail_since, now.mono)
                return now.mono + TAIL_LOOK_S
        else:
            found = _pick(balancer, campaign, now, ahead=_has_plenty(balancer, campaign))
            if found is None and follows:
                found = _behind_another(balancer, campaign, now)
        if found is None:
            return None
        campaign.tail_since = inf
        waiting = campaign.ready
        size = min(_size(state, balancer, found[0], campaign, budget, now), len(waiting))
        return _Given(*found, [waiting.popleft() for _ in range(size)])
    return inf


def _allowed(state: State, campaign: Campaign, group: Group | None, most: int, now: Now) -> int:
    """How many messages of a group of domains may go now; where none may, the campaign waits for it."""
    if group is None:
        return most
    if not group.is_full:
        if group.bucket is None:
            return most
        allowed = group.bucket.available(now.mono, most)
        if allowed:
            return allowed
        _sleep(state, group, group.bucket.next_at(now.mono), now)
    group.blocked[campaign.number] = campaign
    return 0


def _worker_for(
    state: State, balancer: Balancer, campaign: Campaign, lane: Lane, now: Now
) -> tuple[Worker, Choice] | None:
    tried = lane.tried
    if not tried:
        return _pick(balancer, campaign, now, ahead=_has_plenty(balancer, campaign))
    found = _pick(balancer, campaign, now, accept=lambda worker: worker.name not in tried)
    untried_until = campaign.lanes[lane][0].untried_until
    if found is None and (now.mono >= untried_until or not another(state, campaign, tried)):
        found = _pick(balancer, campaign, now)
    return found


def _has_room(balancer: Balancer, campaign: Campaign) -> bool:
    pool, overflow = campaign.options.pool, campaign.options.overflow
    if balancer.has_room(pool, campaign.urgent):
        return True
    return overflow is not None and balancer.has_room(overflow, campaign.urgent)


def tail_s(balancer: Balancer, campaign: Campaign, now: Now) -> float:
    """Towards a campaign's end: a server that takes longer than this for a message would hold the last ones
    up; all servers together are done with what is left, and with one message more each, in this time.
    Infinity for any server will do: there is more to come, or those that are faster have been waited for in
    vain for so long that the slowest would be done by now."""
    if not campaign.fresh_done or campaign.total <= SMALL_ROWS_MAX:
        return inf
    pool = campaign.options.pool
    speed = balancer.speed(pool)
    if speed <= 0:
        return inf
    seconds = (campaign.in_memory + balancer.connections(pool)) / speed
    return seconds if now.mono <= campaign.tail_since + TAIL_WAIT * seconds else inf


def _has_plenty(balancer: Balancer, campaign: Campaign) -> bool:
    """It may send ahead of connections. Only while there is plenty: what waits inside a worker can't go to
    one that is free earlier."""
    return campaign.unfinished > balancer.connections(campaign.options.pool) * _PLENTY_A_CONNECTION


def _may_follow(state: State, balancer: Balancer, campaign: Campaign) -> bool:
    """Whether there are far servers, and it has enough left to give their connections a second batch."""
    pool = campaign.options.pool
    if not balancer.begun(pool):
        return False
    return campaign.unfinished > _FOLLOWING_BATCHES * state.settings.batch_target_s * balancer.speed(pool)


def _behind_another(
    balancer: Balancer, campaign: Campaign, now: Now, most_s: float = inf
) -> tuple[Worker, Choice] | None:
    """A far worker, on one of whose connections a batch waits for its answers only."""
    return _pick(
        balancer, campaign, now, ahead=True,
        accept=lambda worker: worker.begun > 0 and worker.seconds_a_message <= most_s,
    )  # fmt: skip


def _pick(
    balancer: Balancer, campaign: Campaign, now: Now, *, ahead: bool = False, accept: Accept | None = None
) -> tuple[Worker, Choice] | None:
    options = campaign.options
    urgent = campaign.urgent
    found = balancer.pick(options.pool, now.mono, urgent=urgent, ahead=ahead, accept=accept)
    if found is None and options.overflow is not None:
        found = balancer.pick(options.overflow, now.mono, urgent=urgent, accept=accept)
    return found


def _size(state: State, balancer: Balancer, worker: Worker, campaign: Campaign, most: int, now: Now) -> int:
    if worker.breaker.failures:
        return 1  # a probe: if the server is still down, one message learns it
    left = campaign.unfinished
    if campaign.fresh_done:
        left = campaign.in_memory
    pool = campaign.options.pool
    size = pacing.batch_size(
        worker.seconds_a_message,
        state.settings.batch_target_s,
        left,
        balancer.connections(pool),
        balancer.speed(pool),
        pacing.FAR_BATCH_MIN if worker.begun else 1,
    )
    size = min(size, most)
    return size if worker.bucket is None else worker.bucket.available(now.mono, size)


def _send(state: State, campaign: Campaign, given: _Given, now: Now, out: list[Command]) -> None:
    state.batches_made += 1
    number = state.boot << BATCH_BITS | state.batches_made
    worker, messages, group = given.worker, given.messages, given.group
    by_id = {message.id: message for message in messages}
    buckets = quotas.of(worker, campaign, group)
    batch = Batch(number, worker, campaign, by_id, group=group, buckets=buckets, made_at=now.mono)
    state.batches[number] = worker.batches[number] = batch
    campaign.in_flight += len(messages)
    if group is not None:
        group.in_flight += 1
    for bucket in batch.buckets:
        state.quotas.take(bucket, now.mono, len(messages))
    for message in messages:
        message.batch = number
        campaign.in_flight_retries += message.retry
    if campaign.number in worker.templates:
        worker.templates.move_to_end(campaign.number)
    else:
        _remember_template(worker, campaign)
        out.append(SendTemplate(worker.peer, campaign))
    state.picks.add(Picked(now.wall, number, given.choice, tuple(by_id)))
    if now.mono >= state.picks.logged_at + state.settings.dispatch_log_s:
        state.picks.logged_at = now.mono
        out.append(_told(campaign, batch, given.choice))
    if journaled.is_journaled(campaign):
        out.append(journaled.write(batch))
    else:
        out.append(SendBatch(worker.peer, number, campaign.number, journaled.items_of(batch)))


def _told(campaign: Campaign, batch: Batch, choice: Choice) -> Log:
    fields = {
        "campaign": campaign.id,
        "batch": batch.number,
        "messages": len(batch.messages),
        "winner": choice.worker,
        "winner_key": round(choice.key, 6),  # a field called "key" would be hidden as a secret
        "runner_up": choice.runner_up,
        "runner_up_key": round(choice.runner_up_key, 6),
    }
    return Log("info", "dispatch", fields)


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


def promises(state: State, now: Now) -> list[Command]:
    """What the journal has to know of rates before more goes out."""
    return [
        Persist((SetQuota(key, promise),), (Raise(QuotaStored(key, state.quotas.numbers[key])),))
        for key, promise in state.quotas.promises(now)
    ]


def _sleep(state: State, who: Campaign | Group, until: float, now: Now) -> None:
    """Until a rate's next token; it comes a little late where floats say that it should be there by now."""
    if until < inf:
        state.sleeping.put(who, until if until > now.mono else now.mono + WAIT_S_MIN)


def wake(state: State, balancer: Balancer, now: Now) -> None:
    """Whoever waited for time or for a rate and may go now."""
    if state.recovering_until is not None:
        return
    balancer.refresh(now.mono)
    for who in state.sleeping.woken(now.mono):
        if isinstance(who, Group):
            _wake_group(state, who, now)
        else:
            state.awake[who.number] = who
    for key in state.quotas.freed:
        bucket = state.quotas.buckets[key]
        for worker in state.workers.values():
            if worker.bucket is bucket:
                balancer.update(worker, now.mono)
        for group in state.groups.all:
            if group.bucket is bucket:
                _wake_group(state, group, now)
        campaign = state.quotas.campaigns.get(key)
        if campaign is not None and campaign.waiting:
            state.turns.add(campaign)
    state.quotas.freed.clear()


def _wake_group(state: State, group: Group, now: Now) -> None:
    """Some of those that wait for its next token; the others when these have taken it."""
    for campaign in group.wake(WOKEN_MAX):
        if campaign.waiting:
            state.turns.add(campaign)
    if group.blocked and group.bucket is not None:
        _sleep(state, group, group.bucket.next_at(now.mono), now)


def next_at(state: State, balancer: Balancer) -> float:
    """When `dispatch` will find something that only waits for time (monotonic)."""
    if state.recovering_until is not None:
        return inf
    return min(state.sleeping.next_at(), balancer.next_at())
