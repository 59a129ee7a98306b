"""A copy of a journal while it is in use: SQLite's backup API, in steps.

The pages are copied through the connection that owns the journal. Whatever that connection commits meanwhile,
SQLite writes into the part that is copied already (https://sqlite.org/backup.html), so the copy never has to
begin anew and is the journal as of its last step. A step can't be made while a transaction is open.
"""

import os
import stat
import time
from pathlib import Path

import apsw

from broker.journal import schema
from broker.journal.store import JournalError, JournalInUseError

PAGES_A_STEP = 64
"""256 KiB: about 0.3 ms. Several go into a turn."""
_OWN_SUFFIXES = ("", "-wal", "-shm", "-journal", ".control")
_CACHE_KIB = 4 * 1024
"""Of the copy's connection: it only writes."""


class Copy:
    """One copy on its way to `FILE.part`; `finish` makes it FILE. Raises JournalError, which says why not."""

    def __init__(self, source: apsw.Connection, file: Path, *, force: bool) -> None:
        """`force`: a file that is there already is replaced, at the end and in one go."""
        refuse_own_files(Path(source.filename), file)
        self.file = file
        self._part = part_of(file)
        refuse_to_overwrite(file, force=force)
        create(self._part)
        try:
            self._db = apsw.Connection(str(self._part))
            # What a crash leaves of it is thrown away: no journal, no flush before the last.
            for pragma in ("journal_mode = OFF", "synchronous = OFF", f"cache_size = -{_CACHE_KIB}"):
                self._db.execute(f"PRAGMA {pragma}")
            self._backup = self._db.backup("main", source, "main")
        except apsw.Error as error:
            self.drop()
            raise self._failed(error) from None
        self._pages_before = 0

    @property
    def pages(self) -> int:
        """How many there are, as of the last step."""
        return self._backup.page_count or self._pages_before

    @property
    def copied(self) -> int:
        return self.pages - self._backup.remaining

    def step(self, seconds: float) -> bool:
        """Copies for so long, or to the end: True. Not while a transaction is open."""
        end = time.monotonic() + seconds
        try:
            while not self._backup.step(PAGES_A_STEP):
                if time.monotonic() >= end:
                    return False
        except apsw.Error as error:
            self.drop()
            raise self._failed(error) from None
        self._pages_before = self._backup.page_count
        try:
            self._backup.finish()
            self._db.close()
        except apsw.Error as error:
            self.drop()
            raise self._failed(error) from None
        return True

    def finish(self) -> int:
        """After the last step, on whichever thread: flushes the copy and gives it its name. Blocks. Its size
        in bytes."""
        try:
            db = apsw.Connection(str(self._part))
            db.execute("PRAGMA synchronous = OFF")
            # A file of its own, that can be read without write access and moved without a -wal.
            db.execute("PRAGMA journal_mode = DELETE").fetchall()
            db.close()
            return give_name(self._part, self.file)
        except (apsw.Error, OSError) as error:
            self.drop()
            raise self._failed(error) from None

    def drop(self) -> None:
        """Gives it up: nothing is left of it."""
        if hasattr(self, "_backup"):
            self._backup.close(True)
        if hasattr(self, "_db"):
            self._db.close(True)
        self._part.unlink(missing_ok=True)

    def _failed(self, error: Exception) -> JournalError:
        return JournalError(f"can't copy the journal to {self.file}: {reason(error)}")


def reason(error: Exception) -> object:
    """What the system or SQLite says, without the number and the path that an OSError adds."""
    return error.strerror if isinstance(error, OSError) else error


def part_of(file: Path) -> Path:
    """What is written before it becomes `file`."""
    return file.with_name(file.name + ".part")


def refuse_own_files(journal: Path, file: Path) -> None:
    """Raises JournalError where a copy to `file`, by whatever spelling, would take the place of the journal
    that it is made of, or of a file that belongs to it."""
    try:
        if b"\0" in str(file).encode():  # SQLite takes UTF-8
            raise ValueError
        own = {place(journal.with_name(journal.name + suffix)) for suffix in _OWN_SUFFIXES}
        written = {place(file), place(part_of(file))}
    except ValueError:  # a NUL, no UTF-8, or no name at all
        raise JournalError(f"{str(file)!r} can't be a file's name") from None
    if own & written:
        raise JournalError(f"{file} is the journal's own, or its .part would be: name another file")


def place(file: Path) -> Path:
    """The one spelling of a name in a folder. What is linked from there stays out of it: a rename puts
    another file in the link's place. Raises ValueError."""
    return file.parent.resolve() / file.with_name(file.name).name


def refuse_to_overwrite(file: Path, *, force: bool) -> None:
    """Raises JournalError where a file is in the way."""
    try:
        mode = file.lstat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise JournalError(f"can't write {file}: {error.strerror}") from None
    if not stat.S_ISREG(mode):
        raise JournalError(f"{file} is there and isn't a file: name another one")
    if not force:
        raise JournalError(f"{file} is there already: name another one, or replace it with --force")


def create(file: Path) -> None:
    """A new, empty file that only its owner reads: every address is in it. Raises JournalError."""
    try:
        file.unlink(missing_ok=True)  # what an earlier try left
        os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600))
    except OSError as error:
        raise JournalError(f"can't write {file}: {error.strerror}") from None


def flush(path: Path) -> int:
    """A file, or a folder's entries, to disk; the size in bytes. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        return os.fstat(descriptor).st_size
    finally:
        os.close(descriptor)


def give_name(part: Path, file: Path) -> int:
    """What was written to `part` becomes `file`, whole and for good, in place of another one; its size in
    bytes. Raises OSError."""
    size = flush(part)
    part.rename(file)
    flush(file.parent)
    return size


def open_alone(path: Path) -> apsw.Connection:
    """A journal that no broker has open, as it is: it isn't brought up to date. Raises JournalError."""
    if not path.is_file():
        raise JournalError(f"there is no journal {path}: name it with --journal")
    try:
        db = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
        db.set_busy_timeout(0)
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
        db.execute("BEGIN IMMEDIATE; COMMIT")  # takes the lock, which then stays
        application = db.pragma("application_id")
        version = db.pragma("user_version")
    except apsw.BusyError:
        raise JournalInUseError(f"{path} is in use by a broker") from None
    except apsw.Error as error:
        raise JournalError(f"can't open {path}: {error}") from None
    check_format(db, path, application, version)
    return db


def check_format(db: apsw.Connection, path: Path, application: int, version: int) -> None:
    """That a file is a journal, and one that this release can read. Raises JournalError, with `db` closed."""
    if application != schema.APPLICATION_ID:
        db.close()
        raise JournalError(f"{path} is no journal of Evenpost")
    if version > schema.VERSION:
        db.close()
        raise JournalError(
            f"{path} was written by a newer release (format {version}; this release reads up to "
            f"{schema.VERSION}): use that release"
        )
