"""Back-pressure: what broker, clients and workers hold in memory when one is slower than another."""

from collections.abc import Callable
from dataclasses import asdict

from scripts.benches import pressure_disk, pressure_idle, pressure_worker
from scripts.benches.table import Result

SCENARIOS = ("idle", "disk", "worker")


Found = pressure_idle.Idle | pressure_disk.SlowDisk | pressure_worker.SlowWorker


def measure(
    scenario: str,
    clients: int,
    messages: int,
    submitters: int,
    recipients: int,
    flush_ms: int,
    queued: int,
    seconds: int,
) -> Result:
    """Memory under back-pressure, in three parts with real processes.

    idle: clients that are connected and say nothing; a campaign's pace without them, beside as many that are
    connected to another broker, beside them, and without them again. disk: clients that submit as fast as
    they can, one of them without regard to its window, while each flush of the journal takes long; then the
    broker is killed, and its journal is compared with what clients were told. worker: one connection to a
    server of 50 ms a message, with a long queue in the broker.
    """
    parts: dict[str, Callable[[], Found]] = {
        "idle": lambda: pressure_idle.measure(clients, messages, seconds),
        "disk": lambda: pressure_disk.measure(submitters, recipients, flush_ms),
        "worker": lambda: pressure_worker.measure(queued, seconds),
    }
    found = {name: part() for name, part in parts.items() if scenario in ("all", name)}
    return Result(
        "pressure",
        ["", "measured"],
        [row for part in found.values() for row in part.rows()],
        {name: asdict(part) for name, part in found.items()},
        [bar for part in found.values() for bar in part.bars()],
    )
