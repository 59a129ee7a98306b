"""Workers come, tell what they hold, live by heartbeats, and go."""

from collections.abc import Iterable

from broker.core import batches, campaigns, heartbeats, journaled, outcomes
from broker.core.balancer import Balancer
from broker.core.commands import (
    Command,
    Log,
    Persist,
    Raise,
    ReadHeld,
    SetCampaign,
    SetMessages,
    SetWorker,
    ToWorker,
)
from broker.core.events import FromWorker, HeldRead, SendFailed, WorkerRevoked, WorkerStored
from broker.core.groups import domain_of
from broker.core.late import history
from broker.core.message_state import Message, Stored, index_of, message_id
from broker.core.state import BATCH_BITS, Batch, Campaign, Phase, State
from broker.core.worker_state import Worker
from evenpost.runtime.clock import Now
from evenpost.schedule.rate import RateError, parse_rate, strictest
from evenpost.wire import limits
from evenpost.wire import messages as wire
from evenpost.wire.errors import Code


def hello(
    state: State, balancer: Balancer, event: FromWorker, request: wire.WorkerHello, now: Now
) -> list[Command]:
    """WORKER_HELLO: a worker is here, new, back after a lost connection, or back after a crash."""
    out: list[Command] = []
    peer = event.peer
    worker = state.workers.get(request.worker)
    try:
        parse_rate(request.rate)
    except RateError as error:
        return [ToWorker(peer, wire.Error(Code.BAD_MESSAGE, f"its rate: {error}"))]
    if worker is None and len(state.workers) >= limits.WORKERS_MAX:
        text = f"this broker knows {limits.WORKERS_MAX} workers already: start it with a fresh journal"
        return [ToWorker(peer, wire.Error(Code.TOO_LARGE, text))]
    if worker is None:
        number = 1 + max((w.number for w in state.workers.values()), default=0)
        worker = state.workers[request.worker] = Worker(request.worker, number)
    elif request.incarnation < worker.incarnation and worker.connected:
        text = f"a newer process is registered as worker {worker.name!r}: give each worker its own --name"
        return [ToWorker(peer, wire.Error(Code.CONFLICT, text))]
    if worker.peer and worker.peer != peer:
        state.by_peer.pop(worker.peer, None)
        if worker.connected and worker.incarnation < request.incarnation:
            text = f"a newer process has registered as worker {worker.name!r}"
            out.append(ToWorker(worker.peer, wire.Error(Code.CONFLICT, text)))
    restarted = bool(worker.log) and worker.log != request.log
    came_back = worker.connected
    if restarted:
        # Another log: nobody will ever tell what became of the older one's batches. Their lease runs out.
        worker.orphaned = list(worker.batches)
        worker.orphaned_until = worker.lease_from + state.settings.lease_s
        worker.unheld = []
        worker.log_lost = state.recovering_until is not None
        out.append(Log("warning", "worker.log_lost", {"worker": worker.name, "server": request.server}))
    if worker.heard_at and not came_back and state.recovering_until is None:
        worker.breaker.returned_at = now.mono  # we had it, lost it and have it again
    worker.peer, worker.connected, worker.gone = peer, True, False
    worker.hello, worker.welcomed = event.request, False
    if worker.incarnation != request.incarnation:
        worker.breaker.reset()  # restarted, perhaps with what it needs: another chance
        worker.reason = ""
    worker.log, worker.incarnation, worker.server = request.log, request.incarnation, request.server
    worker.max_connections = request.max_connections
    worker.reported_limit = request.limit or request.max_connections
    worker.hello_weight, worker.pools = request.weight, frozenset(request.pools)
    worker.own_state, worker.own_weight = request.state, request.agent_weight
    worker.rate = request.rate
    out.extend(_set_bucket(state, balancer, worker, now))
    worker.busy = worker.open = worker.external = worker.in_flight_at_report = 0
    worker.templates.clear()
    worker.templates_bytes = 0
    if restarted:
        worker.seen_upto = 0
    worker.replay_upto = request.outcomes_upto if request.outcomes_from < request.outcomes_upto else 0
    state.by_peer[peer] = worker
    holding = {held.batch for held in request.holding}
    worker.lease_from = now.mono
    if not restarted:
        known = holding | set(worker.orphaned)  # its log can't vouch for what an older one's process had
        worker.unheld = [number for number in worker.batches if number not in known]
    heartbeats.heard(worker, now)
    revoke = [h.batch for h in request.holding if h.batch not in worker.batches and not _adoptable(state, h)]
    stopped = [number for number, batch in worker.batches.items() if _is_stopped(batch)]
    revoke += [number for number in stopped if number in holding]
    adopt = [h for h in request.holding if h.batch not in worker.batches and _adoptable(state, h)]
    worker.holding_read = not adopt
    settings = state.settings
    welcome = wire.WorkerWelcome(state.broker, settings.heartbeat_s, settings.lease_s, revoke)
    stored = SetWorker.of(worker)
    then = (ToWorker(peer, welcome, event.request), Raise(WorkerStored(worker.name, peer, event.request)))
    out.append(Persist((stored,), then))
    if adopt:
        out.append(ReadHeld(worker.name, peer, event.request, adopt))
    if worker.unheld and not worker.replaying:
        out.extend(batches.give_back_unheld(state, worker, now))
    fields = {"worker": worker.name, "server": worker.server, "max_connections": worker.max_connections}
    fields |= {
        "weight": worker.weight,
        "holding": len(holding),
        "outcomes_to_come": request.outcomes_upto - request.outcomes_from,
    }
    out.append(Log("info", "worker.returned" if came_back else "worker.connected", fields))
    balancer.update(worker, now.mono)
    return out


def stored(state: State, balancer: Balancer, event: WorkerStored, now: Now) -> list[Command]:
    worker = state.workers[event.worker]
    if (worker.peer, worker.hello) == (event.peer, event.hello):
        worker.welcomed = True
        balancer.update(worker, now.mono)
    return []


def _set_bucket(state: State, balancer: Balancer, worker: Worker, now: Now) -> list[Command]:
    """One bucket a server, whichever of its workers says its rate; the strictest, if they differ."""
    same = [w for w in state.workers.values() if w.server == worker.server and (w is worker or w.connected)]
    rates = {w.rate for w in same if w.rate}
    rate = strictest(rates)
    bucket = state.quotas.bucket(f"server:{worker.server}", rate, now)
    for each in same:
        if each.bucket is not bucket:
            each.bucket = bucket
            balancer.update(each, now.mono)
    if len(rates) < 2:
        return []
    fields = {"worker": worker.name, "server": worker.server, "rates": sorted(rates), "rate": rate}
    return [Log("warning", "worker.rates_differ", fields)]


def _is_stopped(batch: Batch) -> bool:
    """Nothing more of it shall be begun."""
    campaign = batch.campaign
    stopped = campaign.phase is Phase.PAUSED or campaign.closed_as is not None
    return stopped or batch.worker.state == "maint"


def _adoptable(state: State, held: wire.HeldBatch) -> bool:
    """A batch of an earlier run of the broker, told of before this run has sent anything."""
    is_earlier = 0 < held.batch < state.boot << BATCH_BITS
    return is_earlier and state.recovering_until is not None and held.batch not in state.batches


def held_read(state: State, balancer: Balancer, event: HeldRead, now: Now) -> list[Command]:
    """After a restart of the broker: batches that a worker still has go on where they are."""
    worker = state.workers[event.worker]
    if (worker.peer, worker.hello) != (event.peer, event.hello):
        return []  # it has said hello since, and what it holds now is being read
    foreign: list[int] = []
    """Batches of which nothing is to be sent any more, or that another journal's broker gave out."""
    taken: list[Batch] = []
    for held in event.batches:
        if (known := state.batches.get(held.batch)) is not None:  # told of twice, or by two workers
            if known.worker is not worker:
                foreign.append(held.batch)
            continue
        campaign = state.campaigns.get(held.campaign)
        batch = None
        for index in held.indices:
            row = event.rows.get(message_id(held.campaign, index))
            if campaign is None or not campaign.stored or row is None or row.id in state.live:
                continue
            if row.state not in (Stored.QUEUED, Stored.DEFERRED):
                continue
            if batch is None:
                # What it took of rates was counted before the restart: nothing comes back of it.
                batch = Batch(held.batch, worker, campaign, {}, made_at=float("-inf"))
            message = Message(row.id, row.address, row.values, row.attempts, earlier=history(row))
            message.retry = row.state == Stored.DEFERRED
            message.batch = held.batch
            message.group = state.groups.by_domain.get(domain_of(message.address))
            if message.group is not None and batch.group is None:
                batch.group = message.group
                message.group.in_flight += 1
            batch.messages[row.id] = state.live[row.id] = message
            campaign.in_flight += 1
            campaign.in_flight_retries += message.retry
        if batch is not None:
            state.batches[batch.number] = worker.batches[batch.number] = batch
            taken.append(batch)
            if _is_stopped(batch):
                foreign.append(held.batch)
        else:
            foreign.append(held.batch)
    worker.holding_read = True
    balancer.update(worker, now.mono)
    out: list[Command] = [ToWorker(worker.peer, wire.Revoke(foreign))] if foreign else []
    if adopted := [batch for batch in taken if journaled.is_journaled(batch.campaign)]:
        # Given out by a release that didn't write batches down.
        out.append(Persist(tuple(journaled.added(batch) for batch in adopted)))
    return out


def has_reported(worker: Worker) -> bool:
    """It has told all that it knows: what it holds, and outcomes that no broker had confirmed."""
    told = worker.connected and worker.holding_read and not worker.replaying and not worker.looking_up
    return (told and not worker.log_lost) or worker.gone


def goodbye(
    state: State, balancer: Balancer, worker: Worker, request: wire.Goodbye, now: Now
) -> list[Command]:
    """GOODBYE: it has drained; what it still had by our books was never begun."""
    out: list[Command] = []
    for batch in list(worker.batches.values()):
        out.extend(batches.drop(state, batch, now))
    peer = worker.peer
    _disconnect(state, worker)
    worker.gone = True
    stored = SetWorker.of(worker)
    out.append(Persist((stored,), (ToWorker(peer, wire.GoodbyeOk()),)))
    out.append(Log("info", "worker.left", {"worker": worker.name, "reason": request.reason}))
    balancer.update(worker, now.mono)
    return out


def _disconnect(state: State, worker: Worker) -> None:
    state.by_peer.pop(worker.peer, None)
    worker.peer = b""
    worker.connected = worker.welcomed = False
    worker.busy = worker.open = worker.external = worker.in_flight_at_report = 0


def send_failed(state: State, balancer: Balancer, event: SendFailed, now: Now) -> list[Command]:
    """The connection is gone or doesn't read: the batch never left, and there will be no more for now."""
    out: list[Command] = []
    batch = state.batches.get(event.batch)
    if batch is not None:
        worker = batch.worker
        out.extend(batches.drop(state, batch, now))
        if worker.peer == event.peer:
            out.append(Log("warning", "worker.lost", {"worker": worker.name, "reason": "connection lost"}))
            _disconnect(state, worker)
        balancer.update(worker, now.mono)
    return out


def revoked(state: State, balancer: Balancer, event: WorkerRevoked, now: Now) -> list[Command]:
    """Its key isn't allowed any more: lost at once. What it says from now on isn't heard, so what it has
    counts as unknown at the end of its lease."""
    worker = state.workers[event.worker]
    if not worker.connected:
        return []
    out: list[Command] = [Log("warning", "worker.lost", {"worker": worker.name, "reason": "key revoked"})]
    if worker.batches:
        out.append(ToWorker(worker.peer, wire.Revoke(list(worker.batches))))
    _disconnect(state, worker)
    balancer.update(worker, now.mono)
    return out


def check(state: State, balancer: Balancer, now: Now) -> list[Command]:
    """Time has passed: who is lost, whose lease has ended, who may be tried again."""
    settings = state.settings
    out: list[Command] = []
    for worker in state.workers.values():
        silent = now.mono - worker.heard_at
        if worker.connected and silent > settings.heartbeat_s * settings.heartbeats_missed_max:
            fields = {"worker": worker.name, "server": worker.server, "silent_s": round(silent, 1)}
            out.append(Log("warning", "worker.lost", fields | {"in_flight": worker.in_flight}))
            _disconnect(state, worker)
            balancer.update(worker, now.mono)
        if worker.batches and not worker.connected and now.mono > worker.lease_from + settings.lease_s:
            out.extend(lose(state, worker, worker.batches.values(), now))
            balancer.update(worker, now.mono)
        if worker.orphaned and now.mono > worker.orphaned_until:
            orphans = [worker.batches[number] for number in worker.orphaned if number in worker.batches]
            worker.orphaned = []
            out.extend(lose(state, worker, orphans, now))
            balancer.update(worker, now.mono)
        # Keys that change with time alone, or with the mean of the others.
        if worker.connected and (worker.breaker.is_changing(now.mono) or not worker.seconds_a_message):
            balancer.update(worker, now.mono)
            worker.breaker.end_ramp(now.mono, settings.slow_start_s)
    return out


def lose(state: State, worker: Worker, lost: Iterable[Batch], now: Now) -> list[Command]:
    """A worker's lease has ended and it didn't come back: what it had may or may not have been sent."""
    rows: list[outcomes.Row] = []
    touched: dict[int, Campaign] = {}
    out: list[Command] = []
    for batch in list(lost):
        touched[batch.campaign.number] = batch.campaign
        for message in batch.messages.values():
            batches.leave(batch.campaign, message)
            batch.campaign.attempts += 1
            outcome = wire.Outcome(
                batch=batch.number,
                campaign=batch.campaign.number,
                index=index_of(message.id),
                attempt=message.attempts + 1,
                kind="unknown",
                scope="server",
                code=0,
                reply=outcomes.LOST,
                began_at=0,
                ended_at=now.wall,
            )
            rows.append(outcomes.not_taken(state, batch.campaign, message, worker, outcome, now))
        batch.messages.clear()
        batch.outcomes = 0
        batches.done(state, batch)
    outcomes.remember(state, worker, rows)
    if touched:
        fields = {"worker": worker.name, "server": worker.server, "messages": len(rows)}
        out.append(Log("warning", "worker.lease_ended", fields))
        changes: list[SetMessages | SetCampaign] = [SetMessages(rows)]
        changes.extend(outcomes.current(state, touched.values()))
        out.append(Persist(tuple(changes)))
    for campaign in touched.values():
        out.extend(campaigns.finish_if_done(state, campaign, now))
    return out
