"""A new broker takes an old one's place: it waits until that one has let go of the journal."""

import time
from collections.abc import Callable
from typing import TypeVar

from broker.journal.store import JournalInUseError
from broker.settings import Settings
from evenpost.runtime import logs
from evenpost.runtime.startup import hold_signals, release_signals

POLL_S = 0.02
"""How often the journal is tried: the pause between the end of one broker and the start of the next."""

B = TypeVar("B")


def take_over(make: Callable[[Settings], B], settings: Settings, wait_s: float) -> B:
    """What `make` gives, as soon as no other broker has the journal. Everything is loaded by then, so that
    the time without a broker is short. Raises JournalInUseError after `wait_s` seconds, and what `make` does.

    A broker that ends lets go of its endpoints before its journal: who has the one can have the others.
    """
    end = time.monotonic() + wait_s
    waits = False
    while True:
        try:
            return make(settings)
        except JournalInUseError:
            if time.monotonic() >= end:
                raise
        if not waits:
            waits = True
            logs.get().info("broker.waiting", journal=str(settings.journal), wait_s=wait_s)
        release_signals()  # who waits has nothing yet that would want an orderly end
        time.sleep(POLL_S)
        hold_signals()
