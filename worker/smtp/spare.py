"""Connections that a batch may take: idle ones, and those of far servers that another one may follow on. And
the batches that wait for one."""

import asyncio
from collections import deque

from worker.smtp.connection import Connection
from worker.smtp.outcome import Result

SWEEP_S = 1.0
"""How often idle connections are looked at."""
ROOMY_S = 2.0
"""A connection that has owed its answers for so long may be stuck: no batch follows on it."""


class Spare:
    """Who takes one has it alone until all of the batch is begun."""

    def __init__(self, idle_s: float) -> None:
        """An idle one is kept for `idle_s`."""
        self._loop = asyncio.get_running_loop()
        self._idle_s = idle_s
        self._sweep_s = min(SWEEP_S, idle_s / 4)
        self._sweeper: asyncio.TimerHandle | None = None
        self._idle: list[tuple[Connection, float]] = []  # and since when; the last one is used first
        self._roomy: dict[Connection, float] = {}  # and since when, in order
        self._promised: set[Connection] = set()
        self._wanting: deque[asyncio.Future[Connection | Result]] = deque()

    def __len__(self) -> int:
        """Idle ones."""
        return len(self._idle)

    @property
    def wanted(self) -> int:
        """Batches that wait for one."""
        return sum(not wanted.done() for wanted in self._wanting)

    def give(self, connection: Connection) -> None:
        """It is idle: to a batch that wants one, or it is kept."""
        self._roomy.pop(connection, None)
        if self.answer(connection):
            return
        self._idle.append((connection, self._loop.time()))
        if self._sweeper is None:
            self._sweeper = self._loop.call_later(self._sweep_s, self._sweep)

    def give_roomy(self, connection: Connection) -> None:
        """All of its batch is begun, and it isn't idle."""
        if not self.answer(connection):
            self._roomy[connection] = self._loop.time()

    def answer(self, found: Connection | Result) -> bool:
        """Gives it to the batch that has waited longest. False where none waits."""
        while self._wanting:
            wanted = self._wanting.popleft()
            if not wanted.done():
                wanted.set_result(found)
                if isinstance(found, Connection):
                    self.promise(found)
                return True
        return False

    def fail(self, error: BaseException) -> None:
        """Whoever waits for one gets this."""
        for wanted in self._wanting:
            if not wanted.done():
                wanted.set_exception(error)
        self._wanting.clear()

    def want(self) -> "asyncio.Future[Connection | Result]":
        self._wanting.append(wanted := self._loop.create_future())
        return wanted

    async def wait(self, wanted: "asyncio.Future[Connection | Result]") -> Connection | Result:
        """The first connection that there is, or why there is none."""
        try:
            found = await wanted
        except asyncio.CancelledError:
            if wanted.done() and not wanted.cancelled() and isinstance(found := wanted.result(), Connection):
                self._promised.discard(found)
                if not found.is_used and found.closed is None:
                    self.give(found)
            raise
        if isinstance(found, Connection):
            self._promised.discard(found)
        return found

    def take(self, *, roomy: bool) -> Connection | None:
        """An idle one; where there is none and `roomy`, one on which a batch may follow."""
        if self._idle:
            return self._idle.pop()[0]
        if roomy and self._roomy:
            connection, since = next(iter(self._roomy.items()))
            del self._roomy[connection]
            if since > self._loop.time() - ROOMY_S:
                return connection
        return None

    def promise(self, connection: Connection) -> None:
        """It belongs to somebody who hasn't got so far, or was told to quit."""
        self._roomy.pop(connection, None)
        self._promised.add(connection)

    def is_anybodys(self, connection: Connection) -> bool:
        """It is here already, or was promised: two batches on it may end at once."""
        return connection in self._promised or any(idle is connection for idle, _ in self._idle)

    def forget(self, connection: Connection) -> None:
        """It is gone."""
        self._idle = [(kept, since) for kept, since in self._idle if kept is not connection]
        self._roomy.pop(connection, None)
        self._promised.discard(connection)

    def quit(self, count: int) -> None:
        """Says QUIT on so many idle ones."""
        for connection, _ in self._idle[:count]:
            connection.quit()
        del self._idle[:count]

    def _sweep(self) -> None:
        now = self._loop.time()
        kept = []
        for connection, since in self._idle:
            if now - since >= self._idle_s or connection.is_worn:
                connection.quit()
            else:
                kept.append((connection, since))
        self._idle = kept
        self._sweeper = self._loop.call_later(self._sweep_s, self._sweep) if kept else None
