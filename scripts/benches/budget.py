"""Where each microsecond of a message goes: the stacks of a profile, by part of the role."""

from collections.abc import Mapping
from pathlib import Path

Folded = Mapping[str, float]
"""Stack, its frames from the outermost inwards with `;` between them -> microseconds of CPU a message."""

WRITING = "writing to sockets"
OUTCOMES = "core: outcomes"
OTHER = "other"

WORKER = {
    "composing": ("evenpost/compose/", "worker/templates", "jinja2/", "markupsafe/", "<template>"),
    WRITING: (),
    "SMTP protocol": ("worker/smtp/",),
    "batches": ("worker/batch_run",),
    "outcome log": ("worker/outcome_", "[thread_outcome"),
    "session and broker": (
        *("worker/session", "worker/reporting", "worker/lease", "worker/service", "worker/vocabulary"),
        *("evenpost/runtime/sockets", "zmq/", "[thread_ZMQ"),
    ),
    "others' connections to the server": ("worker/external", "[thread_uvloop"),
    "addresses of the server": ("[thread_libuv",),
    "event loop, reading from sockets": ("asyncio/",),
}
BROKER = {
    "sockets and codec": (
        *("broker/gate", "broker/guard", "broker/endpoints", "broker/connections", "broker/access"),
        *("broker/rights", "broker/zap", "broker/ring", "broker/wakeup", "evenpost/runtime/sockets", "zmq/"),
        *(f"broker/service.py:Broker.{name}" for name in ("_from_", "_send_", "_reply")),
        "[thread_ZMQ",
    ),
    "core: reading and dispatch": ("broker/core/",),
    OUTCOMES: (),
    "journal: statements": ("broker/journal/",),
    "journal: the thread that flushes": ("[thread_journal",),
    "loop and upkeep": ("broker/", "selectors"),
}
PARTS = {"worker": WORKER, "broker": BROKER}
"""Of each role: part -> how the frames begin that are its. The innermost frame that is some part's decides;
of the codec, clocks and the standard library that is whoever called them."""
_WRITES = ("transport.write(", "transport.writelines(", ".sendmsg(")
_REPORTED = "broker/core/outcomes.py:reported"
"""What the core does below this is about outcomes, whatever module has it."""


def read_folded(path: Path, messages: int) -> dict[str, float]:
    """A file of scripts.benches.profiled."""
    found = {}
    for line in path.read_text().splitlines():
        stack, _, ns = line.rpartition(" ")
        found[stack] = int(ns) / messages / 1e3
    return found


def part_of(role: str, stack: str) -> str:
    """The part of the role to which a stack's time belongs."""
    frames = stack.split(";")
    if role == "worker" and any(write in frames[-1] for write in _WRITES):
        return WRITING
    for frame in reversed(frames):
        for part, beginnings in PARTS[role].items():
            if frame.startswith(beginnings):
                in_core = frame.startswith("broker/core/")
                return OUTCOMES if in_core and _REPORTED in frames else part
    return OTHER


def budget(role: str, folded: Folded) -> dict[str, float]:
    """Microseconds a message of each part, in the order of PARTS; together all of the profile."""
    found = dict.fromkeys([*PARTS[role], OTHER], 0.0)
    for stack, us in folded.items():
        found[part_of(role, stack)] += us
    return found
