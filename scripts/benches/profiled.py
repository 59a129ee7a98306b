"""A role under a sampler: `python -m scripts.benches.profiled ROLE FOLDED ARGUMENTS...`.

Runs the very `main` of a role. SIGUSR1 begins, SIGUSR2 ends and writes FOLDED: a line for each stack, its
frames from the outermost inwards, `;` between them, and the nanoseconds of CPU that belong to it
(https://github.com/brendangregg/FlameGraph calls that folded).

A timer on the main thread's own CPU clock (timer_create(2), CLOCK_THREAD_CPUTIME_ID) sends SIGPROF. Python
looks for signals after each call of C code, at each start of a function and at each jump back, so time in C
is on the line that called it. What is found at the very start of a function was spent before it: it goes to
whoever called. For callbacks that is the event loop, which is C. Each sample weighs the CPU that the thread
used since the last one, without the sampler's own. The other threads (ZeroMQ's, the journal's) aren't
sampled but measured, each as a frame of its own.
"""

import ctypes
import dis
import importlib
import linecache
import signal
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from types import CodeType, FrameType

from scripts.benches.processes import ROOT

INTERVAL_NS = 1_000_000
"""Kernels look at such timers once a tick, which is 1 to 10 ms; each sample weighs what was used."""
DEPTH_MAX = 60
_CLOCK_THREAD_CPUTIME_ID, _SIGEV_THREAD_ID = 3, 4
_PACKAGES = "site-packages/"
_RESUME = dis.opmap["RESUME"]


class _Sigevent(ctypes.Structure):
    _fields_ = (
        ("value", ctypes.c_void_p), ("signo", ctypes.c_int), ("notify", ctypes.c_int),
        ("tid", ctypes.c_int), ("rest", ctypes.c_char * 44),
    )  # fmt: skip


class _Itimerspec(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_long) for name in ("every_s", "every_ns", "first_s", "first_ns"))


class Sampler:
    """Of the main thread, on which it is made."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._ns: Counter[tuple[CodeType | int, ...]] = Counter()
        """By stack: the line within the innermost frame, then codes from there outwards."""
        self._resumes: dict[CodeType, frozenset[int]] = {}
        self._before_ns = 0
        self._threads: dict[int, int] = {}
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._timer = ctypes.c_void_p()
        event = _Sigevent(
            signo=signal.SIGPROF, notify=_SIGEV_THREAD_ID, tid=threading.main_thread().native_id
        )
        made = self._libc.timer_create(
            _CLOCK_THREAD_CPUTIME_ID, ctypes.byref(event), ctypes.byref(self._timer)
        )
        assert made == 0, ctypes.get_errno()
        signal.signal(signal.SIGPROF, self._sample)
        signal.signal(signal.SIGUSR1, self._begin)
        signal.signal(signal.SIGUSR2, self._end)

    def _begin(self, *_: object) -> None:
        self._ns.clear()
        self._threads = _threads_ns()
        self._set(INTERVAL_NS)
        self._before_ns = time.thread_time_ns()

    def _set(self, every_ns: int) -> None:
        times = _Itimerspec(0, every_ns, 0, every_ns)
        assert self._libc.timer_settime(self._timer, 0, ctypes.byref(times), None) == 0

    def _sample(self, _: int, frame: FrameType | None) -> None:
        used_ns = time.thread_time_ns() - self._before_ns
        while frame is not None and frame.f_back is not None and self._is_at_start(frame):
            frame = frame.f_back
        if frame is not None:
            stack: list[CodeType | int] = [frame.f_lineno or 0]
            while frame is not None and len(stack) <= DEPTH_MAX:
                stack.append(frame.f_code)
                frame = frame.f_back
            self._ns[tuple(stack)] += used_ns
        self._before_ns = time.thread_time_ns()

    def _is_at_start(self, frame: FrameType) -> bool:
        code = frame.f_code
        resumes = self._resumes.get(code)
        if resumes is None:
            found = dis.get_instructions(code)
            resumes = frozenset(each.offset for each in found if each.opcode == _RESUME)
            self._resumes[code] = resumes
        return frame.f_lasti in resumes

    def _end(self, *_: object) -> None:
        self._set(0)
        lines: Counter[str] = Counter()
        for (line, *codes), ns in self._ns.items():
            assert isinstance(line, int)
            frames = [_name(code) for code in reversed(codes) if isinstance(code, CodeType)]
            innermost = codes[0]
            assert isinstance(innermost, CodeType)
            frames.append(_line(innermost, line))
            lines[";".join(frames)] += ns
        for thread, ns in _threads_ns().items():
            if thread != threading.main_thread().native_id:
                lines[f"[{_thread_name(thread)}]"] += ns - self._threads.get(thread, 0)
        text = "".join(f"{stack} {ns}\n" for stack, ns in sorted(lines.items()) if ns)
        done = self._path.with_suffix(".part")
        done.write_text(text)
        done.replace(self._path)  # whole, or not there


def _name(code: CodeType) -> str:
    path = code.co_filename
    if _PACKAGES in path:
        path = path.rpartition(_PACKAGES)[2]
    elif path.startswith(str(ROOT)):
        path = str(Path(path).relative_to(ROOT))
    elif not path.startswith("<"):
        path = "/".join(Path(path).parts[-2:])
    return f"{path}:{code.co_qualname}".replace(";", ",").replace(" ", "_")


def _line(code: CodeType, number: int) -> str:
    """The innermost frame's line, as a frame of its own: C code that it calls is in it."""
    text = linecache.getline(code.co_filename, number).strip() if number else ""
    return f"line_{number}:_{text}".replace(";", ",").replace(" ", "_")


def _threads_ns() -> dict[int, int]:
    """CPU of each thread so far (Documentation/scheduler/sched-stats: the first field of schedstat)."""
    found = {}
    for folder in Path("/proc/self/task").iterdir():
        try:
            found[int(folder.name)] = int((folder / "schedstat").read_text().split()[0])
        except OSError:  # it has just ended
            continue
    return found


def _thread_name(thread: int) -> str:
    for known in threading.enumerate():
        if known.native_id == thread:
            return f"thread_{known.name}"
    name = Path(f"/proc/self/task/{thread}/comm").read_text().strip()
    return f"thread_{name}".replace(" ", "_")


def main() -> None:
    role, folded, *arguments = sys.argv[1:]
    Sampler(Path(folded))
    sys.argv = [f"evenpost-{role}", *arguments]
    importlib.import_module(f"{role}.cli").main()


if __name__ == "__main__":
    main()
