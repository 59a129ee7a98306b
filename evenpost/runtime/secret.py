"""Passwords, tokens and keys, never shown: not by `repr`, an f-string, a log, a trace back or a pickle."""

import hmac
import os
import re
import stat
from pathlib import Path
from typing import Any, NoReturn, Self

HIDDEN = "***"


def without_login(url: str) -> str:
    """A URL for an error message, without what may be a password in it. It need not be a correct one."""
    return re.sub(r"(?s)^(\w+://)?.*@", r"\1...@", url)


def shown_to_others(path: Path, mode: int) -> str:
    """What is wrong with a secret's file of this mode, and what to do about it; empty where nothing is.

    systemd opens its credentials to the service by an ACL, which shows as rights of the group."""
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    is_credential = bool(folder) and path.resolve().parent == Path(folder or "").resolve()
    if not mode & 0o077 or is_credential:
        return ""
    return f"{path} is a secret that others can read (mode {stat.S_IMODE(mode):04o}): chmod 600 {path}"


class Secret:
    """A text that only `reveal()` gives. Empty is false: there is no secret."""

    __slots__ = ("__text",)

    def __init__(self, text: str = "") -> None:
        self.__text = text

    def reveal(self) -> str:
        """The secret. Call it where it is used, and keep the result in no variable that lives on."""
        return self.__text

    def __bool__(self) -> bool:
        return bool(self.__text)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        # In constant time: how long a comparison takes would tell how much of a guess is right.
        return hmac.compare_digest(self.__text.encode(), other.__text.encode())

    def __hash__(self) -> int:
        return hash((Secret, self.__text))

    def __repr__(self) -> str:
        return HIDDEN

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return HIDDEN

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("a secret isn't pickled: it would be readable wherever the pickle goes")
