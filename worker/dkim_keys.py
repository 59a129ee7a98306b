"""`--dkim FILE`: which keys sign for which domain in From.

    require = true                    # a message from a domain without a key isn't sent here

    [[key]]
    domain = "example.com"            # d=
    selector = "s2026"                # s=
    private_key = "s2026.pem"         # from the folder of this file on
    signs = ["example.com", "*.example.com"]   # domains in From; `domain` alone where it isn't said

Where several keys are for one domain, each makes a signature: RSA and Ed25519, say.
"""

import os
import re
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import click
import idna

from evenpost.dkim import DkimKeyError, SigningKey
from evenpost.dkim.keys import RSA_BITS, is_name
from evenpost.runtime.secret import shown_to_others
from evenpost.runtime.settings import did_you_mean, read_toml

_TOP = {"require": bool, "key": list}
_KEY = {"domain": str, "selector": str, "private_key": str, "signs": list}
_NEEDED = ("domain", "selector", "private_key")
_TYPE_WORDS = {str: "a text", list: "a list of texts", bool: "true or false"}
KEYS_PER_DOMAIN_MAX = 4
"""RSA and Ed25519, and each once more while keys are changed. A signature is some 700 bytes."""
KEY_FILE_BYTES_MAX = 64 * 1024


class DkimKeys:
    """All that one worker signs with."""

    def __init__(self, by_domain: dict[str, tuple[SigningKey, ...]], *, require: bool = False) -> None:
        """`by_domain`: domains in From, in lower case; `*.example.com` is for all below example.com that
        aren't named themselves."""
        self._by_domain = by_domain
        self.require = require
        """A message from a domain without a key isn't sent."""
        self.keys = tuple(dict.fromkeys(key for keys in by_domain.values() for key in keys))

    @property
    def is_slow(self) -> bool:
        """Whether signing takes so long that it is worth a thread."""
        return any(key.algorithm == "rsa" for key in self.keys)

    def of(self, domain: str) -> Sequence[SigningKey]:
        """The keys for a domain in From, in lower case. Empty where there is none."""
        found = self._by_domain.get(domain)
        rest = domain
        while found is None and "." in rest:
            rest = rest.partition(".")[2]
            found = self._by_domain.get(f"*.{rest}")
        return found or ()


def read_dkim(path: Path) -> DkimKeys:
    """Reads the file and the keys that it names. Warns of what is weak. Raises click.BadParameter that says
    file, line, field and what is wrong."""
    return _Reader(path).read()


class _Reader:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines: list[str] = []

    def read(self) -> DkimKeys:
        table = read_toml(self._path)
        self._lines = self._path.read_text(encoding="utf-8").splitlines()
        self._check(0, table, _TOP)
        rows = table.get("key", [])
        if not rows or not all(isinstance(row, dict) for row in rows):
            self._fail(0, "key", "there is none: write [[key]] and below it domain, selector, private_key")
        by_domain: dict[str, list[SigningKey]] = {}
        names: set[str] = set()
        for number, row in enumerate(rows, 1):
            key, domains = self._key(number, row)
            if key.record_name in names:
                self._fail(number, "selector", f"{key.record_name} is another key's already")
            names.add(key.record_name)
            for domain in domains:
                by_domain.setdefault(domain, []).append(key)
                if len(by_domain[domain]) > KEYS_PER_DOMAIN_MAX:
                    self._fail(number, "signs", f"more than {KEYS_PER_DOMAIN_MAX} keys sign for {domain}")
        found = {domain: tuple(keys) for domain, keys in by_domain.items()}
        return DkimKeys(found, require=table.get("require", False))

    def _key(self, number: int, row: dict[str, Any]) -> tuple[SigningKey, list[str]]:
        self._check(number, row, _KEY)
        for field in _NEEDED:
            if not row.get(field):
                self._fail(number, field, "missing")
        domain = self._domain(number, "domain", row["domain"])
        try:
            key = SigningKey(domain, row["selector"], self._pem(number, row["private_key"]))
        except DkimKeyError as error:
            field = "selector" if "selector" in str(error) else "private_key"
            self._fail(number, field, str(error))
        if key.algorithm == "rsa" and key.bits < RSA_BITS:
            self._warn(number, "private_key", f"RSA of {key.bits} bits is weak: make one of {RSA_BITS}")
        domains = []
        for name in row.get("signs", [domain]):
            star, below = ("*.", name[2:]) if name.startswith("*.") else ("", name)
            below = self._domain(number, "signs", below)
            domains.append(star + below)
            if below.split(".")[-2:] != domain.split(".")[-2:]:
                self._warn(number, "signs", f"DMARC doesn't count {domain}'s signature for mail from {below}")
        return key, list(dict.fromkeys(domains))

    def _domain(self, number: int, field: str, text: str) -> str:
        name = text.strip().removesuffix(".").lower()
        if not name.isascii():
            try:
                name = idna.encode(name, uts46=True).decode("ascii")
            except idna.IDNAError as error:
                self._fail(number, field, f"{text!r} is no domain: {error}")
        if not is_name(name):
            self._fail(number, field, f"{text!r} is no domain")
        return name

    def _pem(self, number: int, text: str) -> bytes:
        path = self._path.parent / text
        try:
            # A pipe of that name must not hold the process up.
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            try:
                mode = os.fstat(descriptor).st_mode
                if not stat.S_ISREG(mode):
                    self._fail(number, "private_key", f"{path} is no file")
                pem = os.read(descriptor, KEY_FILE_BYTES_MAX)
            finally:
                os.close(descriptor)
        except OSError as error:
            self._fail(number, "private_key", f"can't read {path}: {error.strerror}")
        except ValueError:
            self._fail(number, "private_key", f"{text!r} can't be a file's name")
        if reason := shown_to_others(path, mode):
            self._fail(number, "private_key", reason)
        return pem

    def _check(self, number: int, table: dict[str, Any], kinds: Mapping[str, type]) -> None:
        for field, value in table.items():
            kind = kinds.get(field)
            if kind is None:
                self._fail(number, field, f"unknown key.{did_you_mean(field, kinds)}")
            good = isinstance(value, kind)
            if field == "signs" and good:
                good = bool(value) and all(isinstance(each, str) for each in value)
            if not good:
                self._fail(number, field, f"it takes {_TYPE_WORDS[kind]}")

    def _fail(self, number: int, field: str, reason: str) -> NoReturn:
        raise click.BadParameter(f"{self._place(number, field)}: {reason}", param_hint="'--dkim'")

    def _warn(self, number: int, field: str, reason: str) -> None:
        click.echo(f"Warning: {self._place(number, field)}: {reason}", err=True)

    def _place(self, number: int, field: str) -> str:
        """File, line and field; the line of its [[key]] where it has none of its own. 0: outside of those."""
        tables, start, line = 0, 0, 0
        for n, text in enumerate(self._lines, 1):
            if re.match(r"\s*\[\[\s*key\s*\]\]", text):
                tables += 1
                start = n if tables == number else start
            elif tables == number and re.match(rf"""\s*["']?{re.escape(field)}["']?\s*=""", text):
                line = line or n
        where = f", line {line or start}" if line or start else ""
        return f"{self._path}{where}: " + (f"key[{number}].{field}" if number else field)
