"""What travels: one frozen struct a message, and the number that names its type.

Times are milliseconds since the Unix epoch (`_at`), durations are seconds (`_s`). Rows, which travel by
the million, are packed as arrays; everything else as maps, so that a dump can be read.
"""

from enum import IntEnum
from typing import Annotated, ClassVar, Literal

import msgspec

from evenpost.wire import limits

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=limits.NAME_CHARS_MAX)]
Text = Annotated[str, msgspec.Meta(max_length=limits.TEMPLATE_BYTES_MAX)]
Address = Annotated[str, msgspec.Meta(min_length=3, max_length=limits.ADDRESS_BYTES_MAX)]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=86_400 * 366)]

OutcomeKind = Literal["sent", "deferred", "bounced", "unknown", "not_sent"]
"""What a worker says became of a message. `not_sent`: never tried, or handed back; burns no attempt."""

MessageState = Literal[
    "queued", "sending", "deferred", "held",
    "sent", "bounced", "expired", "cancelled", "suppressed",
]  # fmt: skip
"""What the broker says of a message. `held`: its outcome is unknown and a person shall decide."""

CampaignState = Literal["open", "scheduled", "running", "paused", "finished", "cancelled"]


class Type(IntEnum):
    """The type byte of a header. 1-63 between client and broker, 64-127 between worker and broker."""

    ERROR = 0
    HELLO = 1
    WELCOME = 2
    OPEN_CAMPAIGN = 3
    CAMPAIGN_OPEN = 4
    RECIPIENTS = 5
    RECIPIENTS_STORED = 6
    COMMIT = 7
    SUBMIT_OK = 8
    STATUS = 9
    STATUS_REPLY = 10
    WATCH = 11
    WATCH_UPDATE = 12
    PAUSE = 13
    RESUME = 14
    CANCEL = 15
    RETRY_FAILED = 16
    DONE = 17
    REPORT = 18
    REPORT_PAGE = 19
    TRACE = 20
    TRACE_PAGE = 21
    SERVERS = 22
    SERVERS_REPLY = 23
    DRAIN = 24
    READY = 25

    WORKER_HELLO = 64
    WORKER_WELCOME = 65
    HEARTBEAT = 66
    HEARTBEAT_ACK = 67
    TEMPLATE = 68
    BATCH = 69
    OUTCOMES = 70
    OUTCOMES_COMMITTED = 71
    REVOKE = 72
    GOODBYE = 73
    GOODBYE_OK = 74


class Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of everything that is the body of a frame."""

    TYPE: ClassVar[Type]


class Row(msgspec.Struct, frozen=True, array_like=True):
    """Base of what travels by the million: packed as an array."""


# --- shared -----------------------------------------------------------------------------------


class Error(Message, frozen=True):
    """The answer to a request that was refused. Request number 0: nothing in particular was asked."""

    TYPE = Type.ERROR
    code: str
    message: str


class Attachment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file that goes with each message. With `content_id` it is an inline image: `cid:NAME` in the HTML."""

    filename: Name
    content_type: str
    content: bytes
    content_id: str | None = None


class Template(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The message of a campaign. `sender`, `subject`, `html`, `text`, `to_name`, `reply_to` and header values
    are Jinja2 templates over `fields` plus `email`."""

    sender: Annotated[str, msgspec.Meta(min_length=3, max_length=1_000)]
    subject: Annotated[str, msgspec.Meta(max_length=10_000)]
    html: Text | None = None
    text: Text | None = None
    to_name: str | None = None
    reply_to: str | None = None
    envelope_from: str | None = None
    """Where bounces go (RFC 5321 MAIL FROM). None: the address in `sender`. '': the null sender."""
    headers: Annotated[list[tuple[str, str]], msgspec.Meta(max_length=limits.HEADERS_MAX)] = []
    attachments: list[Attachment] = []
    fields: Annotated[list[str], msgspec.Meta(max_length=limits.FIELDS_MAX)] = []
    """Names of the merge fields, in the order in which each recipient's values are packed."""


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a campaign is to be sent."""

    name: Annotated[str, msgspec.Meta(max_length=limits.NAME_CHARS_MAX)] = ""
    start_at: Count | None = None
    expire_at: Count | None = None
    priority: Annotated[int, msgspec.Meta(ge=0, le=9)] = 4
    """0 the least, 9 the most urgent."""
    pool: Name | None = None
    """Only workers that carry this tag. None: any."""
    on_unknown: Literal["resend", "hold"] = "resend"


# --- client: submission -------------------------------------------------------------------------


class Hello(Message, frozen=True):
    TYPE = Type.HELLO
    client: Name
    software: str = ""


class Welcome(Message, frozen=True):
    TYPE = Type.WELCOME
    broker: str
    software: str
    chunk_rows_max: Count = limits.CHUNK_ROWS_MAX
    chunk_bytes_max: Count = limits.CHUNK_BYTES_MAX
    chunks_in_flight_max: Count = limits.CHUNKS_IN_FLIGHT_MAX


class OpenCampaign(Message, frozen=True):
    """Opens a campaign, or finds the one that this submission id opened before."""

    TYPE = Type.OPEN_CAMPAIGN
    submission: Name
    template: Template
    options: Options = Options()


class CampaignOpen(Message, frozen=True):
    TYPE = Type.CAMPAIGN_OPEN
    campaign: str
    next_chunk: Count
    """Chunks below this number are stored: a client that comes back goes on from here."""
    recipients: Count
    committed: bool
    """True: this submission id was accepted before, there is nothing left to send."""


class Recipient(Row, frozen=True):
    """One recipient. `values`: a msgpack array, a value for each of the template's fields; the broker
    passes it on unread."""

    address: Address
    values: Annotated[bytes, msgspec.Meta(max_length=limits.ROW_FIELDS_BYTES_MAX)] = b"\x90"


class Recipients(Message, frozen=True):
    TYPE = Type.RECIPIENTS
    campaign: str
    chunk: Count
    rows: Annotated[list[Recipient], msgspec.Meta(min_length=1, max_length=limits.CHUNK_ROWS_MAX)]


class RecipientsStored(Message, frozen=True):
    TYPE = Type.RECIPIENTS_STORED
    campaign: str
    chunk: Count


class Commit(Message, frozen=True):
    """All chunks are sent: `chunks` and `recipients` say how many there have to be."""

    TYPE = Type.COMMIT
    campaign: str
    chunks: Count
    recipients: Count


class SubmitOk(Message, frozen=True):
    """The campaign and all its recipients are flushed to disk."""

    TYPE = Type.SUBMIT_OK
    campaign: str
    recipients: Count


# --- client: everything else --------------------------------------------------------------------


class Status(Message, frozen=True):
    TYPE = Type.STATUS
    campaign: str | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=limits.STATUS_ROWS_MAX)] = 50
    """Without a campaign: the newest this many."""


class CampaignStatus(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    campaign: str
    name: str
    state: CampaignState
    created_at: Count
    total: Count
    counts: dict[str, int]
    """Messages by MessageState; what isn't named is 0. They add up to `total`."""
    priority: int = 4
    pool: str | None = None
    start_at: int | None = None
    expire_at: int | None = None
    finished_at: int | None = None
    attempts: Count = 0
    """SMTP transactions begun, all messages together."""
    unknown: Count = 0
    """Attempts whose outcome is unknown: each may mean one duplicate."""
    duplicates: Count = 0
    """Messages that two servers are known to have taken."""
    rate: float = 0.0
    """Messages sent a second, lately."""
    waiting_for: str = ""
    """Why nothing moves, in words; empty where it moves."""


class StatusReply(Message, frozen=True):
    TYPE = Type.STATUS_REPLY
    campaigns: list[CampaignStatus]


class Watch(Message, frozen=True):
    """Asks for a WATCH_UPDATE each `interval_s`, under this request number. Say it again within 30 s to
    go on; without a campaign, all running ones are told."""

    TYPE = Type.WATCH
    campaign: str | None = None
    interval_s: Annotated[float, msgspec.Meta(ge=0.05, le=10)] = 0.5


class WorkerStatus(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    worker: str
    server: str
    state: Literal["ready", "draining", "backing off", "lost", "gone"]
    open: Count
    busy: Count
    in_flight: Count
    """Batches that the broker knows to be with this worker."""
    limit: Count
    max_connections: Count
    weight: Count
    pools: list[str]
    sent: Count
    deferred: Count
    bounced: Count
    rate: float
    last_seen_at: Count
    reason: str = ""


class WatchUpdate(Message, frozen=True):
    TYPE = Type.WATCH_UPDATE
    campaigns: list[CampaignStatus]
    workers: list[WorkerStatus]


class Pause(Message, frozen=True):
    TYPE = Type.PAUSE
    campaign: str


class Resume(Message, frozen=True):
    TYPE = Type.RESUME
    campaign: str


class Cancel(Message, frozen=True):
    TYPE = Type.CANCEL
    campaign: str


class RetryFailed(Message, frozen=True):
    """Sends bounced, expired and held messages of a campaign once more."""

    TYPE = Type.RETRY_FAILED
    campaign: str
    only: list[Literal["bounced", "expired", "held"]] = []
    """Empty: all three."""


class Done(Message, frozen=True):
    """A command was carried out. `changed`: how many messages it touched."""

    TYPE = Type.DONE
    changed: Count = 0


class Report(Message, frozen=True):
    TYPE = Type.REPORT
    campaign: str
    after: Annotated[int, msgspec.Meta(ge=-1)] = -1
    """The index of the last recipient seen; -1 to begin."""
    limit: Annotated[int, msgspec.Meta(ge=1, le=limits.PAGE_ROWS_MAX)] = 1_000
    only: list[MessageState] = []


class Attempt(Row, frozen=True):
    """One try at a message."""

    at: int
    worker: str
    outcome: str
    code: int
    reply: str


class ReportRow(Row, frozen=True):
    """What became of one recipient."""

    campaign: str
    index: int
    address: str
    state: MessageState
    code: int
    """The SMTP reply code, 0 where there was none."""
    reply: str
    worker: str
    server: str
    attempts: int
    first_at: int
    """When the first attempt began, 0 for never."""
    last_at: int
    """When the last attempt ended."""
    due_at: int
    """When the next attempt is due, 0 for none."""
    history: list[Attempt] = []


class ReportPage(Message, frozen=True):
    TYPE = Type.REPORT_PAGE
    rows: list[ReportRow]
    next: int | None
    """`after` for the next page; None: this was the last."""


class Trace(Message, frozen=True):
    """Each message to an address, the newest first."""

    TYPE = Type.TRACE
    address: Address
    limit: Annotated[int, msgspec.Meta(ge=1, le=limits.PAGE_ROWS_MAX)] = 1_000


class TracePage(Message, frozen=True):
    TYPE = Type.TRACE_PAGE
    rows: list[ReportRow]


class Servers(Message, frozen=True):
    TYPE = Type.SERVERS


class ServersReply(Message, frozen=True):
    TYPE = Type.SERVERS_REPLY
    workers: list[WorkerStatus]


class Drain(Message, frozen=True):
    """No new batches for this worker until READY; an operator's word outlives restarts."""

    TYPE = Type.DRAIN
    worker: Name


class Ready(Message, frozen=True):
    TYPE = Type.READY
    worker: Name


# --- worker -------------------------------------------------------------------------------------


class HeldBatch(Row, frozen=True):
    """A batch that a worker still has, with the indices whose outcome isn't yet in its log."""

    batch: Count
    campaign: Count
    indices: Annotated[list[Count], msgspec.Meta(max_length=limits.BATCH_MESSAGES_MAX)]


class WorkerHello(Message, frozen=True):
    """The first word of a worker, and again whenever the broker may have forgotten it."""

    TYPE = Type.WORKER_HELLO
    worker: Name
    incarnation: Count
    """Larger each time the worker's process starts."""
    server: str
    """host:port and account of its SMTP server."""
    log: Name
    """Names its outcome log, made with it. Only one process can hold a log, so a newer incarnation with the
    same log proves that the older one is dead, and that what the log doesn't tell of was never begun."""
    max_connections: Annotated[int, msgspec.Meta(ge=1, le=10_000)]
    weight: Annotated[int, msgspec.Meta(ge=1, le=1_000)] = 100
    pools: Annotated[list[Name], msgspec.Meta(max_length=100)] = []
    holding: Annotated[list[HeldBatch], msgspec.Meta(max_length=limits.HOLDING_BATCHES_MAX)] = []
    outcomes_from: Count = 0
    outcomes_upto: Count = 0
    """The outcomes in its log that no broker has confirmed have numbers from `outcomes_from` up to, but not
    including, `outcomes_upto`: they follow in OUTCOMES after the welcome."""
    outcomes_to_come: Count = 0
    """Outcomes in its log that no broker has confirmed: they follow at once in OUTCOMES."""
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
    draining: bool = False


class HeartbeatAck(Message, frozen=True):
    TYPE = Type.HEARTBEAT_ACK
    number: Count


class CampaignTemplate(Message, frozen=True):
    """Sent once a worker session and campaign, before its first batch."""

    TYPE = Type.TEMPLATE
    campaign: Count
    campaign_id: str
    created_at: Count
    template: Template


class BatchItem(Row, frozen=True):
    index: Count
    attempt: Count
    """1 for the first."""
    address: str
    values: bytes


class Batch(Message, frozen=True):
    TYPE = Type.BATCH
    batch: Count
    campaign: Count
    items: Annotated[list[BatchItem], msgspec.Meta(min_length=1, max_length=limits.BATCH_MESSAGES_MAX)]


class Outcome(Row, frozen=True):
    """What became of one attempt."""

    batch: Count
    campaign: Count
    index: Count
    attempt: Count
    kind: OutcomeKind
    scope: Literal["recipient", "server"]
    """Who failed. A server's failure says nothing about the recipient and burns no attempt."""
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


def _types() -> dict[Type, type[Message]]:
    return {cls.TYPE: cls for cls in Message.__subclasses__()}


BY_TYPE: dict[Type, type[Message]] = _types()
"""The struct of each type."""

FROM_CLIENT: frozenset[Type] = frozenset(
    {
        Type.HELLO, Type.OPEN_CAMPAIGN, Type.RECIPIENTS, Type.COMMIT, Type.STATUS, Type.WATCH, Type.PAUSE,
        Type.RESUME, Type.CANCEL, Type.RETRY_FAILED, Type.REPORT, Type.TRACE, Type.SERVERS, Type.DRAIN,
        Type.READY,
    }
)  # fmt: skip
FROM_WORKER: frozenset[Type] = frozenset({Type.WORKER_HELLO, Type.HEARTBEAT, Type.OUTCOMES, Type.GOODBYE})
TO_CLIENT: frozenset[Type] = frozenset(
    {
        Type.ERROR, Type.WELCOME, Type.CAMPAIGN_OPEN, Type.RECIPIENTS_STORED, Type.SUBMIT_OK,
        Type.STATUS_REPLY, Type.WATCH_UPDATE, Type.DONE, Type.REPORT_PAGE, Type.TRACE_PAGE,
        Type.SERVERS_REPLY,
    }
)  # fmt: skip
TO_WORKER: frozenset[Type] = frozenset(
    {
        Type.ERROR, Type.WORKER_WELCOME, Type.HEARTBEAT_ACK, Type.TEMPLATE, Type.BATCH,
        Type.OUTCOMES_COMMITTED, Type.REVOKE, Type.GOODBYE_OK,
    }
)  # fmt: skip

assert set(BY_TYPE) == set(Type)
