"""scripts/fuzz: the command line."""

import shutil
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import click

from scripts.fuzzing.targets import TARGETS

ROOT = Path(__file__).resolve().parents[2]
CORPUS = ROOT / "tests/corpus"
INPUT_BYTES_MAX = 4_096
"""Longer inputs find little that these don't, and take their time."""
KEPT_MAX = 40
"""Inputs kept for a target: the tests read them all each time."""
INPUT_S_MAX = 10
"""An input that takes longer is a finding."""
RSS_MB_MAX = 2_048


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--minutes", default=10.0, show_default=True, type=click.FloatRange(0.01), help="For all targets."
)
@click.option("--keep", is_flag=True, help="Add what reached new code to tests/corpus.")
@click.argument("targets", nargs=-1)
def fuzz(minutes: float, keep: bool, targets: tuple[str, ...]) -> None:
    """Fuzzes TARGETS (all: each decoder and parser), guided by coverage, from the kept corpus on.

    Exits 1 where an input raised what it must not, hung or ate memory; the input is kept."""
    if find_spec("atheris") is None:
        raise click.ClickException("atheris is missing, which needs Linux on x86-64: scripts/setup fuzz")
    unknown = [name for name in targets if name not in TARGETS]
    if unknown:
        raise click.UsageError(f"no target is called {unknown[0]!r}. There are: {', '.join(TARGETS)}")
    chosen = targets or tuple(TARGETS)
    seconds = max(1, int(minutes * 60 / len(chosen)))
    failed = [name for name in chosen if not _fuzz_apart(name, seconds, keep)]
    if failed:
        click.echo(f"findings in: {', '.join(failed)}", err=True)
        sys.exit(1)


def _fuzz_apart(name: str, seconds: int, keep: bool) -> bool:
    """Whether it stayed clean. In a process of its own: a crash is a finding, not the end of all."""
    kept = CORPUS / name
    kept.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="evenpost-fuzz-") as found:
        began = time.monotonic()
        options = [f"-max_total_time={seconds}", f"-max_len={INPUT_BYTES_MAX}", f"-timeout={INPUT_S_MAX}"]
        options += [
            f"-rss_limit_mb={RSS_MB_MAX}",
            "-print_final_stats=1",
            f"-artifact_prefix={ROOT}/.fuzz-{name}-",
        ]
        done = _run(name, [*options, found, str(kept)])
        runs = next(
            (line.split()[-1] for line in done.stderr.splitlines() if "number_of_executed" in line), "?"
        )
        clean = done.returncode == 0
        verdict = "clean" if clean else "FAILED"
        click.echo(f"{name:16} {verdict:6} {runs:>9} inputs in {time.monotonic() - began:.0f} s")
        if not clean:
            click.echo(done.stderr[-4_000:], err=True)
        elif keep:
            _keep(sorted(Path(found).iterdir(), key=lambda path: (path.stat().st_size, path.name)), kept)
    return clean


def _keep(found: list[Path], kept: Path) -> None:
    """The shortest of those that reached new code, until the corpus is as large as it may be."""
    for path in found[: KEPT_MAX - len(list(kept.iterdir()))]:
        shutil.copy(path, kept)


def _run(name: str, options: list[str]) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "scripts.fuzzing.inside", name, *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, errors="replace", check=False)


if __name__ == "__main__":
    fuzz()
