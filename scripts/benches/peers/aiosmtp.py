"""aiosmtplib: 16 connections in one process on uvloop."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from scripts.benches.peers.celery import PYTHON, missing_python, packages_version, python_environment
from scripts.benches.peers.contestant import CONNECTIONS, HERE, Contestant, Feeder, feeder
from scripts.benches.usage import Ended


class Aiosmtplib(Contestant):
    name = "aiosmtplib"
    title = "aiosmtplib"
    share = 0.1
    why = """\
One process, as its users run it; it has no queue and keeps no record. Composed with Jinja2 and
email.message."""

    @classmethod
    def missing(cls) -> str | None:
        return missing_python()

    def version(self) -> str:
        return packages_version("aiosmtplib", "uvloop")

    @classmethod
    def configuration(cls) -> Mapping[str, str]:
        return {
            "program": (HERE / "aiosmtplib_send.py").read_text(),
            "how it composes": (HERE / "letter.py").read_text(),
        }

    @contextmanager
    def running(self) -> Iterator[None]:
        environment = python_environment(self.place.folder, self.place.sinks[0])
        command = [str(PYTHON), "-m", "scripts.benches.peers.aiosmtplib_send", str(CONNECTIONS)]
        with feeder(command, self.place.folder / "aiosmtplib.log", environment) as self._feeder:
            yield

    _feeder: Feeder

    def send(self, messages: int) -> dict[str, Ended]:
        self._feeder.send(messages)
        return {}

    def pids(self) -> dict[str, int]:
        return {"aiosmtplib": self._feeder.pid}
