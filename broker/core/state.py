"""What the core knows: campaigns, messages in memory, batches and workers."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from math import inf

from broker.core.buckets import Bucket
from broker.core.groups import Group, Groups, Lane
from broker.core.message_state import Message, News, Stored, Stripe
from broker.core.picks import Picks
from broker.core.quotas import Quotas
from broker.core.settings import Settings
from broker.core.sleepers import Sleepers
from broker.core.turns import Turns
from broker.core.worker_state import Worker
from evenpost.runtime.clock import Now
from evenpost.schedule.window import Window
from evenpost.wire.messages import Options

BATCH_BITS = 32
"""A batch's number: above these bits the run of the broker that made it, in them its number in that run."""
URGENT = 7
"""Campaigns of this priority and above may use the reserved connections."""


class Phase(IntEnum):
    """A campaign's state in the journal. The numbers are on disk: never renumber."""

    OPEN = 0
    """Recipients are coming in; nothing is sent."""
    ACTIVE = 1
    PAUSED = 2
    FINISHED = 3
    CANCELLED = 4


@dataclass(slots=True, eq=False)
class Batch:
    """Messages that one worker sends over one connection."""

    number: int
    worker: Worker
    campaign: "Campaign"
    messages: dict[int, Message]
    """By message number; those whose outcome is known are gone."""
    made_at: float = 0.0
    """Monotonic."""
    began_at: int = 0
    """The earliest begin of its outcomes (ms, the worker's clock), 0 for none yet."""
    ended_at: int = 0
    outcomes: int = 0
    failed: bool = False
    """The server, not a recipient, failed in it."""
    throttled: bool = False
    """The server, which is well, wanted less."""
    answered: int = 0
    """Messages about which, not about itself, the server said something: it is well."""
    group: Group | None = None
    """All its messages are of this group of domains, which has limits."""
    buckets: list[Bucket] = field(default_factory=list)
    """Of the rates that it took from."""
    journaled: bool = False
    """The journal has it until it ends: see core.journaled."""
    leaving: bool = False
    """It hasn't left: the journal doesn't have it yet."""


@dataclass(slots=True, eq=False)
class Campaign:
    number: int
    id: str
    submission: str
    template: bytes
    """Packed: the core never looks inside."""
    fingerprint: bytes
    """Of the template, the list and the options: the same submission id with others is a mistake."""
    options: Options
    created_at: int
    expire_at: int
    phase: Phase = Phase.OPEN
    chunks: int = 0
    total: int = 0
    counts: dict[Stored, int] = field(default_factory=dict)
    """Messages by state; QUEUED isn't kept: it is what is left of the total."""
    attempts: int = 0
    unknown: int = 0
    duplicates: int = 0
    marks: tuple[int, ...] = ()
    """How far each stripe of its list is done, as the journal had it; empty: not yet begun."""
    finished_at: int = 0
    closed_as: Stored | None = None
    """EXPIRED or CANCELLED: what the journal has as QUEUED or DEFERRED ended so, all at once."""
    restored: bool = False
    """It came out of a backup, and nobody has resumed it since: some of it may have been sent already."""
    compacted_at: int = 0
    """When the journal let go of its messages (ms), 0 for not."""

    # --- in memory only -------------------------------------------------------------------
    ready: deque[Message] = field(default_factory=deque)
    lanes: dict[Lane, deque[Message]] = field(default_factory=dict)
    """Messages that wait for a domain with limits, or for another server than those that failed them."""
    put_off_until: dict[Group, float] = field(default_factory=dict)
    """When what was put off of a group will have gone (ms since the epoch)."""
    unresolved: dict[str, list[Message]] = field(default_factory=dict)
    """Messages whose domain's mail exchanger is being looked up."""
    in_flight: int = 0
    in_flight_retries: int = 0
    early: list[tuple[int, str, bytes, int]] = field(default_factory=list)
    """The rows of a small campaign as they came in: it needs no read of the journal to begin."""
    stripes: list[Stripe] = field(default_factory=list)
    bucket: Bucket | None = None
    """Of its rate."""
    window: Window | None = None
    share: float = 0.0
    """Its virtual time among campaigns of its priority (start-time fair queueing): messages / weight."""
    tail_since: float = inf
    """Since when its last messages wait for a server that is fast enough (monotonic)."""
    wakes_at: float = inf
    """When it looks again for a token of a rate (monotonic); infinity: it doesn't wait for one."""
    next_due: int | None = None
    """When the journal's next deferred message is due (ms); None: there is none."""
    retries_read: tuple[int, int] = (0, 0)
    """Due time (ms) and message number up to which deferred messages have been read."""
    reading: bool = False
    reading_upto: int = 0
    """Deferred messages that were due by then (ms) have been read or are being read."""
    read_again: bool = False
    """The clock was set while the journal was being asked what is due: where that read ended says nothing."""
    settled_while_reading: set[int] = field(default_factory=set)
    """Messages whose outcome came between a read and its answer: the answer is stale for them."""
    stored: bool = False
    """Its COMMIT is on disk: it may be sent."""
    reopening: bool = False
    """Its failed messages are being made due again: it can't finish before that is done."""
    sent_before: int = 0
    rate: float = 0.0
    """Messages a second, lately."""
    forecast: tuple[float, int | None] = (float("-inf"), None)
    """When it was made (monotonic), and when the last message will go (ms since the epoch)."""

    def count(self, state: Stored, change: int = 1) -> None:
        self.counts[state] = self.counts.get(state, 0) + change

    @property
    def queued(self) -> int:
        """Messages that were never tried, those in flight included."""
        return self.total - sum(self.counts.values())

    @property
    def unfinished(self) -> int:
        """Messages that may still be sent without anyone's word."""
        return self.queued + self.counts.get(Stored.DEFERRED, 0)

    @property
    def fresh_done(self) -> bool:
        """All its fresh messages have been read."""
        return bool(self.stripes) and all(stripe.is_read for stripe in self.stripes)

    @property
    def current_marks(self) -> tuple[int, ...]:
        return tuple(stripe.low_water for stripe in self.stripes) or self.marks

    @property
    def waiting(self) -> bool:
        """Whether a message in memory waits to be given out."""
        return bool(self.ready or self.lanes)

    @property
    def in_memory(self) -> int:
        """Messages that wait in memory."""
        waiting = len(self.ready) + sum(map(len, self.lanes.values()))
        return waiting + sum(map(len, self.unresolved.values()))

    def may_use(self, worker: Worker) -> bool:
        """Whether a worker is in one of its pools."""
        pool, overflow = self.options.pool, self.options.overflow
        return pool is None or pool in worker.pools or (overflow is not None and overflow in worker.pools)

    @property
    def urgent(self) -> bool:
        """It may use the reserved connections."""
        return self.options.priority >= URGENT

    @property
    def sendable(self) -> bool:
        return self.phase is Phase.ACTIVE and self.stored and self.closed_as is None

    def started(self, now: Now) -> bool:
        """It may send now: its time has come and its window is open."""
        if not self.sendable or (self.options.start_at or 0) > now.wall:
            return False
        return self.window is None or self.window.is_open(now.wall)

    def opens_at(self, now: Now) -> float:
        """When it may send (monotonic), should nobody stop it; infinity where somebody has."""
        if not self.sendable:
            return inf
        at = max(now.wall, self.options.start_at or 0)
        if self.window is not None:
            at = self.window.opens_at(at)
        return now.mono + (at - now.wall) / 1000


@dataclass(slots=True, eq=False)
class State:
    """The core's whole memory."""

    settings: Settings
    uniform: Callable[[float, float], float]
    """Randomness, for jitter: a number between two."""
    boot: int
    """Of this run of the broker; part of every batch number, so that no run repeats one."""
    broker: str
    campaigns: dict[int, Campaign] = field(default_factory=dict)
    """Those that are open or unfinished."""
    by_id: dict[str, Campaign] = field(default_factory=dict)
    by_submission: dict[str, Campaign] = field(default_factory=dict)
    workers: dict[str, Worker] = field(default_factory=dict)
    by_peer: dict[bytes, Worker] = field(default_factory=dict)
    live: dict[int, Message] = field(default_factory=dict)
    """Every message in memory."""
    batches: dict[int, Batch] = field(default_factory=dict)
    batches_made: int = 0
    journaled_ended: list[int] = field(default_factory=list)  # and the journal still has them
    looking_up: int = 0
    """Reports, of all workers, that wait for the journal."""
    news: dict[int, News] = field(default_factory=dict)
    """While there are such: what has been decided since of any message, which the journal's answer can't
    know yet."""
    ended: dict[int, Campaign] = field(default_factory=dict)
    """In the same time: campaigns that have ended, as the journal will have them."""
    recovering_until: float | None = None
    """Nothing is sent before every worker that the journal knows has reported, or this time has come."""
    reopening: set[str] = field(default_factory=set)
    """Campaigns, in memory or not, of which the journal is making failed messages due again."""
    halted: str = ""
    """Why the shell asks for no batches just now, in words; empty: it does."""
    turns: Turns = field(default_factory=Turns)
    """Campaigns with messages ready."""
    sleeping: Sleepers = field(default_factory=Sleepers)
    looking: dict[int, Campaign] = field(default_factory=dict)
    """Campaigns with messages that wait for another server than those that failed them."""
    quotas: Quotas = field(default_factory=Quotas)
    groups: Groups = field(default_factory=Groups)
    picks: Picks = field(default_factory=Picks)
    awake: dict[int, Campaign] = field(default_factory=dict)
    """Campaigns to which something has happened since the last dispatch."""
    ticked_at: float = 0.0
    ticks: int = 0
    clocks_differed_by: float = 0.0
    """Wall less monotonic time (s), at the last tick."""

    def forget(self, campaign: Campaign) -> None:
        """Drops a campaign that has ended: the journal has it."""
        if self.looking_up:
            self.ended[campaign.number] = campaign
        del self.campaigns[campaign.number]
        del self.by_id[campaign.id]
        del self.by_submission[campaign.submission]
        self.looking.pop(campaign.number, None)
        campaign.wakes_at = inf
        for group in self.groups.all:
            group.blocked.pop(campaign.number, None)
        self.awake.pop(campaign.number, None)

    def know(self, campaign: Campaign) -> None:
        self.ended.pop(campaign.number, None)
        self.campaigns[campaign.number] = campaign
        self.by_id[campaign.id] = campaign
        self.by_submission[campaign.submission] = campaign
