"""One installation under one policy, and what is measured of it."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import fmean
from typing import TYPE_CHECKING, Any

from broker.core.commands import SendBatch
from broker.core.events import CampaignStored, Event
from broker.core.message_state import INDEX_BITS, Stored
from evenpost.wire.messages import BatchItem, Options
from scripts.simulation.broker_host import BrokerSettings
from scripts.simulation.compare import oracle
from scripts.simulation.compare.policies import OUTSTANDING, Policy
from scripts.simulation.network import Latency
from scripts.simulation.servers import Behaviour, Server, Taken, exponential
from scripts.simulation.watch import Watch
from scripts.simulation.worker_host import WorkerHost, WorkerSettings
from scripts.simulation.world import World
from worker.vocabulary import Held

if TYPE_CHECKING:
    from scripts.simulation.broker_host import BrokerHost

START_S = 1.0
"""Campaigns come when workers and broker have met."""
SAMPLE_S = 0.1
CONNECTIONS = 20
"""Of each server, where a scenario doesn't say otherwise."""
_LIMIT_S = 3_600.0
"""Virtual: a run that lasts longer has failed."""


class StuckError(Exception):
    """A run doesn't end."""


@dataclass(frozen=True)
class Case:
    """What is run: one scenario takes one of these for each policy."""

    policy: Policy
    seed: int
    scale: float = 1.0
    """Of the number of messages; the bars are meant for 1."""

    def messages(self, count: int) -> int:
        return max(1, round(count * self.scale))


@dataclass(slots=True)
class Line:
    """One server over time: connections in use each SAMPLE_S, ours and other people's."""

    server: str
    ours: list[int] = field(default_factory=list)
    theirs: list[int] = field(default_factory=list)
    queued: list[int] = field(default_factory=list)
    """Batches that wait in its worker for one of its connections."""


@dataclass(slots=True)
class Run:
    """What a run came to; plain, so that it comes out of a process."""

    figures: dict[str, float]
    lines: list[Line] = field(default_factory=list)
    marks: list[tuple[float, str]] = field(default_factory=list)
    """What was done to the installation, and when."""


class Recorder(Watch):
    """Keeps what the figures are made of."""

    def __init__(self) -> None:
        self.stored: dict[int, float] = {}
        """When each campaign was on disk: from then on it may be sent."""
        self.waits: list[float] = []
        """Of single messages: from stored to the begin of its content."""
        self.offers: list[tuple[float, str, int]] = []
        """Time, worker, messages: what the broker has given out."""
        self.idle_while_waiting = 0
        """Turns at whose end a message waited while an eligible connection was free."""
        self.returned: list[tuple[float, str]] = []
        """When the broker saw a server return, and whose worker's."""
        self.times: dict[int, float] = {}
        """When each message was taken first, by id."""
        self.copies = 0
        self.group_in_flight_max: dict[str, int] = defaultdict(int)
        self.keep_offers = True
        self.keep_idle = True
        self.domain = ""
        """The end of addresses of a group of domains whose offers are kept in `domain_offers`."""
        self.domain_offers: list[float] = []

    def broker_event(self, broker: "BrokerHost", event: Event) -> None:
        if isinstance(event, CampaignStored):
            self.stored.setdefault(event.campaign, self.world.time)

    def gives(self, broker: "BrokerHost", command: SendBatch) -> None:
        if self.keep_offers:
            worker = command.peer.decode().partition("/")[0]
            self.offers.append((self.world.time, worker, len(command.items)))
        if self.domain and command.items[0][2].endswith(self.domain):
            self.domain_offers.extend([self.world.time] * len(command.items))

    def begins(self, worker: WorkerHost, held: Held, item: BatchItem) -> None:
        if (at := self.stored.get(held.campaign)) is not None:
            self.waits.append(self.world.time - at)

    def took(self, server: Server, taken: Taken) -> None:
        if taken.id in self.times:
            self.copies += 1
        else:
            self.times[taken.id] = taken.time

    def log(self, who: str, level: str, event: str, fields: dict[str, Any]) -> None:
        if event == "server.returned":
            self.returned.append((self.world.time, str(fields["worker"])))

    def dispatched(self, broker: "BrokerHost") -> None:
        state = broker.core.state
        for group in state.groups.all:
            most = self.group_in_flight_max
            most[group.name] = max(most[group.name], group.in_flight)
        if not self.keep_idle:
            return
        now = broker.now()
        waiting = [c for c in state.turns if c.ready and c.started(now)]
        if not waiting:
            return
        # Told apart from what the balancer believes: from the workers themselves.
        free = all_ = 0
        for worker in state.workers.values():
            if worker.welcomed and worker.state == "ready" and not worker.breaker.is_open:
                all_ += worker.limit
                free += max(0, worker.limit - worker.in_flight)
        reserve = -int(-all_ * state.settings.reserved_share // 1)  # rounded up
        if free > reserve or (free and any(c.urgent for c in waiting)):
            self.idle_while_waiting += 1


class Lab:
    """Builds a world under a policy, and measures it."""

    def __init__(
        self,
        case: Case,
        *,
        campaign: bool = True,
        latency: Latency | None = None,
        broker: dict[str, Any] | None = None,
        **core: Any,
    ) -> None:
        """`campaign`: contenders' senders have only so much outstanding; else all is sent as it comes."""
        self.case = case
        policy = case.policy
        if policy.contender is not None and not policy.contender.in_batches:
            core["batch_target_s"] = 0.0
        settings = BrokerSettings(policy.settings(**core), **(broker or {}))
        self.seen = Recorder()
        balancers = policy.balancers(case.seed, OUTSTANDING if campaign else None)
        self.world = World(case.seed, settings, watch=self.seen, latency=latency, balancers=balancers)
        self.marks: list[tuple[float, str]] = []
        self._lines: list[Line] = []
        self._last_submit = 0.0

    @property
    def servers(self) -> list[Server]:
        return self.world.servers

    @property
    def workers(self) -> list[WorkerHost]:
        return self.world.workers

    def server(
        self,
        mean_s: float,
        *,
        speed: float = 1.0,
        connections: int = CONNECTIONS,
        rate: str = "",
        **more: Any,
    ) -> Server:
        """A server and its worker. `speed`: relative, for policies that are told."""
        n = len(self.servers)
        server = self.world.server(f"relay-{n + 1}", Behaviour(service=exponential(mean_s), **more))
        weight = round(100 * speed) if self.case.policy.knows_speeds else 100
        settings = WorkerSettings(f"w{n + 1}", max_connections=connections, weight=weight, rate=rate)
        self.world.worker(settings, server)
        self._lines.append(Line(server.name))
        return server

    def at(self, time: float, what: str, do: Callable[[], object]) -> None:
        """Something is done to the installation."""
        self.marks.append((time, what))
        self.world.at(time, do)

    def submit(
        self, recipients: int | list[str], at: float = START_S, options: Options | None = None
    ) -> None:
        self._last_submit = max(self._last_submit, at)
        self.world.at(at, lambda: self.world.submit(recipients, options))

    # --- runs ----------------------------------------------------------------------------------

    def run(self, until: float) -> None:
        self._sample()
        self.world.run(until)

    def run_until_done(self) -> None:
        """Raises StuckError for what should have ended and hasn't."""
        self._sample()
        world, times, last = self.world, self.seen.times, self._last_submit + 0.01
        world.run(last)
        total = sum(len(submission.recipients) for submission in world.client.submissions)
        # `is_done` looks at everything, so it is asked only once each message has been taken.
        if not world.clock.run(_LIMIT_S, lambda: len(times) >= total and world.is_done()):
            text = f"{self.case.policy.name} isn't done after {_LIMIT_S:.0f} virtual seconds"
            raise StuckError(f"{text}: {total - len(times)} of {total} messages are left")

    def _sample(self) -> None:
        for line, worker in zip(self._lines, self.workers, strict=True):
            pool = worker.pool
            line.ours.append(pool.busy)
            line.theirs.append(worker.server.external)
            line.queued.append(len(worker.session.batches) - pool.busy)
        self.world.clock.after(SAMPLE_S, self._sample)

    def result(self, **figures: float) -> Run:
        return Run(figures, self._lines, self.marks)

    # --- figures -------------------------------------------------------------------------------

    @property
    def began(self) -> float:
        """When the first campaign could be sent."""
        return min(self.seen.stored.values())

    @property
    def makespan(self) -> float:
        """Seconds from there to the last 250."""
        return max(server.taken[-1].time for server in self.servers if server.taken) - self.began

    def taken(self, since: float, until: float, servers: list[Server] | None = None) -> int:
        chosen = self.servers if servers is None else servers
        return sum(since <= taken.time < until for server in chosen for taken in server.taken)

    def latencies(self, since: float, until: float, campaigns: set[int] | None = None) -> list[float]:
        """Seconds from stored to 250 of single messages that were stored then."""
        stored = self.seen.stored
        found = []
        for id_, time in self.seen.times.items():
            campaign = id_ >> INDEX_BITS
            if since <= stored[campaign] < until and (campaigns is None or campaign in campaigns):
                found.append(time - stored[campaign])
        return found

    def offered(self, worker: str, since: float, until: float) -> tuple[int, int]:
        """Messages given to a worker in that time, and to all."""
        mine = everyone = 0
        for time, name, count in self.seen.offers:
            if since <= time < until:
                everyone += count
                mine += count if name == worker else 0
        return mine, everyone

    def in_use(self, since: float, until: float) -> list[float]:
        """Connections in use at each server, ours and other people's: the mean over that time."""
        first, last = round(since / SAMPLE_S), round(until / SAMPLE_S)
        return [
            fmean(a + b for a, b in zip(line.ours[first:last], line.theirs[first:last], strict=True))
            for line in self._lines
        ]

    def counts(self) -> dict[str, int]:
        """What the journal says of all campaigns."""
        total: dict[str, int] = defaultdict(int)
        for submission in self.world.client.submissions:
            campaign = self.world.broker.journal.campaign(submission.campaign)
            assert campaign is not None, submission
            total["attempts"] += campaign.attempts
            total["total"] += campaign.total
            for state in Stored:
                total[state.name.lower()] += campaign.counts.get(state, 0)
        return total


def percentile(values: list[float], part: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else 0.0


def sites(means: list[float], connections: int = CONNECTIONS) -> list[oracle.Site]:
    return [oracle.Site(connections, ((0.0, mean),)) for mean in means]
