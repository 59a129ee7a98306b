"""cluster.toml's `[[domain]]` and `[[sender]]`: checked here, handed to the broker in its --config file.

They are no options: a group of recipient domains with its own limits, and the pool of a sender's domain.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

from client.problems import shown
from evenpost.schedule.rate import EXAMPLE, parse_rate

Tell = Callable[[str, str, str], None]
"""Takes a key, what is wrong with it, and what to do."""

TABLES: Mapping[str, Mapping[str, type]] = {
    "domain": {"name": str, "names": list, "mx": list, "connections": int, "rate": str},
    "sender": {"domain": str, "pool": str, "overflow": str},
}
_NEEDED = {"domain": ("names", "mx"), "sender": ("pool",)}
"""One of these at least."""
_EXAMPLES = {
    "domain": 'names = ["gmail.com", "googlemail.com"]',
    "sender": 'pool = "newsletter"',
}


def tables_text(tables: Mapping[str, list[dict[str, Any]]]) -> str:
    """The tables as TOML; nothing for none. Values are texts, whole numbers and lists of texts."""
    lines: list[str] = []
    for name, rows in tables.items():
        for row in rows:
            lines += [f"[[{name}]]", *(f"{key} = {_toml(value)}" for key, value in row.items())]
    return "\n".join([*lines, ""]) if lines else ""


def _toml(value: object) -> str:
    """JSON's texts, numbers and lists are TOML's, but for DEL, which only TOML escapes."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def check_table(name: str, row: Mapping[str, Any], values: Mapping[str, Any], place: str, tell: Tell) -> None:
    """What can be wrong beyond keys and types. `row`: as given; `values`: those of the right type."""
    if not any(key in row for key in _NEEDED[name]):
        tell(f"{place}{_NEEDED[name][0]}", "missing", f"Such as {_EXAMPLES[name]}")
    if name == "sender" and "domain" not in row:
        tell(
            f"{place}domain", "missing", 'The domain of the sender\'s address, such as domain = "example.com"'
        )
    overflow = values.get("overflow", "").strip()
    if overflow and overflow == values.get("pool", "").strip():
        tell(f"{place}overflow", "is the pool itself", "Name another pool, or leave it out")
    if values.get("connections", 1) < 1:
        tell(f"{place}connections", f"{values['connections']} is less than 1", "Leave it out for no limit")
    check_rate(values, place, tell)


def check_rate(values: Mapping[str, Any], place: str, tell: Tell) -> None:
    """A server's or a domain's `rate`, where there is one."""
    rate = values.get("rate", "")
    if not isinstance(rate, str):
        tell(f"{place}rate", f"expected a text, got {shown(rate)}", f"Such as rate = {EXAMPLE}")
        return
    try:
        parse_rate(rate)
    except ValueError as error:
        reason, _, hint = str(error).partition(". ")
        tell(f"{place}rate", reason, hint)
