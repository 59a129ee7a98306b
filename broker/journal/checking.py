"""Whether a journal's file is whole, and what is in it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import apsw

from broker.core.message_state import Stored, message_id
from broker.core.state import Phase
from broker.journal.copying import check_format, open_alone
from broker.journal.store import JournalError
from evenpost.wire import codec
from evenpost.wire.messages import Options

PROBLEMS_MAX = 20


class CampaignCheck(NamedTuple):
    campaign: str
    name: str
    state: str
    total: int
    rows: int
    """In the file; 0 where they were compacted."""
    counts: dict[str, int]
    compacted_at: int
    """Milliseconds since the epoch; 0: its rows are there."""


class Check(NamedTuple):
    problems: list[str]
    """Empty: the file is whole."""
    version: int
    campaigns: list[CampaignCheck]


def check(file: Path) -> Check:
    """Reads the whole file. Raises JournalError where it is no journal, or in use."""
    with _opened(file) as db:
        try:
            found = [text for (text,) in db.execute(f"PRAGMA integrity_check({PROBLEMS_MAX})")]
            problems = [] if found == ["ok"] else found
            campaigns = list(_campaigns(db))
        except apsw.Error as error:
            return Check([f"it can't be read: {error}"], 0, [])
        for campaign in campaigns:
            if campaign.rows < campaign.total and not campaign.compacted_at:
                missing = campaign.total - campaign.rows
                problems.append(
                    f"campaign {campaign.campaign}: {missing} of {campaign.total} rows are missing"
                )
        return Check(problems, db.pragma("user_version"), campaigns)


@contextmanager
def _opened(file: Path) -> Iterator[apsw.Connection]:
    """A copy is read as it is, without a trace; the journal of a broker that died is recovered first."""
    if not file.is_file():
        raise JournalError(f"there is no file {file}")
    unclean = file.with_name(file.name + "-wal").exists()
    db = open_alone(file) if unclean else open_as_it_is(file)
    try:
        yield db
    finally:
        db.close()


def open_as_it_is(file: Path) -> apsw.Connection:
    """A copy that nobody writes, to be read without locks. Raises JournalError."""
    uri = file.resolve().as_uri() + "?immutable=1"
    try:
        db = apsw.Connection(uri, flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)
        application, version = db.pragma("application_id"), db.pragma("user_version")
    except apsw.Error as error:
        raise JournalError(f"{file} is no journal: {error}") from None
    check_format(db, file, application, version)
    return db


def _campaigns(db: apsw.Connection) -> Iterator[CampaignCheck]:
    compacted = "compacted_at" if db.pragma("user_version") >= 3 else "0"
    query = f"SELECT number, id, options, phase, total, counts, {compacted} FROM campaign ORDER BY number"  # noqa: S608  # one of two words of ours
    rows_of: list[Any] = db.execute(query).fetchall()
    for number, id_, options, phase, total, counts, compacted_at in rows_of:
        bounds = (message_id(number, 0), message_id(number + 1, 0))
        rows = db.execute("SELECT count(*) FROM message WHERE id >= ? AND id < ?", bounds).get
        by_state = {Stored(state).name.lower(): n for state, n in codec.unpack_counts(counts).items() if n}
        if queued := total - sum(by_state.values()):
            by_state["queued"] = queued
        name = codec.unpack_struct(options, Options).name
        yield CampaignCheck(id_, name, Phase(phase).name.lower(), total, rows, by_state, compacted_at)
