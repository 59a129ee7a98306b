"""The right to begin messages, and until when. Pure.

It lasts `lease_s` from the moment at which the worker *sent* what the broker answered. The broker counts from
the later moment at which it answered, so the lease ends here before the broker thinks that it has.
"""

SENT_TIMES_MAX = 64
"""HEARTBEATs whose answer is still taken."""


class Lease:
    def __init__(self) -> None:
        self.end = float("-inf")
        self._length_s = 0.0
        self._hello_at: float | None = None
        """When the last HELLO was sent, while its answer is out."""
        self._heartbeats: dict[int, float] = {}

    def hello_sent(self, mono: float) -> None:
        self._hello_at = mono

    def heartbeat_sent(self, number: int, mono: float) -> None:
        self._heartbeats[number] = mono
        if len(self._heartbeats) > SENT_TIMES_MAX:
            del self._heartbeats[next(iter(self._heartbeats))]

    def hello_unsent(self) -> None:
        """The last one never left."""
        self._hello_at = None

    def heartbeat_unsent(self, number: int) -> None:
        self._heartbeats.pop(number, None)

    def welcomed(self, length_s: float) -> float | None:
        """When the last HELLO, which this answers, had been sent; None where it has been answered before."""
        self._length_s = length_s
        sent, self._hello_at = self._hello_at, None
        if sent is not None:
            self.end = sent + length_s  # not the later one: another broker may grant less
        return sent

    def acknowledged(self, number: int) -> None:
        """A heartbeat was answered."""
        if (sent := self._heartbeats.pop(number, None)) is not None:
            self.end = max(self.end, sent + self._length_s)

    def forget_sent(self) -> None:
        """What the broker hasn't answered by now it won't answer."""
        self._hello_at = None
        self._heartbeats.clear()
