"""A SQLite VFS that notes each write, truncate and sync, and lets the real file system do them too."""

from pathlib import Path
from types import TracebackType
from typing import Any, Self

import apsw

from tests.faults.power import Delete, FailedSync, Op, Sync, Truncate, Write


class PowerVfs(apsw.VFS):
    """While it is entered, `vfs=self.name` opens a database through it; `ops` is what happened to its files
    (by name, without the folder). `fail_sync` and `fail_write` are raised where they are set, as by a disk
    that has failed or is full."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.ops: list[Op] = []
        self.fail_sync: Exception | None = None
        self.fail_write: Exception | None = None
        super().__init__(name, "")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.unregister()

    def xOpen(self, name: Any, flags: list[int]) -> "PowerFile":
        return PowerFile(self, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:
        super().xDelete(filename, syncdir)
        self.ops.append(Delete(Path(filename).name, syncdir))


class PowerFile(apsw.VFSFile):
    def __init__(self, vfs: PowerVfs, name: Any, flags: list[int]) -> None:
        super().__init__("", name, flags)
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        self._name = Path(path).name if path else "temporary"
        self._vfs = vfs

    def xWrite(self, data: bytes, offset: int) -> None:
        if self._vfs.fail_write is not None:
            raise self._vfs.fail_write
        super().xWrite(data, offset)
        self._vfs.ops.append(Write(self._name, offset, bytes(data)))

    def xTruncate(self, size: int) -> None:
        super().xTruncate(size)
        self._vfs.ops.append(Truncate(self._name, size))

    def xSync(self, flags: int) -> None:
        if self._vfs.fail_sync is not None:
            self._vfs.ops.append(FailedSync(self._name))
            raise self._vfs.fail_sync
        super().xSync(flags)
        self._vfs.ops.append(Sync(self._name))
