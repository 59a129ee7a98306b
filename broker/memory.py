"""The broker's own memory, looked at now and then: what peers hold of it unread is let go first."""

import ctypes
import os
from collections.abc import Iterable
from pathlib import Path

from broker.gate import Gate

_PAGE_BYTES = os.sysconf("SC_PAGESIZE")
TRIM_EVERY_S = 10.0


class MemoryWatch:
    def __init__(self, most_bytes: int, gates: Iterable[Gate]) -> None:
        """`most_bytes`: of resident memory, above which connections are ended; 0: never."""
        self._most = most_bytes
        self._gates = tuple(gates)
        self._trimmed_at = float("-inf")
        self._trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it

    def step(self, now: float) -> None:
        """`now`: monotonic seconds."""
        if not self._most or resident_bytes() <= self._most:
            return
        if self._trim is not None and now - self._trimmed_at >= TRIM_EVERY_S:
            # Memory that was freed but kept for later is nobody's fault.
            self._trimmed_at = now
            self._trim(0)
            if resident_bytes() <= self._most:
                return
        for gate in self._gates:
            gate.shed()


def resident_bytes() -> int:
    """This process's resident memory; 0 where /proc isn't there to say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_BYTES
    except OSError:
        return 0
