"""HAProxy with leastconn in front of two sinks, fed by smtp-source."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from scripts.benches.peers.contestant import HERE, INSTALL, Contestant, first_line
from scripts.benches.peers.sources import KEPT, OPTIONS, missing, shown, smtp_source
from scripts.benches.processes import Process, tool, wait_for_port
from scripts.benches.usage import Ended
from tests.servers.ports import free_port

CONFIGURATION = (HERE / "haproxy.cfg").read_text()
THREADS = 1


class HAProxyKept(Contestant):
    name = "haproxy"
    title = "HAProxy, sessions kept"
    share = 1.0
    why = """\
mode tcp and leastconn, as HAProxy's own documentation advises for long sessions. No logs, no checks. A kept
session stays with the sink that it got first."""
    _options = KEPT

    @classmethod
    def missing(cls) -> str | None:
        return missing("smtp-source") or missing("haproxy", how=f"run {INSTALL} servers")

    def version(self) -> str:
        return " ".join(first_line([tool("haproxy"), "-v"]).split()[:3])

    @classmethod
    def configuration(cls) -> Mapping[str, str]:
        return {"haproxy.cfg": CONFIGURATION, "command": shown(cls._options, "{port}")}

    @contextmanager
    def running(self) -> Iterator[None]:
        self._port = free_port()
        one, two = self.place.sinks
        file = self.place.folder / "haproxy.cfg"
        file.write_text(CONFIGURATION.format(port=self._port, sink1=one, sink2=two, threads=THREADS))
        self._process = Process([tool("haproxy"), "-db", "-f", str(file)], self.place.folder, "haproxy")
        try:
            wait_for_port(self._port)
            yield
        finally:
            self._process.stop()

    def send(self, messages: int) -> dict[str, Ended]:
        return {"smtp-source": smtp_source(self._port, messages, self._options)}

    def pids(self) -> dict[str, int]:
        return {"haproxy": self._process.pid}


class HAProxyEach(HAProxyKept):
    name = "haproxy-each"
    title = "HAProxy, one message each"
    share = 0.4
    why = """\
The same, and each message has a connection of its own: so each goes where fewest are open."""
    _options = OPTIONS
