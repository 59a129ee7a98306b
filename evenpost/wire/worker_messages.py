"""What workers and broker say to each other. docs/protocol.md has it in prose."""

from typing import Annotated, Literal

import msgspec

from evenpost.wire import limits
from evenpost.wire.types import (
    CampaignNumber,
    Count,
    Index,
    Message,
    Name,
    OutcomeKind,
    RateText,
    Row,
    Seconds,
    ServerWord,
    Template,
    Type,
    Weight,
)


class HeldBatch(Row, frozen=True):
    """A batch that a worker still has, with the indices whose outcome isn't yet in its log."""

    batch: Count
    campaign: CampaignNumber
    indices: Annotated[list[Index], msgspec.Meta(max_length=limits.BATCH_MESSAGES_MAX)]


class WorkerHello(Message, frozen=True):
    """The first word of a worker, and again whenever the broker may have forgotten it."""

    TYPE = Type.WORKER_HELLO
    worker: Name
    incarnation: Count
    """Larger each time the worker's process starts."""
    server: Annotated[str, msgspec.Meta(max_length=limits.SERVER_CHARS_MAX)]
    """host:port and account of its SMTP server."""
    log: Name
    """Names its outcome log, made with it. Only one process can hold a log, so a newer incarnation with the
    same log proves that the older one is dead, and that what the log doesn't tell of was never begun."""
    max_connections: Annotated[int, msgspec.Meta(ge=1, le=10_000)]
    weight: Weight = 100
    rate: RateText = ""
    """What its server takes; the broker keeps to it, all workers of that server together."""
    state: ServerWord = "ready"
    """As in the heartbeat, and so are the next two: before the first of those, batches may go out."""
    agent_weight: Weight | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=10_000)] | None = None
    """None: max_connections."""
    pools: Annotated[list[Name], msgspec.Meta(max_length=100)] = []
    holding: Annotated[list[HeldBatch], msgspec.Meta(max_length=limits.HOLDING_BATCHES_MAX)] = []
    outcomes_from: Count = 0
    outcomes_upto: Count = 0
    """The outcomes in its log that no broker has confirmed have numbers from `outcomes_from` up to, but not
    including, `outcomes_upto`: they follow in OUTCOMES after the welcome."""
    software: str = ""


class WorkerWelcome(Message, frozen=True):
    TYPE = Type.WORKER_WELCOME
    broker: str
    """Names this run of the broker: another name means it restarted."""
    heartbeat_s: Seconds
    lease_s: Seconds
    """From the moment the worker sent what the broker answered."""
    revoke: list[Count] = []
    """Batches of `holding` that are no longer the worker's."""


class Heartbeat(Message, frozen=True):
    TYPE = Type.HEARTBEAT
    number: Count
    """Of this heartbeat; the answer carries it."""
    busy: Count
    open: Count
    external: Count
    """Connections of others to the same server, 0 where they can't be seen."""
    limit: Count
    last_batch: Count
    """The newest batch that the worker had seen when it wrote this."""
    state: ServerWord = "ready"
    """What the worker, or its server's agent, wants: `drain` while it ends."""
    weight: Weight | None = None
    """What its server's agent says; None: as in the hello."""
    wall: Count = 0
    """Its wall clock (ms) when it wrote this, so that the broker can say whose is wrong; 0: not said."""
    begun: Count = 0
    """The most batches at once, since the heartbeat before, of which all was on its way to a far server: as
    many can follow on their connections before the answers are in."""


class HeartbeatAck(Message, frozen=True):
    TYPE = Type.HEARTBEAT_ACK
    number: Count


class CampaignTemplate(Message, frozen=True):
    """Sent once a worker session and campaign, before its first batch."""

    TYPE = Type.TEMPLATE
    campaign: CampaignNumber
    campaign_id: str
    created_at: Count
    template: Template


class BatchItem(Row, frozen=True):
    index: Index
    attempt: Count
    """1 for the first."""
    address: str
    values: bytes


class Batch(Message, frozen=True):
    TYPE = Type.BATCH
    batch: Count
    campaign: CampaignNumber
    items: Annotated[list[BatchItem], msgspec.Meta(min_length=1, max_length=limits.BATCH_MESSAGES_MAX)]


class Outcome(Row, frozen=True):
    """What became of one attempt."""

    batch: Count
    campaign: CampaignNumber
    index: Index
    attempt: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)]
    kind: OutcomeKind
    scope: Literal["recipient", "server", "throttled"]
    """Who failed. A server's failure says nothing about the recipient and burns no attempt; `throttled`: the
    server is well and wants less."""
    code: Annotated[int, msgspec.Meta(ge=0, le=999)]
    reply: Annotated[str, msgspec.Meta(max_length=limits.REPLY_CHARS_MAX)]
    began_at: Count
    ended_at: Count


class Outcomes(Message, frozen=True):
    TYPE = Type.OUTCOMES
    first: Count
    """The number of the first row in the worker's own count; the next row's is one more."""
    rows: Annotated[list[Outcome], msgspec.Meta(max_length=limits.OUTCOMES_ROWS_MAX)]
    done: Annotated[list[Count], msgspec.Meta(max_length=limits.OUTCOMES_ROWS_MAX)] = []
    """Batches that are finished with these rows: their connections are free."""


class OutcomesCommitted(Message, frozen=True):
    TYPE = Type.OUTCOMES_COMMITTED
    upto: Count
    """Outcomes below this number are on the broker's disk: the worker may forget them."""


class Revoke(Message, frozen=True):
    """These batches are no longer this worker's: start nothing more of them."""

    TYPE = Type.REVOKE
    batches: list[Count]


class Goodbye(Message, frozen=True):
    """The worker has drained and ends: everything it held is reported."""

    TYPE = Type.GOODBYE
    reason: str = ""


class GoodbyeOk(Message, frozen=True):
    TYPE = Type.GOODBYE_OK
