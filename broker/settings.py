"""What an operator can set of the broker."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from broker.core.settings import Settings as CoreSettings

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
    dns_resolver: str = ""
    """HOST[:PORT] of the name server to ask for mail exchangers; empty: the system's."""
    core: CoreSettings = field(default_factory=CoreSettings)
    access: AccessSettings = field(default_factory=AccessSettings)
