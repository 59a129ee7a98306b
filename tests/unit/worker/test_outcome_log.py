import errno
import fcntl
import os
from pathlib import Path

import pytest

from worker import outcome_log_file
from worker.outcome_log import OutcomeLog, OutcomeLogError
from worker.outcome_rows import OutcomeRow, Rows


def row(batch: int, index: int, kind: str = "sent") -> OutcomeRow:
    return (batch, 7, index, 1, kind, "recipient", 250, "2.0.0 Ok", 1_000, 2_000)


def unconfirmed(log: OutcomeLog) -> dict[int, OutcomeRow]:
    return {first + n: row for first, rows in log.rows.runs() for n, row in enumerate(rows)}


def reopened(path: Path, *, now_ms: int = 5_000, sync: bool = False) -> OutcomeLog:
    return OutcomeLog.open(path, now_ms=now_ms, sync=sync)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "w.outcomes"


def kill(log: OutcomeLog) -> None:
    """What kill -9 does to it: the kernel closes the file, and nothing else happens."""
    os.close(log._fd)


def test_what_was_flushed_survives_a_kill(path: Path) -> None:
    log = reopened(path)
    log.begin(1, 7, 10, 1, 1_000)
    log.begin(1, 7, 11, 2, 1_500)
    log.flush()
    log.add(row(1, 10))
    log.flush()
    log.add(row(1, 99, "not_sent"))  # not flushed
    kill(log)
    again = reopened(path, now_ms=9_000)
    assert again.unknown == 1
    rows = unconfirmed(again)
    assert rows[0] == row(1, 10)
    assert list(rows.values())[1:] == [
        (1, 7, 11, 2, "unknown", "server", 0, "the worker ended before the server answered", 1_500, 9_000)
    ]
    assert again.id == log.id
    kill(again)
    # The unknown one has an outcome now: it isn't found again.
    third = reopened(path)
    assert (third.unknown, unconfirmed(third)) == (0, rows)
    third.close()


def test_numbers_and_incarnations_only_grow(path: Path) -> None:
    log = reopened(path, now_ms=5_000)
    log.add(row(1, 1))
    log.flush()
    numbers, incarnations = [log.rows.next], [log.incarnation]
    for now_ms in (4_000, 9_000):  # a clock may go backwards
        kill(log)
        log = reopened(path, now_ms=now_ms)
        numbers.append(log.rows.next)
        incarnations.append(log.incarnation)
    assert incarnations == [5_000, 5_001, 9_000]
    assert numbers == [1, 2**32, 2**33]
    log.close()


def test_a_number_never_comes_back_though_the_end_of_the_file_is_lost(path: Path) -> None:
    log = reopened(path)
    size = path.stat().st_size
    log.add(row(1, 1))
    log.flush()
    kill(log)
    os.truncate(path, size)  # a power cut
    again = reopened(path)
    assert again.rows.next > 1
    again.close()


def test_what_was_confirmed_is_not_replayed(path: Path) -> None:
    log = reopened(path)
    for index in range(10):
        log.add(row(1, index))
    log.flush()
    log.rows.confirm(4)
    log.flush()
    kill(log)
    again = reopened(path)
    assert sorted(unconfirmed(again)) == list(range(4, 10))
    again.rows.confirm(10)
    again.close()
    assert unconfirmed(reopened(path)) == {}


def test_the_file_stays_small(path: Path) -> None:
    log = OutcomeLog.open(path, now_ms=1, rewrite_bytes=10_000)
    log.begin(1, 7, 99_999, 1, 1)  # stays open through every rewrite
    sizes = []
    for index in range(5_000):
        log.begin(2, 7, index, 1, 1_000)
        log.flush()
        log.add(row(2, index))
        log.flush()
        if index % 7 == 0:
            log.rows.confirm(log.rows.next - 3)
        sizes.append(path.stat().st_size)
    assert max(sizes) < 15_000
    kill(log)
    again = reopened(path)
    assert again.unknown == 1
    assert [r[2] for r in unconfirmed(again).values()][-1] == 99_999
    assert list(path.parent.iterdir()) == [path]
    again.close()


def test_only_one_process_can_have_it(path: Path) -> None:
    log = reopened(path)
    with pytest.raises(OutcomeLogError, match=rf"another worker \(process {os.getpid()}\) has"):
        reopened(path)
    log.close()
    reopened(path).close()


def test_the_lock_holds_over_a_rewrite(path: Path) -> None:
    log = OutcomeLog.open(path, now_ms=1, rewrite_bytes=100)
    for index in range(50):
        log.add(row(1, index))
        log.flush()
    with pytest.raises(OutcomeLogError, match="has the outcome log"):
        reopened(path)
    log.close()


def test_a_lock_on_a_file_that_was_just_replaced_is_not_taken(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = OutcomeLog.open(path, now_ms=1, rewrite_bytes=1)
    flock = fcntl.flock
    calls = []

    def replaced_meanwhile(fd: int, operation: int) -> None:
        calls.append(fd)
        if len(calls) == 1:
            for index in range(10):
                log.add(row(1, index))
            log.flush()  # rewrites: the file that `fd` is open on has no name any more, and no lock
        flock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", replaced_meanwhile)
    with pytest.raises(OutcomeLogError, match="has the outcome log"):
        reopened(path)
    log.close()


def test_another_version_is_refused(path: Path) -> None:
    reopened(path).close()
    content = bytearray(path.read_bytes())
    content[4:6] = (9).to_bytes(2, "little")
    path.write_bytes(content)
    with pytest.raises(OutcomeLogError, match="version 9, this release reads version 1"):
        reopened(path)
    assert path.read_bytes() == bytes(content)


@pytest.mark.parametrize("content", [b"x", b"EPOL", b"From: a@b\r\n" * 10])
def test_another_file_is_refused_and_left_alone(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(OutcomeLogError, match="is no outcome log"):
        reopened(path)
    assert path.read_bytes() == content


def test_an_empty_file_is_a_new_log(path: Path) -> None:
    path.touch()
    log = reopened(path)
    assert len(log.id) == 32
    log.close()


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(OutcomeLogError, match="No such file or directory"):
        reopened(tmp_path / "no" / "w.outcomes")


def test_damage_is_cut_off_kept_aside_and_changes_the_id(path: Path) -> None:
    log = reopened(path)
    log.add(row(1, 1))
    log.flush()
    middle = path.stat().st_size
    for index in (2, 3):
        log.add(row(1, index))
        log.flush()
    kill(log)
    content = bytearray(path.read_bytes())
    content[middle + 12] ^= 0xFF
    path.write_bytes(content)
    again = reopened(path)
    assert list(unconfirmed(again).values()) == [row(1, 1)]
    assert again.damaged
    assert again.cut_bytes == len(content) - middle
    assert again.id != log.id
    assert (path.parent / "w.outcomes.damaged").read_bytes() == content
    again.close()


def test_a_torn_tail_is_no_damage(path: Path) -> None:
    log = reopened(path)
    log.add(row(1, 1))
    log.flush()
    kill(log)
    with path.open("ab") as file:
        file.write(b"\x02\xff\x00")
    again = reopened(path)
    assert (again.cut_bytes, again.damaged) == (3, False)
    assert list(unconfirmed(again).values()) == [row(1, 1)]
    assert list(path.parent.iterdir()) == [path]
    again.close()


@pytest.mark.parametrize(
    ("sync", "clean", "same"), [(False, False, False), (True, False, True), (False, True, True)]
)
def test_after_a_reboot_only_a_synced_or_closed_log_is_vouched_for(
    path: Path, monkeypatch: pytest.MonkeyPatch, sync: bool, clean: bool, same: bool
) -> None:
    log = reopened(path, sync=sync)
    log.add(row(1, 1))
    log.flush()
    if clean:
        log.close()
    else:
        kill(log)
    monkeypatch.setattr(outcome_log_file, "boot_id", lambda: "another boot")
    again = reopened(path, sync=sync)
    assert (again.id == log.id) is same
    assert list(unconfirmed(again).values()) == [row(1, 1)]
    again.close()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_write_that_fails_fails_for_good(path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    log = reopened(path)
    log.add(row(1, 1))
    log.flush()
    good = path.read_bytes()
    write = os.write
    room = [20]

    def fails(fd: int, data: bytes) -> int:
        if not room[0]:
            raise OSError(number, os.strerror(number))
        taken, room[0] = room[0], 0
        return write(fd, data[:taken])

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", fails)
        log.begin(1, 7, 2, 1, 1_000)
        with pytest.raises(OutcomeLogError, match=os.strerror(number)):
            log.flush()
    log.add(row(1, 3))
    with pytest.raises(OutcomeLogError):
        log.flush()
    assert path.read_bytes() == good  # the half record is gone
    assert len(log.rows) == 2  # what is known can still be told
    log.close()
    again = reopened(path)
    assert list(unconfirmed(again).values()) == [row(1, 1)]
    assert again.id == log.id
    again.close()


def test_sync_flushes_to_the_disk_each_time(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = reopened(path, sync=True)
    synced: list[int] = []
    monkeypatch.setattr(os, "fdatasync", synced.append)
    log.begin(1, 7, 1, 1, 1)
    log.flush()
    log.flush()  # nothing new
    assert len(synced) == 1
    log.close()


def test_nobody_else_may_read_it(path: Path) -> None:
    log = reopened(path)
    assert path.stat().st_mode & 0o777 == 0o600
    log.close()


def test_rows_are_read_in_runs() -> None:
    rows = Rows()
    for index in range(3):
        rows.add(row(1, index))
    rows.jump(10)
    rows.add(row(1, 10))
    assert rows.read(0, 2) == (0, [row(1, 0), row(1, 1)])
    assert rows.read(2, 9) == (2, [row(1, 2)])
    assert rows.read(3, 9) == (10, [row(1, 10)])
    assert rows.read(11, 9) == (11, [])
    rows.confirm(2)
    assert rows.read(0, 9) == (2, [row(1, 2)])
    rows.confirm(10)
    assert (len(rows), rows.next, rows.read(0, 9)) == (1, 11, (10, [row(1, 10)]))
    rows.confirm(5)
    assert rows.confirmed == 10
