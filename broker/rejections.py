"""What peers sent that couldn't be accepted, told in few lines however much it is. Pure.

The first of a kind is told at once, the others once in a while with their number. Kinds are ours, not the
peer's words: a peer can't make more of them than there are codes.
"""

from dataclasses import dataclass

from broker.core.commands import Log

TOLD_EVERY_S = 10.0


@dataclass(slots=True)
class _Kind:
    count: int = 0
    """Since it was told of last."""
    error: str = ""
    """What the last one was."""
    told_at: float = float("-inf")


class Rejections:
    def __init__(self) -> None:
        self._kinds: dict[tuple[str, str], _Kind] = {}

    def add(self, endpoint: str, code: str, error: str, count: int = 1) -> None:
        """`code` names the kind: a constant of ours."""
        kind = self._kinds.setdefault((endpoint, code), _Kind())
        kind.count += count
        kind.error = error

    def due(self, now: float) -> list[Log]:
        """The lines to write. `now`: monotonic seconds."""
        lines = []
        for (endpoint, code), kind in self._kinds.items():
            if kind.count and now - kind.told_at >= TOLD_EVERY_S:
                fields = {"endpoint": endpoint, "code": code, "error": kind.error, "count": kind.count}
                lines.append(Log("warning", "peer.rejected", fields))
                kind.count, kind.told_at = 0, now
        return lines
