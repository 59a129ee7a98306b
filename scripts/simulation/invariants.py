"""What must hold, checked from outside while the world turns: against the core's memory, the workers'
sessions and what the servers really took."""

from collections import Counter, defaultdict, deque
from math import inf
from typing import TYPE_CHECKING, Any

from broker.core import views
from broker.core.commands import SendBatch
from broker.core.events import Event, FromClient, Tick
from broker.core.invariants import violations
from broker.core.message_state import Stored, message_id
from broker.core.sending import TAIL_LOOK_S, TAIL_WAIT, tail_s
from broker.core.state import Campaign, Phase
from broker.core.worker_state import Worker
from evenpost.runtime.clock import Now
from evenpost.wire.messages import BatchItem, RetryFailed
from scripts.simulation.rates import Rates
from scripts.simulation.servers import Server, Taken
from scripts.simulation.watch import Watch
from worker.vocabulary import Held

if TYPE_CHECKING:
    from scripts.simulation.broker_host import BrokerHost
    from scripts.simulation.worker_host import WorkerHost

EVENTS_KEPT = 40
"""What a failure shows of what came before it."""
IDLE_TURNS_MAX = 5
"""Turns of the broker's loop in a row, without an event, after each of which another one is due at once."""
TURN_S_MAX = 0.001
"""From when the broker means to look again until it has."""
LINE_CHARS_MAX = 300
COUNTS_EACH = 10
"""Counts are compared with the journal's rows at each such quiet moment."""


class Violation(AssertionError):  # noqa: N818  # it is what the domain calls it
    """Something that must hold doesn't."""


def line_of(time: float, who: str, what: object) -> str:
    """What happened, for people."""
    text = what if isinstance(what, str) else repr(what)
    if len(text) > LINE_CHARS_MAX:
        text = text[:LINE_CHARS_MAX] + "..."
    return f"{time:10.4f}  {who:8}  {text}"


class Checker(Watch):
    """Looks at everything. The first thing that is wrong is raised as a Violation."""

    def __init__(self) -> None:
        self.lines: deque[tuple[float, str, object]] = deque(maxlen=EVENTS_KEPT)
        """What happened last: time, who, what."""
        self.verbose = False
        """Prints all that happens."""
        self.takes: Counter[int] = Counter()
        """How often servers took each message."""
        self.excused: set[int] = set()
        """Messages that nobody can vouch for, because an outcome log is lost."""
        self._beside_free: dict[int, float] = {}
        """Since when (monotonic) the last messages of a campaign wait beside a server that is fast enough."""
        self._holders: defaultdict[int, list[tuple[WorkerHost, int, Held]]] = defaultdict(list)
        self._begun: set[tuple[str, int, int, int]] = set()
        self._rates = Rates()
        self._quiet_moments = 0
        self._retried: set[str] = set()
        """Campaigns whose held messages were sent again on somebody's word."""
        self._idle_turns = 0
        self._ticked_at: Now | None = None
        """The broker's last look at its clock."""

    def note(self, who: str, what: object) -> None:
        self.lines.append((self.world.time, who, what))
        if self.verbose:
            print(line_of(self.world.time, who, what))

    def fail(self, text: str) -> None:
        raise Violation(text)

    def log(self, who: str, level: str, event: str, fields: dict[str, Any]) -> None:
        self.note(who, f"{event} {fields}")

    # --- none in two places without a fence ------------------------------------------------

    def holds(self, worker: "WorkerHost", held: Held) -> None:
        for item in held.items:
            self._holders[message_id(held.campaign, item.index)].append((worker, worker.host.process, held))

    def begins(self, worker: "WorkerHost", held: Held, item: BatchItem) -> None:
        """At this moment nobody else may be able to begin the same message."""
        id_ = message_id(held.campaign, item.index)
        for other, process, batch in self._holders[id_]:
            if batch is held and other is worker:
                continue
            key = (other.name, process, batch.number, item.index)
            able = other.host.process == process and not batch.revoked and other.may_begin()
            if able and key not in self._begun and item.index in batch.open_indices():
                self.fail(
                    f"{worker.name} begins message {id_:#x} of batch {held.number}, and {other.name} can "
                    f"begin it too, of batch {batch.number}"
                )
        self._begun.add((worker.name, worker.host.process, held.number, item.index))
        broker = self.world.broker
        knows = broker.host.up and broker.core.state.recovering_until is None
        if knows and held.number not in broker.core.state.batches:
            self.fail(f"{worker.name} begins {id_:#x} of batch {held.number}, which was taken from it")
        if worker.session._running > worker.max_connections:
            self.fail(f"{worker.name} runs {worker.session._running} batches at once")
        self._rates.begun(held.number)

    def log_lost(self, worker: "WorkerHost") -> None:
        self.excused.update(worker.lost_ids)

    # --- limits ----------------------------------------------------------------------------

    def opened(self, worker: "WorkerHost") -> None:
        ours = sum(caller.worker == worker.name for caller in worker.server.open)
        if max(worker.pool.open, ours) > worker.max_connections:
            self.fail(f"{worker.name} has {worker.pool.open} connections, at most {worker.max_connections}")

    def gives(self, broker: "BrokerHost", command: SendBatch) -> None:
        state = broker.core.state
        batch = state.batches[command.batch]
        worker, campaign = batch.worker, batch.campaign
        self.note("broker", f"batch {command.batch} of {len(command.items)} to {worker.name}")
        most = worker.limit + max(1, worker.limit // 4)
        if worker.in_flight > most:
            self.fail(f"{worker.name} has {worker.in_flight} batches; {most} is the most")
        if worker.state != "ready":
            self.fail(f"{worker.name} gets a batch and is in {worker.state}")
        if worker.breaker.is_open and (worker.in_flight > 1 or len(command.items) > 1):
            self.fail(f"{worker.name} gets {len(command.items)} messages and its breaker is open")
        pools = {campaign.options.pool, campaign.options.overflow}
        if campaign.options.pool is not None and not pools & worker.pools:
            self.fail(f"{worker.name} is in {worker.pools} and gets a batch for {pools}")
        if wrong := self._rates.given(state, batch, self.world.time):
            self.fail(wrong)

    # --- no starvation ---------------------------------------------------------------------

    def dispatched(self, broker: "BrokerHost") -> None:
        """After a dispatch nothing waits for a worker that is free."""
        self._idle_turns = self._idle_turns + 1 if broker.core.next_at() <= broker.host.mono() else 0
        if self._idle_turns > IDLE_TURNS_MAX:
            self.fail(f"the broker's loop spins: next_at says {broker.core.next_at()}, now is {broker.now()}")
        state, now = broker.core.state, broker.now()
        if state.recovering_until is not None or self._ticked_at is None:
            return
        for campaign in state.campaigns.values():
            free = self._free_for(broker, campaign, now)
            if free is None:
                self._beside_free.pop(campaign.number, None)
                continue
            since = self._beside_free.setdefault(campaign.number, now.mono)
            # While its last messages wait for a faster server it looks now and then.
            if campaign.tail_since == inf or now.mono > since + TAIL_LOOK_S + TURN_S_MAX:
                self.fail(f"{len(campaign.ready)} messages of {campaign.id} wait and {free.name} is free")

    def _free_for(self, broker: "BrokerHost", campaign: Campaign, now: Now) -> Worker | None:
        """A worker that could take what waits."""
        assert self._ticked_at is not None
        # Its time has come when the broker's tick sees that it has.
        if not campaign.ready or not campaign.started(now) or not campaign.started(self._ticked_at):
            return None
        if campaign.bucket is not None and not campaign.bucket.available(now.mono, 1):
            return None
        workers = broker.core.state.workers.values()
        could = [worker for worker in workers if self._could_take(broker, campaign, worker)]
        # The last messages may wait for a faster server, but not for longer than the slowest needs for three.
        slowest_s = max((worker.seconds_a_message for worker in workers), default=0.0)
        if now.mono <= campaign.tail_since + TAIL_WAIT * slowest_s + TAIL_LOOK_S < inf:
            longest_s = tail_s(broker.core.balancer, campaign, now)
            could = [worker for worker in could if worker.seconds_a_message <= longest_s]
        return could[0] if could else None

    def _could_take(self, broker: "BrokerHost", campaign: Campaign, worker: Worker) -> bool:
        mono, balancer, pool = broker.host.mono(), broker.core.balancer, campaign.options.pool
        if pool is not None and pool not in worker.pools:
            return False
        if not worker.welcomed or worker.state != "ready" or worker.breaker.is_open:
            return False
        if worker.breaker.returned_at is not None:
            return False  # its share grows with each tick of the broker, not with each moment
        if worker.breaker.paused_until > mono or worker.in_flight >= balancer.limit(worker, mono):
            return False
        if worker.bucket is not None and not worker.bucket.available(mono, 1):
            return False
        if campaign.urgent:
            return True
        return all(balancer.has_room(tag, False) for tag in (None, *worker.pools))

    # --- no message lost, counts add up ----------------------------------------------------

    def broker_event(self, broker: "BrokerHost", event: Event) -> None:
        self.note("broker", event)
        self._idle_turns = 0
        if isinstance(event, FromClient) and isinstance(event.message, RetryFailed):
            self._retried.add(event.message.campaign)
        if isinstance(event, Tick):
            self._ticked_at = broker.now()
        wrong = violations(broker.core.state)
        if wrong:
            self.fail(f"after {type(event).__name__}: {'; '.join(wrong)}")

    def took(self, server: Server, taken: Taken) -> None:
        self.takes[taken.id] += 1
        self.note(server.name, f"took {taken.id:#x} of {taken.worker}")

    def committed(self, broker: "BrokerHost") -> None:
        self._quiet_moments += 1
        if self._quiet_moments % COUNTS_EACH:
            return
        state, now = broker.core.state, broker.now()
        for campaign in state.campaigns.values():
            status = views.campaign_status(campaign, state, broker.core.balancer, now)
            if not campaign.reopening and sum(status.counts.values()) != campaign.total:
                self.fail(f"{campaign.id}: {status.counts} don't add up to {campaign.total}")
            if not campaign.reopening:
                self._compare(broker, campaign)

    def _compare(self, broker: "BrokerHost", campaign: Campaign) -> None:
        """A campaign's counts with its rows."""
        lines = broker.journal.report(campaign.number, -1, campaign.total, [], campaign.total + 1)
        if len(lines) != campaign.total:
            self.fail(f"{campaign.id} has {campaign.total} messages, {len(lines)} in the journal")
        rows = Counter(Stored(line.state) for line in lines)
        counts = {state: count for state, count in campaign.counts.items() if count}
        if campaign.finished_at and campaign.closed_as is not None:
            rows[campaign.closed_as] += rows[Stored.QUEUED] + rows.pop(Stored.DEFERRED, 0)
        del rows[Stored.QUEUED]
        rows = +rows
        if rows != counts:
            self.fail(f"{campaign.id}: its rows say {dict(rows)}, its counts {counts}")

    def at_the_end(self) -> None:
        """Every accepted message has ended, as what it really became; copies have their reason."""
        if wrong := self._rates.overdrawn():
            self.fail(wrong)
        broker = self.world.broker
        for submission in self.world.client.submissions:
            if "was cancelled before" in submission.refused:
                continue  # somebody cancelled it while its recipients came in, and its client was told
            if submission.accepted_at is None:
                self.fail(f"submission {submission.name} was never accepted: {submission.refused}")
            campaign = broker.journal.campaign(submission.campaign)
            assert campaign is not None, f"{submission.campaign} was accepted, and the journal hasn't got it"
            cut_short = campaign.phase is Phase.CANCELLED  # maybe while its recipients were coming in
            if campaign.total != len(submission.recipients) and not cut_short:
                self.fail(f"{submission.campaign} was accepted, and the journal has {campaign}")
            if not campaign.finished_at:
                self.fail(f"{campaign.id} never ended: {broker.core.state.campaigns.get(campaign.number)}")
            self._compare(broker, campaign)
            self._copies(broker, campaign)

    def _copies(self, broker: "BrokerHost", campaign: Campaign) -> None:
        lines = broker.journal.report(campaign.number, -1, campaign.total, [], campaign.total + 1)
        for line in lines:
            if line.state == Stored.SENT and not self.takes[line.id]:
                self.fail(f"no server ever took {line}")
            if line.state == Stored.BOUNCED and not line.attempts:
                self.fail(f"bounced and never tried: {line}")
            if line.state in (Stored.QUEUED, Stored.DEFERRED) and campaign.closed_as is None:
                self.fail(f"{campaign.id} has ended and this hasn't: {line}")
        ids = [line.id for line in lines if line.id not in self.excused]
        copies = sum(self.takes[id_] - 1 for id_ in ids if self.takes[id_] > 1)
        reasons = campaign.unknown
        if campaign.options.on_unknown == "hold" and campaign.id not in self._retried:
            reasons = 0
        if copies > reasons:
            self.fail(
                f"{campaign.id}: {copies} copies, {campaign.unknown} outcomes unknown, "
                f"{campaign.duplicates} known duplicates"
            )
