"""What one turn of the event loop made ready leaves together.

One poll of the loop brings the replies of many connections. Each would cost a write to the owner's log before
its next content may go out; here they wait for the end of the turn, the owner notes all of them at once, and
then they are written one after the other: a note a turn instead of one a message.
"""

import asyncio
import contextlib
import select
from typing import Protocol

TOGETHER_MAX = 64
"""Contents that are noted at once, and then those of one connection more. The lease is looked at for all of
them before the first one is written; each takes some 20 us, so it isn't much older for the last."""


class Departing(Protocol):
    """A connection whose server takes contents."""

    fd: int
    """Its socket's; -1 where there is none."""

    def load(self, hears_more: bool) -> int:
        """Gets the contents, and what is to be noted of them; how many they are. `hears_more`: bytes, or the
        connection's end, have arrived that the loop hasn't brought to it yet."""

    def depart(self) -> None:
        """Notes them, together with all the others', and writes them."""


class Turn:
    """Shared by connections with the same owner."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._ready: list[Departing] = []
        self._epoll = select.epoll()
        """All connections: to ask for one at a time would be a system call a message."""

    def listen(self, fd: int) -> None:
        """This connection may join from now on."""
        self._epoll.register(fd, select.EPOLLIN)

    def forget(self, fd: int) -> None:
        """Before it is closed."""
        with contextlib.suppress(OSError):  # a socket that is closed has gone by itself
            self._epoll.unregister(fd)

    def join(self, connection: Departing) -> None:
        """`connection` is called at the end of this turn."""
        if not self._ready:
            self._loop.call_soon(self._end)
        self._ready.append(connection)

    def _end(self) -> None:
        ready, self._ready = self._ready, []
        start = 0
        while start < len(ready):
            more = {fd for fd, _ in self._epoll.poll(0)}
            end, contents = start, 0
            while end < len(ready) and contents < TOGETHER_MAX:
                contents += ready[end].load(ready[end].fd in more)
                end += 1
            for connection in ready[start:end]:
                connection.depart()
            start = end
