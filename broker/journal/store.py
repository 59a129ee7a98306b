"""What the broker asks of its journal. Small, so that it can stand on another database too."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from broker.core.buckets import StoredBucket
from broker.core.commands import Change
from broker.core.events import FreshRow, StoredBatch, StoredRow
from broker.core.message_state import Stored
from broker.core.state import Campaign
from broker.core.worker_state import Worker


class JournalError(Exception):
    """The journal can't be opened, read or written; the message says which and what to do."""


class JournalInUseError(JournalError):
    """Another process has it open."""


class ReportLine(NamedTuple):
    """A message as reports show it."""

    id: int
    address: str
    state: int
    attempts: int
    code: int
    reply: str
    worker: str
    server: str
    first_at: int
    last_at: int
    due_at: int
    history: bytes | None


class Compacted(NamedTuple):
    """What a step of retention did."""

    rows: int
    ended: list[str]
    """Ids of campaigns of which only the summary is left now."""
    more: bool
    """There is more to do at once."""


class Journal(Protocol):
    """One writer. Calls come one at a time, though `commit` comes from another thread than the rest."""

    boot: int
    """How often this journal has been opened to write; part of every batch number."""

    def apply(self, changes: Iterable[Change]) -> None:
        """Writes into the open transaction, and opens one if there is none. Raises JournalError."""

    def commit(self) -> None:
        """Flushes to disk what was applied. Blocks; releases the GIL. Raises JournalError."""

    def campaigns(self) -> list[Campaign]:
        """The unfinished ones."""

    def workers(self) -> list[Worker]: ...

    def campaign(self, id_: str) -> Campaign | None: ...

    def campaign_by_number(self, number: int) -> Campaign | None: ...

    def campaign_by_submission(self, submission: str) -> Campaign | None: ...

    def newest_campaigns(self, limit: int) -> list[str]:
        """Their ids, the newest first."""

    def next_campaign_number(self) -> int: ...

    def quotas(self) -> dict[str, StoredBucket]:
        """What rates have granted, by the key of their bucket."""

    def batches(self) -> list[StoredBatch]:
        """Those that were added and haven't ended, with what is known of their messages."""

    def fresh(self, after: int, upto: int, limit: int) -> list[FreshRow]:
        """Messages that were never tried, after < number < upto, in order."""

    def retries(
        self, campaign: int, after: tuple[int, int], due_upto: int, limit: int
    ) -> tuple[list[StoredRow], tuple[int, int], int | None]:
        """Deferred messages, the earliest due first; where the read ended; when the next one is due."""

    def stored(self, ids: Sequence[int]) -> dict[int, StoredRow]:
        """What is known of these messages; those that don't exist are left out."""

    def report(
        self, campaign: int, after: int, upto: int, states: Sequence[Stored], limit: int
    ) -> list[ReportLine]:
        """Messages with after < index <= upto, of these states (none named: all), in order."""

    def trace(self, address: str, limit: int) -> list[ReportLine]:
        """Every message to an address, whatever the case of its letters, the newest first."""

    def reopen(self, campaign: int) -> None:
        """Marks that messages are about to be restated: counts are made anew if that is cut short."""

    def restate(
        self, campaign: int, index_from: int, index_to: int, states: Sequence[Stored], due_at: int
    ) -> dict[Stored, int]:
        """Makes messages of these states with index_from <= index < index_to due; says how many of each."""

    def end_open_rows(self, campaign: int, index_from: int, index_to: int, as_: Stored) -> None:
        """Writes into the rows what `closed_as` said of a whole campaign."""

    def compact(self, ended_before: int, at: int) -> Compacted:
        """A step: deletes some rows of campaigns that ended before then (ms) and have no held messages;
        those that were begun come first. `at`: the time (ms). Their own row stays, without the template."""

    def shrink(self, pages: int) -> bool:
        """Gives up to so many free pages back to the disk. False: there are none to speak of."""

    def meta(self, key: str) -> int:
        """A number that the journal keeps: `compacted` (campaigns), `compacted_upto` (when the last of them
        ended, ms), and others that callers set. 0 where there is none."""

    def set_meta(self, key: str, value: int) -> None: ...

    def newest_end(self) -> int:
        """When a campaign that has its rows ended last (ms), 0 for none."""

    def close(self) -> None: ...
