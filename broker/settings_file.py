"""The tables of the broker's --config file: what no command-line option can say.

[[domain]]                                  # recipient domains that share limits
names = ["gmail.com", "googlemail.com"]     # these, and
mx = ["google.com"]                         # those whose best mail exchanger's name ends so
connections = 20
rate = "100/s"

[[sender]]                                  # campaigns from this domain that name no pool
domain = "news.example.com"
pool = "newsletter"
overflow = "spare"
"""

import re
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import idna

from broker.core.settings import DomainGroup, SenderPool
from evenpost.runtime.settings import did_you_mean, read_tables
from evenpost.schedule.rate import RateError, parse_rate
from evenpost.wire import limits

TABLES = ("domain", "sender")
SECTION = "broker"
CONNECTIONS_MAX = 1_000_000
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?", re.ASCII)
_DOMAIN_CHARS_MAX = 253
"""RFC 1035, 2.3.4, without the last dot."""


class _TableError(Exception):
    """What is wrong with one table; the message names the key."""


def read_domains(path: Path) -> tuple[DomainGroup, ...]:
    """The file's `[[domain]]` tables. Raises click.BadParameter that names file, table and key."""
    groups: list[DomainGroup] = []
    owner: dict[tuple[str, str], int] = {}
    for number, table in _tables(path, "domain"):
        with _in_table(path, "domain", number):
            group = _group(table)
            claims = [("names", name) for name in sorted(group.names)]
            claims += [("mx", suffix) for suffix in group.mx] + [("name", group.name)]
            for claim in claims:
                if claim in owner:
                    raise _TableError(
                        f"{claim[0]!r}: {claim[1]} is in [[domain]] {owner[claim]} already. "
                        "Keep it in one of them"
                    )
                owner[claim] = number
            groups.append(group)
    return tuple(groups)


def read_senders(path: Path) -> tuple[SenderPool, ...]:
    """The file's `[[sender]]` tables. Raises click.BadParameter that names file, table and key."""
    senders: dict[str, SenderPool] = {}
    for number, table in _tables(path, "sender"):
        with _in_table(path, "sender", number):
            sender = _sender(table)
            if sender.domain in senders:
                raise _TableError(f"'domain': {sender.domain} has a [[sender]] already. Keep one of them")
            senders[sender.domain] = sender
    return tuple(senders.values())


def _tables(path: Path, name: str) -> Iterator[tuple[int, dict[str, Any]]]:
    return enumerate(read_tables(path, SECTION, name), 1)


@contextmanager
def _in_table(path: Path, name: str, number: int) -> Iterator[None]:
    try:
        yield
    except _TableError as error:
        raise click.BadParameter(f"{path}: [[{name}]] {number}: {error}.") from None


def _group(table: dict[str, Any]) -> DomainGroup:
    _check_keys(table, ("name", "names", "mx", "connections", "rate"))
    names = _texts(table, "names", _domain)
    suffixes = tuple(dict.fromkeys(_texts(table, "mx", lambda text: _domain(text.removeprefix(".")))))
    if not names and not suffixes:
        raise _TableError("it has neither 'names' nor 'mx'. Add the domains, such as names = [\"gmail.com\"]")
    connections = table.get("connections", 0)
    if "connections" in table and not (type(connections) is int and 1 <= connections <= CONNECTIONS_MAX):
        raise _TableError(
            f"'connections': {_shown(connections)} is no whole number from 1 to {CONNECTIONS_MAX}. "
            "Leave it out for no limit"
        )
    rate = _text(table, "rate") if "rate" in table else ""
    try:
        parse_rate(rate)
    except RateError as error:
        raise _TableError(f"'rate': {error}") from None
    if not connections and not rate.strip():
        raise _TableError("it limits nothing. Give it 'connections', 'rate' or both")
    name = _name(table, "name") if "name" in table else (*names, *suffixes)[0]
    return DomainGroup(name, frozenset(names), suffixes, connections, rate)


def _sender(table: dict[str, Any]) -> SenderPool:
    _check_keys(table, ("domain", "pool", "overflow"))
    for key in ("domain", "pool"):
        if key not in table:
            raise _TableError(
                f'{key!r} is missing. A sender is domain = "example.com" and pool = "newsletter"'
            )
    domain = _word(_text(table, "domain"), "domain", _domain)
    pool = _name(table, "pool")
    overflow = _name(table, "overflow") if "overflow" in table else None
    if overflow == pool:
        raise _TableError(f"'overflow': {overflow} is the pool itself. Name another pool, or leave it out")
    return SenderPool(domain, pool, overflow)


def _check_keys(table: dict[str, Any], known: Collection[str]) -> None:
    for key in table:
        if key not in known:
            raise _TableError(f"unknown key {key!r}.{did_you_mean(key, known)}".rstrip("."))


def _text(table: dict[str, Any], key: str) -> str:
    value = table[key]
    if not isinstance(value, str):
        raise _TableError(f"{key!r} takes a text in quotes, not {_shown(value)}")
    return value


def _name(table: dict[str, Any], key: str) -> str:
    text = _text(table, key).strip()
    if not limits.is_name(text):
        raise _TableError(
            f"{key!r}: {text!r} is no name. Use 1 to {limits.NAME_CHARS_MAX} printable characters"
        )
    return text


def _texts(table: dict[str, Any], key: str, convert: Callable[[str], str]) -> list[str]:
    values = table.get(key, [])
    if isinstance(values, str):
        values = [values]
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise _TableError(
            f'{key!r} takes a list of domains, such as {key} = ["example.com"], not {_shown(values)}'
        )
    return [_word(value, key, convert) for value in values]


def _word(value: str, key: str, convert: Callable[[str], str]) -> str:
    try:
        return convert(value)
    except ValueError as error:
        raise _TableError(f"{key!r}: {error}") from None


def _domain(text: str) -> str:
    """In lower case and ASCII. Raises ValueError."""
    domain = text.strip().lower().removesuffix(".")
    hint = " Leave out what is before the @" if "@" in domain else " Write it like example.com"
    try:
        ascii_ = domain if domain.isascii() else idna.encode(domain, uts46=True).decode("ascii")
    except idna.IDNAError as error:
        raise ValueError(f"{text!r} is no domain: {error}.{hint}") from None
    labels = ascii_.split(".")
    if len(ascii_) > _DOMAIN_CHARS_MAX or not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError(f"{text!r} is no domain.{hint}")
    return ascii_


def _shown(value: object) -> str:
    try:
        return repr(value)
    except ValueError:  # Python doesn't print every number: a hexadecimal one can be as long as it likes
        return "a number of thousands of digits"
