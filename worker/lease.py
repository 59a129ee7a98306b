"""The right to begin messages, and until when. Pure.

It lasts `lease_s` from the moment at which the worker *sent* what the broker answered. The broker counts from
the later moment at which it answered, so the lease ends here before the broker thinks that it has.
"""

SENT_TIMES_MAX = 64
"""HELLOs and HEARTBEATs whose answer is still taken."""


class Lease:
    def __init__(self) -> None:
        self.end = float("-inf")
        self._length_s = 0.0
        self._hellos: dict[int, float] = {}
        self._heartbeats: dict[int, float] = {}

    def hello_sent(self, number: int, mono: float) -> None:
        _remember(self._hellos, number, mono)

    def heartbeat_sent(self, number: int, mono: float) -> None:
        _remember(self._heartbeats, number, mono)

    def unsent(self, number: int) -> None:
        """That one never left."""
        self._hellos.pop(number, None)
        self._heartbeats.pop(number, None)

    def welcomed(self, request: int, length_s: float) -> float | None:
        """When the HELLO that was answered had been sent; None where no HELLO waits for an answer."""
        self._length_s = length_s
        # An answer that doesn't say which HELLO it is for is taken to be for the oldest: that much is sure.
        answered = request if request in self._hellos else min(self._hellos, default=None)
        if answered is None:
            return None
        sent = self._hellos[answered]
        self._hellos = {number: at for number, at in self._hellos.items() if number > answered}
        self.end = sent + length_s  # not the later one: another broker may grant less
        return sent

    def acknowledged(self, number: int) -> None:
        """A heartbeat was answered."""
        if (sent := self._heartbeats.pop(number, None)) is not None:
            self.end = max(self.end, sent + self._length_s)

    def forget_sent(self) -> None:
        """What the broker hasn't answered by now it won't answer."""
        self._hellos.clear()
        self._heartbeats.clear()


def _remember(times: dict[int, float], number: int, mono: float) -> None:
    times[number] = mono
    if len(times) > SENT_TIMES_MAX:
        del times[next(iter(times))]
