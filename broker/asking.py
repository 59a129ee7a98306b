"""How many questions that make the journal read each client has open."""

from broker.queries import Answer
from evenpost.wire import messages as wire

QUESTIONS_MAX = 4
"""Pages of reports and traces that one client may have open."""


class Asking:
    def __init__(self) -> None:
        self._open: dict[bytes, int] = {}

    def has_enough(self, peer: bytes) -> bool:
        return self._open.get(peer, 0) >= QUESTIONS_MAX

    def counted(self, peer: bytes, answer: Answer) -> Answer:
        """One question of this peer is open until it is answered."""
        self._open[peer] = self._open.get(peer, 0) + 1

        def counted(reply: wire.Message) -> None:
            self._open[peer] -= 1
            if not self._open[peer]:
                del self._open[peer]
            answer(reply)

        return counted
