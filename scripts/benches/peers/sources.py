"""smtp-source, Postfix's load generator: straight into the sink, and as what feeds the others."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from scripts.benches.peers.contestant import CONNECTIONS, Contestant, first_line
from scripts.benches.processes import tool
from scripts.benches.usage import Ended, run
from tests.servers.packages import SCRIPT, program

OPTIONS = ["-s", str(CONNECTIONS), "-l", "5000"]
KEPT = [*OPTIONS, "-d"]
"""Each session sends message after message."""


def smtp_source(port: int, messages: int, options: list[str]) -> Ended:
    return run([tool("smtp-source"), *options, "-m", str(messages), f"127.0.0.1:{port}"])


def shown(options: list[str], port: str) -> str:
    return f"smtp-source {' '.join(options)} -m {{messages}} 127.0.0.1:{port}"


def missing(*programs: str, how: str = f"apt-get install postfix, or run {SCRIPT}") -> str | None:
    lacking = [name for name in programs if program(name) is None]
    return f"{', '.join(lacking)}: {how}" if lacking else None


def postfix_version() -> str:
    return f"Postfix {first_line([tool('postconf'), '-h', 'mail_version'])}"


class SmtpSource(Contestant):
    name = "smtp-source"
    title = "smtp-source"
    share = 1.0
    why = """\
Written in C to put load on a server. No queue, no list, no templates: the same bytes again and again."""

    @classmethod
    def missing(cls) -> str | None:
        return missing("smtp-source")

    def version(self) -> str:
        return postfix_version()

    @classmethod
    def configuration(cls) -> Mapping[str, str]:
        return {"command": shown(KEPT, "{sink}")}

    @contextmanager
    def running(self) -> Iterator[None]:
        yield

    def send(self, messages: int) -> dict[str, Ended]:
        return {"smtp-source": smtp_source(self.place.sinks[0], messages, KEPT)}
