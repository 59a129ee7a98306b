"""What was begun and what became of it: a file that survives `kill -9`, kept until the broker confirms.

Two things are written. BEGAN goes in before a message's content goes out; an OUTCOME when it is known. After
a crash, BEGAN without OUTCOME is an `unknown`; what the file doesn't mention was never begun. Rows (the
outcomes) are numbered once and for all, so that the broker can say how far it has them.

The file: a header, then records of kind, length, CRC-32 and a msgpack array.

    STATE   incarnation, next row, confirmed, boot, clean     once at the head, once more at a clean end
    BLOCK   first row's number, confirmed, begun, outcomes    all that one turn of the event loop brought

A record is written by one os.write. A torn tail is cut off: what stood in it never reached a socket. When
the file has grown, what is still needed is written to a new one that takes its place, so that it stays as
small as what is unconfirmed. Each start begins a new run of row numbers: a number can't come back with
another meaning, even where a power cut ate the end of the file.
"""

import contextlib
import fcntl
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

import msgspec

from evenpost.wire import codec
from worker import outcome_log_file as file
from worker.outcome_log_file import OutcomeLogError
from worker.outcome_rows import OutcomeRow, Rows

__all__ = ["OutcomeLog", "OutcomeLogError"]

REWRITE_BYTES = 16 * 1024 * 1024
"""The file is rewritten when it has grown by this: every 100,000 messages or so, a few ms each time."""
BLOCK_ROWS_MAX = 2_000
"""Rows a record when the file is rewritten."""
RUN_ROWS_BITS = 32
"""Each start numbers its rows from the next multiple of 2**32: more than one run can ever write."""
SYNCED = "synced"
"""In place of the boot in STATE: each record was flushed to the disk, so that a power cut took none."""
_TO_DO = "; look after its disk and start the worker again: it tells then what it had begun"
ENDED_TOO_SOON = "the worker ended before the server answered"

BegunRow: TypeAlias = tuple[int, int, int, int, int]
"""batch, campaign, index, attempt, at."""


class OutcomeLog:
    """The open log of one worker; `open` makes it. One process at a time can have it."""

    def __init__(self, path: Path, fd: int, *, sync: bool, rewrite_bytes: int) -> None:
        self.path = path
        self.id = ""
        """Named in HELLO. It changes where the file can't prove that what it doesn't mention was never
        begun: after damage, and after a power cut without `sync`."""
        self.incarnation = 0
        self.rows = Rows()
        self.unknown = 0
        """Messages that an earlier process began and that have no outcome."""
        self.cut_bytes = 0
        """What was cut off the end of the file when it was opened."""
        self.damaged = False
        """It was cut because of damage and not of a crash; a copy stands beside it."""
        self.failed: OutcomeLogError | None = None
        self._fd = fd
        self._sync = sync
        self._rewrite_bytes = rewrite_bytes
        self._boot = SYNCED if sync else file.boot_id()
        self._begun: list[BegunRow] = []
        self._fresh: list[OutcomeRow] = []
        self._open: dict[tuple[int, int], BegunRow] = {}
        self._bytes = 0
        self._rewrite_at = 0
        self._written_confirmed = 0
        self.writes = 0
        """So far."""

    @classmethod
    def open(
        cls, path: Path, *, now_ms: int, sync: bool = False, rewrite_bytes: int = REWRITE_BYTES
    ) -> "OutcomeLog":
        """Opens or makes the log at `path`, locks it and turns what an earlier process left open into
        `unknown` outcomes. Raises OutcomeLogError."""
        log = cls(path, file.lock(path), sync=sync, rewrite_bytes=rewrite_bytes)
        try:
            log._recover(now_ms)
        except BaseException:
            os.close(log._fd)
            raise
        return log

    def begin(self, batch: int, campaign: int, index: int, attempt: int, at: int) -> None:
        """This message's content is about to be written to its connection: `flush` before it is."""
        row = (batch, campaign, index, attempt, at)
        self._begun.append(row)
        self._open[batch, index] = row

    def add(self, row: OutcomeRow) -> None:
        """An outcome; in the file after the next `flush`."""
        self._open.pop((row[0], row[2]), None)
        self._fresh.append(row)
        self.rows.add(row)

    @property
    def has_unwritten(self) -> bool:
        """Whether `flush` has something to write that was begun or has ended."""
        return bool(self._begun or self._fresh)

    def flush(self) -> None:
        """Everything since the last flush into the file, by one write. Raises OutcomeLogError, and does so
        ever after: nothing that comes later may be begun."""
        begun, fresh, confirmed = self._begun, self._fresh, self.rows.confirmed
        if not begun and not fresh and self._written_confirmed == confirmed:
            return
        if self.failed:
            raise self.failed
        body = codec.pack((self.rows.next - len(fresh), confirmed, begun, fresh))
        record = file.record(file.BLOCK, body)
        try:
            self._append(record)
            if self._sync:
                os.fdatasync(self._fd)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self._bytes)
            self.failed = OutcomeLogError(f"can't write to {self.path}: {error.strerror}{_TO_DO}")
            raise self.failed from None
        self._begun, self._fresh = [], []
        self._written_confirmed = confirmed
        self.writes += 1
        self._bytes += len(record)
        if self._bytes >= self._rewrite_at:
            self._rewrite()

    def _append(self, record: bytes) -> None:
        file.write(self._fd, record)

    def close(self) -> None:
        """Writes what is left and lets go of the file. Raises OutcomeLogError; it is closed all the same.
        What has no outcome by now will be `unknown` at the next start."""
        try:
            if self.failed is None:
                self.flush()
                self._rewrite(clean=True)
        finally:
            os.close(self._fd)

    # --- opening ------------------------------------------------------------------------------------

    def _recover(self, now_ms: int) -> None:
        content = file.read_all(self._fd, self.path)
        vouched = False
        if content:
            self.id = file.read_header(content, self.path)
            state, good = self._replay(content)
            self.cut_bytes = len(content) - good
            if self.cut_bytes and not file.is_torn(content[good:]):
                self.damaged = True
                _keep_copy(self.path, content)
            if state is not None and not self.cut_bytes:
                vouched = state.clean or (state.boot in (SYNCED, file.boot_id()) and state.boot != "")
            if state is not None:
                self.incarnation = state.incarnation
                self.rows.jump(max(self.rows.next, state.next_row))
            self.rows.jump(((self.rows.next >> RUN_ROWS_BITS) + 1) << RUN_ROWS_BITS)
        if not vouched:
            self.id = secrets.token_hex(16)
        self.incarnation = max(now_ms, self.incarnation + 1)
        self.unknown = len(self._open)
        for batch, campaign, index, attempt, at in list(self._open.values()):
            ended = max(at, now_ms)
            self.add((batch, campaign, index, attempt, "unknown", "server", 0, ENDED_TOO_SOON, at, ended))
        self._fresh = []  # the new file holds them
        self._rewrite()

    def _replay(self, content: bytes) -> tuple[file.State | None, int]:
        """Takes over what the records say; gives the last STATE and where the good part ends."""
        state, end = None, file.RECORDS_AT
        for record, after in file.records(content):
            if isinstance(record, file.State):
                state = record
            else:
                if state is not None and state.clean:
                    state = msgspec.structs.replace(state, clean=False)
                for begun in record.begun:
                    self._open[begun.batch, begun.index] = msgspec.structs.astuple(begun)
                if record.outcomes:
                    self.rows.jump(record.first)
                for outcome in record.outcomes:
                    self._open.pop((outcome.batch, outcome.index), None)
                    self.rows.add(msgspec.structs.astuple(outcome))
            self.rows.confirm(record.confirmed)
            end = after
        return state, end

    # --- rewriting ----------------------------------------------------------------------------------

    def _rewrite(self, *, clean: bool = False) -> None:
        """What is still needed into a new file that takes the old one's place, flushed to the disk."""
        new = self.path.with_name(self.path.name + ".new")
        fd, size, confirmed = -1, 0, self.rows.confirmed
        try:
            fd = os.open(new, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for part in self._whole(clean):
                file.write(fd, part)
                size += len(part)
            os.fsync(fd)
            new.replace(self.path)
            file.sync_folder(self.path.parent)
        except OSError as error:
            if fd >= 0:
                os.close(fd)
            self.failed = OutcomeLogError(f"can't write to {new}: {error.strerror}{_TO_DO}")
            raise self.failed from None
        os.close(self._fd)
        self._fd, self._bytes, self._written_confirmed = fd, size, confirmed
        self._rewrite_at = size + max(self._rewrite_bytes, size)

    def _whole(self, clean: bool) -> Iterator[bytes]:
        yield file.header(self.id)
        for first, rows in self.rows.runs():
            for start in range(0, len(rows), BLOCK_ROWS_MAX):
                part = rows[start : start + BLOCK_ROWS_MAX]
                yield file.record(file.BLOCK, codec.pack((first + start, 0, [], part)))
        begun = list(self._open.values())
        for start in range(0, len(begun), BLOCK_ROWS_MAX):
            yield file.record(file.BLOCK, codec.pack((0, 0, begun[start : start + BLOCK_ROWS_MAX], [])))
        state = (self.incarnation, self.rows.next, self.rows.confirmed, self._boot, clean)
        yield file.record(file.STATE, codec.pack(state))


def _keep_copy(path: Path, content: bytes) -> None:
    try:
        path.with_name(path.name + ".damaged").write_bytes(content)
    except OSError as error:
        raise OutcomeLogError(
            f"{path} is damaged and can't be copied to {path}.damaged: {error.strerror}"
        ) from None
