"""What a disk holds after a power cut: everything that was synced, and of the rest anything.

A file's history is a list of writes, truncates and syncs. Between two syncs the kernel and the disk may write
what they have in any order, or not at all, and a sector (512 bytes) is what a disk writes whole. So after a
cut each sector is as any of the writes since the last sync left it, independently of the others, and the
file is as long as any of them made it.
"""

import random
from bisect import bisect_left
from collections import defaultdict
from dataclasses import dataclass, field

SECTOR = 512


@dataclass(frozen=True, slots=True)
class Write:
    file: str
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Truncate:
    file: str
    size: int


@dataclass(frozen=True, slots=True)
class Sync:
    file: str


@dataclass(frozen=True, slots=True)
class FailedSync:
    """The disk refused, and the kernel takes for written what it isn't, as Linux does. Whoever reads the file
    still sees it, until the power goes."""

    file: str


@dataclass(frozen=True, slots=True)
class Delete:
    """A name goes; `synced`: so does it on the disk. Else it may come back with the power."""

    file: str
    synced: bool


Op = Write | Truncate | Sync | FailedSync | Delete


@dataclass(slots=True)
class _File:
    """What the disk has for certain, and what it may or may not have besides."""

    synced: bytearray = field(default_factory=bytearray)
    unsynced: list[Write | Truncate] = field(default_factory=list)
    exists: bool = False
    named: bool = False
    """Its name is on the disk."""
    deleted: bool = False
    """Maybe: that isn't on the disk."""


def _apply(content: bytearray, op: Write | Truncate) -> None:
    if isinstance(op, Truncate):
        del content[op.size :]
        content.extend(bytes(op.size - len(content)))
    else:
        content.extend(bytes(max(0, op.offset - len(content))))
        content[op.offset : op.offset + len(op.data)] = op.data


class Disk:
    """Takes operations in order; `after_cut` says, at any moment, what a power cut would leave."""

    def __init__(self) -> None:
        self._files: defaultdict[str, _File] = defaultdict(_File)

    def do(self, op: Op) -> None:
        file = self._files[op.file]
        match op:
            case Write() | Truncate():
                file.unsynced.append(op)
                file.exists, file.deleted = True, False
            case Sync():
                for waiting in file.unsynced:
                    _apply(file.synced, waiting)
                file.unsynced.clear()
                if not file.named:
                    # SQLite syncs the folder with the first sync of a file that it made.
                    self.sync_folder()
            case FailedSync():
                file.unsynced.clear()
            case Delete(_, synced):
                file.deleted = True
                if synced:
                    self.sync_folder()

    def sync_folder(self) -> None:
        """The names that files have now are those they have after a cut."""
        for name, file in list(self._files.items()):
            file.named = True
            if file.deleted:
                del self._files[name]

    def after_cut(self, rng: random.Random) -> dict[str, bytes]:
        """Files by name. What of the unsynced survives is drawn anew at each call."""
        left = {}
        for name, file in sorted(self._files.items()):
            if not file.exists or ((file.deleted or not file.named) and rng.random() < 0.5):
                continue
            left[name] = _survives(file, rng)
        return left


def _survives(file: _File, rng: random.Random) -> bytes:
    """The synced content with some of what came after it."""
    sizes = [len(file.synced)]
    versions: defaultdict[int, list[bytes]] = defaultdict(list)
    current = bytearray(file.synced)
    for op in file.unsynced:
        before = len(current)
        _apply(current, op)
        sizes.append(len(current))
        first, last = (op.size, before) if isinstance(op, Truncate) else (op.offset, op.offset + len(op.data))
        for sector in range(first // SECTOR, -(-max(first, last) // SECTOR)):
            versions[sector].append(_sector(current, sector))
    share = rng.choice([0.0, 0.3, 0.5, 0.9, 1.0])
    """Of sectors that were written: nothing reached the disk, all of it, or some."""
    content = bytearray(file.synced)
    for sector, written in versions.items():
        if rng.random() < share:
            start = sector * SECTOR
            content.extend(bytes(max(0, start + SECTOR - len(content))))
            content[start : start + SECTOR] = rng.choice(written)
    size = sizes[-1] if rng.random() < 0.5 else rng.choice(sizes)
    content.extend(bytes(max(0, size - len(content))))
    return bytes(content[:size])


def _sector(content: bytearray, sector: int) -> bytes:
    return bytes(content[sector * SECTOR : (sector + 1) * SECTOR]).ljust(SECTOR, b"\0")


def cut_points(ops: list[Op], rng: random.Random, count: int) -> list[int]:
    """Where to cut, in order: just before and after syncs, and at random in between."""
    syncs = [n for n, op in enumerate(ops) if isinstance(op, Sync)]
    around = sorted({n for sync in syncs for n in (sync, sync + 1)})
    points = set(rng.sample(around, min(len(around), count * 2 // 3)))
    free = [n for n in range(1, len(ops) + 1) if n not in points]
    points.update(rng.sample(free, min(len(free), count - len(points))))
    return sorted(points)


def acknowledged(acks: list[int], cut: int) -> int:
    """How many of the acknowledgements, each given after so many operations, were out before a cut."""
    return bisect_left(acks, cut + 1)
