"""Runs a cluster's processes: starts them, keeps their logs, restarts what crashes, ends all of them.

Each child leads a process group of its own, so that Ctrl-C reaches only us and we say who ends first. The
kernel tells a child when we die (Linux), however we die: nothing is left behind.
"""

import asyncio
import ctypes
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from client.api import AsyncClient
from client.errors import ClientError
from client.output import takes_messages
from client.problems import counted
from client.up_config import Cluster, Program, command_of, environment_of
from evenpost.runtime.curve import SecretKey
from evenpost.runtime.settings import EXIT_BAD_INPUT
from evenpost.runtime.tasks import Tasks
from evenpost.wire.messages import WorkerStatus

PERMANENT = {
    EXIT_BAD_INPUT: "can't start with these settings; the reason is above",
    76: "speaks another version of the protocol than the broker",
    77: "has no right to run, by its key; the reason is above",
    78: "was taken over: another worker with the same name runs elsewhere",
}
"""Exit statuses after which a restart would end in the same way."""
EXIT_FAILED = 1

LINE_BYTES_MAX = 1024 * 1024
"""A line of a log. A longer one is cut."""

_PR_SET_PDEATHSIG = 1
_COLORS = (36, 32, 33, 35, 34)


@dataclass(frozen=True, slots=True)
class Patience:
    """How the supervisor waits, in seconds."""

    restart_s: float = 1.0
    """Before the first restart; it doubles each time."""
    restart_s_max: float = 30.0
    steady_s: float = 60.0
    """A process that ran this long is healthy: its crashes are counted anew."""
    crashes_max: int = 6
    """Crashes in a row after which a process is given up."""
    drain_s: float = 120.0
    """For a clean end; then it is killed. Workers bound their drain themselves, at a quarter of this."""
    ask_s: float = 0.2
    """Between two looks at who is ready."""
    nag_s: float = 15.0
    """After which it says who isn't."""


class _Child:
    def __init__(self, program: Program) -> None:
        self.program = program
        self.process: asyncio.subprocess.Process | None = None
        self.given_up = False
        self.options: tuple[str, ...] = ()

    @property
    def runs(self) -> bool:
        return self.process is not None and self.process.returncode is None

    def signal(self, number: int) -> None:
        if self.process is not None and self.process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)


class Supervisor:
    """`run` it once; `stop` it from a signal handler. `key`: a client's, to ask a broker with keys who is
    ready."""

    def __init__(
        self,
        cluster: Cluster,
        *,
        log_folder: Path | None = None,
        key: SecretKey | None = None,
        patience: Patience | None = None,
        command: Callable[[Program], list[str]] = command_of,
        out: IO[str] = sys.stderr,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        self._cluster = cluster
        self._key = key
        self._log_folder = log_folder
        self._patience = patience or Patience()
        self._command = command
        self._out = out
        self._environment = dict(environment)
        if out.isatty():
            self._environment.setdefault("EVENPOST_LOG_FORMAT", "console")
        self._broker = _Child(cluster.broker)
        self._workers = [_Child(program) for program in cluster.workers]
        self._width = max(len(name) for name in ("evenpost", *(c.program.name for c in self._children)))
        self._stopping = asyncio.Event()
        self._stops = 0
        self._status = 0
        self._tasks = Tasks(self._failed)
        self._failure: BaseException | None = None

    @property
    def _children(self) -> list[_Child]:
        return [self._broker, *self._workers]

    def stop(self, number: int = signal.SIGTERM) -> None:
        """First: drains workers, then the broker. Again: kills what is left."""
        self._stops += 1
        self._stopping.set()
        if self._stops == 1:
            self._say("Stopping: the workers finish what is on the wire. Again to stop at once.")
        else:
            self._status = 128 + number
            for child in self._children:
                child.signal(signal.SIGKILL)

    async def run(self) -> int:
        """Runs until it is stopped, or until nothing is left to run. Returns the exit status."""
        if self._log_folder is not None:
            self._log_folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as files:
            for child in self._children:
                if child.program.config:
                    child.options = ("--config", files.enter_context(_file_with(child.program.config)))
            return await self._run()

    async def _run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self.stop, number)
        try:
            keepers = [self._tasks.start(c.program.name, self._keep(c)) for c in self._children]
            watcher = self._tasks.start("readiness", self._tell_when_ready())
            await self._stopping.wait()
            watcher.cancel()
            await self._end(self._workers)
            await self._end([self._broker])
            await asyncio.gather(*keepers, return_exceptions=True)
        finally:
            for child in self._children:
                child.signal(signal.SIGKILL)
            await self._tasks.cancel()
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                loop.remove_signal_handler(number)
        if self._failure is not None:
            raise self._failure
        self._say(
            "Stopped." if self._status == 0 else f"Stopped, with failures (exit status {self._status})."
        )
        return self._status

    async def _keep(self, child: _Child) -> None:
        """Runs one process, again and again."""
        patience = self._patience
        crashes = 0
        while not self._stopping.is_set():
            started = time.monotonic()
            status = await self._run_once(child)
            if self._stopping.is_set():
                if status not in (0, -signal.SIGTERM) and self._stops < 2:
                    self._say(f"{child.program.name} ended with {_words(status)}.")
                    self._status = self._status or EXIT_FAILED
                return
            if time.monotonic() - started >= patience.steady_s:
                crashes = 0
            crashes += 1
            name = child.program.name
            if status in PERMANENT:
                self._say(f"{name} {PERMANENT[status]}.")
                self._give_up(child, EXIT_BAD_INPUT if status == EXIT_BAD_INPUT else EXIT_FAILED)
                return
            if crashes >= patience.crashes_max:
                self._say(f"{name} ended {crashes} times in a row ({_words(status)}): given up.")
                self._give_up(child, EXIT_FAILED)
                return
            pause = min(patience.restart_s * 2 ** (crashes - 1), patience.restart_s_max)
            self._say(f"{name} ended with {_words(status)}; it starts again in {pause:g} s.")
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)

    def _give_up(self, child: _Child, status: int) -> None:
        child.given_up = True
        self._status = max(self._status, status)
        nothing_left = child is self._broker or all(worker.given_up for worker in self._workers)
        if nothing_left or status == EXIT_BAD_INPUT:
            self._stopping.set()

    async def _run_once(self, child: _Child) -> int:
        program = child.program
        child.process = process = await asyncio.create_subprocess_exec(
            *self._command(program),
            *child.options,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            cwd=self._cluster.folder,
            env=environment_of(program, self._environment),
            limit=LINE_BYTES_MAX,
            process_group=0,
            preexec_fn=_tell_child_when_we_die(os.getpid()),
        )
        if self._stopping.is_set():  # asked to stop while it started
            child.signal(signal.SIGTERM if self._stops < 2 else signal.SIGKILL)
        assert process.stdout is not None
        await self._pass_on(program.name, process.stdout)
        return await process.wait()

    async def _pass_on(self, name: str, lines: asyncio.StreamReader) -> None:
        prefix = f"{name.ljust(self._width)} | "
        if self._out.isatty():
            number = next(i for i, c in enumerate(self._children) if c.program.name == name)
            prefix = f"\033[{_COLORS[number % len(_COLORS)]}m{prefix}\033[0m"
        file = None
        if self._log_folder is not None:
            safe = "".join(c if c.isalnum() or c in "._-" else "_" for c in name)
            file = (self._log_folder / f"{safe}.log").open("ab")
        try:
            while line := await _line(lines):
                if file is not None:
                    file.write(line)
                    file.flush()
                self._write(prefix + line.decode("utf-8", "replace").rstrip("\n"))
        finally:
            if file is not None:
                file.close()

    async def _end(self, children: list[_Child]) -> None:
        deadline = time.monotonic() + self._patience.drain_s
        for child in children:
            child.signal(signal.SIGTERM)
        while running := [c for c in children if c.runs]:
            if time.monotonic() >= deadline:
                names = ", ".join(c.program.name for c in running)
                self._say(f"Not ended within {self._patience.drain_s:g} s, killed: {names}.")
                self._status = self._status or EXIT_FAILED
                for child in running:
                    child.signal(signal.SIGKILL)
                deadline = float("inf")
            waits = [self._tasks.start("wait", _wait(c.process)) for c in running if c.process]
            left = None if deadline == float("inf") else max(0.0, deadline - time.monotonic())
            await asyncio.wait(waits, timeout=left)

    async def _tell_when_ready(self) -> None:
        """Asks the broker until all workers are ready, and says so."""
        programs = [worker.program for worker in self._workers]
        wanted = {name for program in programs for name in program.workers or (program.name,)}
        started = nagged = time.monotonic()
        if self._cluster.broker_key and self._key is None:
            self._say("Started. Who is ready, the broker tells only a client's key: --curve-key FILE.")
            return
        client = AsyncClient(
            self._cluster.endpoint, key=self._key, broker_key=self._cluster.broker_key or None,
            timeout=5.0, connect_timeout=1.0,
        )  # fmt: skip
        reason = ""
        try:
            while True:
                try:
                    ready = {w.worker for w in await client.servers() if _started(w)} & wanted
                    reason = ""
                except ClientError as error:
                    ready, reason = set(), f" ({error.message})"
                if ready == wanted:
                    break
                if time.monotonic() - nagged >= self._patience.nag_s:
                    nagged = time.monotonic()
                    missing = ", ".join(sorted(wanted - ready))
                    self._say(f"Still waiting for {missing} after {nagged - started:.0f} s{reason}.")
                await asyncio.sleep(self._patience.ask_s)
        finally:
            await client.close()
        words = f"the broker and {counted(len(wanted), 'worker')}"
        self._say(f"Ready: {words}. Clients: --broker {self._cluster.endpoint}. Ctrl-C drains and stops.")

    def _failed(self, _: str, error: BaseException) -> None:
        """A task of ours failed: without it the cluster isn't looked after, so all of it ends."""
        self._failure = self._failure or error
        self._stopping.set()

    def _say(self, words: str) -> None:
        self._write(f"{'evenpost'.ljust(self._width)} | {words}")

    def _write(self, line: str) -> None:
        try:
            self._out.write(line + "\n")
            self._out.flush()
        except (OSError, ValueError):
            pass  # the terminal has gone; the processes haven't


@contextmanager
def _file_with(config: str) -> Iterator[str]:
    """The path of a file that holds this while the processes run."""
    with tempfile.NamedTemporaryFile("w", prefix="evenpost-up-", suffix=".toml", encoding="utf-8") as file:
        file.write(config)
        file.flush()
        yield file.name


def _started(worker: WorkerStatus) -> bool:
    """Ready, or kept from it by an operator's word that still stands."""
    return takes_messages(worker) or worker.state in ("draining", "maint")


async def _line(lines: asyncio.StreamReader) -> bytes:
    """The next line, b"" at the end; of one that is too long, what fits."""
    try:
        return await lines.readuntil(b"\n")
    except asyncio.IncompleteReadError as error:
        return error.partial + b"\n" if error.partial else b""
    except asyncio.LimitOverrunError as error:
        return await lines.readexactly(error.consumed) + b"\n"


async def _wait(process: asyncio.subprocess.Process) -> None:
    await process.wait()


def _words(status: int) -> str:
    if status < 0:
        with suppress(ValueError):
            return f"signal {signal.Signals(-status).name}"
    return f"exit status {status}"


def _tell_child_when_we_die(parent: int) -> Callable[[], None] | None:
    """What a child runs before its program. None where the kernel can't do it."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None).prctl  # looked up here: after the fork, only plain system calls are safe

    def tell() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(EXIT_FAILED)  # we died in between

    return tell
