"""Bytes on their way out, and how far they have come. Pure."""

WRITE_BYTES_MAX = 256 * 1024
"""What is handed out at once. Only bytes handed out count as gone, so a connection that breaks in
the middle of a large message leaves it unsent and not unknown."""


class Outbox:
    """What was queued is taken in pieces. Positions count all bytes of the session."""

    def __init__(self) -> None:
        self._waiting: list[bytes] = []
        self._rest = memoryview(b"")  # of a write larger than WRITE_BYTES_MAX
        self.in_pieces = False
        """What was put in was too large for one write, and its rest is still here."""
        self.queued = 0
        """Where the next byte will be."""
        self.handed = 0
        """Bytes below this have been taken."""

    def put(self, data: bytes, more: bytes = b"") -> None:
        self._waiting.append(data)
        self.queued += len(data)
        if more:
            self._waiting.append(more)
            self.queued += len(more)

    def take(self) -> bytes:
        if self.in_pieces:
            data = bytes(self._rest[:WRITE_BYTES_MAX])
            self._rest = self._rest[WRITE_BYTES_MAX:]
            self.in_pieces = bool(self._rest)
        else:
            data = b"".join(self._waiting)
            self._waiting.clear()
            if len(data) > WRITE_BYTES_MAX:
                self._rest = memoryview(data)[WRITE_BYTES_MAX:]
                data = data[:WRITE_BYTES_MAX]
                self.in_pieces = True
        self.handed += len(data)
        return data

    def drop(self) -> None:
        """Nothing that is still here goes out."""
        self._waiting.clear()
        self._rest = memoryview(b"")
        self.in_pieces = False
        self.queued = self.handed
