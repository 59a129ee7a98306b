"""What operators say to the broker of its workers, and its answers to why. docs/protocol.md."""

from typing import Annotated

import msgspec

from evenpost.wire import limits
from evenpost.wire.client_messages import ReportRow
from evenpost.wire.types import Index, Message, Name, ServerWord, Type


class SetServer(Message, frozen=True):
    """An operator's word about a worker, in HAProxy's vocabulary. It stays, across restarts, until it is
    taken back. None leaves a thing as it is."""

    TYPE = Type.SET_SERVER
    worker: Name
    state: ServerWord | None = None
    """`drain`: nothing new. `maint`: nothing at all: what isn't begun is called back. `ready` takes both
    back."""
    weight: Annotated[int, msgspec.Meta(ge=0, le=limits.WEIGHT_MAX)] | None = None
    """0 takes an operator's weight back."""
    max_connections: Annotated[int, msgspec.Meta(ge=0, le=10_000)] | None = None
    """0 takes an operator's limit back. It never raises the worker's own."""


class Explain(Message, frozen=True):
    """Why a campaign, or one message of it, went where it went, or why it waits."""

    TYPE = Type.EXPLAIN
    campaign: str
    index: Index | None = None


class Reason(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Why something waits, and until when where that is known."""

    text: str
    until: int | None = None


class Candidate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A worker as the balancer sees it for this campaign just now, the lowest key first."""

    worker: str
    server: str
    key: float
    load: int
    limit: int
    weight: float
    """The effective one: after slow start and failures."""
    why_not: str = ""
    """Empty where it could take a batch."""


class Pick(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a batch was given out."""

    at: int
    batch: int
    worker: str
    key: float
    runner_up: str
    """Empty where there was no other."""
    runner_up_key: float


class Explanation(Message, frozen=True):
    TYPE = Type.EXPLANATION
    campaign: str
    index: int | None
    summary: str
    """One sentence."""
    reasons: list[Reason] = []
    """What holds it up, the weightiest first."""
    candidates: list[Candidate] = []
    pick: Pick | None = None
    """A message's last one, while the broker remembers it."""
    row: ReportRow | None = None
    """A message's state and attempts."""
