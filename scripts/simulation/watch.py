"""What the simulated processes tell whoever looks on. `Watch` itself looks away: for comparisons, where speed
counts. invariants.Checker looks closely."""

from typing import TYPE_CHECKING, Any

from evenpost.wire.messages import BatchItem
from worker.vocabulary import Held

if TYPE_CHECKING:
    from broker.core.commands import SendBatch
    from broker.core.events import Event
    from scripts.simulation.broker_host import BrokerHost
    from scripts.simulation.servers import Server, Taken
    from scripts.simulation.worker_host import WorkerHost
    from scripts.simulation.world import World


class Watch:
    """Hears of everything and does nothing about it."""

    world: "World"
    """Set by the world that it looks at."""

    def note(self, who: str, what: object) -> None:
        """Something is done to the world from outside."""

    def log(self, who: str, level: str, event: str, fields: dict[str, Any]) -> None:
        """A process logs."""

    # --- workers ---------------------------------------------------------------------------

    def holds(self, worker: "WorkerHost", held: Held) -> None:
        """A worker has got a batch that its session accepts."""

    def begins(self, worker: "WorkerHost", held: Held, item: BatchItem) -> None:
        """A worker is about to write a content."""

    def opened(self, worker: "WorkerHost") -> None:
        """A worker dials."""

    def worker_event(self, worker: "WorkerHost") -> None:
        """A worker's session has handled an event."""

    def log_lost(self, worker: "WorkerHost") -> None:
        """A worker has lost its outcome log."""

    def took(self, server: "Server", taken: "Taken") -> None:
        """A server has taken a message."""

    # --- the broker ------------------------------------------------------------------------

    def broker_started(self, broker: "BrokerHost") -> None: ...

    def broker_event(self, broker: "BrokerHost", event: "Event") -> None:
        """The core has handled an event."""

    def gives(self, broker: "BrokerHost", command: "SendBatch") -> None:
        """The core gives out a batch."""

    def dispatched(self, broker: "BrokerHost") -> None:
        """The core has dispatched."""

    def committed(self, broker: "BrokerHost") -> None:
        """The journal has everything on disk, and nothing waits for it."""
