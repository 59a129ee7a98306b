"""Finds the addresses that occur twice in a list of any length, in constant memory.

Two ways, the second only where the first finds that there is something to find:

1. `RepeatCheck` keeps 8 bytes of each address, a hash (Python's is SipHash, keyed anew in each process, so
   nobody can craft a collision), and tells whether one occurs twice. Nearly no list has any.
2. `DuplicateFinder` keeps 24 bytes: two hashes (128 bits together: no collision is to be expected) and the
   line. It tells which lines.

Both spread them over buckets by the first hash; full buckets go to a temporary file. At the end each bucket
is looked at on its own, and one whose hashes are all different costs one set.
"""

import tempfile
from array import array
from collections import deque
from collections.abc import Iterator, Sequence
from operator import call
from typing import BinaryIO, cast

BUCKETS = 256
"""So that one bucket of 100 million addresses still fits into 40 MB."""

SPILL_BYTES = 6 * 1024 * 1024
"""Held in memory before they go to the file: most lists never need it."""

_SECOND = "\0"  # no address has one: makes the second hash another one

# Capitals make no difference: two spellings are one mailbox nearly everywhere, and the same mail twice is
# what this is to prevent.
_lower = str.lower


class _Buckets:
    """Numbers by bucket, in memory and in a temporary file."""

    def __init__(self, spill_bytes: int) -> None:
        self.all = [array("q") for _ in range(BUCKETS)]
        """Extended by whoever knows the fastest way."""
        self._spill_bytes = spill_bytes
        self._held_bytes = 0
        self._file: BinaryIO | None = None
        self._file_end = 0
        self._segments: list[list[tuple[int, int]]] = [[] for _ in range(BUCKETS)]

    def added(self, numbers: int) -> None:
        """So many more are in the buckets."""
        self._held_bytes += 8 * numbers
        if self._held_bytes >= self._spill_bytes:
            self._spill()

    def __iter__(self) -> "Iterator[array[int]]":
        for bucket, segments in zip(self.all, self._segments, strict=True):
            entries: array[int] = array("q")
            for offset, size in segments:
                assert self._file is not None
                self._file.seek(offset)
                entries.frombytes(self._file.read(size))
            entries.extend(bucket)
            yield entries

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _spill(self) -> None:
        if self._file is None:
            self._file = cast(BinaryIO, tempfile.TemporaryFile())  # noqa: SIM115  closed by close()
        for bucket, segments in zip(self.all, self._segments, strict=True):
            data = bucket.tobytes()
            self._file.write(data)
            segments.append((self._file_end, len(data)))
            self._file_end += len(data)
            del bucket[:]
        self._held_bytes = 0


class RepeatCheck:
    """Feed it every address with `add`, then ask once for `any`."""

    def __init__(self, spill_bytes: int = SPILL_BYTES) -> None:
        self._buckets = _Buckets(spill_bytes)
        self._append_to = [bucket.append for bucket in self._buckets.all].__getitem__

    def add(self, addresses: Sequence[str]) -> None:
        hashes = list(map(hash, map(_lower, addresses)))
        low_bytes = array("q", hashes).tobytes()[_LOW_BYTE::8]
        deque(map(call, map(self._append_to, low_bytes), hashes), maxlen=0)  # a loop in C
        self._buckets.added(len(hashes))

    def any(self) -> bool:
        """Whether an address came twice. Of a million lists of 5 million it is true of one that has none."""
        return any(len(set(hashes)) != len(hashes) for hashes in self._buckets)

    def close(self) -> None:
        self._buckets.close()


class DuplicateFinder:
    """Feed it every address with `add`, then ask once for `duplicates`."""

    def __init__(self, spill_bytes: int = SPILL_BYTES) -> None:
        self._buckets = _Buckets(spill_bytes)
        self._extend = [bucket.extend for bucket in self._buckets.all]

    def add(self, lines: Sequence[int], addresses: Sequence[str]) -> None:
        """Addresses and their lines, which only ever grow."""
        extend = self._extend
        lowered = list(map(_lower, addresses))
        for entry in zip(map(hash, lowered), map(hash, [a + _SECOND for a in lowered]), lines, strict=True):
            extend[entry[0] & 255](entry)
        self._buckets.added(3 * len(addresses))

    def duplicates(self) -> Iterator[tuple[int, int]]:
        """(first line, later line) for each later one. Bucket after bucket, so not by line."""
        for entries in self._buckets:
            firsts, seconds, lines = entries[0::3], entries[1::3], entries[2::3]
            del entries
            if len(set(firsts)) == len(firsts):
                continue
            seen: set[int] = set()
            # set.add returns None: the test is true for hashes that were seen before
            repeated = {h for h in firsts if h in seen or seen.add(h)}  # type: ignore[func-returns-value]
            del seen
            first_line: dict[tuple[int, int], int] = {}
            for first, second, line in zip(firsts, seconds, lines, strict=True):
                if first in repeated:
                    earlier = first_line.setdefault((first, second), line)
                    if earlier != line:
                        yield earlier, line

    def close(self) -> None:
        self._buckets.close()


_LOW_BYTE = 0 if array("q", [1]).tobytes()[0] else 7
"""Where it stands in a number of 8 bytes on this machine."""

assert BUCKETS == 256  # `& 255` and the low byte in the hot loops
