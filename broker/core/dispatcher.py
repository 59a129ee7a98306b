"""The core's front door: events in, commands out."""

from collections.abc import Callable, Iterable, Mapping
from typing import assert_never

from broker.core import campaigns as campaign_life
from broker.core import heartbeats, journaled, late, outcomes, reading, sending, words
from broker.core import workers as fleet
from broker.core.balancer import Balancer
from broker.core.buckets import StoredBucket
from broker.core.clock_set import clock_set
from broker.core.commands import Command, Log, ToWorker
from broker.core.events import (
    BatchStored,
    CampaignStored,
    ClockSet,
    Event,
    FreshRead,
    FromClient,
    FromWorker,
    HeldRead,
    LookedUp,
    MxFound,
    NotReopened,
    QuotaStored,
    Reopened,
    RetriesRead,
    SendFailed,
    StoredBatch,
    SubmissionOpened,
    Tick,
    WorkerRevoked,
    WorkerStored,
)
from broker.core.groups import Group
from broker.core.message_state import Stored
from broker.core.quotas import Quotas
from broker.core.settings import RECOVERY_S_MIN, Settings
from broker.core.state import Campaign, Phase, State
from broker.core.worker_state import Worker
from evenpost.runtime.clock import Now
from evenpost.wire import messages as wire
from evenpost.wire.errors import Code

_RATE_EVERY_S = 1.0
_TICKS_A_LOOK = 10
_CLOCK_SET_S = 0.05
_RATE_EWMA = 0.4


class Dispatcher:
    """Everything the broker decides. `handle` each event, then `dispatch` once for all of them."""

    def __init__(
        self,
        settings: Settings,
        *,
        boot: int,
        broker: str,
        uniform: Callable[[float, float], float],
        campaigns: Iterable[Campaign],
        workers: Iterable[Worker],
        now: Now,
        quotas: Mapping[str, StoredBucket] | None = None,
        batches: Iterable[StoredBatch] = (),
        balancer: Balancer | None = None,
    ) -> None:
        """`campaigns`: the journal's unfinished ones. `workers`: all it knows. `quotas`: what rates have
        granted. `batches`: those that the journal has. `balancer`: another one than the settings ask for, to
        compare them.

        Raises RateError where the settings have a rate that isn't one."""
        self.state = State(settings=settings, uniform=uniform, boot=boot, broker=broker)
        self.state.quotas = Quotas(dict(quotas or {}))
        self.balancer = balancer or Balancer(settings)
        for domain in settings.domains:
            bucket = self.state.quotas.bucket(f"domain:{domain.name}", domain.rate, now)
            self.state.groups.add(Group(domain, bucket))
        for campaign in campaigns:
            campaign.stored = campaign.phase is not Phase.OPEN
            campaign.next_due = 0
            campaign_life.know(self.state, campaign, now)
        for worker in workers:
            self.state.workers[worker.name] = worker
        journaled.restore(self.state, batches, now)
        self.state.recovering_until = now.mono + max(settings.lease_s, RECOVERY_S_MIN)
        self.state.ticked_at = now.mono

    def handle(self, event: Event, now: Now) -> list[Command]:
        """What follows from an event. Never raises on what a peer says."""
        out = self._handle(event, now)
        out.extend(journaled.ended(self.state))
        return out

    def _handle(self, event: Event, now: Now) -> list[Command]:
        state = self.state
        match event:
            case FromWorker():
                return self._from_worker(event, now)
            case FromClient():
                return self._from_client(event, now)
            case WorkerStored():
                return fleet.stored(state, self.balancer, event, now)
            case FreshRead():
                return reading.fresh_read(state, event, now)
            case RetriesRead():
                return reading.retries_read(state, event, now)
            case SubmissionOpened():
                return campaign_life.opened(state, event, now)
            case CampaignStored():
                return reading.stored(state, event, now)
            case LookedUp():
                return late.looked_up(state, event, now)
            case HeldRead():
                return fleet.held_read(state, self.balancer, event, now)
            case BatchStored():
                return journaled.stored(state, self.balancer, event, now)
            case SendFailed():
                return fleet.send_failed(state, self.balancer, event, now)
            case WorkerRevoked():
                return fleet.revoked(state, self.balancer, event, now)
            case Reopened():
                return campaign_life.reopened(state, event, now)
            case NotReopened():
                return campaign_life.not_reopened(state, event)
            case QuotaStored():
                state.quotas.promised(event.key, event.number)
            case MxFound():
                return reading.mx_found(state, event, now)
            case ClockSet():
                return clock_set(state, event)
            case Tick():
                return self._tick(now)
            case _:
                assert_never(event)
        return []

    def dispatch(self, now: Now) -> list[Command]:
        """Reads for what runs low, and batches for free workers."""
        sending.wake(self.state, self.balancer, now)
        out = reading.reads(self.state, now)
        out.extend(sending.dispatch(self.state, self.balancer, now))
        out.extend(sending.promises(self.state, now))
        return out

    def next_at(self) -> float:
        """When `dispatch` will find something that waits for nothing but time (monotonic)."""
        return sending.next_at(self.state, self.balancer)

    def _from_worker(self, event: FromWorker, now: Now) -> list[Command]:
        state, balancer, message = self.state, self.balancer, event.message
        if isinstance(message, wire.WorkerHello):
            return fleet.hello(state, balancer, event, message, now)
        worker = state.by_peer.get(event.peer)
        if worker is None:
            text = "say hello first: this broker has restarted, or the connection is a new one"
            return [ToWorker(event.peer, wire.Error(Code.NOT_FOUND, text))]
        heartbeats.heard(worker, now)
        match message:
            case wire.Outcomes():
                return outcomes.reported(state, balancer, worker, message, now)
            case wire.Heartbeat():
                return heartbeats.heartbeat(state, balancer, worker, message, now)
            case wire.Goodbye():
                return fleet.goodbye(state, balancer, worker, message, now)
        return []

    def _from_client(self, event: FromClient, now: Now) -> list[Command]:
        state, message = self.state, event.message
        match message:
            case wire.Recipients():
                return campaign_life.recipients(state, event, message)
            case wire.Commit():
                return campaign_life.committed(state, event, message)
            case wire.Pause():
                return campaign_life.pause(state, event, message)
            case wire.Resume():
                return campaign_life.resume(state, event, message)
            case wire.Cancel():
                return campaign_life.cancel(state, event, message, now)
            case wire.RetryFailed():
                return campaign_life.retry_failed(state, event, message)
            case wire.SetServer():
                return words.order(state, self.balancer, event, message, now)
        return []

    def _tick(self, now: Now) -> list[Command]:
        state = self.state
        out = fleet.check(state, self.balancer, now)
        if state.recovering_until is not None:
            silent = [w.name for w in state.workers.values() if not fleet.has_reported(w)]
            if not silent or now.mono >= state.recovering_until:
                state.recovering_until = None
                state.awake.update(state.campaigns)
                out.append(Log("info", "broker.recovered", {"silent_workers": silent}))
        state.sleeping.tidy()
        state.ticks += 1
        clocks_differ_by = now.wall / 1000 - now.mono
        if abs(clocks_differ_by - state.clocks_differed_by) > _CLOCK_SET_S:
            state.awake.update(state.campaigns)  # the wall clock was set: what waits for a time looks anew
        state.clocks_differed_by = clocks_differ_by
        for campaign in list(state.campaigns.values()):
            # Whoever waits is woken by what it waits for; looking now and then costs little and forgives.
            due = campaign.next_due is not None and campaign.next_due <= now.wall
            if due or (state.ticks + campaign.number) % _TICKS_A_LOOK == 0:
                state.awake[campaign.number] = campaign
            if campaign.stored and campaign.closed_as is None and now.wall >= campaign.expire_at:
                if not campaign.reopening:
                    out.extend(campaign_life.expire(state, campaign, now))
            elif campaign.stored and (campaign.closed_as is not None or not campaign.unfinished):
                out.extend(campaign_life.finish_if_done(state, campaign, now))
        if now.mono - state.ticked_at >= _RATE_EVERY_S:
            self._measure(now.mono - state.ticked_at)
            state.ticked_at = now.mono
        return out

    def _measure(self, seconds: float) -> None:
        for worker in self.state.workers.values():
            worker.rate_sent = _smoothed(worker.rate_sent, (worker.sent - worker.sent_before) / seconds)
            worker.sent_before = worker.sent
        for campaign in self.state.campaigns.values():
            sent = campaign.counts.get(Stored.SENT, 0)
            if campaign.sent_before:  # else it began within this second, or an earlier run sent all that
                campaign.rate = _smoothed(campaign.rate, (sent - campaign.sent_before) / seconds)
            campaign.sent_before = sent


def _smoothed(before: float, sample: float) -> float:
    return before + _RATE_EWMA * (sample - before) if before else sample
