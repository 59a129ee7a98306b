"""What ends the broker's wait from outside of its sockets: other threads, and signals."""

import contextlib
import signal
import socket


class Wakeup:
    """A pair of sockets: whatever is written to one end wakes who polls the other."""

    def __init__(self) -> None:
        self._receiver, self._sender = socket.socketpair()
        self._receiver.setblocking(False)
        self._sender.setblocking(False)

    def fileno(self) -> int:
        return self._receiver.fileno()

    def wake(self) -> None:
        """From any thread."""
        with contextlib.suppress(BlockingIOError):  # full of wake-ups: the loop will wake
            self._sender.send(b"\0")

    def drain(self) -> None:
        with contextlib.suppress(BlockingIOError):  # drained
            while self._receiver.recv(4096):
                pass

    def by_signals(self, on: bool) -> None:
        """Whether signals wake it, too."""
        if on:
            signal.set_wakeup_fd(self._sender.fileno(), warn_on_full_buffer=False)
        else:
            signal.set_wakeup_fd(-1)
