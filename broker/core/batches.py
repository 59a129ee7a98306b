"""A batch's end: what it tells of its server, and where messages without an outcome go."""

from broker.core import campaigns, pacing
from broker.core.balancer import FAILURES_TO_HOLD, held
from broker.core.commands import Command, Log
from broker.core.state import Batch, Campaign, Message, State, Worker
from evenpost.runtime.clock import Now

_HOLD_INITIAL_S = 1.0
_HOLD_MAX_S = 60.0
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
    if message.tried:
        campaign.again.append(message)
    else:
        campaign.ready.appendleft(message)
    state.awake[campaign.number] = campaign


def done(state: State, batch: Batch) -> None:
    """The batch has ended: what it tells of its server, and its connection is free."""
    worker = batch.worker
    del state.batches[batch.number]
    del worker.batches[batch.number]
    if batch.outcomes:
        seconds = (batch.ended_at - batch.began_at) / 1000
        worker.seconds_a_message = pacing.pace(worker.seconds_a_message, seconds, batch.outcomes)


def judge(state: State, batch: Batch, now: Now) -> list[Command]:
    """Whether the server failed in this batch, and how long it is left alone if so."""
    worker = batch.worker
    if not batch.failed:
        return []
    worker.failures += 1
    wait = pacing.back_off(
        worker.failures - FAILURES_TO_HOLD + 1, _HOLD_INITIAL_S, _HOLD_MAX_S, state.uniform
    )
    fields = {"worker": worker.name, "server": worker.server, "batch": batch.number}
    fields |= {"reason": worker.reason, "failures": worker.failures}
    if held(worker):
        worker.hold_until = now.mono + wait
        fields["back_off_s"] = round(wait, 1)
    return [Log("warning", "server.failed", fields)]


def give_back(state: State, batch: Batch, now: Now) -> list[Command]:
    """A batch that has left its worker: what has no outcome was never begun."""
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
