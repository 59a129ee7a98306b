"""A power cut under a worker's outcome log.

With --outcome-log-sync all that was flushed is there again. Without it the end may be missing: then the log
says so by another id, and the broker takes nothing that it doesn't mention for never begun.
"""

import os
import random
from pathlib import Path

import pytest

from tests.faults.power import SECTOR, Disk, Sync, Write
from worker import outcome_log, outcome_log_file
from worker.outcome_log import OutcomeLog
from worker.outcome_rows import OutcomeRow

SEEDS = range(60)
STEPS = 60
CUTS = 6
Books = tuple[frozenset[tuple[int, int]], dict[int, OutcomeRow], int]
"""What was begun and has no outcome; outcomes by number; how far they are confirmed."""


class Recorder:
    """What the log does to the disk: files, and the name that points to one of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ops: list[object] = []
        """Write, Sync; a string: the log's name points to this file; None: and that is on the disk."""
        self._files: dict[int, str] = {}
        """By inode."""
        write, replace, sync_folder = outcome_log_file.write, Path.replace, outcome_log_file.sync_folder

        def recording_write(fd: int, data: bytes) -> None:
            offset, inode = os.lseek(fd, 0, os.SEEK_CUR), os.fstat(fd).st_ino
            if offset == 0:  # a new file, which may have got the number of one that is gone
                self._files[inode] = f"file {len(self.ops)}"
            self.ops.append(Write(self._files[inode], offset, data))
            write(fd, data)

        def recording_sync(fd: int) -> None:
            if (inode := os.fstat(fd).st_ino) in self._files:  # else it is the folder
                self.ops.append(Sync(self._files[inode]))

        def recording_replace(path: Path, target: Path) -> Path:
            self.ops.append(self._files[path.stat().st_ino])
            return replace(path, target)

        def recording_sync_folder(folder: Path) -> None:
            self.ops.append(None)
            sync_folder(folder)

        monkeypatch.setattr(outcome_log_file, "write", recording_write)
        monkeypatch.setattr(outcome_log_file, "sync_folder", recording_sync_folder)
        monkeypatch.setattr(outcome_log.os, "fsync", recording_sync)
        monkeypatch.setattr(outcome_log.os, "fdatasync", recording_sync)
        monkeypatch.setattr(Path, "replace", recording_replace)

    def left(self, cut: int, rng: random.Random) -> bytes:
        """What stands under the log's name after a power cut behind so many operations."""
        disk, names = Disk(), [""]
        for op in self.ops[:cut]:
            if isinstance(op, Write | Sync):
                disk.do(op)
            elif op is None:
                names = names[-1:]
            else:
                names.append(str(op))
        return disk.after_cut(rng).get(rng.choice(names), b"")


class Writer:
    def __init__(self, path: Path, recorder: Recorder, rng: random.Random, *, sync: bool) -> None:
        self.log = OutcomeLog.open(path, now_ms=1_000, sync=sync, rewrite_bytes=900)
        self.id = self.log.id
        self._recorder = recorder
        self._rng = rng
        self._begun: set[tuple[int, int]] = set()
        self._outcomes: dict[int, OutcomeRow] = {}
        self.numbers: dict[tuple[int, int], int] = {}
        """Of the outcomes of what was begun."""
        self.flushed: list[tuple[int, Books]] = [(len(recorder.ops), self._books())]
        """After so many operations this much was flushed: contents may have gone out."""

    def _books(self) -> Books:
        return frozenset(self._begun), dict(self._outcomes), self.log.rows.confirmed

    def step(self, index: int) -> None:
        log = self.log
        if self._begun and self._rng.random() < 0.4:
            batch, ended = self._rng.choice(sorted(self._begun))
            self._begun.discard((batch, ended))
            row: OutcomeRow = (batch, 7, ended, 1, "sent", "recipient", 250, "2.0.0 Ok " + "x" * 40, 1, 2)
            self._outcomes[log.rows.next] = row
            self.numbers[batch, ended] = log.rows.next
            log.add(row)
        else:
            log.begin(3, 7, index, 1, 1)
            self._begun.add((3, index))
        if self._rng.random() < 0.1:
            log.rows.confirm(self._rng.randint(log.rows.confirmed, log.rows.next))
        if self._rng.random() < 0.7:
            log.flush()
            self.flushed.append((len(self._recorder.ops), self._books()))


def complete(log: OutcomeLog, books: Books, numbers: dict[tuple[int, int], int]) -> bool:
    """Whether all is there that was flushed, apart from what the broker has confirmed since."""
    begun, outcomes, _ = books
    found = {first + n: row for first, rows in log.rows.runs() for n, row in enumerate(rows)}
    told = {(row[0], row[2]) for row in found.values()}
    # What was begun may have its outcome by now, on the disk and confirmed: then it is in neither.
    missing = [key for key in begun if key not in told and numbers.get(key, 1 << 60) >= log.rows.confirmed]
    lost = [
        number
        for number, row in outcomes.items()
        if number >= log.rows.confirmed and found.get(number) != row
    ]
    return not missing and not lost


@pytest.mark.parametrize("sync", [True, False])
def test_after_a_power_cut_the_log_knows_all_or_says_that_it_may_not(
    sync: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    incomplete = 0
    for seed in SEEDS:
        rng = random.Random(seed)
        path = tmp_path / f"log{seed}"
        with monkeypatch.context() as patched:
            recorder = Recorder(patched)
            writer = Writer(path, recorder, rng, sync=sync)
            for index in range(STEPS):
                writer.step(index)
        os.close(writer.log._fd)
        monkeypatch.setattr(outcome_log_file, "boot_id", lambda: "the boot after the power cut")
        start = writer.flushed[0][0]
        for cut in rng.sample(range(start, len(recorder.ops) + 1), CUTS):
            where = f"sync {sync}, seed {seed}, cut after {cut} of {len(recorder.ops)}"
            left = tmp_path / f"left{seed}-{cut}"
            left.write_bytes(recorder.left(cut, rng))
            books = [books for at, books in writer.flushed if at <= cut][-1]
            # Whoever turns the option on after the power cut can't make it true for what was before.
            log = OutcomeLog.open(left, now_ms=9_000, sync=rng.random() < 0.5)
            whole = complete(log, books, writer.numbers)
            incomplete += not whole
            assert whole or log.id != writer.id, f"{where}: the log vouches for what it has lost"
            assert whole or not sync, f"{where}: what was flushed is gone"
            log.close()
        monkeypatch.undo()
    assert sync or incomplete > 10  # the cuts do cut
    assert SECTOR == 512
