"""Signals between a process's first trace on disk and its handlers for them.

By default they kill. A process that has opened its log or its journal shall end in its own way, also where it
can't yet: so they wait until the handlers are there.
"""

import contextlib
import signal
from collections.abc import Iterator

ENDINGS = (signal.SIGTERM, signal.SIGINT)
"""What asks a process to end."""
PASSED_ON = signal.SIGUSR1
"""The same, from a process to those that it has started. They take no other: a signal that goes to all of
them at once, such as a terminal's Ctrl-C, or `kill` by name, would come to them twice."""
_WAITING = (*ENDINGS, signal.SIGHUP, PASSED_ON)


@contextlib.contextmanager
def signals_wait() -> Iterator[None]:
    """Signals wait until `release_signals`, or until this is left. Threads that are started meanwhile never
    get any, which the main thread does in any case."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _WAITING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def hold_signals() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, _WAITING)


def release_signals() -> None:
    """Those that waited come at once."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _WAITING)
