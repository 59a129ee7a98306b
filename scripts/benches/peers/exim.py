"""Exim as the relay: its queue on disk, everything to the sink."""

import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import click

from scripts.benches.peers.contestant import CONNECTIONS, HERE, Contestant
from scripts.benches.peers.sources import KEPT, missing, shown, smtp_source
from scripts.benches.processes import wait_for_port
from scripts.benches.usage import Ended
from tests.servers import packages
from tests.servers.exim import EXIM_USER
from tests.servers.jail import Jail
from tests.servers.ports import free_port
from tests.servers.processes import Family

CONFIGURATION = (HERE / "exim.conf").read_text()
COMMAND = ["/usr/sbin/exim4", "-bdf", "-q1m"]
BINARY = "usr/sbin/exim4"
SETTLE_S = 60.0


class Exim(Contestant):
    name = "exim"
    title = "Exim as relay"
    share = 0.02
    why = """\
What its specification says of speed and large queues: a split spool, no message logs, no exec for each
delivery, each message delivered at once. Fed by smtp-source over 16 kept sessions; timed until the last
message is at the sink. Its CPU is more than what is told: it waits for few of its children, so that the
kernel doesn't count them."""

    @classmethod
    def missing(cls) -> str | None:
        return missing("smtp-source") or packages.missing(packages.EXIM)

    def version(self) -> str:
        with socket.create_connection(("127.0.0.1", self._port), 10) as connection:
            return " ".join(connection.recv(200).decode().split()[3:5])  # "220 exim.test ESMTP Exim 4.96 ..."

    @classmethod
    def configuration(cls) -> Mapping[str, str]:
        return {"exim4.conf": CONFIGURATION, "command": " ".join(COMMAND), "fed by": shown(KEPT, "{port}")}

    @contextmanager
    def running(self) -> Iterator[None]:
        folder = self.place.folder
        self._port = free_port()
        binary = packages.unpacked(BINARY)
        assert binary is not None
        self._jail = jail = Jail(folder / "root", {"Debian-exim": EXIM_USER})
        jail.program(binary, "usr/sbin/exim4")
        jail.folder("var/spool/exim4", owner=EXIM_USER)
        jail.folder("var/log/exim4", owner=EXIM_USER)
        values = {"port": self._port, "sink": self.place.sinks[0], "connections": CONNECTIONS}
        # At Exim's default place, so that it needs no -C and keeps its privileges.
        jail.write("etc/exim4/exim4.conf", CONFIGURATION.format_map(values))
        self._family = Family(
            jail.command(*COMMAND),
            log=folder / "start.log",
            cwd=folder,
            jail=jail.root,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        )
        try:
            wait_for_port(self._port)
            yield
        finally:
            self._family.stop()

    def send(self, messages: int) -> dict[str, Ended]:
        return {"smtp-source": smtp_source(self._port, messages, KEPT)}

    def pids(self) -> dict[str, int]:
        return {"exim": self._family.process.pid}

    def settle(self) -> None:
        spool = self._jail.root / "var/spool/exim4/input"
        end = time.monotonic() + SETTLE_S
        while any(path.is_file() for path in spool.rglob("*")):
            if time.monotonic() > end:
                raise click.ClickException("Exim still has mail")
            time.sleep(0.02)
