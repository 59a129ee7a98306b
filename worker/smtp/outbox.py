"""Bytes on their way out, and how far they have come. Pure."""

WRITE_BYTES_MAX = 256 * 1024
"""What is handed out at once. Only bytes handed out count as gone, so a connection that breaks in
the middle of a large message leaves it unsent and not unknown."""


class Outbox:
    """What was queued is taken in pieces. Positions count all bytes of the session."""

    def __init__(self) -> None:
        self._waiting: list[bytes] = []
        self._rest = memoryview(b"")  # of a write larger than WRITE_BYTES_MAX
        self.queued = 0
        """Where the next byte will be."""
        self.handed = 0
        """Bytes below this have been taken."""

    def put(self, data: bytes) -> None:
        self._waiting.append(data)
        self.queued += len(data)

    @property
    def in_pieces(self) -> bool:
        """What was put in was too large for one write, and its rest is still here."""
        return bool(self._rest)

    def take(self) -> bytes:
        if self._rest:
            data = bytes(self._rest[:WRITE_BYTES_MAX])
            self._rest = self._rest[WRITE_BYTES_MAX:]
        else:
            data = b"".join(self._waiting)
            self._waiting.clear()
            if len(data) > WRITE_BYTES_MAX:
                self._rest = memoryview(data)[WRITE_BYTES_MAX:]
                data = data[:WRITE_BYTES_MAX]
        self.handed += len(data)
        return data

    def drop(self) -> None:
        """Nothing that is still here goes out."""
        self._waiting.clear()
        self._rest = memoryview(b"")
        self.queued = self.handed
