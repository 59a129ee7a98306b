"""A small root folder for a server that insists on fixed paths and on users of its own.

Exim and OpenSMTPD look up their users, spools and helpers at places that their packages fixed. In a
chroot all of that is ours: the machine needs no users and no files, and two servers of a kind
run side by side. It needs root and nothing that a container lacks by default.
"""

import os
import re
import shutil
import stat
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.servers.packages import UNPACKED

# The Debian folders where the unpacked packages keep their libraries.
LIBRARY_FOLDERS = (UNPACKED / "usr/lib", UNPACKED / "lib")

DEVICES = {"null": (1, 3), "zero": (1, 5), "random": (1, 8), "urandom": (1, 9)}


class Jail:
    """Fill `root` so that `chroot root program` runs."""

    def __init__(self, root: Path, users: Mapping[str, int]) -> None:
        self.root = root
        self._libraries = ":".join(
            str(path.parent) for base in LIBRARY_FOLDERS for path in base.glob("**/*.so.*")
        )
        for folder in ("etc", "dev", "lib", "lib64", "tmp", "run", "var"):
            (root / folder).mkdir(parents=True)
            (root / folder).chmod(0o755)
        root.chmod(0o755)
        (root / "tmp").chmod(0o1777)
        (root / "var/run").symlink_to("/run")
        for name, (major, minor) in DEVICES.items():
            os.mknod(root / "dev" / name, stat.S_IFCHR | 0o666, os.makedev(major, minor))
            (root / "dev" / name).chmod(0o666)
        everyone = {"root": 0, "nobody": 65534, **users}
        self.write("etc/passwd", *(f"{name}:x:{n}:{n}::/:/bin/sh" for name, n in everyone.items()))
        self.write("etc/group", *(f"{name}:x:{n}:" for name, n in everyone.items()))
        # No name service: a server that asks for a name gets its answer, or none, at once.
        self.write("etc/nsswitch.conf", "passwd: files", "group: files", "hosts: files")
        self.write("etc/hosts", "127.0.0.1 localhost")
        # "lookup file" is for OpenSMTPD's own resolver, which doesn't read nsswitch.conf.
        self.write("etc/resolv.conf", "nameserver 127.0.0.1", "lookup file")

    def write(self, path: str, *lines: str, mode: int = 0o644) -> Path:
        full = self.root / path
        full.parent.mkdir(parents=True, exist_ok=True)
        full.write_text("\n".join(lines) + "\n")
        full.chmod(mode)
        return full

    def folder(self, path: str, *, owner: int = 0, mode: int = 0o755) -> Path:
        full = self.root / path
        full.mkdir(parents=True, exist_ok=True)
        os.chown(full, owner, owner)
        full.chmod(mode)
        return full

    def copy(self, source: Path, path: str) -> None:
        full = self.root / path
        full.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, full)
        full.chmod(0o755)

    def program(self, source: Path, path: str) -> None:
        """Copy a program and the shared libraries that it loads."""
        self.copy(source, path)
        listing = subprocess.run(
            ["ldd", source],
            env={**os.environ, "LD_LIBRARY_PATH": self._libraries},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        if lacking := re.findall(r"(\S+) => not found", listing):
            raise RuntimeError(f"{source.name} lacks {', '.join(lacking)}: run the install script")
        for library in re.findall(r"(/\S+) \(0x", listing):
            # The program names its loader by path; all else is looked for in /lib.
            place = library if library.startswith("/lib64/") else f"/lib/{Path(library).name}"
            if not (self.root / place.lstrip("/")).exists():
                self.copy(Path(library), place.lstrip("/"))

    def command(self, *command: str) -> list[str]:
        return ["chroot", str(self.root), *command]
