"""From memory to the least loaded worker: whose turn it is, what goes into a batch, and who gets it."""

import heapq
from collections.abc import Iterable
from dataclasses import dataclass

from broker.core import pacing, quotas, ready
from broker.core.balancer import WAIT_S_MIN, Accept, Balancer
from broker.core.commands import Command, Log, Persist, Raise, SendBatch, SendTemplate, SetQuota
from broker.core.events import QuotaStored
from broker.core.groups import Group
from broker.core.outcomes import another
from broker.core.picks import Choice, Picked
from broker.core.state import Batch, Campaign, Message, State, index_of
from broker.core.turns import PRIORITIES, Pools
from broker.core.worker_state import Worker
from evenpost.runtime.clock import Now
from evenpost.wire import limits

_BATCH_BITS = 32
_PLENTY_A_CONNECTION = 4 * limits.BATCH_MESSAGES_MAX


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
    _wake(state, balancer, now)
    out: list[Command] = []
    full: set[Pools] = set()
    for priority in range(PRIORITIES - 1, -1, -1):
        while (campaign := state.turns.first(priority, full)) is not None:
            if not campaign.waiting or not campaign.started(now):
                state.turns.leave(campaign)
                continue
            given = _next(state, balancer, campaign, now)
            if given is None:
                full.add((campaign.options.pool, campaign.options.overflow))
            elif isinstance(given, float):
                state.turns.leave(campaign)
                if given < float("inf"):
                    wake_at = given if given > now.mono else now.mono + WAIT_S_MIN
                    heapq.heappush(state.sleeping, (wake_at, campaign.number, campaign))
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
    if not _has_room(balancer, campaign) and not _has_plenty(balancer, campaign):
        return None
    wake_at = float("inf")
    for group, lane in campaign.lanes.items():
        if group.is_full:
            group.blocked[campaign.number] = campaign
            continue
        most = budget
        if group.bucket is not None:
            most = group.bucket.available(now.mono, budget)
            if not most:
                wake_at = min(wake_at, group.bucket.next_at(now.mono))
                continue
        found = _worker_for(state, balancer, campaign, lane[0], now)
        if found is None and not lane[0].tried:
            return None
        if found is None:
            lane.rotate(-1)
            state.looking[campaign.number] = campaign
            continue
        size = _size(state, balancer, found[0], campaign, most, now)
        count = _alike(lane, size)
        return _Given(*found, ready.from_lane(campaign, group, count), group)
    if campaign.again:
        found = _worker_for(state, balancer, campaign, campaign.again[0], now)
        if found is not None:
            count = _alike(campaign.again, _size(state, balancer, found[0], campaign, budget, now))
            return _Given(*found, [campaign.again.popleft() for _ in range(count)])
        state.looking[campaign.number] = campaign
    if campaign.ready:
        found = _worker_for(state, balancer, campaign, campaign.ready[0], now)
        if found is None:
            return None
        size = _size(state, balancer, found[0], campaign, budget, now)
        waiting = campaign.ready
        return _Given(*found, [waiting.popleft() for _ in range(min(size, len(waiting)))])
    return wake_at


def _alike(waiting: Iterable[Message], most: int) -> int:
    """How many of the first messages have been tried by the same workers."""
    count = 0
    tried = None
    for message in waiting:
        if count == most or (tried is not None and message.tried != tried):
            break
        tried = message.tried
        count += 1
    return count


def _worker_for(
    state: State, balancer: Balancer, campaign: Campaign, message: Message, now: Now
) -> tuple[Worker, Choice] | None:
    tried = message.tried
    if not tried:
        return _pick(balancer, campaign, now, ahead=_has_plenty(balancer, campaign))
    found = _pick(balancer, campaign, now, accept=lambda worker: worker.name not in tried)
    if found is None and (now.mono >= message.untried_until or not another(state, campaign, tried)):
        found = _pick(balancer, campaign, now)
    return found


def _has_room(balancer: Balancer, campaign: Campaign) -> bool:
    pool, overflow = campaign.options.pool, campaign.options.overflow
    if balancer.has_room(pool, campaign.urgent):
        return True
    return overflow is not None and balancer.has_room(overflow, campaign.urgent)


def _has_plenty(balancer: Balancer, campaign: Campaign) -> bool:
    """It may send ahead of connections. Only while there is plenty: what waits inside a worker can't go to
    one that is free earlier."""
    return campaign.unfinished > balancer.connections(campaign.options.pool) * _PLENTY_A_CONNECTION


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
        left = sum(map(len, (campaign.ready, campaign.again, *campaign.lanes.values())))
    pool = campaign.options.pool
    size = pacing.batch_size(
        worker.seconds_a_message,
        state.settings.batch_target_s,
        left,
        balancer.connections(pool),
        balancer.speed(pool),
    )
    size = min(size, most)
    return size if worker.bucket is None else worker.bucket.available(now.mono, size)


def _send(state: State, campaign: Campaign, given: _Given, now: Now, out: list[Command]) -> None:
    state.batches_made += 1
    number = state.boot << _BATCH_BITS | state.batches_made
    worker, messages, group = given.worker, given.messages, given.group
    by_id = {message.id: message for message in messages}
    batch = Batch(number, worker, campaign, by_id, group=group, made_at=now.mono)
    state.batches[number] = worker.batches[number] = batch
    campaign.in_flight += len(messages)
    if group is not None:
        group.in_flight += 1
    for bucket in quotas.of(worker, campaign, group):
        state.quotas.take(bucket, now.mono, len(messages))
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
    state.picks.add(Picked(now.wall, number, given.choice, tuple(by_id)))
    if now.mono >= state.picks.logged_at + state.settings.dispatch_log_s:
        state.picks.logged_at = now.mono
        out.append(_told(campaign, batch, given.choice))
    out.append(SendBatch(worker.peer, number, campaign.number, items))


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


def _wake(state: State, balancer: Balancer, now: Now) -> None:
    """Whoever waited for time or for a rate and may go now."""
    balancer.refresh(now.mono)
    while state.sleeping and state.sleeping[0][0] <= now.mono:
        awake = heapq.heappop(state.sleeping)[2]
        if awake.waiting:
            state.turns.add(awake)
    if not state.quotas.freed:
        return
    freed = {id(state.quotas.buckets[key]) for key in state.quotas.freed}
    state.quotas.freed.clear()
    for worker in state.workers.values():
        if id(worker.bucket) in freed:
            balancer.update(worker, now.mono)
    for campaign in state.campaigns.values():
        if campaign.waiting:
            groups = campaign.lanes
            if id(campaign.bucket) in freed or any(id(group.bucket) in freed for group in groups):
                state.turns.add(campaign)


def next_at(state: State, balancer: Balancer) -> float:
    """When `dispatch` will find something that only waits for time (monotonic)."""
    if state.recovering_until is not None:
        return float("inf")
    sleeping = state.sleeping[0][0] if state.sleeping else float("inf")
    return min(sleeping, balancer.next_at())
