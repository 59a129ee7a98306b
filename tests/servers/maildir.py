"""Reading a Maildir that a server delivers into."""

import os
from collections.abc import Iterator
from pathlib import Path


class Maildir:
    """A folder with tmp/, new/ and cur/. Nothing moves messages out of new/ here."""

    def __init__(self, path: Path, *, owner: int) -> None:
        self.path = path
        for folder in (path, path / "tmp", path / "new", path / "cur"):
            folder.mkdir(parents=True, exist_ok=True)
            os.chown(folder, owner, owner)
            folder.chmod(0o700)

    def count(self) -> int:
        with os.scandir(self.path / "new") as entries:
            return sum(1 for _ in entries)

    def messages(self) -> Iterator[bytes]:
        with os.scandir(self.path / "new") as entries:
            names = sorted(entry.name for entry in entries)
        for name in names:
            yield (self.path / "new" / name).read_bytes()
