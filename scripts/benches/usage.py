"""What the processes of a run cost: CPU a message and peak memory of each, by name, over rounds."""

import os
import statistics
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # ships no types

_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")
_LOOK_S = 0.02


def cpu_s(pid: int) -> float:
    """User and system time of a process so far, all of its threads."""
    return time.clock_gettime(~pid << 3 | 2)  # the clock that clock_getcpuclockid(3) gives


def tree_cpu_s(pid: int) -> float:
    """The same with its children, those that ended and were waited for among them (in ticks of 10 ms).

    Not for this very process: its children are what it measures.
    """
    if pid == os.getpid():
        return cpu_s(pid)
    total = 0.0
    for each in tree(pid):
        try:
            fields = Path(f"/proc/{each}/stat").read_text().rsplit(")", 1)[1].split()
            total += cpu_s(each) + (int(fields[13]) + int(fields[14])) / _TICKS_A_SECOND
        except OSError:  # it has just ended
            continue
    return total


def tree(pid: int) -> list[int]:
    """It and its children, and theirs, as far as they run; of this very process only itself."""
    if pid == os.getpid():
        return [pid]
    try:
        process = psutil.Process(pid)
        return [pid, *(child.pid for child in process.children(recursive=True))]
    except psutil.NoSuchProcess:
        return []


def memory_mb(pid: int, name: str) -> float:
    """`VmRSS`: what it has in memory now; `VmHWM`: the most it ever had. 0 where it has ended."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    return 0.0


@dataclass(frozen=True)
class Spread:
    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        return cls(statistics.median(values), min(values), max(values))

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.least:.2f} to {self.most:.2f})"


@dataclass(frozen=True)
class Ended:
    """What a program that has run to its end used, it and all that it waited for."""

    out: str
    seconds: float
    cpu_s: float
    rss_mb: float
    """The most that it and its children had, as seen every 20 ms."""


def run(command: Sequence[str], cwd: Path | None = None) -> Ended:
    """Runs a program to its end. Raises CalledProcessError where it fails."""
    began, peak_mb = time.monotonic(), 0.0
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=cwd) as process:
        assert process.stdout is not None
        texts: list[str] = []
        stdout = process.stdout
        reader = threading.Thread(target=lambda: texts.append(stdout.read()))
        try:
            reader.start()
            # The kernel's own maximum (ru_maxrss) begins with what we had when it was forked from us.
            while reader.is_alive():
                peak_mb = max(peak_mb, sum(memory_mb(pid, "VmHWM") for pid in tree(process.pid)))
                reader.join(_LOOK_S)
            _, status, used = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            raise
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    seconds = time.monotonic() - began
    return Ended(texts[0], seconds, used.ru_utime + used.ru_stime, peak_mb)


@dataclass
class Cost:
    """One contestant over its rounds."""

    name: str
    seconds: list[float] = field(default_factory=list)
    per_s: list[float] = field(default_factory=list)
    """Messages a second, round by round."""
    cpu_us: dict[str, list[float]] = field(default_factory=dict)
    """Of each process, microseconds of CPU a message, round by round."""
    rss_mb: dict[str, float] = field(default_factory=dict)
    """Of each process, the most it has had in memory; of several with one name, the sum."""
    strangers: list[float] = field(default_factory=list)
    """Cores that none of these processes used, but somebody on this machine, round by round."""

    @contextmanager
    def round(self, messages: int, pids: Mapping[str, int | Sequence[int]]) -> Iterator["Round"]:
        """One round: `pids` are the processes that run all through it, children included, by name."""
        named = {name: [given] if isinstance(given, int) else given for name, given in pids.items()}
        before, busy_s = _cpu(named), _busy_s()
        found = Round(messages, {})
        began = time.monotonic()
        yield found
        whole_s = time.monotonic() - began
        found.seconds = found.seconds or whole_s
        after, busy_s = _cpu(named), _busy_s() - busy_s
        self.seconds.append(found.seconds)
        self.per_s.append(found.messages / found.seconds)
        used_s = {name: after[name] - before[name] for name in named}
        used_s |= {name: ended.cpu_s for name, ended in found.ended.items()}
        self.strangers.append(max(0.0, busy_s - sum(used_s.values())) / whole_s)
        for name, seconds in used_s.items():
            self.cpu_us.setdefault(name, []).append(seconds / found.messages * 1e6)
        peaks = {
            name: sum(memory_mb(each, "VmHWM") for pid in given for each in tree(pid))
            for name, given in named.items()
        }
        peaks |= {name: ended.rss_mb for name, ended in found.ended.items()}
        self.rss_mb = {name: max(self.rss_mb.get(name, 0.0), peak) for name, peak in peaks.items()}

    def us(self, process: str) -> float:
        """The median of its CPU a message."""
        return Spread.of(self.cpu_us[process]).median

    def rows(self) -> list[list[object]]:
        """For the table of costs: process, median, least, most, peak memory."""
        found: list[list[object]] = []
        for process, values in self.cpu_us.items():
            spread = Spread.of(values)
            name = f"{self.name}: {process}" if self.name else process
            found.append([name, spread.median, spread.least, spread.most, self.rss_mb[process]])
        return found

    def figures(self) -> dict[str, object]:
        """For JSON."""
        return {
            "per_s": self.per_s,
            "cpu_us": self.cpu_us,
            "rss_mb": self.rss_mb,
            "strangers_cores": self.strangers,
        }


@dataclass
class Round:
    messages: int
    """How many it was about; settable where only the end of the round tells."""
    ended: dict[str, Ended]
    """Programs that ran to their end in it, by name."""
    seconds: float = 0.0
    """What it took, where that isn't all of the round."""


def _busy_s() -> float:
    """CPU that all processes of this machine have used so far."""
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system + times.irq + times.softirq + times.steal)


def _cpu(named: Mapping[str, Sequence[int]]) -> dict[str, float]:
    return {name: sum(tree_cpu_s(pid) for pid in pids) for name, pids in named.items()}
