"""What an operator can set of the core."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class DomainGroup:
    """Recipient domains that share limits, because one provider is behind them."""

    name: str
    names: frozenset[str] = frozenset()
    """Lower case, IDN as ASCII."""
    mx: tuple[str, ...] = ()
    """Also every domain whose best mail exchanger's name ends in one of these."""
    connections: int = 0
    """At most so many batches with its messages at once; 0: no limit."""
    rate: str = ""
    """evenpost.schedule.rate; empty: no limit."""


@dataclass(frozen=True, slots=True)
class SenderPool:
    """The pool of campaigns from a domain that name none themselves."""

    domain: str
    pool: str
    overflow: str | None = None


RECOVERY_S_MIN = 3.0
"""What a restarted broker waits at least for known workers that haven't said what they sent, however short
the lease: they try to connect every second, and without their word that mail would go out again."""


@dataclass(frozen=True, slots=True)
class Settings:
    heartbeat_s: float = 1.0
    heartbeats_missed_max: int = 3
    lease_s: float = 10.0
    retry_initial_s: float = 60.0
    retry_max_s: float = 3_600.0
    lifetime_s: float = 5 * 86_400.0
    """A campaign without `expire_at` expires after this: Postfix's maximal_queue_lifetime."""
    batch_target_s: float = 0.2
    page_rows: int = 4_000
    policy: Literal["least-connections", "least-time"] = "least-connections"
    slow_start_s: float = 20.0
    """A server that came back gets its full share only after this; 0: at once."""
    reserved_share: float = 0.01
    """Connections that only urgent campaigns (priority 7 and above) may use, as a part of all."""
    domains: tuple[DomainGroup, ...] = ()
    senders: tuple[SenderPool, ...] = ()
    dispatch_log_s: float = 10.0
    """The `dispatch` event tells of one pick in this time; 0: of each."""
