"""What an operator can set of the broker."""

from dataclasses import dataclass, field
from pathlib import Path

from broker.core.settings import Settings as CoreSettings
from broker.guard import Limits


@dataclass(frozen=True, slots=True)
class Settings:
    clients: str = "tcp://127.0.0.1:5550"
    workers: str = "tcp://127.0.0.1:5551"
    journal: Path = Path("evenpost.db")
    dns_resolver: str = ""
    """HOST[:PORT] of the name server to ask for mail exchangers; empty: the system's."""
    client_limits: Limits = field(default_factory=Limits)
    worker_limits: Limits = field(default_factory=lambda: Limits(connections_max=2_000))
    memory_max_bytes: int = 2048 * 1024 * 1024
    """Of resident memory: above it, connections that hold much of it unread are ended. 0: never."""
    core: CoreSettings = field(default_factory=CoreSettings)
