"""What an operator can set of the broker."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from broker.core.settings import Settings as CoreSettings
from broker.guard import Limits

if TYPE_CHECKING:
    from evenpost.runtime.curve import SecretKey


@dataclass(frozen=True, slots=True)
class AccessSettings:
    own: "SecretKey | None" = None
    """The broker's key; None: no CURVE."""
    keys: Path | None = None
    """The folder of allowed public keys."""
    insecure: bool = False
    """Listen beyond loopback without CURVE."""


@dataclass(frozen=True, slots=True)
class Settings:
    clients: str = "tcp://127.0.0.1:5550"
    workers: str = "tcp://127.0.0.1:5551"
    journal: Path = Path("evenpost.db")
    disk_reserve: int = 256_000_000
    """Bytes of the journal's disk that stay free for what was accepted; 0: it isn't looked at."""
    dns_resolver: str = ""
    """HOST[:PORT] of the name server to ask for mail exchangers; empty: the system's."""
    retain_days: float = 90.0
    """Days after a campaign's end at which its recipients are removed; 0: never. 90 is a quarter, in which a
    complaint or a bill comes, and no longer than a privacy notice can defend."""
    client_limits: Limits = field(default_factory=Limits)
    worker_limits: Limits = field(default_factory=lambda: Limits(connections_max=2_000))
    memory_max_bytes: int = 2048 * 1024 * 1024
    """Of resident memory: above it, connections that hold much of it unread are ended. 0: never."""
    core: CoreSettings = field(default_factory=CoreSettings)
    access: AccessSettings = field(default_factory=AccessSettings)
