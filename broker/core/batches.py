"""A batch's end: what it tells of its server, and where messages without an outcome go."""

import itertools
from typing import Any

from broker.core import campaigns, pacing, ready
from broker.core.commands import Command, Log
from broker.core.message_state import Message
from broker.core.state import Batch, Campaign, State
from broker.core.worker_state import Worker
from evenpost.runtime.clock import Now

WOKEN_MAX = 4
"""Of the campaigns that wait for one and the same place so many look whether they can have it."""
LOOK_FOR_ANOTHER_S = 30.0
"""So long a message waits for a worker that hasn't tried it."""


def leave(campaign: Campaign, message: Message) -> None:
    """The message is no longer in flight."""
    message.batch = 0
    campaign.in_flight -= 1
    if message.retry:
        campaign.in_flight_retries -= 1


def put_back(state: State, campaign: Campaign, message: Message, failed: Worker | None, now: Now) -> None:
    """A message that wasn't tried waits again; where its server failed, for another server first."""
    if campaign.closed_as is not None:
        del state.live[message.id]
        return
    if failed is not None:
        message.tried |= {failed.name}
        message.untried_until = now.mono + LOOK_FOR_ANOTHER_S
    ready.put_back(state, campaign, message)
    state.awake[campaign.number] = campaign


def batches_a_connection(worker: Worker) -> float:
    """A far server's connection carries more than one: those that only wait for answers, and the next.
    Waiting isn't work, so a batch's time is shared among them."""
    following = min(worker.begun, worker.in_flight - worker.limit)
    return 1.0 + max(0, following) / worker.limit


def done(state: State, batch: Batch) -> None:
    """The batch has ended: what it tells of its server, and its connection is free."""
    worker = batch.worker
    shared = batches_a_connection(worker)
    del state.batches[batch.number]
    del worker.batches[batch.number]
    if batch.journaled:
        state.journaled_ended.append(batch.number)
    for number in list(itertools.islice(state.looking, WOKEN_MAX)):
        state.awake[number] = state.looking.pop(number)
    group = batch.group
    if group is not None:
        group.in_flight -= 1
        state.awake.update({campaign.number: campaign for campaign in group.wake(WOKEN_MAX)})
    if batch.outcomes:
        seconds = (batch.ended_at - batch.began_at) / 1000 / shared
        worker.seconds_a_message = pacing.pace(worker.seconds_a_message, seconds, batch.outcomes)
        if group is not None:
            group.seconds_a_message = pacing.pace(group.seconds_a_message, seconds, batch.outcomes)


def judge(state: State, batch: Batch, now: Now) -> list[Command]:
    """What the batch tells of its server: whether the breaker opens or closes, or the worker pauses."""
    worker, breaker = batch.worker, batch.worker.breaker
    fields: dict[str, Any] = {"worker": worker.name, "server": worker.server}
    if batch.answered and breaker.succeeded(batch.made_at, now.mono):
        fields["slow_start_s"] = state.settings.slow_start_s
        return [Log("info", "server.returned", fields)]
    fields |= {"batch": batch.number, "reason": worker.reason}
    if batch.failed:
        wait = breaker.failed(batch.made_at, now.mono, state.uniform)
        fields["failures"] = breaker.failures
        if wait:
            fields["back_off_s"] = round(wait, 1)
        return [Log("warning", "server.failed", fields)]
    if batch.throttled:
        took, last = batch.answered > 0, worker.limit == 1
        wait = breaker.throttled(batch.made_at, now.mono, state.uniform, took=took, last=last)
        if not wait or breaker.pauses > 1:
            return []  # told once, until it takes something again
        fields |= {"limit": worker.limit, "pause_s": round(wait, 2)}
        return [Log("info", "server.throttled", fields)]
    if batch.answered:
        breaker.ended_well(now.mono)
    return []


def refund(state: State, batch: Batch, messages: int, now: Now) -> None:
    """So many of a batch's messages were never begun: they used nothing of any rate."""
    for bucket in batch.buckets:
        if messages:
            state.quotas.refund(bucket, now.mono, messages, batch.made_at)


def give_back(state: State, batch: Batch, now: Now) -> list[Command]:
    """A batch that has left its worker: what has no outcome was never begun."""
    refund(state, batch, len(batch.messages), now)
    for message in batch.messages.values():
        leave(batch.campaign, message)
        put_back(state, batch.campaign, message, None, now)
    batch.messages.clear()
    return judge(state, batch, now)


def drop(state: State, batch: Batch, now: Now) -> list[Command]:
    """Takes a batch from its worker, as never begun."""
    done(state, batch)
    return [
        *give_back(state, batch, now),
        *campaigns.finish_if_done(state, batch.campaign, now),
    ]


def give_back_unheld(state: State, worker: Worker, now: Now) -> list[Command]:
    """After a worker's replay: its log told all that was begun, so the rest wasn't."""
    out: list[Command] = []
    for number in worker.unheld:
        batch = state.batches.get(number)
        if batch is not None and batch.worker is worker:
            out.extend(drop(state, batch, now))
    worker.unheld.clear()
    return out
