"""Many seeds, each one history of faults; the first thing in it that must not be ends it."""

import tempfile
import traceback
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from broker.core.dispatcher import Dispatcher
from scripts.simulation.broker_host import Dispatchers
from scripts.simulation.faults import CALM_S, TROUBLE_S, Faults
from scripts.simulation.invariants import Checker, Violation, line_of
from scripts.simulation.scenario import build
from scripts.simulation.world import World

JournalKind = Literal["memory", "sqlite"]


@dataclass(slots=True)
class History:
    """How a seed went."""

    seed: int
    journal: JournalKind
    events: int = 0
    messages: int = 0
    virtual_s: float = 0.0
    violation: str = ""
    """Empty where all went well."""
    last: list[str] = field(default_factory=list)
    """What happened before that."""

    @property
    def command(self) -> str:
        """What repeats it."""
        more = "" if self.journal == "memory" else f" --journal {self.journal}"
        return f"scripts/simulate run --seed {self.seed}{more} -v"


@contextmanager
def _path(journal: JournalKind) -> Iterator[Path | None]:
    if journal == "memory":
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="evenpost-simulate-") as folder:
        yield Path(folder) / "journal.db"


def run(
    seed: int,
    journal: JournalKind = "memory",
    *,
    dispatchers: Dispatchers = Dispatcher,
    verbose: bool = False,
) -> History:
    """One seed's history. `dispatchers`: a broken core, to see that it is caught. `verbose` prints all that
    happens."""
    history = History(seed, journal)
    with _path(journal) as path:
        world = build(seed, sqlite=path, dispatchers=dispatchers)
        checker = world.watch
        assert isinstance(checker, Checker)
        checker.verbose = verbose
        try:
            _live(world, checker)
        except Exception as error:  # noqa: BLE001  # whatever a seed brings to light is its result
            history.violation = str(error) if isinstance(error, Violation) else _told(error)
            history.last = [line_of(*line) for line in checker.lines]
        finally:
            if world.broker.host.up:
                world.broker.host.die()
                world.broker.disk.crash()
        history.events = world.clock.events
        history.messages = sum(len(s.recipients) for s in world.client.submissions)
        history.virtual_s = world.time
    return history


def _live(world: World, checker: Checker) -> None:
    Faults(world).schedule()
    world.run(TROUBLE_S + 0.001)
    world.run_until_done(TROUBLE_S + CALM_S)
    checker.at_the_end()


def _told(error: Exception) -> str:
    """Something raised where nothing should."""
    return "".join(traceback.format_exception(error)[-4:]).rstrip()


def sweep(first: int, seeds: int, journal: JournalKind, jobs: int) -> Iterator[History]:
    """The histories of so many seeds, as they end."""
    numbers = range(first, first + seeds)
    if jobs == 1:
        for seed in numbers:
            yield run(seed, journal)
        return
    with ProcessPoolExecutor(jobs) as pool:
        yield from pool.map(run, numbers, [journal] * seeds, chunksize=4)
