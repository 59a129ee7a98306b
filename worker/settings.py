"""What one worker is told when it starts."""

import re
import signal
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from evenpost.runtime.processes import part
from evenpost.runtime.startup import ENDINGS, PASSED_ON
from worker.smtp.config import ServerConfig

if TYPE_CHECKING:
    from evenpost.runtime.curve import CurvePeer
    from worker.dkim_keys import DkimKeys

DRAIN_TIMEOUT_S = 30.0
WEIGHT = 100
AGENT_INTERVAL_S = 2.0
"""HAProxy's default (`inter`)."""


@dataclass(frozen=True, slots=True)
class Share:
    """Which one of a worker's processes this is: its number, from 1, of so many."""

    number: int = 1
    processes: int = 1

    def of(self, total: int) -> int:
        """Its part of what the worker has."""
        return part(total, self.number, self.processes)


@dataclass(frozen=True, slots=True)
class Settings:
    broker: str
    server: ServerConfig
    name: str
    outcome_log: Path
    weight: int = WEIGHT
    pools: tuple[str, ...] = ()
    rate: str = ""
    """What the server takes, as evenpost.schedule.rate reads it."""
    agent: tuple[str, int] | None = None
    """Host and port of the server's agent, which speaks HAProxy's words."""
    agent_interval_s: float = AGENT_INTERVAL_S
    outcome_log_sync: bool = False
    drain_timeout_s: float = DRAIN_TIMEOUT_S
    curve: "CurvePeer | None" = None
    """Our key and the broker's; None: no CURVE."""
    dkim: "DkimKeys | None" = None
    """What messages are signed with; None: they aren't."""
    share: Share = Share()
    """Connections and weight are this process's own already."""
    log_sent: bool = False
    """An event for each message sent: the log level is debug."""

    @property
    def endings(self) -> tuple[signal.Signals, ...]:
        """The signals that end this process."""
        return ENDINGS if self.share.processes == 1 else (PASSED_ON,)

    @property
    def server_label(self) -> str:
        """host:port and account of the SMTP server, as the broker and the log name it."""
        server = self.server
        host = f"[{server.host}]" if ":" in server.host else server.host
        return f"{server.username}@{host}:{server.port}" if server.username else f"{host}:{server.port}"


def default_name(server: ServerConfig) -> str:
    """This machine and the server it sends through."""
    return f"{socket.gethostname()}-{server.host}-{server.port}"[:200]


def default_outcome_log(name: str) -> Path:
    return Path(f"evenpost-worker-{re.sub(r'[^A-Za-z0-9._-]', '_', name)}.outcomes")
