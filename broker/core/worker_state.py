"""What the core knows of one worker and of the server behind it."""

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from broker.core.breaker import Breaker
from broker.core.buckets import Bucket
from evenpost.wire.messages import ServerWord

if TYPE_CHECKING:
    from broker.core.state import Batch


@dataclass(slots=True, eq=False)
class Worker:
    name: str
    number: int
    """In the journal: what message rows refer to."""
    server: str = ""
    log: str = ""
    incarnation: int = 0
    gone: bool = False
    """It said goodbye."""
    operator_state: ServerWord = "ready"
    """An operator's word; like the two below it outlives restarts, until it is taken back."""
    operator_weight: int = 0
    """0: none."""
    operator_limit: int = 0
    """0: none."""

    # --- in memory only -------------------------------------------------------------------
    peer: bytes = b""
    """Its connection's routing id; empty while there is none."""
    connected: bool = False
    hello: int = 0
    """The number of its last hello."""
    welcomed: bool = False
    """That hello is on disk and answered. Before that a batch would be one that a restarted broker doesn't
    wait for, and that the worker, which waits for its welcome, throws away."""
    own_state: ServerWord = "ready"
    """What it says itself, or its server's agent through it."""
    own_weight: int | None = None
    max_connections: int = 1
    reported_limit: int = 1
    """What its server takes just now, as its feedback has it."""
    hello_weight: int = 100
    pools: frozenset[str] = frozenset()
    rate: str = ""
    bucket: Bucket | None = None
    """Of its server's rate; shared by all workers of that server."""
    batches: dict[int, "Batch"] = field(default_factory=dict)
    busy: int = 0
    open: int = 0
    external: int = 0
    begun: int = 0
    """Batches at once that wait for a far server's answers only: others can follow behind them."""
    in_flight_at_report: int = 0
    heard_at: float = 0.0
    """Any traffic."""
    heard_wall: int = 0
    clock_off: bool = False
    """Its wall clock and ours differ by more than anyone should have to guess at."""
    lease_from: float = 0.0
    """Arrival of the last hello or heartbeat that we answered: its lease can't have begun later."""
    replay_upto: int = 0
    """Its hello announced outcomes up to this number; until they have come, it hasn't told all."""
    seen_upto: int = 0
    """Outcomes of its log below this number have come."""
    unheld: list[int] = field(default_factory=list)
    """Batches it doesn't hold any more: what the replay doesn't settle was never begun."""
    looking_up: int = 0
    """Reports of it that wait for the journal."""
    holding_read: bool = True
    """False while the journal is being asked about what it holds."""
    log_lost: bool = False
    """It came back after a restart of the broker with another log: what it began before, nobody can tell,
    and its older process may still be at it. A lease has to pass."""
    orphaned: list[int] = field(default_factory=list)
    """Batches of an incarnation whose outcome log is lost: they count as lost at `orphaned_until`."""
    orphaned_until: float = 0.0
    seconds_a_message: float = 0.0
    """EWMA; 0: not measured yet."""
    breaker: Breaker = field(default_factory=Breaker)
    reason: str = ""
    """Why its server failed last."""
    last_used: int = 0
    version: int = 0
    """Of its key: older entries of the balancer's heaps are void."""
    templates: OrderedDict[int, int] = field(default_factory=OrderedDict)
    """Campaigns whose template this session has, least recently used first, with their sizes in bytes."""
    templates_bytes: int = 0
    sent: int = 0
    deferred: int = 0
    bounced: int = 0
    sent_before: int = 0
    rate_sent: float = 0.0
    """Messages a second, lately."""

    @property
    def in_flight(self) -> int:
        return len(self.batches)

    @property
    def replaying(self) -> bool:
        return self.seen_upto < self.replay_upto

    @property
    def state(self) -> ServerWord:
        """The stricter of the operator's word and its own."""
        words = (self.operator_state, self.own_state)
        return "maint" if "maint" in words else "drain" if "drain" in words else "ready"

    @property
    def weight(self) -> int:
        return self.operator_weight or self.own_weight or self.hello_weight

    @property
    def limit(self) -> int:
        """Connections that it may have, slow start aside."""
        limit = min(self.max_connections, self.reported_limit)
        return max(1, min(limit, self.operator_limit) if self.operator_limit else limit)
