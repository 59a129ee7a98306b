"""What the session is told beside the broker's messages (events) and what it wants done (commands)."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from evenpost.wire.messages import BatchItem, HeldBatch, Message, ServerWord, Type
from worker.reporting import Report

EXIT_UNFINISHED = 1
"""Messages were still on the wire when the time to drain was over, or a second signal came."""
EXIT_LOG = 74
"""EX_IOERR of sysexits.h: the outcome log can't be written."""
EXIT_PROTOCOL = 76
"""EX_PROTOCOL: the broker speaks another version."""
EXIT_FORBIDDEN = 77
"""EX_NOPERM: our key may not be a worker of this name."""
EXIT_CONFLICT = 78
"""EX_CONFIG: another worker with this name has taken over. Starting again would take it back: don't."""

Ending = Literal["drain", "conflict", "protocol", "forbidden", "log"]
ENDINGS: dict[Ending, tuple[int, str]] = {
    "drain": (0, "the worker is draining"),
    "conflict": (EXIT_CONFLICT, "another worker with this name has taken over"),
    "protocol": (EXIT_PROTOCOL, "the broker speaks another version"),
    "forbidden": (EXIT_FORBIDDEN, "the broker doesn't allow our key this name"),
    "log": (EXIT_LOG, "the outcome log can't be written"),
}
"""Why it ends: the exit status, and what messages that are handed back are told."""
CUT_OFF: frozenset[Ending | None] = frozenset({"conflict", "protocol", "forbidden"})
"""Ends after which the broker takes no report from us: the next start's log has it all."""


class Held:
    """A batch that is here. Its messages are taken one by one, in order."""

    __slots__ = ("all_begun", "campaign", "items", "number", "on_wire", "revoked", "running", "taken")

    def __init__(self, number: int, campaign: int, items: Sequence[BatchItem]) -> None:
        self.number = number
        self.campaign = campaign
        self.items = items
        self.taken = 0
        self.on_wire: dict[int, BatchItem] = {}
        """Messages that were taken and have no outcome, by index."""
        self.running = False
        self.all_begun = False
        """It runs, and needs no connection to begin anything: another batch may follow on its own."""
        self.revoked = False

    def take(self) -> BatchItem | None:
        """The next message, which the caller is to send; None where none is left."""
        if self.taken == len(self.items):
            return None
        item = self.items[self.taken]
        self.taken += 1
        self.on_wire[item.index] = item
        return item

    def take_rest(self) -> Sequence[BatchItem]:
        """All that weren't taken, which the caller is not to send."""
        rest = self.items[self.taken :]
        self.taken = len(self.items)
        return rest

    def open_indices(self) -> list[int]:
        """Messages without an outcome."""
        return [*self.on_wire, *(item.index for item in self.items[self.taken :])]


# --- events -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Received:
    """A message of the broker's, and the number of the request that it answers."""

    message: Message
    request: int = 0


@dataclass(frozen=True, slots=True)
class Unsent:
    """A message couldn't be sent: there is no connection."""

    type: Type


@dataclass(frozen=True, slots=True)
class Tick:
    """`wake_at` has come."""


@dataclass(frozen=True, slots=True)
class Flushed:
    """The log holds all outcomes that there are."""


@dataclass(frozen=True, slots=True)
class BatchBegun:
    """All of a started batch is on its way to a far server: another one may start behind it."""

    batch: int


@dataclass(frozen=True, slots=True)
class BatchEnded:
    """Each message of a started batch has its outcome."""

    batch: int


@dataclass(frozen=True, slots=True)
class DrainAsked:
    """Finish what is on the wire, hand back the rest, say goodbye."""

    reason: str


@dataclass(frozen=True, slots=True)
class LogFailed:
    """The outcome log can't be written: nothing new may be begun."""

    reason: str


@dataclass(frozen=True, slots=True)
class LimitChanged:
    """The server takes so many connections from now on."""

    limit: int


@dataclass(frozen=True, slots=True)
class AgentSaid:
    """The server's agent wants another share for it."""

    state: ServerWord
    weight: int | None
    """None: the configured one."""


Event: TypeAlias = (
    Received
    | Unsent
    | Tick
    | Flushed
    | BatchBegun
    | BatchEnded
    | DrainAsked
    | LogFailed
    | LimitChanged
    | AgentSaid
)


# --- commands ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SendHello:
    request: int
    holding: list[HeldBatch]
    outcomes: tuple[int, int]
    """Numbers of the outcomes that no broker has confirmed: from, up to but not including."""
    state: ServerWord = "ready"
    weight: int | None = None
    """Its server's agent's."""


@dataclass(frozen=True, slots=True)
class SendHeartbeat:
    number: int
    last_batch: int
    state: ServerWord = "ready"
    weight: int | None = None
    begun: int = 0
    """The most batches at once since the last one of which all was on its way."""


@dataclass(frozen=True, slots=True)
class SendOutcomes:
    report: Report


@dataclass(frozen=True, slots=True)
class SendGoodbye:
    reason: str


@dataclass(frozen=True, slots=True)
class StartBatch:
    """Send it over one connection; BatchEnded when each of its messages has an outcome."""

    held: Held


@dataclass(frozen=True, slots=True)
class GiveBack:
    """These messages get the outcome `not_sent`."""

    held: Held
    items: Sequence[BatchItem]
    reason: str


@dataclass(frozen=True, slots=True)
class FlushLog:
    """Flush the log at the end of this turn; Flushed when it is done."""


@dataclass(frozen=True, slots=True)
class Log:
    level: Literal["debug", "info", "warning", "error"]
    event: str
    fields: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Stop:
    """The process is to end with this status."""

    status: int


Command: TypeAlias = (
    SendHello | SendHeartbeat | SendOutcomes | SendGoodbye | StartBatch | GiveBack | FlushLog | Log | Stop
)
