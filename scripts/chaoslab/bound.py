"""How many copies the contract allows for a fault, read from what the fault left.

The contract: a failure exposes at most the messages in the pipeline of each open connection plus the outcomes
not yet committed. A worker's outcome log knows both: what has BEGAN and no outcome is in a connection's
pipeline; what has an outcome and isn't confirmed is what the broker may not have committed. So the bound is
counted at the moment of the fault from the files of the workers that it concerns: the victim's own; those of
all workers where the broker dies.
"""

from dataclasses import dataclass, field
from pathlib import Path

from worker import outcome_log_file as log_file


@dataclass(slots=True)
class Exposure:
    """Messages that faults may make copies of, each as batch and index: one that is exposed by two faults in
    the same attempt is exposed once."""

    pipeline: set[tuple[int, int]] = field(default_factory=set)
    """Their content went out, or was about to, and they have no outcome."""
    uncommitted: set[tuple[int, int]] = field(default_factory=set)
    """They have an outcome that the broker hasn't confirmed."""

    @property
    def messages(self) -> int:
        return len(self.pipeline | self.uncommitted)

    def add(self, other: "Exposure") -> None:
        self.pipeline |= other.pipeline
        self.uncommitted |= other.uncommitted


def exposure(content: bytes) -> Exposure:
    """What an outcome log says; nothing of an empty one, which has begun nothing."""
    found = Exposure()
    rows: dict[int, tuple[int, int]] = {}
    confirmed = 0
    for record, _ in log_file.records(content) if content else ():
        confirmed = max(confirmed, record.confirmed)
        if isinstance(record, log_file.Block):
            found.pipeline.update((begun.batch, begun.index) for begun in record.begun)
            for number, row in enumerate(record.outcomes, record.first):
                found.pipeline.discard((row.batch, row.index))
                rows[number] = (row.batch, row.index)
    found.uncommitted.update(key for number, key in rows.items() if number >= confirmed)
    return found


def exposure_of(path: Path) -> Exposure:
    """Of the log at `path`; nothing where there is none yet."""
    try:
        return exposure(path.read_bytes())
    except FileNotFoundError:
        return Exposure()
