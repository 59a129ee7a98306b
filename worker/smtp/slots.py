"""A semaphore whose number may change while it is held."""

import asyncio
from collections import deque


class Slots:
    """At most `limit` are out, given in the order of asking. Lowering the limit takes none back."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._is_open = False
        self.taken = 0

    @property
    def limit(self) -> int:
        return self._limit

    @limit.setter
    def limit(self, limit: int) -> None:
        self._limit = limit
        self._hand_out()

    async def take(self) -> None:
        if self.taken < self._limit or self._is_open:
            self.taken += 1
            return
        waiting = asyncio.get_running_loop().create_future()
        self._waiting.append(waiting)
        try:
            await waiting
        except asyncio.CancelledError:
            if not waiting.cancelled():  # it had got the slot already
                self.release()
            raise

    def release(self) -> None:
        self.taken -= 1
        self._hand_out()

    def open(self) -> None:
        """From now on everybody gets one."""
        self._is_open = True
        self._hand_out()

    def _hand_out(self) -> None:
        while self._waiting and (self.taken < self._limit or self._is_open):
            waiting = self._waiting.popleft()
            if not waiting.done():
                self.taken += 1
                waiting.set_result(None)
