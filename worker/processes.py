"""`--processes N`: a parent that starts N workers for one server and looks after them. It does nothing else.

They are forked, not started anew: what a worker needs is loaded once, before, and its memory is shared while
nobody writes to it; secrets are read once, and a new start takes milliseconds. That is safe because the
parent never has a thread, an event loop or a socket. The kernel tells the processes when the parent dies,
however it dies: they drain then, and none is left behind.
"""

import ctypes
import gc
import os
import signal
from contextlib import suppress
from typing import Any, assert_never

from evenpost.runtime import clock, logs
from evenpost.runtime.startup import ENDINGS, PASSED_ON
from worker.supervision import (
    Command,
    EndAsked,
    Event,
    Log,
    PassOn,
    ProcessEnded,
    StartProcess,
    Stop,
    Supervision,
    Tick,
)

EXIT_NO_FORK = 71
"""EX_OSERR of sysexits.h: no memory for it, or too many processes."""

_PR_SET_PDEATHSIG = 1


class Forked(Exception):  # noqa: N818  # no error: a way out of the parent's code
    """Raised in a new process, where it has to be: up to whoever makes a worker of it."""

    def __init__(self, number: int) -> None:
        super().__init__(f"process {number}")
        self.number = number


class Processes:
    """`run` it once."""

    def __init__(self, processes: int, name: str, server: str) -> None:
        self._processes = processes
        self._supervision = Supervision(processes)
        self._logger = logs.get().bind(worker=name, server=server)
        self._numbers: dict[int, int] = {}
        """By process id."""
        self._prctl = ctypes.CDLL(None).prctl  # looked up here: after a fork only plain system calls are safe
        self._signals = {*ENDINGS, signal.SIGCHLD, PASSED_ON}
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup
            self._signals.add(signal.SIGHUP)
        self._mask_before: set[int] = set()
        self._status: int | None = None

    def run(self) -> int:
        """Until all processes have ended: the status to exit with. In each of them it raises Forked."""
        _load_all()
        gc.collect()
        gc.freeze()  # else the first collection in a process would write to all that it shares
        self._mask_before = set(signal.pthread_sigmask(signal.SIG_BLOCK, self._signals))
        self._logger.info("worker.processes_started", processes=self._processes, pid=os.getpid())
        self._handle(Tick())
        while self._status is None:
            self._wait()
        return self._status

    def _wait(self) -> None:
        """For a signal, or until something is due."""
        wake_at = self._supervision.wake_at
        left_s = 3_600.0 if wake_at is None else max(0.0, wake_at - clock.now().mono)
        came = signal.sigtimedwait(self._signals, left_s)
        if came is not None and came.si_signo not in (signal.SIGCHLD, PASSED_ON):
            self._handle(EndAsked(signal.Signals(came.si_signo).name))
        while ended := _reap():
            pid, status = ended
            # As a container's first process it gets others' children, too.
            if (number := self._numbers.pop(pid, None)) is not None:
                self._handle(ProcessEnded(number, status))
        self._handle(Tick())

    def _handle(self, event: Event) -> None:
        for command in self._supervision.handle(event, clock.now().mono):
            self._perform(command)

    def _perform(self, command: Command) -> None:
        match command:
            case StartProcess(number):
                try:
                    self._numbers[self._fork(number)] = number
                except OSError as error:
                    self._logger.error("worker.process_not_started", process=number, reason=str(error))
                    self._handle(ProcessEnded(number, EXIT_NO_FORK))
            case PassOn():
                for pid in self._numbers:
                    with suppress(ProcessLookupError):
                        os.kill(pid, PASSED_ON)
            case Log(level, event, fields):
                log: Any = getattr(self._logger, level)
                log(event, **fields)
            case Stop(status):
                self._status = status
            case _:
                assert_never(command)

    def _fork(self, number: int) -> int:
        parent = os.getpid()
        if pid := os.fork():
            return pid
        self._prctl(_PR_SET_PDEATHSIG, PASSED_ON)
        if os.getppid() != parent:
            os._exit(1)  # it died in between
        for ending in (*ENDINGS, signal.SIGHUP):
            signal.signal(ending, signal.SIG_IGN)
        # PASSED_ON waits until the worker has its handler for it.
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask_before | {PASSED_ON})
        raise Forked(number)


def _load_all() -> None:
    """What a worker imports when it starts."""
    import worker.outcome_log
    import worker.service  # noqa: F401

    with suppress(ImportError):  # PyPy has none
        import uvloop  # noqa: F401


def _reap() -> tuple[int, int] | None:
    """A child that has ended, and its status."""
    with suppress(ChildProcessError):
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid:
            return pid, os.waitstatus_to_exitcode(status)
    return None
