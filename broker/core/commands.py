"""What the core wants done. The service carries it out, in order."""

from dataclasses import dataclass, field
from typing import Any, Literal

from broker.core.buckets import StoredBucket
from broker.core.events import Event, QuotaStored
from broker.core.message_state import Stored
from broker.core.state import Campaign
from broker.core.worker_state import Worker
from evenpost.wire import messages as wire

# --- what is written to the journal: `Persist` ---------------------------------------------------


@dataclass(frozen=True, slots=True)
class AddCampaign:
    campaign: Campaign


@dataclass(frozen=True, slots=True)
class AddRecipients:
    campaign: int
    first_index: int
    rows: list[wire.Recipient]


@dataclass(frozen=True, slots=True)
class SetMessages:
    """Outcomes: one tuple a message, in the order of `journal.sqlite`'s statement:
    (id, state, attempts, code, reply, worker number, began_at, ended_at, due_at, history)."""

    rows: list[tuple[int, int, int, int, str, int, int, int, int | None, bytes | None]]


@dataclass(frozen=True, slots=True)
class SetSent:
    """The common case of SetMessages, at half its price: sent at the first attempt that counts, and never
    deferred before. (id, attempts, code, reply, worker number, began_at, ended_at)"""

    rows: list[tuple[int, int, int, str, int, int, int]]


@dataclass(frozen=True, slots=True)
class SetHistory:
    """Attempts that were told of after another one had decided what a message is: (id, its whole history)."""

    rows: list[tuple[int, bytes]]


@dataclass(frozen=True, slots=True)
class PutOff:
    """Messages that wait for their domain: (id, due_at, why). They are DEFERRED and keep what is known of
    them; `why` is for those that were never tried."""

    rows: list[tuple[int, int, str]]


@dataclass(frozen=True, slots=True)
class SetCampaign:
    """A campaign's own row, as it is when the change is made."""

    number: int
    phase: int
    chunks: int
    total: int
    counts: dict[int, int]
    attempts: int
    unknown: int
    duplicates: int
    marks: tuple[int, ...]
    expire_at: int
    finished_at: int
    closed_as: int | None
    recount: bool
    """The counts may be wrong just now: should the broker die, they are made anew from the rows."""
    restored: bool = False

    @classmethod
    def of(cls, campaign: Campaign) -> "SetCampaign":
        return cls(
            campaign.number,
            int(campaign.phase),
            campaign.chunks,
            campaign.total,
            {int(state): count for state, count in campaign.counts.items()},
            campaign.attempts,
            campaign.unknown,
            campaign.duplicates,
            campaign.current_marks,
            campaign.expire_at,
            campaign.finished_at,
            None if campaign.closed_as is None else int(campaign.closed_as),
            campaign.reopening,
            campaign.restored,
        )


@dataclass(frozen=True, slots=True)
class SetWorker:
    name: str
    number: int
    server: str
    log: str
    incarnation: int
    state: str
    """An operator's words: state, weight and limit; 0 for none."""
    weight: int
    limit: int
    gone: bool
    """It said goodbye: a restarted broker needn't wait for it."""

    @classmethod
    def of(cls, worker: Worker) -> "SetWorker":
        return cls(
            worker.name,
            worker.number,
            worker.server,
            worker.log,
            worker.incarnation,
            worker.operator_state,
            worker.operator_weight,
            worker.operator_limit,
            worker.gone,
        )


@dataclass(frozen=True, slots=True)
class SetQuota:
    """What a rate's bucket has granted, and will have granted before it says so again. None: forget it."""

    key: str
    stored: StoredBucket | None


@dataclass(frozen=True, slots=True)
class AddBatch:
    """A batch that is about to leave; only campaigns that hold what is unknown have theirs on disk."""

    number: int
    campaign: int
    worker: int
    """Its number."""
    attempts: list[tuple[int, int]]
    """Index and attempt of each message."""


@dataclass(frozen=True, slots=True)
class EndBatches:
    numbers: list[int]


@dataclass(frozen=True, slots=True)
class ShiftDue:
    """All deferred messages of a campaign are due so much later, or earlier: the clock was set."""

    campaign: int
    by_ms: int


Change = (
    AddCampaign
    | AddRecipients
    | SetMessages
    | SetSent
    | SetHistory
    | PutOff
    | ShiftDue
    | SetCampaign
    | SetWorker
    | SetQuota
    | AddBatch
    | EndBatches
)

# --- commands -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer to a client."""

    peer: bytes
    request: int
    message: wire.Message


@dataclass(frozen=True, slots=True)
class ToWorker:
    peer: bytes
    message: wire.Message
    request: int = 0
    """Of the hello that a welcome answers."""


@dataclass(frozen=True, slots=True)
class SendTemplate:
    peer: bytes
    campaign: Campaign


@dataclass(frozen=True, slots=True)
class SendBatch:
    peer: bytes
    batch: int
    campaign: int
    items: list[tuple[int, int, str, bytes]]
    """wire.BatchItem's fields."""


@dataclass(frozen=True, slots=True)
class Raise:
    """An event for the core itself, once what came before is on disk."""

    event: Event


OUTCOMES_WAIT_S = 0.1
CHUNKS_WAIT_S = 0.02


@dataclass(frozen=True, slots=True)
class Persist:
    """Write these in one transaction; when they are flushed to disk, carry out `then`."""

    changes: tuple[Change, ...]
    then: tuple["Reply | ToWorker | Raise", ...] = ()

    @property
    def may_wait_s(self) -> float:
        """How long it may wait for more, so that one flush takes all of it. At 20 ms for outcomes the commits
        alone took a third of the broker's time."""
        return min(map(_may_wait_s, self.then), default=OUTCOMES_WAIT_S)


def _may_wait_s(then: "Reply | ToWorker | Raise") -> float:
    match then:
        case ToWorker(_, wire.OutcomesCommitted()):
            return OUTCOMES_WAIT_S  # the worker keeps them meanwhile, and goes on
        case Reply(_, _, wire.RecipientsStored()) | Raise(QuotaStored()):
            return CHUNKS_WAIT_S  # COMMIT follows, other chunks are under way; a rate asks early
        case _:
            return 0.0


@dataclass(frozen=True, slots=True)
class ReadFresh:
    """Read a campaign's next messages that were never tried; FreshRead answers."""

    campaign: int
    ranges: list[tuple[int, int]]
    """Message numbers: after, up to but not including."""
    limit: int
    """Messages of each range."""


@dataclass(frozen=True, slots=True)
class ReadRetries:
    """Read a campaign's deferred messages that are due, the earliest first; RetriesRead answers."""

    campaign: int
    after: tuple[int, int]
    """Due time (ms) and message number of the last one that was read."""
    due_upto: int
    limit: int


@dataclass(frozen=True, slots=True)
class ReadHeld:
    """Read the messages that a worker says it holds; HeldRead answers."""

    worker: str
    peer: bytes
    hello: int
    batches: list[wire.HeldBatch]


@dataclass(frozen=True, slots=True)
class LookUp:
    """Read what the journal has of these outcomes' messages; LookedUp answers."""

    worker: str
    outcomes: list[wire.Outcome]
    peer: bytes
    """Whom to tell when they are written, and up to which number."""
    upto: int


@dataclass(frozen=True, slots=True)
class Reopen:
    """Make a campaign's messages of these states due again, in the journal; Reopened answers."""

    peer: bytes
    request: int
    campaign: str
    states: tuple[Stored, ...]


@dataclass(frozen=True, slots=True)
class ResolveMx:
    """Look a domain's mail exchanger up; MxFound answers."""

    domain: str


@dataclass(frozen=True, slots=True)
class Log:
    level: Literal["debug", "info", "warning", "error"]
    event: str
    fields: dict[str, Any] = field(default_factory=dict)


Command = (
    Reply
    | ToWorker
    | SendTemplate
    | SendBatch
    | Raise
    | Persist
    | ReadFresh
    | ReadRetries
    | ReadHeld
    | LookUp
    | Reopen
    | ResolveMx
    | Log
)
