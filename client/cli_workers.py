"""Which workers the words of an operator are for. All processes of a worker go by its name, too."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from client.errors import BAD_INPUT, ClientError
from client.sync_api import Client
from evenpost.runtime.processes import part, parted
from evenpost.wire.errors import Code


@dataclass(frozen=True, slots=True)
class Named:
    """A worker as the broker knows it."""

    worker: str
    number: int = 1
    processes: int = 1
    """Where the whole of them was named: which one this is, of so many."""

    def part(self, total: int | None) -> int | None:
        """What it has of what all of them together are to have. Raises ClientError where that is nothing."""
        if total is None:
            return None
        found = part(total, self.number, self.processes)
        if not found:
            whole = parted(self.worker)[0]
            raise ClientError(BAD_INPUT, f"{whole} has {self.processes} processes: at least that many")
        return found


def named(client: Client, workers: Sequence[str]) -> list[Named]:
    """Each once; for the name of a worker with several processes all of them that there are.

    Raises ClientError if one of several is unknown, before anything is done: of one alone the broker says
    so."""
    names = list(dict.fromkeys(workers))
    states = {each.worker: each.state for each in client.servers()}
    found: dict[str, Named] = {}
    for name in names:
        processes = [] if name in states else sorted(_processes(name, states), key=parted)
        there = [worker for worker in processes if states[worker] != "gone"] or processes
        if not there and name not in states and len(names) > 1:
            known = ", ".join(sorted(states)) or "none has ever connected"
            text = f"no worker is called {name!r}; known: {known}. Nothing was changed"
            raise ClientError(Code.NOT_FOUND, text)
        for number, worker in enumerate(there, 1):
            found.setdefault(worker, Named(worker, number, len(there)))
        if not there:
            found.setdefault(name, Named(name))
    return list(found.values())


def _processes(name: str, states: Iterable[str]) -> list[str]:
    return [worker for worker in states if worker != name and parted(worker)[0] == name]
