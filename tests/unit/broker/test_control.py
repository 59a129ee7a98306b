"""The control socket: who may ask, and what becomes of those who ask badly."""

import contextlib
import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker import control
from broker.control import Asker, Control, Progress, Question, ask, control_file


class Server:
    """A control socket that answers at once; ticked by hand."""

    def __init__(self, journal: Path) -> None:
        self.asked: list[Question] = []
        self.control = Control(journal, self.answer)
        self.file = control_file(journal)

    def answer(self, question: Question, asker: Asker, now: float) -> None:
        self.asked.append(question)
        asker.tell(Progress(pages=2, copied=1))
        asker.tell(Progress(done=True, bytes=8192))
        asker.leave()

    def connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(10)
        connection.connect(str(self.file))
        return connection


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path / "journal.db")
    yield server
    server.control.close()
    assert not server.file.exists()


def test_a_question_is_answered_line_by_line(server: Server) -> None:
    connection = server.connect()
    for part in (b'{"backup": "/a/b', b'.db", "force": true}\n'):  # in pieces, as the kernel likes
        connection.sendall(part)
        server.control.tick(0.0)
    assert server.asked == [Question("/a/b.db", True)]
    lines = connection.makefile().read().splitlines()
    assert [json.loads(line) for line in lines] == [{"pages": 2, "copied": 1}, {"done": True, "bytes": 8192}]


def test_only_its_owner_may_ask(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    assert server.file.stat().st_mode & 0o777 == 0o600
    monkeypatch.setattr(control, "_user_of", lambda _: os.geteuid() + 1)
    connection = server.connect()
    connection.sendall(b'{"backup": "/a.db"}\n')
    server.control.tick(0.0)
    hangs_up(connection)
    assert server.asked == []


def hangs_up(connection: socket.socket) -> None:
    """The other side, without a word."""
    with connection, contextlib.suppress(ConnectionResetError):
        assert connection.recv(100) == b""


def test_what_is_not_understood_is_said_and_what_never_ends_is_cut_off(server: Server) -> None:
    bad, endless, silent = server.connect(), server.connect(), server.connect()
    bad.sendall(b'{"restore": "/a.db"}\n')
    endless.sendall(b"x" * (control.LINE_BYTES_MAX + 1))
    for _ in range(3):
        server.control.tick(0.0)
    assert b"not understood" in bad.recv(1_000)
    hangs_up(endless)
    server.control.tick(control.PATIENCE_S + 1)
    hangs_up(silent)
    assert server.asked == []


def test_many_who_say_nothing_are_waited_for_no_longer_than_that(server: Server) -> None:
    silent = [server.connect() for _ in range(control.ASKERS_MAX)]
    server.control.tick(0.0)
    late = server.connect()
    late.sendall(b'{"backup": "/a.db"}\n')
    server.control.tick(0.1)
    assert server.asked == []
    server.control.tick(control.PATIENCE_S + 1)
    server.control.tick(control.PATIENCE_S + 1)
    assert server.asked == [Question("/a.db")]
    for connection in [*silent, late]:
        connection.close()


@pytest.mark.parametrize("deep", [False, True])
def test_the_asking_side_with_a_path_of_any_length(tmp_path: Path, deep: bool) -> None:
    folder = tmp_path / ("a" * 100) if deep else tmp_path
    folder.mkdir(exist_ok=True)
    journal = folder / "j.db"
    with pytest.raises(FileNotFoundError):
        list(ask(journal, Question("/x")))
    server = Server(journal)
    ticking = threading.Event()

    def tick() -> None:
        while not ticking.wait(0.005):
            server.control.tick(0.0)

    thread = threading.Thread(target=tick)
    thread.start()
    try:
        assert list(ask(journal, Question("/x.db")))[-1] == Progress(done=True, bytes=8192)
        server.answer = lambda question, asker, now: asker.leave()  # type: ignore[method-assign]  # it dies
        server.control._ask = server.answer
        with pytest.raises(EOFError):
            list(ask(journal, Question("/x.db")))
    finally:
        ticking.set()
        thread.join()
        server.control.close()


def test_what_a_dead_broker_left_is_replaced_and_a_file_is_not(tmp_path: Path) -> None:
    journal = tmp_path / "journal.db"
    Control(journal, lambda *_: None)._listener.close()
    with pytest.raises(ConnectionRefusedError):
        list(ask(journal, Question("/x")))
    Control(journal, lambda *_: None).close()
    control_file(journal).write_text("mine")
    with pytest.raises(OSError, match="isn't a socket"):
        Control(journal, lambda *_: None)
    assert control_file(journal).read_text() == "mine"


def test_who_asks_twice_is_answered_once_and_who_waits_for_long_is_not_forgotten(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy of a large journal takes longer than a question may."""
    askers: list[Asker] = []

    def begin(question: Question, asker: Asker, now: float) -> None:
        server.asked.append(question)
        askers.append(asker)

    monkeypatch.setattr(server.control, "_ask", begin)
    connection = server.connect()
    connection.sendall(b'{"backup": "/a.db"}\n')
    server.control.tick(0.0)
    connection.sendall(b'{"backup": "/b.db"}\n')
    for now in (1.0, control.PATIENCE_S + 1, 10 * control.PATIENCE_S):
        server.control.tick(now)
    assert server.asked == [Question("/a.db")] and not askers[0].gone
    askers[0].tell(Progress(done=True, bytes=1))
    with connection, connection.makefile() as lines:
        assert json.loads(lines.readline())["done"]
