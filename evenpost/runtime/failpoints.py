"""Fail points: named places at which a process can be made to die, stall or see an I/O error.

    EVENPOST_FAILPOINTS="broker.after_commit=kill@3;worker.before_outcome=stall:2"

They prove what the durability contract says of a crash at each place; no installation sets them. A role's
`failpoints.py` derives from its classes and reaches the points there, and only a process with the setting
makes objects of those: without it no code of a fail point runs at all.
"""

import errno
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import click

from evenpost.runtime import logs
from evenpost.runtime.settings import Decorator, option

STALL_S_MAX = 600.0
COUNT_MAX = 1_000_000

# fmt: off
POINTS: dict[str, str] = {
    "broker.opening": "the journal's schema is brought up to date, not committed",
    "broker.opening_recount": "counts of a RETRY_FAILED that was cut short are made anew, not committed",
    "broker.before_submission_insert": "OPEN_CAMPAIGN was read, its row isn't written",
    "broker.after_submission_insert": "the campaign's row is written, not committed",
    "broker.before_recipients_insert": "RECIPIENTS was read, its rows aren't written",
    "broker.after_recipients_insert": "the recipients' rows are written, not committed",
    "broker.before_commit": "a group of changes is written, its COMMIT isn't begun",
    "broker.after_commit": "a group is flushed to disk, nobody has been told",
    "broker.before_recipients_stored": "recipients are on disk, RECIPIENTS_STORED isn't sent",
    "broker.after_recipients_stored": "RECIPIENTS_STORED was given to the socket",
    "broker.before_submit_ok": "the campaign is on disk, SUBMIT_OK isn't sent",
    "broker.after_submit_ok": "SUBMIT_OK was given to the socket",
    "broker.before_welcome": "a worker's HELLO is on disk, WELCOME isn't sent",
    "broker.after_welcome": "WELCOME was given to the socket",
    "broker.before_batch": "a batch was decided on, it isn't sent",
    "broker.after_batch": "a batch was given to the socket",
    "broker.outcomes_received": "OUTCOMES was read, nothing of it is written",
    "broker.before_outcomes_commit": "outcomes are written, their COMMIT isn't begun",
    "broker.after_outcomes_commit": "outcomes are flushed to disk, the loop doesn't know",
    "broker.before_outcomes_committed": "outcomes are on disk, OUTCOMES_COMMITTED isn't sent",
    "broker.after_outcomes_committed": "OUTCOMES_COMMITTED was given to the socket",
    "broker.held_read": "after a restart: what a worker still holds was looked up, not taken over",
    "broker.looked_up": "outcomes that came late were looked up, nothing of them is written",
    "broker.pause_received": "PAUSE was read, nothing of it is written",
    "broker.cancel_received": "CANCEL was read, nothing of it is written",
    "broker.set_server_received": "SET_SERVER was read, nothing of it is written",
    "broker.retry_received": "RETRY_FAILED was read, nothing of it is written",
    "broker.reopen_marked": "RETRY_FAILED: the campaign's row says so, no message is due yet",
    "broker.reopen_piece": "RETRY_FAILED: a piece of the messages is due, not committed",
    "broker.reopened": "RETRY_FAILED: all pieces are on disk, the campaign's counts aren't",
    "broker.before_done": "an order is on disk, DONE isn't sent",
    "broker.after_done": "DONE was given to the socket",
    "broker.before_finish": "a campaign's last outcome was read, its end isn't written",
    "broker.after_finish": "a campaign's end is written, not committed",
    "broker.goodbye_received": "a worker's GOODBYE was read, nothing of it is written",
    "broker.before_goodbye_ok": "a worker's GOODBYE is on disk, GOODBYE_OK isn't sent",

    "worker.opening_log": "the outcome log was read, its new file isn't made",
    "worker.after_hello": "HELLO was given to the socket",
    "worker.batch_received": "BATCH was read, the session hasn't taken it",
    "worker.content_wanted": "the envelope is sent and the server waits for the content; nothing is noted",
    "worker.before_begun": "`begun` is noted in memory, not in the outcome log",
    "worker.after_begun": "`begun` is in the outcome log, the first byte of the content isn't out",
    "worker.after_dot": "the final dot is out, its answer wasn't read",
    "worker.before_outcome": "the server's answer was read, nothing is noted",
    "worker.after_outcome": "the outcome is noted in memory, not in the outcome log",
    "worker.before_log_write": "a block of begun and outcomes isn't written to the outcome log",
    "worker.mid_log_write": "half of a block is in the outcome log",
    "worker.after_log_write": "a block is in the outcome log, not flushed to disk, not reported",
    "worker.before_report": "outcomes are in the outcome log, OUTCOMES isn't sent",
    "worker.after_report": "OUTCOMES was given to the socket",
    "worker.committed_received": "OUTCOMES_COMMITTED was read, its rows aren't forgotten",
    "worker.after_committed": "confirmed rows are forgotten in memory, the outcome log still has them",
    "worker.rotating": "the outcome log's new file isn't begun",
    "worker.rotated": "the outcome log's new file has taken the old one's place",
    "worker.before_goodbye": "the worker has drained, GOODBYE isn't sent",
    "worker.after_goodbye": "GOODBYE was given to the socket",
}
# fmt: on
"""Every fail point and what is true when it is reached."""

IO_POINTS = frozenset({
    "broker.after_recipients_insert", "broker.after_submission_insert", "broker.before_commit",
    "broker.before_outcomes_commit", "broker.before_recipients_insert", "broker.before_submission_insert",
    "broker.opening", "broker.reopen_piece",
    "worker.before_log_write", "worker.mid_log_write", "worker.rotating",
})  # fmt: skip
"""Those where something is read or written on disk, which may fail."""

Kind = Literal["kill", "stall", "stop", "io"]


class FailPointError(ValueError):
    """A setting that names no fail point or no action; the message says what there is."""


@dataclass(frozen=True, slots=True)
class Action:
    kind: Kind
    seconds: float = 0.0
    """Of a stall."""


class FailPoints:
    """What is to happen at which point, and how often each has been reached."""

    def __init__(self, actions: dict[str, dict[int, Action]]) -> None:
        """`actions`: by point, by the count at which it is reached."""
        self._actions = actions
        self._reached: Counter[str] = Counter()

    def of(self, role: str) -> "FailPoints | None":
        """Those of "broker" or "worker": both may have been started with the same environment."""
        actions = {name: a for name, a in self._actions.items() if name.startswith(role + ".")}
        return FailPoints(actions) if actions else None

    def hit(self, name: str) -> None:
        """A point is reached. Raises OSError (EIO) where that is what was asked for."""
        actions = self._actions.get(name)
        if actions is None:
            return
        self._reached[name] += 1
        action = actions.get(self._reached[name])
        if action is None:
            return
        logs.get().warning("failpoint.reached", point=name, action=action.kind, count=self._reached[name])
        match action.kind:
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "stop":
                os.kill(os.getpid(), signal.SIGSTOP)
            case "stall":
                time.sleep(action.seconds)
            case "io":
                raise OSError(errno.EIO, os.strerror(errno.EIO))

    def warn(self) -> None:
        """Says in the log that this process is made to fail."""
        points = [f"{name}={a.kind}@{n}" for name, by in self._actions.items() for n, a in by.items()]
        logs.get().warning("failpoints.active", points=points)


def parse(text: str) -> FailPoints | None:
    """`NAME=ACTION[@N]` of each point, with `;` between them; ACTION is kill, stop, stall:SECONDS or io, N
    (default 1) the time at which the point is reached. None: nothing is set. Raises FailPointError."""
    actions: dict[str, dict[int, Action]] = {}
    for item in filter(None, map(str.strip, text.split(";"))):
        name, equals, rest = item.partition("=")
        if not equals:
            raise FailPointError(f"{item!r} should be NAME=ACTION[@N], as in broker.after_commit=kill@3")
        if name not in POINTS:
            raise FailPointError(f"no fail point {name!r}. There are: {', '.join(POINTS)}")
        word, at, count = rest.partition("@")
        if at and not (count.isascii() and count.isdigit() and 0 < int(count) <= COUNT_MAX):
            raise FailPointError(f"{item!r}: after @ comes a number from 1 to {COUNT_MAX}")
        actions.setdefault(name, {})[int(count or 1)] = _action(item, name, word)
    return FailPoints(actions) if actions else None


def _action(item: str, name: str, word: str) -> Action:
    if word == "kill":
        return Action("kill")
    if word == "stop":
        return Action("stop")
    if word == "io":
        if name not in IO_POINTS:
            raise FailPointError(
                f"{item!r}: nothing is written there that could fail. I/O errors are for: "
                f"{', '.join(sorted(IO_POINTS))}"
            )
        return Action("io")
    kind, _, seconds = word.partition(":")
    if kind == "stall":
        try:
            if 0 < float(seconds) <= STALL_S_MAX:
                return Action("stall", float(seconds))
        except ValueError:
            pass  # as for a number that is out of range
        raise FailPointError(f"{item!r}: a stall has its seconds, above 0 and at most {STALL_S_MAX:g}")
    raise FailPointError(f"{item!r}: the action is kill, stop, stall:SECONDS or io, not {word!r}")


def failpoints_option(role: str) -> Decorator[Callable[..., Any]]:
    """`--failpoints`: the command gets the role's FailPoints, or None."""

    def convert(_: click.Context, __: click.Parameter, text: str) -> FailPoints | None:
        try:
            points = parse(text)
        except FailPointError as error:
            raise click.BadParameter(str(error)) from None
        return points.of(role) if points is not None else None

    return option(
        "--failpoints",
        default="",
        show_default=False,
        metavar="POINTS",
        callback=convert,
        help="For tests: where this process is to die, stall or see an I/O error "
        "(docs/reliability.md lists the places).",
    )
