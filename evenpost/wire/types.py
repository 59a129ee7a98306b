"""The words that both sockets share: type numbers, bounded fields, the template and its options.

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
CampaignNumber = Annotated[int, msgspec.Meta(ge=0, le=limits.CAMPAIGN_NUMBER_MAX)]
Index = Annotated[int, msgspec.Meta(ge=0, le=limits.RECIPIENTS_MAX)]
"""Of a recipient in its campaign."""
Seconds = Annotated[float, msgspec.Meta(ge=0, le=86_400 * 366)]

OutcomeKind = Literal["sent", "deferred", "bounced", "unknown", "not_sent"]
"""What a worker says became of a message. `not_sent`: never tried, or handed back; burns no attempt."""

MessageState = Literal[
    "queued", "sending", "deferred", "held",
    "sent", "bounced", "expired", "cancelled", "suppressed",
]  # fmt: skip
"""What the broker says of a message. `held`: its outcome is unknown and a person shall decide."""

ServerWord = Literal["ready", "drain", "maint"]
"""HAProxy's words for what a server shall get: everything, nothing new, nothing at all."""

RateText = Annotated[str, msgspec.Meta(max_length=limits.SCHEDULE_CHARS_MAX)]
"""Messages in a time, several at once: "14/s, 50000/day" (evenpost.schedule.rate). Empty: no limit."""

WindowText = Annotated[str, msgspec.Meta(max_length=limits.SCHEDULE_CHARS_MAX)]
"""When to send: "08:00-20:00 Europe/Berlin" (evenpost.schedule.window). Empty: always."""

Weight = Annotated[int, msgspec.Meta(ge=1, le=limits.WEIGHT_MAX)]

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
    SET_SERVER = 24
    EXPLAIN = 25
    EXPLANATION = 26

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
    attachments: Annotated[list[Attachment], msgspec.Meta(max_length=limits.ATTACHMENTS_MAX)] = []
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
    """Only workers that carry this tag. None: the one that the broker's settings name for the sender's
    domain, else any."""
    overflow: Name | None = None
    """Workers with this tag too, while no worker of `pool` can take more."""
    weight: Weight = 100
    """Its share beside other campaigns of the same priority."""
    rate: RateText = ""
    window: WindowText = ""
    on_unknown: Literal["resend", "hold"] = "resend"
