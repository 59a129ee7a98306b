"""Where each microsecond of a message goes: flame graphs and budgets of broker and worker under load."""

import signal
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import click

from scripts.benches import bare
from scripts.benches.budget import budget, read_folded
from scripts.benches.flame import flame_graph
from scripts.benches.processes import Process, cluster, newsletter, smtp_sink
from scripts.benches.table import Result
from scripts.benches.throughput import CONNECTIONS, send
from scripts.benches.usage import Cost

_WARM_MESSAGES = 5_000
_WRITTEN_WITHIN_S = 20.0


def measure(messages: int, folder: Path) -> Result:
    """Broker and worker under a sampler while they do what `throughput` measures, in one round of it.

    For each a flame graph (SVG, for a browser) and its folded stacks go to --folder. The table says what part
    of the role the CPU of a message went to, and for some parts the limit: what the calls cost that can't be
    left out, with nothing around them (scripts/benches/bare.py says which), measured in the same run. The
    sampler's own time isn't in the figures.
    """
    folder.mkdir(parents=True, exist_ok=True)
    cost = Cost("Evenpost")
    with tempfile.TemporaryDirectory() as made_in, smtp_sink() as (port, sink):
        files = {role: Path(made_in) / f"{role}.folded" for role in ("broker", "worker")}
        with cluster(
            [port], CONNECTIONS, broker=_command("broker", files), worker=_command("worker", files)
        ) as made:
            send(made, newsletter(_WARM_MESSAGES))
            watched = {"broker": made.broker, "worker": made.workers[0]}
            for process in watched.values():
                process.signal(signal.SIGUSR1)
            with cost.round(messages, made.pids | {"sink": sink.pid}):
                send(made, newsletter(messages))
            folded = {role: _written(process, files[role], messages) for role, process in watched.items()}
    limits = {"worker": bare.worker_limits(), "broker": bare.broker_limits()}
    rows: list[list[object]] = []
    figures: dict[str, object] = {"messages": messages}
    for role, stacks in folded.items():
        title = f"Evenpost's {role}, {messages:,} messages"
        (folder / f"{role}.svg").write_text(flame_graph(title, stacks))
        (folder / f"{role}.folded").write_text(
            "".join(f"{stack} {us * messages:.0f}\n" for stack, us in stacks.items())
        )
        parts = budget(role, stacks)
        rows += _rows(role, parts, limits[role])
        figures[role] = {"us": parts, "limits_us": limits[role], "total_us": sum(parts.values())}
    return Result(
        "profile",
        ["us of CPU a message", "now", "share", "at the limit"],
        rows,
        figures,
        notes=[
            f"Flame graphs: {folder}/broker.svg and worker.svg; folded stacks, in us, beside them.",
            *(
                f"  {role}, {part}: {what}"
                for role, told in bare.MEANS.items()
                for part, what in told.items()
            ),
        ],
        costs=[cost],
    )


def _command(role: str, files: Mapping[str, Path]) -> tuple[str, ...]:
    return ("-m", "scripts.benches.profiled", role, str(files[role]))


def _written(process: Process, file: Path, messages: int) -> dict[str, float]:
    process.signal(signal.SIGUSR2)
    end = time.monotonic() + _WRITTEN_WITHIN_S
    while not file.exists():
        if time.monotonic() > end:
            raise click.ClickException(f"no profile was written: {process.log.read_text()[-2_000:]}")
        time.sleep(0.02)
    return read_folded(file, messages)


def _rows(role: str, parts: Mapping[str, float], limits: Mapping[str, float]) -> list[list[object]]:
    total = sum(parts.values())
    rows: list[list[object]] = [[role, total, "", ""]]
    for part, us in parts.items():
        limit = limits.get(part)
        rows.append([f"  {part}", f"{us:.2f}", f"{us / total:.0%}", "" if limit is None else f"{limit:.2f}"])
    return rows
