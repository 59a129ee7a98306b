"""What a template's filters and methods may grow to, or how long they may search: told from their arguments,
before they run. Once a method of Python's own runs, nothing stops it.

Each function raises SecurityError where it would be too much.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from jinja2.exceptions import SecurityError
from markupsafe import escape

from evenpost.compose import limits
from evenpost.compose.budget import allow, allow_bit_length, measure

_WIDE = re.compile(r"%(?:\([^)]*\))?[-+ #0-9.]*(?:\*|\d{6})|\{[^{}]*:[^{}]*(?:\{|\d{6})")
"""A width of six digits, or one taken from an argument, in a format string of either kind."""
_PERCENT = re.compile(r"%(?:\([^)]*\))?[-+ #0]*(\d*)\.?(\d*)")
_BRACES = re.compile(r"\{[^{}]*\}")
_DIGITS = re.compile(r"\d+")
_FLOAT_CHARS = 320
"""`'%f' % 1e308`."""
_SIZED = frozenset({"center", "ljust", "rjust", "zfill", "to_bytes"})
_BACKWARDS = frozenset({"rfind", "rindex", "rsplit", "rpartition", "strip", "lstrip", "rstrip"})
"""Python looks for these from place to place, a whole search at each."""
_LINK_CHARS_MAX = 1_000
"""What urlize puts into each link."""
_CODECS = frozenset({"utf8", "ascii", "usascii", "latin1", "iso88591"})
"""Others take their time: punycode's grows with the square of the text."""


def _allow_sizes(*args: Any) -> None:
    for arg in args:
        if isinstance(arg, int):
            allow(arg)


def allow_format(spec: Any) -> None:
    if _WIDE.search(_text(spec)):
        raise SecurityError("a format with a width of a hundred thousand or more, or one that isn't constant")


def allow_formatted(spec: Any, args: Iterable[Any]) -> None:
    """One value may be named by each field, and each field may be wide. `args`: the values, or lists and
    dictionaries of them."""
    allow_format(spec)
    text = _text(spec)
    percents = list(_PERCENT.finditer(text))
    braces = [field.partition(":")[2] for field in _BRACES.findall(text)]
    widths = [int(digits) for found in percents for digits in found.groups() if digits]
    widths += [int(digits) for format_ in braces for digits in _DIGITS.findall(format_)]
    largest = max((_size(value) for arg in args for value in _values_of(arg)), default=0)
    fields = max(len(percents), text.count("{"))
    if fields > 1:
        allow(len(text) + fields * (largest + max(widths, default=0)))


def _values_of(arg: Any) -> Iterable[Any]:
    if isinstance(arg, dict):
        return arg.values()
    return arg if isinstance(arg, (list, tuple)) else (arg,)


def _size(value: Any) -> int:
    """Characters that it takes as text, roughly."""
    return _FLOAT_CHARS if isinstance(value, float) else measure(value).chars


def _allow_join(items: Any, separator: Any) -> None:
    if hasattr(items, "__len__"):
        allow(len(items) * len(str(separator)))


def _allow_replace(text: Any, old: Any, new: Any) -> None:
    allow(len(text) + (text.count(old) if len(new) > len(old) else 0) * len(new))


def _allow_search(text: Any, what: Any) -> None:
    if isinstance(what, (str, bytes)) and len(what) * len(text) > limits.SEARCH_CHARS_MAX:
        raise SecurityError(f"{len(what):,} characters looked for in {len(text):,}")


def allow_method(
    owner: "str | bytes | int", name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    """For a method of a text or number."""
    if name in _SIZED:
        _allow_sizes(*args, *kwargs.values())
    elif name == "join" and args:
        _allow_join(args[0], owner)
    elif name in ("encode", "decode"):
        codec = args[0] if args else kwargs.get("encoding", "utf-8")
        if re.sub("[-_ ]", "", str(codec).lower()) not in _CODECS:
            raise SecurityError(f"{name} takes UTF-8, ASCII or Latin-1 in a template")
    elif name == "translate":
        raise SecurityError("translate isn't for templates: use replace")
    elif isinstance(owner, (str, bytes)):
        _allow_text_method(owner, name, args, kwargs)


def _allow_text_method(
    owner: "str | bytes", name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    kind = type(args[0]) if args else None
    if name == "replace" and len(args) >= 2 and kind is not None and issubclass(kind, (str, bytes)):
        # What isn't of the text's own kind is an error that Python finds.
        if isinstance(owner, bytes) is issubclass(kind, bytes):
            _allow_replace(owner, args[0], args[1])
    elif name == "expandtabs":
        width = args[0] if args else kwargs.get("tabsize", 8)
        if isinstance(width, int):
            allow(len(owner) + (owner.count("\t") if isinstance(owner, str) else owner.count(b"\t")) * width)
    elif name in _BACKWARDS and args:
        _allow_search(owner, args[0])


def allow_keys(items: Any) -> None:
    """Keys of a dictionary or a set: numbers can be chosen so that each is compared with all others."""
    if isinstance(items, Iterator):
        raise SecurityError("a dictionary is made from a list")
    if hasattr(items, "__len__") and not isinstance(items, (dict, str)) and len(items) > limits.KEYS_MAX:
        raise SecurityError(f"{len(items):,} keys; at most {limits.KEYS_MAX:,} in a template")


def _allow_lines(value: Any, indent: Any) -> None:
    """JSON with an item a line."""
    width = len(indent) if isinstance(indent, str) else indent
    if isinstance(width, int):
        found = measure(value)
        allow(found.items * found.depth * max(0, width))


# Arguments that are missing or too many are left to the filters, whose complaints name them.


def _sized(_: Any, *args: Any, **kwargs: Any) -> None:
    _allow_sizes(*args, *kwargs.values())


def _rounded(_: Any, precision: Any = 0, *__: Any, **___: Any) -> None:
    _allow_sizes(precision)
    allow_bit_length(10 * abs(int(precision)))


def _wrapped(text: Any, width: Any = 0, _: Any = None, wrapstring: Any = None, *__: Any, **___: Any) -> None:
    _allow_sizes(width)
    allow(len(str(text)) * len(wrapstring or ""))


def _indented(text: Any, width: Any = 4, *_: Any, **__: Any) -> None:
    _allow_sizes(width)
    written = str(text)
    lines = written.count("\n") + 1
    allow(len(written) + lines * (width if isinstance(width, int) else len(width)))


def _formatted(text: Any, *args: Any, **kwargs: Any) -> None:
    allow_formatted(text, (*args, *kwargs.values()))


def _joined(items: Any, d: Any = "", *_: Any, **__: Any) -> None:
    _allow_join(items, d)


def _replaced(text: Any, old: Any = "", new: Any = "", *_: Any, **__: Any) -> None:
    _allow_replace(str(text), str(old), str(escape(new)))


def _trimmed(text: Any, chars: Any = None, *_: Any, **__: Any) -> None:
    _allow_search(str(text), chars)


def _linked(_: Any, *args: Any, **kwargs: Any) -> None:
    for arg in (*args, *kwargs.values()):
        if isinstance(arg, str) and len(arg) > _LINK_CHARS_MAX:
            raise SecurityError(f"{len(arg):,} characters in each link; at most {_LINK_CHARS_MAX:,}")


def _unique(items: Any, *_: Any, **__: Any) -> None:
    allow_keys(items)


def _json(value: Any, indent: Any = None, *_: Any, **__: Any) -> None:
    _allow_sizes(indent)
    _allow_lines(value, indent)


FILTER_CHECKS: dict[str, Callable[..., None]] = {
    "center": _sized, "batch": _sized, "slice": _sized, "round": _rounded, "wordwrap": _wrapped,
    "indent": _indented, "format": _formatted, "join": _joined, "replace": _replaced, "trim": _trimmed,
    "urlize": _linked, "unique": _unique, "tojson": _json,
}  # fmt: skip
"""For Jinja2's filters, by what they are given. That was weighed: some of it is turned into text here."""


def _text(spec: Any) -> str:
    return spec.decode("latin-1") if isinstance(spec, bytes) else str(spec)
