"""Several processes of one worker: which are started, when again, and how all of them end. Pure.

A process that dies is started again after a pause that grows, as a systemd unit would start it; the others go
on. Where a new start would end the same way (the settings, the key, the name), all of them end. Told to end,
all drain; told again, they stop at once. The status is the worst of theirs.
"""

import signal
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, assert_never

RESTART_S = 1.0
"""Before a process is started again; it doubles each time."""
RESTART_S_MAX = 30.0
STEADY_S = 60.0
"""A process that ran this long is healthy: its pauses begin anew."""

PERMANENT = frozenset({2, 76, 77, 78})
"""Exit statuses after which a restart ends in the same way: a setting, the protocol's version, the key, or
another process with the name."""


@dataclass(frozen=True, slots=True)
class Tick:
    """Nothing but time."""


@dataclass(frozen=True, slots=True)
class ProcessEnded:
    number: int
    status: int
    """As subprocess tells it: the exit status, or minus the signal that killed it."""


@dataclass(frozen=True, slots=True)
class EndAsked:
    reason: str
    """The signal's name."""


Event = Tick | ProcessEnded | EndAsked


@dataclass(frozen=True, slots=True)
class StartProcess:
    number: int


@dataclass(frozen=True, slots=True)
class PassOn:
    """To each that runs: drain, or, for the second time, stop."""


@dataclass(frozen=True, slots=True)
class Log:
    level: str
    event: str
    fields: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Stop:
    status: int
    """To exit with. Nothing runs any more."""


Command = StartProcess | PassOn | Log | Stop


@dataclass(slots=True)
class _Process:
    number: int
    runs: bool = False
    started_at: float = 0.0
    start_at: float = 0.0
    """When it is to be started, where it doesn't run."""
    deaths: int = 0
    """In a row."""


class Supervision:
    """Feed it events, do what it says, and call it with Tick at `wake_at`. Times are monotonic seconds."""

    def __init__(self, processes: int) -> None:
        self._processes = {number: _Process(number) for number in range(1, processes + 1)}
        self._ending = False
        self._status = 0

    @property
    def wake_at(self) -> float | None:
        """When Tick has something to do; None: never."""
        if self._ending:
            return None
        return min((p.start_at for p in self._processes.values() if not p.runs), default=None)

    def handle(self, event: Event, now: float) -> list[Command]:
        out: list[Command] = []
        match event:
            case Tick():
                pass
            case EndAsked(reason):
                self._end(reason, out)
            case ProcessEnded(number, status):
                self._ended(self._processes[number], status, now, out)
            case _:
                assert_never(event)
        if not self._ending:
            for process in self._processes.values():
                if not process.runs and now >= process.start_at:
                    process.runs, process.started_at = True, now
                    out.append(StartProcess(process.number))
        elif not any(process.runs for process in self._processes.values()):
            out.append(Stop(self._status))
        return out

    def _end(self, reason: str, out: list[Command]) -> None:
        again, self._ending = self._ending, True
        out.append(Log("info", "worker.processes_end", {"reason": reason, "at_once": again}))
        out.append(PassOn())

    def _ended(self, process: _Process, status: int, now: float, out: list[Command]) -> None:
        process.runs = False
        words = {"process": process.number, "status": _in_words(status)}
        if self._ending:
            self._status = _worse(self._status, status)
            if status:
                out.append(Log("error", "worker.process_ended", words))
            return
        if status in PERMANENT:
            self._status = status
            out.append(Log("error", "worker.process_ended", {**words, "again_in_s": None}))
            self._end(f"process {process.number} can't run", out)
            return
        if now - process.started_at >= STEADY_S:
            process.deaths = 0
        pause_s = min(RESTART_S * 2**process.deaths, RESTART_S_MAX)
        process.deaths += 1
        process.start_at = now + pause_s
        out.append(Log("error", "worker.process_ended", {**words, "again_in_s": pause_s}))


def _worse(one: int, other: int) -> int:
    """What says that a restart won't help says most; then the highest."""
    other = 128 - other if other < 0 else other  # a shell's way to tell of a signal
    return one if one in PERMANENT else other if other in PERMANENT else max(one, other)


def _in_words(status: int) -> str | int:
    if status >= 0:
        return status
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"
