"""Every message of the protocol, by name and by type number."""

from evenpost.wire import limits
from evenpost.wire.client_messages import (
    Attempt,
    CampaignOpen,
    CampaignStatus,
    Cancel,
    Commit,
    Done,
    Hello,
    OpenCampaign,
    Pause,
    Recipient,
    Recipients,
    RecipientsStored,
    Report,
    ReportPage,
    ReportRow,
    Resume,
    RetryFailed,
    Servers,
    ServersReply,
    Status,
    StatusReply,
    SubmitOk,
    Trace,
    TracePage,
    Watch,
    WatchUpdate,
    Welcome,
    WorkerStatus,
)
from evenpost.wire.operator_messages import (
    Candidate,
    Explain,
    Explanation,
    Pick,
    Reason,
    SetServer,
)
from evenpost.wire.types import (
    Address,
    Attachment,
    CampaignNumber,
    CampaignState,
    Count,
    Error,
    Index,
    Message,
    MessageState,
    Name,
    Options,
    OutcomeKind,
    RateText,
    Row,
    Seconds,
    ServerWord,
    Template,
    Text,
    Type,
    Weight,
    WindowText,
)
from evenpost.wire.worker_messages import (
    Batch,
    BatchItem,
    CampaignTemplate,
    Goodbye,
    GoodbyeOk,
    Heartbeat,
    HeartbeatAck,
    HeldBatch,
    Outcome,
    Outcomes,
    OutcomesCommitted,
    Revoke,
    WorkerHello,
    WorkerWelcome,
)

__all__ = [
    "BODY_BYTES_MAX",
    "BY_TYPE",
    "FROM_CLIENT",
    "FROM_WORKER",
    "TO_CLIENT",
    "TO_WORKER",
    "Address",
    "Attachment",
    "Attempt",
    "Batch",
    "BatchItem",
    "CampaignNumber",
    "CampaignOpen",
    "CampaignState",
    "CampaignStatus",
    "CampaignTemplate",
    "Cancel",
    "Candidate",
    "Commit",
    "Count",
    "Done",
    "Error",
    "Explain",
    "Explanation",
    "Goodbye",
    "GoodbyeOk",
    "Heartbeat",
    "HeartbeatAck",
    "HeldBatch",
    "Hello",
    "Index",
    "Message",
    "MessageState",
    "Name",
    "OpenCampaign",
    "Options",
    "Outcome",
    "OutcomeKind",
    "Outcomes",
    "OutcomesCommitted",
    "Pause",
    "Pick",
    "RateText",
    "Reason",
    "Recipient",
    "Recipients",
    "RecipientsStored",
    "Report",
    "ReportPage",
    "ReportRow",
    "Resume",
    "RetryFailed",
    "Revoke",
    "Row",
    "Seconds",
    "ServerWord",
    "Servers",
    "ServersReply",
    "SetServer",
    "Status",
    "StatusReply",
    "SubmitOk",
    "Template",
    "Text",
    "Trace",
    "TracePage",
    "Type",
    "Watch",
    "WatchUpdate",
    "Weight",
    "Welcome",
    "WindowText",
    "WorkerHello",
    "WorkerStatus",
    "WorkerWelcome",
]


BY_TYPE: dict[Type, type[Message]] = {cls.TYPE: cls for cls in Message.__subclasses__()}
"""The struct of each type."""

FROM_CLIENT: frozenset[Type] = frozenset(
    {
        Type.HELLO, Type.OPEN_CAMPAIGN, Type.RECIPIENTS, Type.COMMIT, Type.STATUS, Type.WATCH, Type.PAUSE,
        Type.RESUME, Type.CANCEL, Type.RETRY_FAILED, Type.REPORT, Type.TRACE, Type.SERVERS, Type.SET_SERVER,
        Type.EXPLAIN,
    }
)  # fmt: skip
FROM_WORKER: frozenset[Type] = frozenset({Type.WORKER_HELLO, Type.HEARTBEAT, Type.OUTCOMES, Type.GOODBYE})
TO_CLIENT: frozenset[Type] = frozenset(
    {
        Type.ERROR, Type.WELCOME, Type.CAMPAIGN_OPEN, Type.RECIPIENTS_STORED, Type.SUBMIT_OK,
        Type.STATUS_REPLY, Type.WATCH_UPDATE, Type.DONE, Type.REPORT_PAGE, Type.TRACE_PAGE,
        Type.SERVERS_REPLY, Type.EXPLANATION,
    }
)  # fmt: skip
TO_WORKER: frozenset[Type] = frozenset(
    {
        Type.ERROR, Type.WORKER_WELCOME, Type.HEARTBEAT_ACK, Type.TEMPLATE, Type.BATCH,
        Type.OUTCOMES_COMMITTED, Type.REVOKE, Type.GOODBYE_OK,
    }
)  # fmt: skip

assert set(BY_TYPE) == set(Type)

_LARGE = {
    Type.OPEN_CAMPAIGN: limits.FRAME_BYTES_MAX,
    Type.RECIPIENTS: limits.CHUNK_BYTES_MAX + 1024 * 1024,
    Type.WORKER_HELLO: limits.HELLO_BYTES_MAX,
    Type.OUTCOMES: limits.OUTCOMES_BYTES_MAX,
}
BODY_BYTES_MAX: dict[Type, int] = {
    # What comes from the broker is as large as what it was given, and it isn't an attacker.
    type_: limits.FRAME_BYTES_MAX
    if type_ in TO_CLIENT | TO_WORKER
    else _LARGE.get(type_, limits.WORD_BYTES_MAX)
    for type_ in Type
}
"""A body is measured before it is unpacked: a few MB of msgpack can become GBs of objects."""
