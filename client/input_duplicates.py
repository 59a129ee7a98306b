"""Finds the addresses that occur twice in a list of any length, in constant memory.

Each address leaves 24 bytes: two hashes (128 bits together; Python's is SipHash, keyed anew in each process,
so nobody can craft a collision and none is to be expected) and its line. They are spread over buckets by
the first hash; full buckets go to a temporary file. At the end each bucket is looked at on its own, and one
whose hashes are all different, as nearly all are, costs one set.
"""

import tempfile
from array import array
from collections.abc import Iterator, Sequence
from typing import BinaryIO, cast

BUCKETS = 256
"""So that one bucket of 100 million addresses still fits into 40 MB."""

SPILL_ROWS = 262_144
"""Rows held in memory (6 MB) before they go to the file: most lists never need it."""

_SECOND = "\0"  # no address has one: makes the second hash another one


class DuplicateFinder:
    """Feed it every address with `add`, then ask once for `duplicates`."""

    def __init__(self, spill_rows: int = SPILL_ROWS) -> None:
        self._spill_rows = spill_rows
        self._buckets = [array("q") for _ in range(BUCKETS)]
        self._extend = [bucket.extend for bucket in self._buckets]
        self._held = 0
        self._file: BinaryIO | None = None
        self._file_end = 0
        self._segments: list[list[tuple[int, int]]] = [[] for _ in range(BUCKETS)]

    def add(self, lines: Sequence[int], addresses: Sequence[str]) -> None:
        """Addresses and their lines, which only ever grow. Capitals make no difference: two spellings are
        one mailbox nearly everywhere, and the same mail twice is what this is to prevent."""
        extend = self._extend
        lowered = list(map(str.lower, addresses))
        for entry in zip(map(hash, lowered), map(hash, [a + _SECOND for a in lowered]), lines, strict=True):
            extend[entry[0] & 255](entry)
        self._held += len(addresses)
        if self._held >= self._spill_rows:
            self._spill()

    def duplicates(self) -> Iterator[tuple[int, int]]:
        """(first line, later line) for each later one. Bucket after bucket, so not by line."""
        for number in range(BUCKETS):
            entries = self._bucket(number)
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
        if self._file is not None:
            self._file.close()

    def _spill(self) -> None:
        if self._file is None:
            self._file = cast(BinaryIO, tempfile.TemporaryFile())  # noqa: SIM115  closed by close()
        for bucket, segments in zip(self._buckets, self._segments, strict=True):
            data = bucket.tobytes()
            self._file.write(data)
            segments.append((self._file_end, len(data)))
            self._file_end += len(data)
            del bucket[:]
        self._held = 0

    def _bucket(self, number: int) -> "array[int]":
        entries: array[int] = array("q")
        for offset, size in self._segments[number]:
            assert self._file is not None
            self._file.seek(offset)
            entries.frombytes(self._file.read(size))
        entries.extend(self._buckets[number])
        return entries


assert BUCKETS == 256  # `& 255` in the hot loop
