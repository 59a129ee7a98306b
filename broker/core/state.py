"""What the core knows: campaigns, messages in memory, batches and workers."""

from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Literal

from evenpost.wire.messages import Options

INDEX_BITS = 32

PlainAttempt = tuple[int, str, str, int, str]
"""wire.Attempt's fields: when it ended, worker, outcome, code, reply."""


def message_id(campaign: int, index: int) -> int:
    """A message's number in the journal: campaign and index in one, so that a campaign is one range."""
    return campaign << INDEX_BITS | index


def index_of(id_: int) -> int:
    return id_ & (1 << INDEX_BITS) - 1


News = tuple[int, int, int, str, str, int]
"""What a message became: state, attempts, code, reply, worker, when it ended."""


class Stored(IntEnum):
    """A message's state in the journal. The numbers are on disk: never renumber."""

    QUEUED = 0
    DEFERRED = 1
    HELD = 2
    SENT = 3
    BOUNCED = 4
    EXPIRED = 5
    CANCELLED = 6
    SUPPRESSED = 7

    __hash__ = int.__hash__  # Enum's own is written in Python, and states are counted once a message

    @property
    def final(self) -> bool:
        return self >= Stored.SENT


class Phase(IntEnum):
    """A campaign's state in the journal. The numbers are on disk: never renumber."""

    OPEN = 0
    """Recipients are coming in; nothing is sent."""
    ACTIVE = 1
    PAUSED = 2
    FINISHED = 3
    CANCELLED = 4


@dataclass(slots=True)
class Page:
    """Messages that were read from the journal together; the low-water mark moves page by page."""

    last: int
    """The highest message number that the page covers."""
    outstanding: int = 0
    """Its messages of which the journal doesn't know yet what became of them."""


@dataclass(slots=True, eq=False)
class Message:
    """A message in memory: ready, or in flight in a batch."""

    id: int
    address: str
    values: bytes
    attempts: int
    """Those that count, as the journal has it."""
    page: Page | None = None
    """The page of fresh messages it came with; None for a retry."""
    retry: bool = False
    """The journal has it as DEFERRED, not as QUEUED."""
    earlier: tuple[PlainAttempt, ...] = ()
    """What became of it so far, oldest first."""
    tried: frozenset[str] = frozenset()
    """Workers that failed it: others come first."""
    untried_until: float = 0.0
    """Until then (monotonic) it waits for a worker that hasn't tried it, if there is one."""
    batch: int = 0
    """0: ready."""


@dataclass(slots=True, eq=False)
class Batch:
    """Messages that one worker sends over one connection."""

    number: int
    worker: "Worker"
    campaign: "Campaign"
    messages: dict[int, Message]
    """By message number; those whose outcome is known are gone."""
    began_at: int = 0
    """The earliest begin of its outcomes (ms, the worker's clock), 0 for none yet."""
    ended_at: int = 0
    outcomes: int = 0
    failed: bool = False
    """The server, not a recipient, failed in it."""


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
    low_water: int = 0
    """Up to this message number the journal knows what became of each fresh message."""
    finished_at: int = 0
    closed_as: Stored | None = None
    """EXPIRED or CANCELLED: what the journal has as QUEUED or DEFERRED ended so, all at once."""

    # --- in memory only -------------------------------------------------------------------
    ready: deque[Message] = field(default_factory=deque)
    again: deque[Message] = field(default_factory=deque)
    """Messages that some server has failed: they look for another one first."""
    in_flight: int = 0
    in_flight_retries: int = 0
    pages: deque[Page] = field(default_factory=deque)
    read_upto: int = 0
    """Fresh messages up to this number have been read."""
    fresh_done: bool = False
    next_due: int | None = None
    """When the journal's next deferred message is due (ms); None: there is none."""
    retries_read: tuple[int, int] = (0, 0)
    """Due time (ms) and message number up to which deferred messages have been read."""
    reading: bool = False
    settled_while_reading: set[int] = field(default_factory=set)
    """Messages whose outcome came between a read and its answer: the answer is stale for them."""
    stored: bool = False
    """Its COMMIT is on disk: it may be sent."""
    reopening: bool = False
    """Its failed messages are being made due again: it can't finish before that is done."""
    in_turn: bool = False
    """It stands in the dispatcher's queue."""
    sent_before: int = 0
    rate: float = 0.0

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
    def sendable(self) -> bool:
        return self.phase is Phase.ACTIVE and self.stored and self.closed_as is None


@dataclass(slots=True, eq=False)
class Worker:
    name: str
    number: int
    """In the journal: what message rows refer to."""
    server: str = ""
    log: str = ""
    incarnation: int = 0
    drained: bool = False
    """An operator's word; it outlives restarts."""
    gone: bool = False
    """It said goodbye."""

    # --- in memory only -------------------------------------------------------------------
    peer: bytes = b""
    """Its connection's routing id; empty while there is none."""
    connected: bool = False
    hello: int = 0
    """The number of its last hello."""
    welcomed: bool = False
    """That hello is on disk and answered. Before that a batch would be one that a restarted broker doesn't
    wait for, and that the worker, which waits for its welcome, throws away."""
    leaving: bool = False
    """It said itself that it drains."""
    max_connections: int = 1
    limit: int = 1
    weight: int = 100
    pools: frozenset[str] = frozenset()
    batches: dict[int, Batch] = field(default_factory=dict)
    busy: int = 0
    open: int = 0
    external: int = 0
    in_flight_at_report: int = 0
    heard_at: float = 0.0
    """Any traffic."""
    heard_wall: int = 0
    lease_from: float = 0.0
    """Arrival of the last hello or heartbeat that we answered: its lease can't have begun later."""
    replay_upto: int = 0
    """Its hello announced outcomes up to this number; until they have come, it hasn't told all."""
    seen_upto: int = 0
    """Outcomes of its log below this number have come."""
    unheld: list[int] = field(default_factory=list)
    """Batches it doesn't hold any more: what the replay doesn't settle was never begun."""
    looking_up: int = 0
    """Reports of it that wait for the journal."""
    holding_read: bool = True
    """False while the journal is being asked about what it holds."""
    log_lost: bool = False
    """It came back after a restart of the broker with another log: what it began before, nobody can tell,
    and its older process may still be at it. A lease has to pass."""
    orphaned: list[int] = field(default_factory=list)
    """Batches of an incarnation whose outcome log is lost: they count as lost at `orphaned_until`."""
    orphaned_until: float = 0.0
    seconds_a_message: float = 0.0
    """EWMA; 0: not measured yet."""
    failures: int = 0
    """Batches in a row that the server, not a recipient, failed."""
    hold_until: float = 0.0
    reason: str = ""
    last_used: int = 0
    version: int = 0
    """Of its key: older entries of the balancer's heap are void."""
    templates: OrderedDict[int, int] = field(default_factory=OrderedDict)
    """Campaigns whose template this session has, least recently used first, with their sizes in bytes."""
    templates_bytes: int = 0
    sent: int = 0
    deferred: int = 0
    bounced: int = 0
    sent_before: int = 0
    rate: float = 0.0

    @property
    def in_flight(self) -> int:
        return len(self.batches)

    @property
    def replaying(self) -> bool:
        return self.seen_upto < self.replay_upto


@dataclass(frozen=True, slots=True)
class DomainGroup:
    """Recipient domains that share limits, because one provider is behind them."""

    name: str
    names: frozenset[str] = frozenset()
    """Lower case, IDN as ASCII."""
    mx: tuple[str, ...] = ()
    """Also every domain whose best mail exchanger's name ends in one of these."""
    connections: int = 0
    """At most so many batches with its messages at once; 0: no limit."""
    rate: str = ""
    """evenpost.schedule.rate; empty: no limit."""


@dataclass(frozen=True, slots=True)
class SenderPool:
    """The pool of campaigns from a domain that name none themselves."""

    domain: str
    pool: str
    overflow: str | None = None


@dataclass(frozen=True, slots=True)
class Settings:
    """What an operator can set of the core."""

    heartbeat_s: float = 1.0
    heartbeats_missed_max: int = 3
    lease_s: float = 10.0
    retry_initial_s: float = 60.0
    retry_max_s: float = 3_600.0
    lifetime_s: float = 5 * 86_400.0
    """A campaign without `expire_at` expires after this: Postfix's maximal_queue_lifetime."""
    batch_target_s: float = 0.2
    page_rows: int = 4_000
    policy: Literal["least-connections", "least-time"] = "least-connections"
    slow_start_s: float = 20.0
    """A server that came back gets its full share only after this; 0: at once."""
    reserved_share: float = 0.01
    """Connections that only urgent campaigns (priority 7 and above) may use, as a part of all."""
    domains: tuple[DomainGroup, ...] = ()
    senders: tuple[SenderPool, ...] = ()
    dispatch_log_s: float = 10.0
    """The `dispatch` event tells of one pick in this time; 0: of each."""


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
    looking_up: int = 0
    """Reports, of all workers, that wait for the journal."""
    news: dict[int, News] = field(default_factory=dict)
    """While there are such: what has been decided since of any message, which the journal's answer can't
    know yet."""
    ended: dict[int, Campaign] = field(default_factory=dict)
    """In the same time: campaigns that have ended, as the journal will have them."""
    recovering_until: float | None = None
    """Nothing is sent before every worker that the journal knows has reported, or this time has come."""
    turns: list[deque[Campaign]] = field(default_factory=lambda: [deque() for _ in range(10)])
    """Campaigns with messages ready, by priority, in turn."""
    awake: dict[int, Campaign] = field(default_factory=dict)
    """Campaigns to which something has happened since the last dispatch."""
    ticked_at: float = 0.0

    def forget(self, campaign: Campaign) -> None:
        """Drops a campaign that has ended: the journal has it."""
        if self.looking_up:
            self.ended[campaign.number] = campaign
        del self.campaigns[campaign.number]
        del self.by_id[campaign.id]
        del self.by_submission[campaign.submission]

    def know(self, campaign: Campaign) -> None:
        self.ended.pop(campaign.number, None)
        self.campaigns[campaign.number] = campaign
        self.by_id[campaign.id] = campaign
        self.by_submission[campaign.submission] = campaign
