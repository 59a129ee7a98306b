"""What the core knows of a message, and of the parts of a list that messages are read from."""

from collections import deque
from dataclasses import dataclass, field
from enum import IntEnum

import msgspec

from broker.core.groups import Group

INDEX_BITS = 32
INDEX_MASK = (1 << INDEX_BITS) - 1

PlainAttempt = tuple[int, str, str, int, str]
"""wire.Attempt's fields: when it ended, worker, outcome, code, reply."""


def message_id(campaign: int, index: int) -> int:
    """A message's number in the journal: campaign and index in one, so that a campaign is one range."""
    return campaign << INDEX_BITS | index


def index_of(id_: int) -> int:
    return id_ & INDEX_MASK


News = tuple[int, int, int, str, str, int, bytes | None]
"""What a message became: state, attempts, code, reply, worker, when it ended, and its history where that has
changed."""


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


@dataclass(slots=True, eq=False)
class Stripe:
    """A part of a campaign's list. A page takes some of each stripe, so that a list sorted by domain doesn't
    bring one provider's addresses all at once; within a stripe it is read in order, as the disk likes it."""

    upto: int
    """The message number after its last one."""
    low_water: int
    """Up to this message number the journal knows what became of each fresh message."""
    read_upto: int
    """Fresh messages up to this number have been read."""
    pages: deque["Page"] = field(default_factory=deque)

    @property
    def is_read(self) -> bool:
        return self.read_upto >= self.upto - 1


@dataclass(slots=True, eq=False)
class Page:
    """Messages of a stripe that were read together; its low-water mark moves page by page."""

    stripe: Stripe
    last: int
    """The highest message number that the page covers."""
    outstanding: int = 0
    """Its messages of which the journal doesn't know yet what became of them."""


class Message(msgspec.Struct, eq=False, gc=False):
    """A message in memory: ready, or in flight in a batch. A struct: they come by the million, and one of
    these is made in a fifth of the time of a dataclass."""

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
    group: Group | None = None
    """Of its domain, where that has limits."""
    batch: int = 0
    """0: ready."""
