"""A TOML file: read, or said where it is wrong."""

import re
import tomllib
from pathlib import Path
from typing import Any

from client.problems import InputError, Problem, not_utf8, unreadable

_PLACE = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")


def parse_toml(path: Path, kind: str) -> dict[str, Any]:
    """A TOML file's table. Raises InputError with line and column; `kind` is the problem's."""
    line = column = 0
    hint = ""
    try:
        return tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        reason = unreadable(error)
    except UnicodeDecodeError as error:
        line, reason = not_utf8(error)
        hint = "Save the file as UTF-8"
    except tomllib.TOMLDecodeError as error:
        place = _PLACE.search(str(error))
        if place and place[1]:
            line, column = int(place[1]), int(place[2])
        reason = _PLACE.sub("" if column else " at the end of the file", str(error))
        hint = 'Text goes into quotes: key = "value". The rules: https://toml.io'
    except (ValueError, RecursionError):  # Python's own bounds, which its parser passes on
        reason = "a number of thousands of digits, or lists in lists in lists"
    raise InputError([Problem(kind, reason, hint, str(path), line, column)])
