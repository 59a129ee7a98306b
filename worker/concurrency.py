"""How many connections the server takes just now: Postfix's 1/N concurrency feedback. Pure.

With the limit at N, each batch that ended well counts +1/N, and the limit rises by one when that makes a
whole, so after N good batches: at the end of the sequence. Each batch that the server slowed down (454, 4xx
about rates) counts -1/N, and the limit falls by one as soon as that is below zero: at the beginning of its
sequence. Good batches don't restart the negative sequence, a rise does; a fall restarts the positive one.
(Postfix SCHEDULER_README, "Pseudocode for the Postfix 2.5 concurrency scheduler", with positive and negative
feedback 1/concurrency and hysteresis 1. Postfix counts deliveries; a batch here is one delivery, however many
messages it has.) As in Postfix a limit that isn't used doesn't rise: nothing proves that it could.

Two things are ours, because our feedback knows more than Postfix's does. A connection that is refused while k
others work says that the server takes k: the limit comes down to k at once, instead of in N sequences. That k
is a ceiling. To pass it costs `PATIENCE_MIN` sequences of good batches, twice as many each time that the
attempt is refused, up to `PATIENCE_MAX`; else a server with a fixed cap would refuse one of us each N batches
for ever. A batch that ends well above the ceiling does away with it.
"""

PATIENCE_MIN = 10
"""Sequences (N good batches each) at a ceiling before one connection more is tried: at the usual 200 ms a
batch some two seconds."""
PATIENCE_MAX = 640
"""About two minutes."""
_ROUNDING_ERROR = 1e-6


class ConcurrencyLimit:
    """The live limit of one server's connections, between 1 and `max_connections`, where it starts."""

    def __init__(self, max_connections: int) -> None:
        self._max = max_connections
        self._limit = max_connections
        self._success = 0.0
        """Of the next step up."""
        self._failure = 0.0
        """What is left of the last step down."""
        self._ceiling: int | None = None
        """Connections beside which one more was refused."""
        self._patience = PATIENCE_MIN

    @property
    def limit(self) -> int:
        return self._limit

    @property
    def max_connections(self) -> int:
        return self._max

    def set_max(self, max_connections: int) -> None:
        """Another upper bound, from the server's agent. A limit that was at the old one follows it."""
        was_free = self._limit == self._max
        self._max = max(1, max_connections)
        if was_free or self._limit > self._max:
            self._limit = min(self._max, self._ceiling or self._max)

    def batch_ended(self, *, throttled: bool, others_open: int) -> None:
        """A batch was answered by the server: well, or with a word about its rate (`throttled`).

        `others_open`: connections of ours, without this one, that are open and past their handshake.
        Not for a batch that had no connection (that is `refused`) or whose server failed.
        """
        step = 1 / self._limit
        if throttled:
            self._failure -= step
            while self._failure < -_ROUNDING_ERROR:
                self._failure += 1
                self._success = 0.0
                self._limit = max(1, self._limit - 1)
            return
        if self._ceiling is not None and others_open >= self._ceiling:
            self._ceiling, self._patience = None, PATIENCE_MIN
        if others_open + 1 < self._limit:
            return
        at_ceiling = self._ceiling is not None and self._limit >= self._ceiling
        self._success += step / self._patience if at_ceiling else step
        if self._success >= 1 - _ROUNDING_ERROR:
            self._success = self._failure = 0.0
            self._limit = min(self._max, self._limit + 1)

    def refused(self, *, others_open: int) -> None:
        """The server turned a new connection away because it has enough: 421 before it took a message,
        refused, or no answer, while `others_open` of ours work. 0 where it said so and we have no other."""
        takes = max(1, others_open)
        if self._ceiling is not None and self._limit > self._ceiling:  # not one of a burst: an attempt
            self._patience = min(2 * self._patience, PATIENCE_MAX)
        self._ceiling = takes
        self._limit = min(self._limit, takes)
        self._success = 0.0

    def opened(self, now_open: int) -> None:
        """A connection is past its handshake, and with it `now_open` are. One that was begun before the limit
        came down, and is taken in spite of it, shows that it came down too far: refusals may overtake."""
        if self._ceiling is not None and now_open > self._limit:
            self._ceiling = max(self._ceiling, now_open)
            self._limit = min(self._max, now_open)
