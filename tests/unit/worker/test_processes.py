"""What the parent of several processes does where the system is against it."""

import os
import signal

import pytest
from structlog.testing import capture_logs

from worker import processes
from worker.processes import EXIT_NO_FORK, Forked, Processes
from worker.supervision import EndAsked, Tick


def test_where_there_is_no_room_for_a_process_it_tries_again_later(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> int:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", refuse)
    with capture_logs() as logged:
        parent = Processes(2, "w", "192.0.2.1:25")
        parent._handle(Tick())
    assert [entry["event"] for entry in logged] == ["worker.process_not_started", "worker.process_ended"] * 2
    assert {entry["status"] for entry in logged if "status" in entry} == {EXIT_NO_FORK}
    assert parent._supervision.wake_at is not None
    parent._handle(EndAsked("SIGTERM"))
    assert parent._status == 0


def test_a_child_that_it_did_not_start_is_nothing_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = [(4_711, 1)]
    monkeypatch.setattr(os, "fork", lambda: 4_712)
    monkeypatch.setattr(processes, "_reap", lambda: ended.pop() if ended else None)
    monkeypatch.setattr(signal, "sigtimedwait", lambda *_: None)
    parent = Processes(1, "w", "192.0.2.1:25")
    parent._handle(Tick())
    parent._wait()
    assert not ended and parent._numbers == {4_712: 1}


def test_a_process_whose_parent_died_at_once_does_not_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    class Exited(BaseException):
        pass

    def leave(status: int) -> None:
        raise Exited

    parent = Processes(1, "w", "192.0.2.1:25")
    monkeypatch.setattr(parent, "_prctl", lambda *_: 0)
    monkeypatch.setattr(os, "fork", lambda: 0)
    monkeypatch.setattr(os, "getppid", lambda: 1)
    monkeypatch.setattr(os, "_exit", leave)
    with pytest.raises(Exited):
        parent._fork(1)
    monkeypatch.setattr(os, "getppid", os.getpid)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(signal, "pthread_sigmask", lambda *_: set())
    with pytest.raises(Forked, match="process 1"):
        parent._fork(1)
