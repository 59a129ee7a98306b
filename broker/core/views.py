"""The core's state in the words of the wire."""

from collections.abc import Sequence
from typing import Literal

from broker.core.balancer import held
from broker.core.sending import started, why_waiting
from broker.core.state import Campaign, Phase, State, Stored, Worker
from evenpost.runtime.clock import Now
from evenpost.wire import messages as wire

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


def campaign_status(campaign: Campaign, state: State | None, now: Now) -> wire.CampaignStatus:
    """`state`: None for a campaign that isn't in memory."""
    counts = {s.name.lower(): n for s, n in campaign.counts.items() if n}
    fresh_in_flight = campaign.in_flight - campaign.in_flight_retries
    deferred = campaign.counts.get(Stored.DEFERRED, 0) - campaign.in_flight_retries
    counts |= {
        "sending": campaign.in_flight,
        "queued": campaign.queued - fresh_in_flight,
        "deferred": deferred,
    }
    phase = _PHASES[campaign.phase]
    if phase == "running" and not started(campaign, now) and campaign.stored:
        phase = "scheduled" if campaign.closed_as is None else "running"
    return wire.CampaignStatus(
        campaign=campaign.id,
        name=campaign.options.name,
        state=phase,
        created_at=campaign.created_at,
        total=campaign.total,
        counts={name: count for name, count in counts.items() if count},
        priority=campaign.options.priority,
        pool=campaign.options.pool,
        start_at=campaign.options.start_at,
        expire_at=campaign.expire_at,
        finished_at=campaign.finished_at or None,
        attempts=campaign.attempts,
        unknown=campaign.unknown,
        duplicates=campaign.duplicates,
        rate=round(campaign.rate, 1),
        waiting_for=why_waiting(state, campaign, now) if state is not None else "",
    )


def worker_status(worker: Worker) -> wire.WorkerStatus:
    state: Literal["ready", "draining", "backing off", "lost", "gone"] = "ready"
    if worker.gone:
        state = "gone"
    elif not worker.connected:
        state = "lost"
    elif worker.drained or worker.leaving:
        state = "draining"
    elif held(worker):
        state = "backing off"
    return wire.WorkerStatus(
        worker=worker.name,
        server=worker.server,
        state=state,
        open=worker.open,
        busy=worker.busy,
        in_flight=worker.in_flight,
        limit=worker.limit,
        max_connections=worker.max_connections,
        weight=worker.weight,
        pools=sorted(worker.pools),
        sent=worker.sent,
        deferred=worker.deferred,
        bounced=worker.bounced,
        rate=round(worker.rate, 1),
        last_seen_at=worker.heard_wall,
        reason=worker.reason if state in ("backing off", "lost") else "",
    )
