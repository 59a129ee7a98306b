"""Wherever a crash cuts the outcome log, what was written before is there again, and nothing else."""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from worker.outcome_log import OutcomeLog
from worker.outcome_rows import OutcomeRow

REWRITE_BYTES = 1_500

steps = st.lists(
    st.one_of(
        st.tuples(st.just("begin"), st.integers(0, 30)),
        st.tuples(st.just("end"), st.integers(0, 30)),
        st.tuples(st.just("flush"), st.just(0)),
        st.tuples(st.just("confirm"), st.integers(0, 40)),
        st.tuples(st.just("restart"), st.just(0)),
    ),
    max_size=60,
)


@dataclass(frozen=True)
class Books:
    """What a log that holds this much must say."""

    rows: dict[int, OutcomeRow]
    open: frozenset[tuple[int, int]]
    confirmed: int


def outcome(index: int, kind: str = "sent", reply: str = "2.0.0 Ok\u00e9") -> OutcomeRow:
    return (1, 7, index, 1, kind, "recipient", 250, reply, 1_000, 2_000)


class Writer:
    """A log and, beside it, what should be in its file after each flush."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.log = self._open()
        self.begun: set[tuple[int, int]] = set()
        self.ended: set[int] = set()
        self.states: list[tuple[int, Books]] = []
        self.ids = [self.log.id]
        self._start()

    def _open(self) -> OutcomeLog:
        return OutcomeLog.open(self.path, now_ms=5_000, rewrite_bytes=REWRITE_BYTES)

    def _start(self) -> None:
        self.states = [(self.path.stat().st_size, self.books())]

    def books(self) -> Books:
        rows = {first + n: row for first, rows in self.log.rows.runs() for n, row in enumerate(rows)}
        return Books(rows, frozenset(self.begun), self.log.rows.confirmed)

    def step(self, name: str, number: int) -> None:
        match name:
            case "begin" if number not in self.ended:  # a message has one outcome, and none before it
                self.log.begin(1, 7, number, 1, 1_000)
                self.begun.add((1, number))
            case "end":
                self.log.add(outcome(number))
                self.begun.discard((1, number))
                self.ended.add(number)
            case "confirm":
                self.log.rows.confirm(min(number, self.log.rows.next))
            case "flush":
                file = self.path.stat().st_ino
                self.log.flush()
                if self.path.stat().st_ino != file:
                    self._start()  # it was rewritten: there is no way back beyond this
                else:
                    self.states.append((self.path.stat().st_size, self.books()))
            case "restart":
                self.step("flush", 0)
                os.close(self.log._fd)
                self.log = self._open()
                self.begun.clear()  # they are unknown now
                self._start()


def check(content: bytes, expected: Books, where: Path) -> OutcomeLog:
    copy = where / "copy"
    copy.write_bytes(content)
    log = OutcomeLog.open(copy, now_ms=9_000)
    try:
        found = {first + n: row for first, rows in log.rows.runs() for n, row in enumerate(rows)}
        unknown = {number: row for number, row in found.items() if number not in expected.rows}
        assert {n: found[n] for n in found.keys() - unknown.keys()} == expected.rows
        assert {(row[0], row[2]) for row in unknown.values()} == expected.open
        assert {row[4] for row in unknown.values()} <= {"unknown"}
        assert log.rows.confirmed == expected.confirmed
        assert all(number > max(expected.rows, default=-1) for number in unknown)
        return log
    finally:
        os.close(log._fd)


@settings(max_examples=150, deadline=None)
@given(steps, st.data())
def test_any_cut_gives_exactly_what_was_written_before(
    script: list[tuple[str, int]], data: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        writer = Writer(Path(folder) / "log")
        for name, number in script:
            writer.step(name, number)
        content = writer.path.read_bytes()
        base = writer.states[0][0]
        cut = data.draw(st.integers(base, len(content)))
        size, books = [state for state in writer.states if state[0] <= cut][-1]
        log = check(content[:cut], books, Path(folder))
        assert log.cut_bytes == cut - size
        assert (log.id == writer.log.id) is (cut == size)
        os.close(writer.log._fd)


@settings(max_examples=150, deadline=None)
@given(steps, st.data())
def test_any_damage_keeps_what_stands_before_it(script: list[tuple[str, int]], data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        writer = Writer(Path(folder) / "log")
        for name, number in [*script, ("end", 1), ("flush", 0)]:
            writer.step(name, number)
        content = bytearray(writer.path.read_bytes())
        base = writer.states[0][0]
        if base < len(content):
            at = data.draw(st.integers(base, len(content) - 1))
            content[at] ^= data.draw(st.integers(1, 255))
            _, books = [state for state in writer.states if state[0] <= at][-1]
            log = check(bytes(content), books, Path(folder))
            assert log.cut_bytes > 0
            assert log.id != writer.log.id
        os.close(writer.log._fd)


@settings(max_examples=50, deadline=None)
@given(steps, st.binary(min_size=1, max_size=60))
def test_whatever_follows_the_last_record_is_cut_off(script: list[tuple[str, int]], tail: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        writer = Writer(Path(folder) / "log")
        for name, number in [*script, ("flush", 0)]:
            writer.step(name, number)
        content = writer.path.read_bytes()
        log = check(content + tail, writer.states[-1][1], Path(folder))
        assert log.cut_bytes == len(tail)
        os.close(writer.log._fd)
