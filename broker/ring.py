"""The key ring: whose public keys may talk to this broker. Read from a folder; then a look-up in memory."""

import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from evenpost.runtime.curve import KeyFileError, PublicKey, Role
from evenpost.runtime.curve_files import read_public_key

FOLDERS: Mapping[str, Role] = MappingProxyType(
    {"clients": Role.CLIENT, "workers": Role.WORKER, "admins": Role.ADMIN}
)
"""Folders under --keys, and the role of the keys in each."""
DOMAINS: Mapping[str, frozenset[Role]] = MappingProxyType(
    {"clients": frozenset({Role.CLIENT, Role.ADMIN}), "workers": frozenset({Role.WORKER})}
)
"""ZAP domains, one a socket, and who may connect there at all."""


@dataclass(frozen=True, slots=True)
class Ring:
    """Immutable: another state of the folder is another ring."""

    files: Mapping[Path, PublicKey] = field(default_factory=dict)
    by_key: Mapping[str, PublicKey] = field(default_factory=dict)

    def holder(self, key: str, domain: str) -> PublicKey | None:
        """Who may connect in `domain` by this key; None: nobody."""
        found = self.by_key.get(key)
        return found if found is not None and found.role in DOMAINS.get(domain, ()) else None


def read_ring(folder: Path, former: Ring) -> tuple[Ring, list[str]]:
    """What the folder says now, and what is wrong in it. Never raises: a file, or a whole folder, that can't
    be used keeps what `former` had of it, so that a slip of the pen cuts nobody off."""
    files: dict[Path, PublicKey] = {}
    wrong: list[str] = []
    for name, role in FOLDERS.items():
        place = folder / name
        had = {path: key for path, key in former.files.items() if path.parent == place}
        try:
            if wrong_folder := next(filter(_is_anybodys, (folder, place)), None):
                wrong.append(f"anybody on this host can add keys to {place}: chmod o-w {wrong_folder}")
                files.update(had)
                continue
            paths = sorted(path for path in place.iterdir() if _is_public(path))
        except FileNotFoundError:
            if had:
                wrong.append(f"{place} has gone: its {len(had)} keys stay; to revoke them, leave it empty")
            files.update(had)
            continue
        except OSError as error:
            wrong.append(f"can't read {place}: {error.strerror}")
            files.update(had)
            continue
        for path in paths:
            try:
                found = read_public_key(path)
                if found.role is not role:
                    raise KeyFileError(f"{path} is the key of a {found.role}: it doesn't belong in {name}/")
            except KeyFileError as error:
                wrong.append(str(error))
                if path in had:
                    files[path] = had[path]
            else:
                files[path] = found
    by_key: dict[str, PublicKey] = {}
    seen: dict[str, Path] = {}
    for path, found in files.items():
        if found.key in by_key and by_key[found.key] != found:
            wrong.append(f"{path} has the key of {seen[found.key]}: only that one counts")
            continue
        by_key[found.key] = found
        seen[found.key] = path
    return Ring(MappingProxyType(files), MappingProxyType(by_key)), wrong


def _is_anybodys(folder: Path) -> bool:
    return bool(folder.stat().st_mode & stat.S_IWOTH)


def _is_public(path: Path) -> bool:
    return path.suffix == ".pub" and not path.name.startswith(".")
