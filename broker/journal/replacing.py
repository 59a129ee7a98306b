"""Another file in the journal's place: one that was restored from a backup, or the same one rewritten.

In both cases the lock on the old file is held until the new one has its name, so that a broker that is
started meanwhile ends instead of going on with a file that has none.
"""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import apsw

from broker.core.state import Phase
from broker.journal.checking import check
from broker.journal.copying import create, flush, give_name, open_alone, part_of, place, reason
from broker.journal.sqlite import SqliteJournal
from broker.journal.store import JournalError, JournalInUseError
from evenpost.wire import codec
from evenpost.wire.messages import Options

_JUMP = 1 << 24
"""So many numbers of openings and campaigns a restored journal leaves out, and up to as many again at random:
what the lost one gave out after the backup must not mean anything here. That is room for 16 million campaigns
and 2,000 openings; a journal can be restored some 30 times before its campaigns' numbers get scarce."""


class Held(NamedTuple):
    """A campaign that doesn't go on by itself after a restore."""

    campaign: str
    name: str
    open: bool
    """Its recipients had not all come."""


class Restored(NamedTuple):
    held: list[Held]
    campaigns: int
    moved: Path | None
    """Where the journal is that was there before."""


def restore(file: Path, journal: Path, *, force: bool) -> Restored:
    """Puts a backup in the journal's place. Nothing that had not ended in it goes on before a person says so.
    `force`: a journal that is there is moved aside. Raises JournalError."""
    part = part_of(journal)
    if file.exists():
        if journal.exists() and file.samefile(journal):
            raise JournalError(f"{file} is the journal itself: name a backup")
        if place(file) == place(part):
            raise JournalError(f"{file} is where the new journal is written first: rename it, then restore")
    found = check(file)
    if found.problems:
        raise JournalError(f"{file} is damaged: {'; '.join(found.problems)}")
    wal = journal.with_name(journal.name + "-wal")
    there = journal.exists() or wal.exists()
    if there and not force:
        raise JournalError(f"there is a journal {journal}: --force moves it aside")
    lock = _locked(journal) if journal.exists() else None
    try:
        with _created(part):
            with file.open("rb") as source, part.open("r+b") as target:
                shutil.copyfileobj(source, target, 1024 * 1024)
            SqliteJournal(part).close()  # brings it up to date, should it be an older one
            held = _hold(part)
            flush(part)  # before anything happens to the old one
            moved = _move_aside(journal, wal) if there else None
            give_name(part, journal)
    finally:
        if lock is not None:
            lock.close()
    return Restored(held, len(found.campaigns), moved)


@contextmanager
def _created(part: Path) -> Iterator[None]:
    """In it, a new file is there to be written. Raises JournalError, with the file gone, where that fails."""
    create(part)
    try:
        yield
    except (OSError, apsw.Error) as error:
        part.unlink(missing_ok=True)
        raise JournalError(f"can't write {part}: {reason(error)}") from None


def _locked(journal: Path) -> apsw.Connection | None:
    """Nobody else opens it from now on; None where it is no journal any more. Raises JournalInUseError."""
    try:
        db = open_alone(journal)
    except JournalInUseError:
        raise
    except JournalError:
        return None  # what is damaged is moved aside as it is
    # All of it in one file, and no -wal left that the new one would take for its own.
    db.execute("PRAGMA journal_mode = DELETE").fetchall()
    return db


def _hold(file: Path) -> list[Held]:
    db = apsw.Connection(str(file))
    try:
        db.execute("BEGIN IMMEDIATE")
        jump = "UPDATE meta SET value = value + ?1 + abs(random() % ?1) WHERE key IN ('boot', 'campaign')"
        db.execute(jump, (_JUMP,))
        unfinished = "SELECT id, options, phase FROM campaign WHERE finished_at = 0 ORDER BY number"
        rows: list[Any] = db.execute(unfinished).fetchall()
        db.execute("UPDATE campaign SET restored = 1 WHERE finished_at = 0")
        db.execute("DELETE FROM batch")  # they ended long ago, and nobody knows how: a person decides
        db.execute(
            "UPDATE campaign SET phase = ? WHERE finished_at = 0 AND phase = ?",
            (int(Phase.PAUSED), int(Phase.ACTIVE)),
        )
        db.execute("COMMIT; PRAGMA journal_mode = DELETE").fetchall()
    finally:
        db.close()
    return [
        Held(id_, codec.unpack_struct(options, Options).name, phase == Phase.OPEN)
        for id_, options, phase in rows
    ]


def _move_aside(journal: Path, wal: Path) -> Path:
    """The old journal's content gets another name, besides its old one, which the new file then takes."""
    stamp = time.strftime("%Y%m%dT%H%M%S")
    aside = journal.with_name(f"{journal.name}.before-restore-{stamp}")
    if aside.exists():
        raise OSError(0, f"{aside} is there already: try again")
    if wal.exists():
        wal.rename(aside.with_name(aside.name + "-wal"))
    if journal.exists():
        os.link(journal, aside)
    return aside


def rewrite(journal: Path) -> tuple[int, int]:
    """Writes the journal anew, without free pages; from then on the broker can give pages back by itself. Its
    size before and after. Raises JournalError."""
    db = open_alone(journal)
    part = part_of(journal)
    try:
        with _created(part):
            db.execute("PRAGMA journal_mode = DELETE").fetchall()
            before = journal.stat().st_size
            db.execute("PRAGMA auto_vacuum = INCREMENTAL")
            db.execute("VACUUM INTO ?", (str(part),))
            return before, give_name(part, journal)
    finally:
        db.close()
