"""What an operator can set of the broker."""

from dataclasses import dataclass, field
from pathlib import Path

from broker.core.state import Settings as CoreSettings


@dataclass(frozen=True, slots=True)
class Settings:
    clients: str = "tcp://127.0.0.1:5550"
    workers: str = "tcp://127.0.0.1:5551"
    journal: Path = Path("evenpost.db")
    core: CoreSettings = field(default_factory=CoreSettings)
