"""Postfix as the relay: its queue on disk, everything to the sink."""

import os
import pwd
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import click

from scripts.benches.peers.contestant import CONNECTIONS, HERE, Contestant, tail
from scripts.benches.peers.sources import KEPT, missing, postfix_version, shown, smtp_source
from scripts.benches.processes import wait_for_port
from scripts.benches.usage import Ended
from tests.servers import packages
from tests.servers.ports import free_port
from tests.servers.postfix import DAEMONS, QUEUE_FOLDERS
from tests.servers.processes import Family

MAIN_CF = (HERE / "postfix_main.cf").read_text()
MASTER_CF = (HERE / "postfix_master.cf").read_text()
SETTLE_S = 30.0
_FEED = ["-N", *KEPT]


class Postfix(Contestant):
    name = "postfix"
    title = "Postfix as relay"
    share = 0.1
    why = """\
TUNING_README, QSHAPE_README and CONNECTION_CACHE_README. Fed by smtp-source over 16 kept sessions; timed
until the last message is at the sink."""

    @classmethod
    def missing(cls) -> str | None:
        return missing("smtp-source") or packages.missing(packages.POSTFIX)

    def version(self) -> str:
        return postfix_version()

    @classmethod
    def configuration(cls) -> Mapping[str, str]:
        return {"main.cf": MAIN_CF, "master.cf": MASTER_CF, "fed by": shown(_FEED, "{port}")}

    @contextmanager
    def running(self) -> Iterator[None]:
        folder = self.place.folder
        self._port = free_port()
        lay_out(folder)
        values = {
            "folder": folder,
            "daemons": DAEMONS,
            "sink": self.place.sinks[0],
            "connections": CONNECTIONS,
        }
        (folder / "etc/main.cf").write_text(MAIN_CF.format_map(values))
        # Postfix waits until the file is two seconds old, lest somebody still writes it.
        os.utime(folder / "etc/main.cf", (0, 0))
        (folder / "etc/master.cf").write_text(MASTER_CF.format(port=self._port))
        # `master -d` stays our child, which `postfix start` would not.
        self._family = Family(
            [DAEMONS / "master", "-d", "-c", folder / "etc"], log=folder / "start.log", cwd=folder
        )
        try:
            wait_for_port(self._port)
            yield
        finally:
            self._family.stop()

    def send(self, messages: int) -> dict[str, Ended]:
        return {"smtp-source": smtp_source(self._port, messages, _FEED)}

    def pids(self) -> dict[str, int]:
        return {"postfix": self._family.process.pid}

    def settle(self) -> None:
        queue = self.place.folder / "queue"
        end = time.monotonic() + SETTLE_S
        while any(path.is_file() for name in ("incoming", "active") for path in (queue / name).rglob("*")):
            if time.monotonic() > end:
                raise click.ClickException(
                    f"Postfix still has mail:\n{tail(self.place.folder / 'postfix.log')}"
                )
            time.sleep(0.02)


def lay_out(folder: Path) -> None:
    """What `postfix check` would make."""
    owner = pwd.getpwnam("postfix").pw_uid
    for name in ("queue", "data", "etc"):
        (folder / name).mkdir()
        (folder / name).chmod(0o755)
    os.chown(folder / "data", owner, 0)
    for name in QUEUE_FOLDERS:
        (folder / "queue" / name).mkdir(mode=0o700)
        os.chown(folder / "queue" / name, 0 if name == "pid" else owner, 0)
    (folder / "queue/pid").chmod(0o755)
