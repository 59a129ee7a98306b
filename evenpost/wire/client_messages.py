"""What clients and broker say to each other. docs/protocol.md has it in prose."""

from typing import Annotated, Literal

import msgspec

from evenpost.wire import limits
from evenpost.wire.types import (
    Address,
    CampaignState,
    Count,
    Message,
    MessageState,
    Name,
    Options,
    Row,
    Template,
    Type,
)


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
    list_digest: Annotated[str, msgspec.Meta(max_length=limits.DIGEST_CHARS_MAX)] = ""
    """Names the recipients that will follow, in a way of the client's choosing: another list, another
    digest."""


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
    overflow: str | None = None
    weight: int = 100
    rate_limit: str = ""
    window: str = ""
    eta_at: int | None = None
    """When the last message will be sent at present rates, quotas and windows; None: nobody can tell."""
    waiting_for: str = ""
    """Why nothing moves, in words; empty where it moves."""
    compacted_at: int | None = None
    """When its recipients were removed, since it ended long ago; None: they are there."""


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
    state: Literal["ready", "slow start", "throttled", "draining", "maint", "backing off", "lost", "gone"]
    open: Count
    busy: Count
    in_flight: Count
    """Batches that the broker knows to be with this worker."""
    limit: Count
    max_connections: Count
    weight: Count
    """As configured, or as an operator or the server's agent says."""
    pools: list[str]
    sent: Count
    deferred: Count
    bounced: Count
    rate: float
    last_seen_at: Count
    reason: str = ""
    external: Count = 0
    """Other people's connections to the same server."""
    load: Count = 0
    """Connections in use as the balancer counts them: ours and other people's."""
    key: float = 0.0
    """The lowest gets the next batch; 0 where it gets none."""
    seconds_a_message: float = 0.0
    failure_rate: float = 0.0
    """Moving average: the part of its batches that the server failed, 0 to 1."""
    rate_limit: str = ""
    operator: str = ""
    """An operator's words that still stand: "drain", "maint", "weight:50", "maxconn:10", or several."""


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
    after: Annotated[int, msgspec.Meta(ge=-1, le=limits.RECIPIENTS_MAX)] = -1
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
    compacted: Count = 0
    """So many campaigns aren't searched: their recipients were removed, since they ended long ago."""
    compacted_upto: Count = 0
    """When the last of them ended."""


class Servers(Message, frozen=True):
    TYPE = Type.SERVERS


class ServersReply(Message, frozen=True):
    TYPE = Type.SERVERS_REPLY
    workers: list[WorkerStatus]
