"""The keys that a cluster.toml names: the broker's, whose public half its workers are told, and theirs."""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from evenpost.runtime.curve import KeyFileError, Role, SecretKey
from evenpost.runtime.curve_files import read_secret_key

BROKER_VARIABLE = "EVENPOST_BROKER_CURVE_KEY"
WORKER_VARIABLE = "EVENPOST_WORKER_CURVE_KEY"
BROKER_KEY_VARIABLE = "EVENPOST_BROKER_KEY"
ROLES = frozenset({Role.CLIENT, Role.ADMIN})
"""Whose key may ask who is ready."""

Add = Callable[[str, str, str], None]
"""Notes what is wrong: the key in the file, what, and what to do."""


class ClusterKeys:
    """`folder`: paths in the file count from it. `environment`: has the twins of the options."""

    def __init__(self, folder: Path, environment: Mapping[str, str], add: Add) -> None:
        self._folder = folder
        self._environment = environment
        self._add = add
        self._wanted = False
        self.public = ""
        """The broker's public key, in Z85; empty where the broker has none, or none that can be read."""

    def read_broker(self, table: Mapping[str, Any]) -> None:
        """To be called first. `table`: what [broker] says."""
        path = table.get("curve_key", self._environment.get(BROKER_VARIABLE))
        keys = table.get("keys", self._environment.get("EVENPOST_KEYS"))
        self._wanted = path is not None
        if (path is None) != (keys is None):
            hint = "curve_key (the broker's own) and keys (the folder of those it lets in) go together"
            self._add("broker.keys" if keys is None else "broker.curve_key", "missing", hint)
        if isinstance(keys, str) and not (self._folder / keys).is_dir():
            self._add("broker.keys", f"there is no folder {str(self._folder / keys)!r}", "Make it first")
        if key := self._read("broker.curve_key", path, {Role.BROKER}):
            self.public = key.public

    def environment_of_worker(self, table: Mapping[str, Any], place: str) -> dict[str, str]:
        """What a worker needs in its environment to know the broker. `table`: its [[server]]."""
        own = table.get("curve_key", self._environment.get(WORKER_VARIABLE))
        if not self._wanted:
            if "curve_key" in table:
                hint = "Give it curve_key and keys below [broker], or leave this out"
                self._add(place + "curve_key", "the broker of this file has no key", hint)
            return {}
        if own is None:
            hint = "Make one with `evenpost keys new worker NAME`, NAME being the server's"
            self._add(place + "curve_key", "missing, and the broker has keys", hint)
        self._read(place + "curve_key", own, {Role.WORKER})
        return {} if "broker_key" in table else {BROKER_KEY_VARIABLE: self.public}

    def _read(self, key: str, path: object, roles: Collection[Role]) -> SecretKey | None:
        if not isinstance(path, str):
            return None  # what isn't a text is told of elsewhere
        try:
            return read_secret_key(self._folder / path, roles)
        except KeyFileError as error:
            self._add(key, str(error), "")
            return None
