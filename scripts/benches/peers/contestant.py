"""What each contestant fills in, and what it is given."""

import subprocess
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import click

from scripts.benches.processes import ROOT
from scripts.benches.usage import Ended

HERE = Path(__file__).parent
BUILD = ROOT / "build/peers"
"""Where `install` puts what needs no root."""
INSTALL = HERE.relative_to(ROOT) / "install"
CONNECTIONS = 16
LOG_TAIL = 2_000


@dataclass(frozen=True)
class Place:
    folder: Path
    """Its own, empty, on the disk where the checkout is."""
    sinks: tuple[int, ...]
    """The ports of the sinks. Who needs one takes the first."""


class Contestant(ABC):
    """One way to send. `running` starts what it needs, `send` sends, again and again, until it ends."""

    name: ClassVar[str]
    """For --only and the JSON."""
    title: ClassVar[str]
    """For the table."""
    share: ClassVar[float] = 1.0
    """How many messages it gets a round, as a part of Evenpost's: what is slow gets fewer."""
    why: ClassVar[str]
    """What its configuration follows, and what was tried: for --show."""

    def __init__(self, place: Place) -> None:
        self.place = place

    @classmethod
    @abstractmethod
    def missing(cls) -> str | None:
        """What is missing here and how to get it; None where it can run."""

    @abstractmethod
    def version(self) -> str: ...

    @classmethod
    @abstractmethod
    def configuration(cls) -> Mapping[str, str]:
        """Files and commands, by what they are. {words} are filled in when it runs."""

    @abstractmethod
    @contextmanager
    def running(self) -> Iterator[None]: ...

    @abstractmethod
    def send(self, messages: int) -> dict[str, Ended]:
        """Gives it so many. Returns when they are given, which may be before they arrive.

        Returns the programs that ran to their end for it, by name.
        """

    def pids(self) -> dict[str, int]:
        """What keeps running, by name; children are counted with it."""
        return {}

    def settle(self) -> None:
        """Returns once it has nothing left to do, after all have arrived."""
        return


def tail(log: Path) -> str:
    return log.read_text(errors="replace")[-LOG_TAIL:] if log.exists() else ""


class Feeder:
    """A program that reads a number a line, sends so many messages and answers with a line.

    So its start and its imports are no part of what is measured.
    """

    def __init__(self, command: list[str], log: Path, environment: Mapping[str, str]) -> None:
        self._log = log
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                cwd=log.parent,
                env=environment,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, messages: int) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{messages}\n")
        self._process.stdin.flush()
        if self._process.stdout.readline() != f"{messages}\n":
            raise click.ClickException(f"{self._log.stem} failed:\n{tail(self._log)}")

    def stop(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()  # the end of its input ends it
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


@contextmanager
def feeder(command: list[str], log: Path, environment: Mapping[str, str]) -> Iterator[Feeder]:
    made = Feeder(command, log, environment)
    try:
        yield made
    finally:
        made.stop()


def first_line(command: list[str]) -> str:
    """What a program says of its version. Some say it on standard error."""
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return (done.stdout or done.stderr).splitlines()[0].strip()
