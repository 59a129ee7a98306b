"""How many copies the contract allows for a fault, read from what the fault left.

The contract: a failure exposes at most the messages in the pipeline of each open connection plus the outcomes not
yet committed. A worker's outcome log knows both: what has BEGAN and no outcome is in a connection's pipeline; what
has an outcome and isn't confirmed is what the broker may not have committed. So the bound is counted at the moment
of the fault from the files of the workers that it concerns: the victim's own; those of all workers where the
broker dies.
"""

from dataclasses import dataclass
from pathlib import Path

from worker import outcome_log_file as log_file


@dataclass(frozen=True, slots=True)
class Exposure:
    """Of one worker at one moment."""

    pipeline: int = 0
    """Messages whose content went out, or was about to, and that have no outcome."""
    uncommitted: int = 0
    """Outcomes that the broker hasn't confirmed."""

    @property
    def messages(self) -> int:
        return self.pipeline + self.uncommitted

    def __add__(self, other: "Exposure") -> "Exposure":
        return Exposure(self.pipeline + other.pipeline, self.uncommitted + other.uncommitted)


def exposure(content: bytes) -> Exposure:
    """What an outcome log says; nothing of an empty one, which has begun nothing."""
    if not content:
        return Exposure()
    open_: set[tuple[int, int]] = set()
    rows: set[int] = set()
    confirmed = 0
    for record, _ in log_file.records(content):
        confirmed = max(confirmed, record.confirmed)
        if isinstance(record, log_file.Block):
            open_.update((begun.batch, begun.index) for begun in record.begun)
            open_.difference_update((row.batch, row.index) for row in record.outcomes)
            rows.update(range(record.first, record.first + len(record.outcomes)))
    return Exposure(len(open_), sum(row >= confirmed for row in rows))


def exposure_of(path: Path) -> Exposure:
    """Of the log at `path`; nothing where there is none yet."""
    try:
        return exposure(path.read_bytes())
    except FileNotFoundError:
        return Exposure()
