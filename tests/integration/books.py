"""Three books that have to agree: what a client was told, the report, and what the servers took."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from client import Client


class Sink(Protocol):
    """A server that remembers what it took."""

    def recipients(self) -> Counter[str]: ...

    def message_ids(self) -> Counter[str]: ...


@dataclass(frozen=True)
class Books:
    """One finished campaign."""

    accepted: int
    states: Counter[str]
    taken: Counter[str]
    """Copies that the servers took of each recipient's message."""
    unknown: int
    duplicates: int

    @property
    def copies(self) -> int:
        """Messages that were taken once too often."""
        return sum(count - 1 for count in self.taken.values())

    def __str__(self) -> str:
        return (
            f"accepted {self.accepted}, {dict(self.states)}, taken {len(self.taken)}, copies {self.copies}, "
            f"unknown {self.unknown}, duplicates {self.duplicates}"
        )


def balance(client: Client, campaign: str, accepted: int, sinks: Iterable[Sink]) -> Books:
    """Compares the books of a finished campaign to `user0@` to `user{accepted - 1}@example.com`.

    Nothing is lost: the report has each message once, and a server has each that it calls sent. No copy went
    uncounted, and each copy has its message's Message-ID.
    """
    status = client.status(campaign)
    rows = list(client.report(campaign))
    taken, ids = Counter[str](), Counter[str]()
    for sink in sinks:
        taken += sink.recipients()
        ids += sink.message_ids()
    states = Counter(row.state for row in rows)
    books = Books(accepted, states, taken, status.unknown, status.duplicates)
    print(books)
    assert status.state in ("finished", "cancelled"), status
    assert status.total == accepted
    assert [row.index for row in rows] == list(range(accepted))
    assert Counter({state: count for state, count in status.counts.items() if count}) == states
    lost = {row.address for row in rows if row.state == "sent"} - taken.keys()
    assert not lost, f"{len(lost)} are called sent and no server has them: {sorted(lost)[:10]}"
    assert taken.keys() <= {f"user{n}@example.com" for n in range(accepted)}
    assert books.copies <= books.unknown, f"copies that nobody counted: {books}"
    assert books.copies == sum(count - 1 for count in ids.values()), "a copy with another Message-ID"
    return books
