"""Batches of campaigns with `on_unknown = "hold"`: on disk before they leave, so that nothing of them is ever
sent again on a guess.

The journal has each such batch (which messages, at which attempt, which worker) until it has ended. A broker
that starts finds those that were under way, and goes on as if it had never been away: they are in flight with
their workers. A worker that comes back tells what became of them; one that stays away for a lease is lost,
and what it had is `unknown`, which these campaigns hold. Those that send unknowns again write none of this.
"""

from collections.abc import Iterable

from broker.core import batches
from broker.core.balancer import Balancer, batches_ahead
from broker.core.commands import AddBatch, Command, EndBatches, Persist, Raise, SendBatch
from broker.core.events import BatchStored, StoredBatch
from broker.core.groups import domain_of
from broker.core.late import history
from broker.core.message_state import INDEX_MASK, Message, Stored, index_of
from broker.core.state import Batch, Campaign, Phase, State
from evenpost.runtime.clock import Now


def is_journaled(campaign: Campaign) -> bool:
    """Whether a campaign's batches are written down before they leave."""
    return campaign.options.on_unknown == "hold"


def write(batch: Batch) -> Persist:
    """The batch to disk; `stored` sends it."""
    batch.leaving = True
    worker = batch.worker
    return Persist((added(batch),), (Raise(BatchStored(batch.number, worker.peer, worker.hello)),))


def added(batch: Batch) -> AddBatch:
    """The change that puts a batch into the journal."""
    batch.journaled = True
    attempts = [(index_of(message.id), message.attempts + 1) for message in batch.messages.values()]
    return AddBatch(batch.number, batch.campaign.number, batch.worker.number, attempts)


def stored(state: State, balancer: Balancer, event: BatchStored, now: Now) -> list[Command]:
    """It is on disk. Much may have happened since: it leaves only if it would be given out now as well."""
    batch = state.batches.get(event.batch)
    if batch is None:
        return []  # taken back: its worker said hello anew, or said goodbye
    batch.leaving = False
    worker = batch.worker
    # Each of them is told, also after one that says no: `drop` gives all of it back.
    in_rates = [b.postpone(now.mono, len(batch.messages), batch.made_at) for b in batch.buckets]
    batch.made_at = now.mono
    if (worker.peer, worker.hello) == (event.peer, event.hello) and all(in_rates) and _may_leave(batch):
        return [SendBatch(worker.peer, batch.number, batch.campaign.number, items_of(batch))]
    out = batches.drop(state, batch, now)
    balancer.update(worker, now.mono)
    return out


def _may_leave(batch: Batch) -> bool:
    worker, campaign = batch.worker, batch.campaign
    stopped = campaign.phase is Phase.PAUSED or campaign.closed_as is not None or not batch.messages
    if stopped or worker.state != "ready" or worker.in_flight > worker.limit + batches_ahead(worker):
        return False  # its server may have asked for less, too
    return not worker.breaker.is_open or (worker.in_flight == 1 and len(batch.messages) == 1)


def items_of(batch: Batch) -> list[tuple[int, int, str, bytes]]:
    """wire.BatchItem's fields of each of its messages."""
    mask = INDEX_MASK
    return [(m.id & mask, m.attempts + 1, m.address, m.values) for m in batch.messages.values()]


def ended(state: State) -> list[Command]:
    """Tells the journal which of these batches have ended: after what became of their messages, which was
    asked for before. Until it is on disk a restarted broker takes them for batches under way: it would rather
    hold a message too many."""
    if not state.journaled_ended:
        return []
    numbers, state.journaled_ended = state.journaled_ended, []
    return [Persist((EndBatches(numbers),))]


def restore(state: State, journaled: Iterable[StoredBatch], now: Now) -> None:
    """At a start: what was under way is in flight again, with a worker that has a lease to come back."""
    by_number = {worker.number: worker for worker in state.workers.values()}
    # The newest first: a message that its worker gave back is in a newer batch too, and that one has it.
    for found in sorted(journaled, reverse=True):
        campaign, worker = state.campaigns.get(found.campaign), by_number.get(found.worker)
        messages: dict[int, Message] = {}
        if campaign is not None and worker is not None:
            for row, attempt in zip(found.rows, found.attempts, strict=True):
                if row.state not in (Stored.QUEUED, Stored.DEFERRED) or row.id in state.live:
                    continue
                if row.attempts >= attempt:
                    continue  # what became of it is known, though not yet of all the batch
                message = Message(row.id, row.address, row.values, row.attempts, earlier=history(row))
                message.retry = row.state == Stored.DEFERRED
                message.batch = found.number
                message.group = state.groups.by_domain.get(domain_of(row.address))
                messages[row.id] = state.live[row.id] = message
        if campaign is None or worker is None or not messages:
            state.journaled_ended.append(found.number)
            continue
        # What it took of rates was counted before the restart: nothing comes back of it.
        batch = Batch(found.number, worker, campaign, messages, made_at=float("-inf"), journaled=True)
        batch.group = next((m.group for m in messages.values() if m.group is not None), None)
        if batch.group is not None:
            batch.group.in_flight += 1
        state.batches[batch.number] = worker.batches[batch.number] = batch
        campaign.in_flight += len(messages)
        campaign.in_flight_retries += sum(message.retry for message in messages.values())
        # The lease that an earlier run of the broker granted is over by then.
        worker.lease_from = now.mono
