"""How far a batch has come that may go on over another connection."""

from collections import deque
from collections.abc import Callable

from worker.smtp.connection import Batch, Later
from worker.smtp.events import Envelope
from worker.smtp.outcome import Result


class Progress:
    """A batch for a connection: what came back from an earlier one is given out first, and nothing more once
    the server has asked for less."""

    def __init__(
        self, batch: Batch, seen: Callable[[Result], Result], makes_room: Callable[[], None] | None = None
    ) -> None:
        """`seen` says what a result means in the light of the other connections. `makes_room` is for who
        waits to hear that another batch may follow on this one's connection."""
        self._batch = batch
        self._seen = seen
        self.makes_room = makes_room
        self._again: deque[Envelope] = deque()
        self.has_slot = False
        """It may use a connection to begin something."""
        self.results = 0
        self.unknown = False
        self.answered = False
        """The server has said something of a recipient: it works."""
        self.throttled: Result | None = None
        """The last word of the server about our rate."""
        self.content = batch.content
        self.before_write = batch.before_write
        self.may_end = batch.may_end

    def next(self) -> Envelope | Later | None:
        return None if self.throttled is not None else self._take()

    def result(self, envelope: Envelope, result: Result) -> None:
        self.results += 1
        if result.kind == "unknown":
            self.unknown = True
        elif result.scope == "recipient":
            self.answered |= result.code > 0
        else:
            result = self._seen(result)
            if result.scope == "throttled":
                self.throttled = result
        self._batch.result(envelope, result)

    def has_more(self) -> bool:
        envelope = self.next()
        if envelope is None:
            return False
        if not isinstance(envelope, Later):
            self._again.appendleft(envelope)
        return True

    def put_back(self, envelopes: tuple[Envelope, ...]) -> None:
        self._again.extendleft(reversed(envelopes))

    def give_back(self, reason: Result) -> None:
        """The rest gets the reason for which nothing can be sent."""
        while (envelope := self._take()) is not None:
            if isinstance(envelope, Later):
                envelope.hurry()
            else:
                self.result(envelope, reason)

    def _take(self) -> Envelope | Later | None:
        return self._again.popleft() if self._again else self._batch.next()
