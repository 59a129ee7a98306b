"""The core's state in the words of the wire."""

from collections.abc import Sequence
from typing import Literal

from broker.core.balancer import Balancer, in_service, load
from broker.core.buckets import Bucket
from broker.core.explain import held_by, waiting_for, why_not
from broker.core.forecast import Cap, caps_of, eta, pooled
from broker.core.groups import Group
from broker.core.message_state import Stored
from broker.core.state import Campaign, Phase, State
from broker.core.words import spoken
from broker.core.worker_state import Worker
from evenpost.runtime.clock import Now
from evenpost.wire import messages as wire

WorkerState = Literal["ready", "slow start", "throttled", "draining", "maint", "backing off", "lost", "gone"]

_FORECAST_S_MAX = 5.0
"""So long a forecast is told again at most, and no longer than a tenth of the time that it tells of."""
_RATE_MIN = 0.5
"""Messages a second; below, what was measured says nothing: the campaign waits or has just begun."""

_PHASES: dict[Phase, wire.CampaignState] = {
    Phase.OPEN: "open",
    Phase.ACTIVE: "running",
    Phase.PAUSED: "paused",
    Phase.FINISHED: "finished",
    Phase.CANCELLED: "cancelled",
}


def message_state(stored: Stored, campaign: Campaign) -> wire.MessageState:
    """A message's state as people see it: a closed campaign ends what its rows leave open."""
    if campaign.closed_as is not None and stored in (Stored.QUEUED, Stored.DEFERRED):
        stored = campaign.closed_as
    name: wire.MessageState = stored.name.lower()  # type: ignore[assignment]  # the names are the same
    return name


def stored_states(only: Sequence[wire.MessageState], campaign: Campaign) -> list[Stored]:
    """The journal's states that hold what people call `only`."""
    states: set[Stored] = set()
    for name in only:
        if name in ("queued", "sending", "deferred"):
            if campaign.closed_as is None:
                states |= {Stored.QUEUED, Stored.DEFERRED} if name == "sending" else {Stored[name.upper()]}
        else:
            states.add(Stored[name.upper()])
            if campaign.closed_as is Stored[name.upper()]:
                states |= {Stored.QUEUED, Stored.DEFERRED}
    return sorted(states)


def campaign_status(campaign: Campaign, state: State, balancer: Balancer, now: Now) -> wire.CampaignStatus:
    """A campaign that isn't in memory has ended."""
    in_memory = campaign.number in state.campaigns
    options = campaign.options
    counts = {s.name.lower(): n for s, n in campaign.counts.items() if n}
    fresh_in_flight = campaign.in_flight - campaign.in_flight_retries
    deferred = campaign.counts.get(Stored.DEFERRED, 0) - campaign.in_flight_retries
    counts |= {
        "sending": campaign.in_flight,
        "queued": campaign.queued - fresh_in_flight,
        "deferred": deferred,
    }
    phase = _PHASES[campaign.phase]
    if phase == "running" and campaign.stored and campaign.closed_as is None and not campaign.started(now):
        phase = "scheduled"
    return wire.CampaignStatus(
        campaign=campaign.id,
        name=campaign.options.name,
        state=phase,
        created_at=campaign.created_at,
        total=campaign.total,
        counts={name: count for name, count in counts.items() if count},
        priority=options.priority,
        pool=options.pool,
        overflow=options.overflow,
        weight=options.weight,
        rate_limit=options.rate,
        window=options.window,
        start_at=options.start_at,
        expire_at=campaign.expire_at,
        finished_at=campaign.finished_at or None,
        compacted_at=campaign.compacted_at or None,
        attempts=campaign.attempts,
        unknown=campaign.unknown,
        duplicates=campaign.duplicates,
        rate=round(campaign.rate, 1),
        eta_at=_eta(campaign, state, balancer, now) if in_memory else None,
        waiting_for=waiting_for(state, balancer, campaign, now) if in_memory else "",
    )


def _eta(campaign: Campaign, state: State, balancer: Balancer, now: Now) -> int | None:
    """When the last message will go. Of domains with limits only those messages count that were read."""
    if not campaign.unfinished or not campaign.stored or campaign.closed_as or campaign.phase is Phase.PAUSED:
        return None
    at, told = campaign.forecast
    if told is not None and now.mono < at + min(_FORECAST_S_MAX, (told - now.wall) / 10_000):
        return told
    rate = campaign.rate if campaign.rate >= _RATE_MIN else balancer.speed(campaign.options.pool)
    caps = _caps(campaign.bucket, now.mono) if campaign.bucket is not None else []
    servers = [w for w in state.workers.values() if in_service(w) and campaign.may_use(w)]
    buckets = {id(w.bucket): w.bucket for w in servers if w.bucket is not None}
    if buckets and all(w.bucket is not None for w in servers):
        caps += pooled([_caps(bucket, now.mono) for bucket in buckets.values()])
    start_at = campaign.options.start_at or 0
    told = eta(campaign.unfinished, rate, caps, campaign.window, now.wall, start_at)
    if told is not None:
        told = max(told, *_held_up(campaign, now))
    campaign.forecast = (now.mono, told)
    return told


def _held_up(campaign: Campaign, now: Now) -> list[int]:
    """When those will go that wait for their domains' limits or for their next try."""
    found = [now.wall, *map(int, campaign.put_off_until.values())]
    if campaign.counts.get(Stored.DEFERRED, 0) > campaign.in_flight_retries:
        found.append(campaign.next_due or now.wall)
    waiting: dict[Group, int] = {}
    for lane, messages in campaign.lanes.items():
        if lane.group is not None:
            waiting[lane.group] = waiting.get(lane.group, 0) + len(messages)
    for group, count in waiting.items():
        caps = _caps(group.bucket, now.mono) if group.bucket is not None else []
        found.append(eta(count, group.rate, caps, campaign.window, now.wall) or now.wall)
    return found


def _caps(bucket: Bucket, now: float) -> list[Cap]:
    return caps_of(bucket.left(now), bucket.returns(now))


def _state(worker: Worker, ramp: float, now: Now) -> WorkerState:
    breaker = worker.breaker
    if worker.gone:
        return "gone"
    if not worker.connected:
        return "lost"
    if worker.state != "ready":
        return "maint" if worker.state == "maint" else "draining"
    if breaker.is_open:
        return "backing off"
    if breaker.paused_until > now.mono:
        return "throttled"
    return "slow start" if ramp < 1.0 else "ready"


def _held(worker: Worker, state: WorkerState) -> str:
    return held_by(worker) if state in ("draining", "maint") else ""


def worker_status(worker: Worker, balancer: Balancer, now: Now) -> wire.WorkerStatus:
    state = _state(worker, balancer.ramp(worker, now.mono), now)
    eligible = not why_not(balancer, worker, now)[0]
    return wire.WorkerStatus(
        worker=worker.name,
        server=worker.server,
        state=state,
        open=worker.open,
        busy=worker.busy,
        in_flight=worker.in_flight,
        limit=balancer.limit(worker, now.mono),
        max_connections=worker.max_connections,
        weight=worker.weight,
        pools=sorted(worker.pools),
        sent=worker.sent,
        deferred=worker.deferred,
        bounced=worker.bounced,
        rate=round(worker.rate_sent, 1),
        last_seen_at=worker.heard_wall,
        reason=worker.reason if state in ("backing off", "throttled", "lost") else _held(worker, state),
        external=worker.external,
        load=load(worker),
        key=round(balancer.key(worker, now.mono), 6) if eligible else 0.0,
        seconds_a_message=worker.seconds_a_message,
        failure_rate=round(worker.breaker.failure_rate(now.mono), 3),
        rate_limit=worker.rate,
        operator=spoken(worker),
    )
