"""nodemailer: its pool of 16 connections."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from scripts.benches.peers.contestant import (
    BUILD,
    CONNECTIONS,
    HERE,
    INSTALL,
    Contestant,
    Feeder,
    feeder,
    first_line,
)
from scripts.benches.peers.sources import missing
from scripts.benches.processes import tool
from scripts.benches.usage import Ended

PROGRAM = HERE / "nodemailer.mjs"


class Nodemailer(Contestant):
    name = "nodemailer"
    title = "nodemailer's pool"
    share = 0.15
    why = """\
Its page on pooled connections: maxConnections, no end to maxMessages, given while the pool is idle. No queue,
no record."""

    @classmethod
    def missing(cls) -> str | None:
        if lacking := missing("node", how=f"run {INSTALL} servers"):
            return lacking
        return None if (BUILD / "node_modules/nodemailer").exists() else f"nodemailer: run {INSTALL} node"

    def version(self) -> str:
        code = f"console.log(require('{BUILD}/node_modules/nodemailer/package.json').version)"
        node = tool("node")
        return f"nodemailer {first_line([node, '-e', code])}, Node {first_line([node, '--version'])}"

    @classmethod
    def configuration(cls) -> Mapping[str, str]:
        return {"program": PROGRAM.read_text()}

    @contextmanager
    def running(self) -> Iterator[None]:
        command = [tool("node"), str(PROGRAM), str(BUILD), str(self.place.sinks[0]), str(CONNECTIONS)]
        with feeder(command, self.place.folder / "nodemailer.log", os.environ) as self._feeder:
            yield

    _feeder: Feeder

    def send(self, messages: int) -> dict[str, Ended]:
        self._feeder.send(messages)
        return {}

    def pids(self) -> dict[str, int]:
        return {"nodemailer": self._feeder.pid}
