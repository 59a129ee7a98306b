"""How much room the journal's disk has, and what the broker may still do with it.

A journal that can't be written ends the broker. So it takes nothing new in while some room is left: what it
has accepted can then be sent, and what workers report of it can be written. Where even that room goes,
sending stops too, so that the outcomes of what is in flight still find theirs.
"""

import os
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path
from typing import Any

MB = 1_000_000
SENDING_PART = 4
"""Below the reserve divided by this nothing is sent: outcomes of what is in flight need far less."""
BACK_PART = 8
"""A mark counts as passed upwards when so much more of it is free, as a part: or each write would pass it."""


class Room(IntEnum):
    """What may be done, from nothing new to all."""

    NOTHING_NEW = 0
    """Nothing comes in and nothing goes out; what workers report is written."""
    NO_SUBMISSIONS = 1
    ALL = 2


def free_bytes(folder: Path) -> int:
    """Free on the folder's file system for a process like this one. Raises OSError."""
    found = os.statvfs(folder)
    return found.f_frsize * (found.f_bfree if os.geteuid() == 0 else found.f_bavail)


def room_for(free: int, reserve: int, before: Room) -> Room:
    """What may be done with so much free, in bytes; `before`: what might be done until now."""
    for room, mark in ((Room.NOTHING_NEW, reserve // SENDING_PART), (Room.NO_SUBMISSIONS, reserve)):
        if free < (mark if before > room else mark + mark // BACK_PART):
            return room
    return Room.ALL


class DiskSpace:
    """Looks at the disk when it is told to, and says so when that changes what may be done."""

    def __init__(
        self, journal: Path, reserve: int, log: Any, free: Callable[[Path], int] = free_bytes
    ) -> None:
        """`reserve`: bytes that stay free for what was accepted; 0: it never looks. `log`: of structlog."""
        self._folder = journal.absolute().parent
        self._reserve = reserve
        self._log = log
        self._free = free
        self.room = Room.ALL

    def look(self) -> None:
        if not self._reserve:
            return
        try:
            free = self._free(self._folder)
        except OSError:
            return  # the journal's own writes will tell whether the disk is well
        before, self.room = self.room, room_for(free, self._reserve, self.room)
        if self.room == before:
            return
        fields = {"folder": str(self._folder), "free_mb": round(free / MB), "reserve_mb": self._reserve // MB}
        if self.room is Room.ALL:
            self._log.info("journal.disk_ok", **fields)
            return
        stopped = "submissions" if self.room is Room.NO_SUBMISSIONS else "submissions and sending"
        self._log.warning("journal.disk_low", stopped=stopped, **fields)

    @property
    def halted(self) -> str:
        """Why nothing is sent; empty where that isn't so."""
        if self.room > Room.NOTHING_NEW:
            return ""
        return f"the disk of the broker's journal is nearly full: make room in {self._folder}"

    @property
    def refusal(self) -> str:
        """What a client hears that brings more."""
        return (
            "the disk of the broker's journal is nearly full: nothing new is accepted until there is more "
            f"room in {self._folder}"
        )
