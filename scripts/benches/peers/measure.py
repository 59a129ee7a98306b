"""The run: each contestant's round follows one of Evenpost's, into the same sinks."""

import contextlib
import platform
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import click

from scripts.benches.peers.aiosmtp import Aiosmtplib
from scripts.benches.peers.celery import Celery, CeleryChunks
from scripts.benches.peers.contestant import INSTALL, Contestant, Place, tail
from scripts.benches.peers.exim import Exim
from scripts.benches.peers.haproxy import HAProxyEach, HAProxyKept
from scripts.benches.peers.nodemailer import Nodemailer
from scripts.benches.peers.ours import Evenpost
from scripts.benches.peers.postfix import Postfix
from scripts.benches.peers.sinks import Sinks, sinks
from scripts.benches.peers.sources import SmtpSource
from scripts.benches.processes import ROOT
from scripts.benches.table import Bar, Result
from scripts.benches.usage import Cost, Spread

PEERS: dict[str, type[Contestant]] = {
    each.name: each
    for each in (
        *(SmtpSource, HAProxyKept, HAProxyEach, Postfix, Exim),
        *(Celery, CeleryChunks, Aiosmtplib, Nodemailer),
    )
}
RATIOS_MIN = {"postfix": 30.0, "celery": 30.0, "haproxy": 2.0}
ARRIVE_S = 120.0
"""What a round's messages may take to arrive."""
_LEAST = 50
"""Messages that a round has at least."""


@dataclass
class _Peer:
    contestant: Contestant
    cost: Cost
    ratios: list[float] = field(default_factory=list)
    """Evenpost's rate in the round just before, by its own."""


def measure(messages: int, rounds: int, only: Sequence[str], install: bool) -> Result:
    """Evenpost against what people use instead: the same number of connections, bytes a message, sinks.

    It installs what is missing (--no-install: it doesn't), and alternates: a round of Evenpost, one of a
    peer, one of Evenpost, one of the next. A round is over when the sink has counted its last message. Slow
    peers get fewer messages: the rates are compared. --show prints how each is configured and fed, and why.
    """
    wanted = {name: peer for name, peer in PEERS.items() if not only or name in only}
    if reason := Evenpost.missing():
        raise click.ClickException(f"missing: {reason}")
    if install and any(peer.missing() for peer in wanted.values()):
        subprocess.run([ROOT / INSTALL], check=False)
    missing = {name: reason for name, peer in wanted.items() if (reason := peer.missing())}
    ours = Cost("Evenpost")
    with ExitStack() as stack:
        # Under the checkout, not in /tmp: that may be memory, and queues belong on a disk.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=ROOT, prefix=".bench-")))
        folder.chmod(0o711)  # servers change user and pass through
        made = stack.enter_context(sinks(_folder(folder, "sinks")))
        evenpost = Evenpost(Place(folder, made.ports))
        stack.enter_context(evenpost.running())
        peers: dict[str, _Peer] = {}
        for name, peer in wanted.items():
            if name not in missing:
                contestant = peer(Place(_folder(folder, name), made.ports))
                stack.enter_context(_told(contestant))
                peers[name] = _Peer(contestant, Cost(peer.title))
        _round(evenpost, min(messages, 2_000), made, Cost(""))  # warm up: imports, connections, pace
        for _ in range(rounds):
            for peer_ in peers.values():
                _round(evenpost, messages, made, ours)
                given = _given(peer_.contestant, messages)
                # Processes that were idle may have ended, connections too: warm, as Evenpost is.
                _round(peer_.contestant, min(_LEAST, given), made, Cost(""))
                _round(peer_.contestant, given, made, peer_.cost)
                peer_.ratios.append(ours.per_s[-1] / peer_.cost.per_s[-1])
        contestants = [evenpost, *(each.contestant for each in peers.values())]
        versions = {each.name: each.version() for each in contestants}
    return result(messages, rounds, ours, peers, versions, missing)


def _folder(folder: Path, name: str) -> Path:
    made = folder / name
    made.mkdir(mode=0o755)
    return made


def _given(contestant: Contestant, messages: int) -> int:
    return max(_LEAST, round(messages * contestant.share))


@contextlib.contextmanager
def _told(contestant: Contestant) -> Iterator[None]:
    """It runs; where something of it fails, its logs are told."""
    with contestant.running():
        try:
            yield
        except subprocess.CalledProcessError as error:
            logs = "\n".join(tail(path) for path in sorted(contestant.place.folder.rglob("*.log")))
            raise click.ClickException(f"{contestant.name}: {error}\n{logs}") from error


def _round(contestant: Contestant, messages: int, made: Sinks, cost: Cost) -> None:
    before = made.count()
    with cost.round(messages, contestant.pids() | {"sink": made.pids}) as found:
        began = time.monotonic()
        found.ended |= contestant.send(messages)
        made.wait_for(before + messages, ARRIVE_S, contestant.name)
        found.seconds = time.monotonic() - began
        contestant.settle()


def result(
    messages: int,
    rounds: int,
    ours: Cost,
    peers: dict[str, _Peer],
    versions: dict[str, str],
    missing: dict[str, str],
) -> Result:
    rows: list[list[object]] = []
    if ours.per_s:
        rows.append([Evenpost.title, *_spread(ours.per_s, ",.0f"), "", "", round(_cpu_us(ours))])
    for peer in peers.values():
        rate, ratio = _spread(peer.cost.per_s, ",.0f"), _spread(peer.ratios, ",.1f")
        rows.append([peer.contestant.title, *rate, *ratio, round(_cpu_us(peer.cost))])
    rows += [[PEERS[name].title, "missing", "", "", "", ""] for name in missing]
    ratios = {name: peer.ratios for name, peer in peers.items()}
    return Result(
        "peers",
        ["messages/s", "median", "least-most", "Evenpost / it", "least-most", "CPU, us"],
        rows,
        {
            "messages": {name: _given(peer.contestant, messages) for name, peer in peers.items()}
            | {"evenpost": messages},
            "rounds": rounds,
            "per_s": {"evenpost": ours.per_s, **{name: peer.cost.per_s for name, peer in peers.items()}},
            "ratios": ratios,
            "versions": versions,
            "missing": missing,
        },
        [
            # One that isn't there is a bar that isn't held, never one that nobody speaks of.
            Bar(
                f"Evenpost / {PEERS[name].title}",
                Spread.of(ratios[name]).median if name in peers else 0.0,
                least,
                True,
            )
            for name, least in RATIOS_MIN.items()
            if name in peers or name in missing
        ],
        [
            f"Kernel {platform.release()}. " + "; ".join(dict.fromkeys(versions.values())) + ".",
            "CPU: of all its processes, without the sink's. Exim waits for few of its children: the kernel "
            "tells less than it used.",
            *(f"{PEERS[name].title}: missing: {reason}" for name, reason in missing.items()),
        ],
        [ours, *(peer.cost for peer in peers.values())],
    )


def _spread(values: Sequence[float], form: str) -> list[str]:
    spread = Spread.of(values)
    return [f"{spread.median:{form}}", f"{spread.least:{form}}-{spread.most:{form}}"]


def _cpu_us(cost: Cost) -> float:
    """Of all its processes, without the sink."""
    return sum(cost.us(process) for process in cost.cpu_us if process != "sink")


def show_configuration(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    """--show."""
    if not wanted:
        return
    contestants: list[type[Contestant]] = [Evenpost, *PEERS.values()]
    for each in contestants:
        click.echo(f"### {each.name}: {each.title}\n\n{each.why}\n")
        for title, text in each.configuration().items():
            click.echo(f"--- {title}\n{text.rstrip()}\n")
    context.exit()
