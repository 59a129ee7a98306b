"""Debian's smtp-sink, as many as are wanted, with a count of what has arrived."""

import os
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import click

from scripts.benches.processes import Process, tool, wait_for_port
from tests.servers.ports import free_port

_POLL_S = 0.002
_LAST = 200
"""Bytes at the end of its output in which the newest count is whole."""


class Sinks:
    """`smtp-sink -c` writes its count anew with each message that it has taken, before it says 250.

    It goes into a file, and whoever wants to know reads the end of that.
    """

    def __init__(self, folder: Path, number: int) -> None:
        folder.chmod(0o755)
        self.ports = tuple(free_port() for _ in range(number))
        # As root it insists on being someone else.
        someone = (
            ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"] if not os.geteuid() else []
        )
        self._processes = [
            Process([*someone, tool("smtp-sink"), "-c", f"127.0.0.1:{port}", "1024"], folder, f"sink{n}")
            for n, port in enumerate(self.ports)
        ]

    @property
    def pids(self) -> list[int]:
        return [process.pid for process in self._processes]

    def count(self) -> int:
        """Messages that have arrived, at all of them, since they run."""
        return sum(last_count(process.log) for process in self._processes)

    def wait_for(self, count: int, seconds: float, what: str) -> None:
        """Returns once so many have arrived. Raises where they don't, or where more do."""
        end = time.monotonic() + seconds
        while (seen := self.count()) < count:
            if time.monotonic() > end:
                raise click.ClickException(
                    f"{what}: {count - seen:,} messages didn't arrive in {seconds:g} s"
                )
            time.sleep(_POLL_S)
        if seen > count:
            raise click.ClickException(f"{what}: {seen - count:,} messages more than were sent")

    def stop(self) -> None:
        for process in self._processes:
            process.stop()


@contextmanager
def sinks(folder: Path, number: int = 2) -> Iterator[Sinks]:
    made = Sinks(folder, number)
    with ExitStack() as stack:
        stack.callback(made.stop)
        for port in made.ports:
            wait_for_port(port)
        yield made


def last_count(output: Path) -> int:
    with output.open("rb") as file:
        file.seek(max(0, output.stat().st_size - _LAST))
        counts = re.findall(rb"mesg=(\d+)\r", file.read())
    return int(counts[-1]) if counts else 0
