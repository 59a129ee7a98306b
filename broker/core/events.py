"""What can happen to the core. Requests of peers come as their wire messages with the peer's routing id."""

from dataclasses import dataclass
from typing import NamedTuple

from broker.core.message_state import Stored
from broker.core.state import Campaign
from evenpost.wire import messages as wire


@dataclass(frozen=True, slots=True)
class FromWorker:
    """A worker's message."""

    peer: bytes
    request: int
    message: wire.Message


@dataclass(frozen=True, slots=True)
class WorkerStored:
    """A worker's hello is on disk, and its welcome has just been sent."""

    worker: str
    peer: bytes
    hello: int
    """Its request number; each process counts from 1."""


@dataclass(frozen=True, slots=True)
class FromClient:
    """A client's request that the core decides on."""

    peer: bytes
    request: int
    message: wire.Message


@dataclass(frozen=True, slots=True)
class SubmissionOpened:
    """A client opened a submission; the service has looked it up and has made an id, should it be new."""

    peer: bytes
    request: int
    message: wire.OpenCampaign
    packed_template: bytes
    fingerprint: bytes
    known: Campaign | None
    """As the journal has it."""
    new_id: str
    new_number: int


@dataclass(frozen=True, slots=True)
class CampaignStored:
    """A campaign's COMMIT (or its reopening) is on disk."""

    campaign: int


FreshRow = tuple[int, str, bytes, int]
"""Message number, address, packed values, attempts. A plain tuple: they come by the million."""


class StoredRow(NamedTuple):
    """A message that was tried before, as the journal has it."""

    id: int
    address: str
    values: bytes
    state: int
    attempts: int
    history: bytes | None
    """Attempts before the last one, packed."""
    code: int
    reply: str
    worker: str
    ended_at: int


@dataclass(frozen=True, slots=True)
class FreshRead:
    """The answer to ReadFresh, range by range."""

    campaign: int
    rows: list[list[FreshRow]]
    upto: list[int]
    """The last message number that was looked at; the range's last one where there are no more."""


@dataclass(frozen=True, slots=True)
class RetriesRead:
    """The answer to ReadRetries."""

    campaign: int
    rows: list[StoredRow]
    upto: tuple[int, int]
    """Due time and message number of the last one that was read."""
    next_due: int | None
    """When the first of those that weren't read is due (ms); None: there is none."""


@dataclass(frozen=True, slots=True)
class HeldRead:
    """The answer to ReadHeld: what the journal has of the messages that a worker still holds."""

    worker: str
    peer: bytes
    hello: int
    """Which said so."""
    batches: list[wire.HeldBatch]
    rows: dict[int, StoredRow]


@dataclass(frozen=True, slots=True)
class LookedUp:
    """The answer to LookUp: outcomes whose messages weren't in memory, and what the journal has of them."""

    worker: str
    outcomes: list[wire.Outcome]
    rows: dict[int, StoredRow]
    campaigns: dict[int, Campaign]
    """Those of them that have ended, as the journal has them."""
    peer: bytes
    """Whom to tell when they are written, and up to which number."""
    upto: int


class StoredBatch(NamedTuple):
    """A batch that was under way when the journal was written last."""

    number: int
    campaign: int
    worker: int
    """Its number."""
    attempts: list[int]
    """At which each of `rows` was given out."""
    rows: list[StoredRow]


@dataclass(frozen=True, slots=True)
class BatchStored:
    """A batch is on disk: it may leave, if its worker's connection is still this one."""

    batch: int
    peer: bytes
    hello: int


@dataclass(frozen=True, slots=True)
class SendFailed:
    """A batch couldn't be handed to a worker's connection: it never left."""

    peer: bytes
    batch: int


@dataclass(frozen=True, slots=True)
class WorkerRevoked:
    """The key by which a worker said hello may not be this worker any more."""

    worker: str


@dataclass(frozen=True, slots=True)
class Reopened:
    """RETRY_FAILED is written: so many messages of each state are DEFERRED and due again."""

    peer: bytes
    request: int
    campaign: Campaign
    """As the journal has it; one in the core's memory is the one that counts."""
    changed: dict[Stored, int]


@dataclass(frozen=True, slots=True)
class NotReopened:
    """The journal has no such campaign, or none that can be retried."""

    peer: bytes
    request: int
    campaign: str
    error: wire.Error


@dataclass(frozen=True, slots=True)
class QuotaStored:
    """What was written of a bucket is on disk."""

    key: str
    number: int
    """Of the bucket: another one may have taken its name."""


@dataclass(frozen=True, slots=True)
class MxFound:
    """The answer to ResolveMx."""

    domain: str
    exchanger: str
    """The name of its best mail exchanger; empty where there is none, or nobody answered."""


@dataclass(frozen=True, slots=True)
class ClockSet:
    """From now on the wall clock says so much more, or less, than it would have."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


Event = (
    FromWorker
    | WorkerStored
    | FromClient
    | SubmissionOpened
    | CampaignStored
    | FreshRead
    | RetriesRead
    | HeldRead
    | LookedUp
    | BatchStored
    | SendFailed
    | WorkerRevoked
    | Reopened
    | NotReopened
    | QuotaStored
    | MxFound
    | ClockSet
    | Tick
)
