"""scripts/bench: each measurement runs, briefly, and reports what it promises. No figure is judged here."""

import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.integration.cluster import ROOT, wait_until

POSTFIX_TOOLS = ("smtp-sink", "smtp-source")
_TOOL_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/lib/postfix/sbin"])

# The command, its options, and what its figures have beside the name and the machine.
BENCHES = {
    "latency": (
        ["--samples", "10", "--rounds", "1"],
        {"idle_ms", "bulk_ms", "bulk_busy", "flush_ms", "costs"},
    ),
    "balance": (["--messages", "1000"], {"makespan_s", "ideal_s", "ratio", "taken", "cpu"}),
    "dispatch": (["--messages", "20000"], {"us_10", "us_100", "us_1000"}),
    "throughput": (
        ["--messages", "500", "--rounds", "2", "--workers", "2"],
        {"ratio", "broker_cpu_us", "worker_cpu_us", "costs"},
    ),
    "throughput --curve": (["--messages", "500", "--rounds", "1"], {"ratios", "cpu_us"}),
    "hostile": (["--messages", "300", "--rounds", "1", "--attack", "garbage"], {"ratios", "broker_rss_mb"}),
    "dkim": (["--messages", "200", "--rounds", "1"], {"signer_ratio", "plain_per_s", "rsa_per_s", "ratio"}),
    "submit": (
        ["--recipients", "2000", "--rounds", "1", "--long", "3000"],
        {"rate", "client_rss_mb", "costs"},
    ),
    "queue": (
        ["--messages", "200000", "--window", "2000", "--rounds", "1"],
        {"ratio", "broker_us", "broker_rss_mb", "costs"},
    ),
    "workers": (
        ["--messages", "2000", "--rounds", "1", "--idle-seconds", "1"],
        {"ratio", "broker_us", "idle_cores", "costs"},
    ),
    "tls": (["--messages", "500", "--rounds", "1"], {"added_us", "handshake_us", "costs"}),
    "wan": (["--delays", "5", "--seconds", "1", "--rounds", "1", "--server", "smtp-sink"], {"smtp-sink_5"}),
    "restart": (["--messages", "20000"], {"seconds", "filled_s"}),
    "trace": (["--messages", "20000"], {"median_ms", "journal_mb"}),
}
"""Pressure and profile are below."""
NEED_POSTFIX = {"dkim", "throughput", "throughput --curve", "hostile", "submit", "profile", "wan"}


def need_postfix(name: str) -> None:
    if name in NEED_POSTFIX and not all(shutil.which(tool, path=_TOOL_PATH) for tool in POSTFIX_TOOLS):
        pytest.skip("Postfix's smtp-sink and smtp-source aren't installed")


@pytest.mark.slow
@pytest.mark.parametrize("name", BENCHES)
def test_it_runs_and_reports(name: str) -> None:
    need_postfix(name)
    options, expected = BENCHES[name]
    found = run(*name.split(), *options, "--json")
    assert found["bench"] == name
    assert expected <= found.keys()
    for bar in found["bars"]:
        assert bar.keys() == {"name", "value", "limit", "held"}


@pytest.mark.slow
def test_throughput_tells_what_each_process_costs() -> None:
    need_postfix("throughput")
    found = run("throughput", "--messages", "500", "--rounds", "2", "--json")
    ours, theirs = found["costs"]["Evenpost"], found["costs"]["smtp-source"]
    assert ours["cpu_us"].keys() == {"broker", "worker", "client", "sink"}
    assert theirs["cpu_us"].keys() == {"smtp-source", "sink"}
    for cost in (ours, theirs):
        assert len(cost["per_s"]) == 2
        assert all(len(rounds) == 2 and min(rounds) > 0 for rounds in cost["cpu_us"].values())
        assert cost["rss_mb"].keys() == cost["cpu_us"].keys()
        assert min(cost["rss_mb"].values()) > 1


@pytest.mark.slow
def test_profile_draws_both_roles_and_adds_up(tmp_path: Path) -> None:
    need_postfix("profile")
    found = run("profile", "--messages", "5000", "--folder", str(tmp_path), "--json")
    for role in ("broker", "worker"):
        svg = ElementTree.fromstring((tmp_path / f"{role}.svg").read_text())
        titles = [title.text or "" for title in svg.iter("{http://www.w3.org/2000/svg}title")]
        assert any("us a message" in title for title in titles)
        # What the sampler saw is what the kernel counted, but for what lies between the two looks.
        assert found[role]["total_us"] == pytest.approx(
            found["costs"]["Evenpost"]["cpu_us"][role][0], rel=0.3
        )
        assert found[role]["us"].pop("other") < 0.1 * found[role]["total_us"]
        assert found[role]["limits_us"].keys() <= found[role]["us"].keys()


def test_balance_counts_each_message_once() -> None:
    found = run("balance", "--messages", "600", "--json")
    assert sum(found["taken"]) == 600
    # The sinks kept to their times, and nobody is faster than the ideal.
    assert [round(s, 2) for s in found["service_s"]] == [0.18, 0.06, 0.02]
    assert found["makespan_s"] >= found["ideal_s"]


@pytest.mark.slow
def test_pressure_counts_what_is_in_the_journal_and_in_the_worker() -> None:
    sizes = {"clients": 20, "messages": 100, "submitters": 2, "recipients": 2000, "flush-ms": 20}
    sizes |= {"queued": 1000, "seconds": 1}
    found = run("pressure", *(f"--{name}={size}" for name, size in sizes.items()), "--json")
    idle, disk, worker = found["idle"], found["disk"], found["worker"]
    assert idle["connected"]["clients"] == idle["asked_again"]["clients"] == 20
    assert len(idle["beside_per_s"]) < len(idle["alone_per_s"])
    assert disk["stored"] == disk["accepted"] == {"s0": 2000, "s1": 2000}
    assert 0 < disk["rude"]["stored"] * 5_000 <= disk["rude_stored"] <= disk["rude"]["sent"] * 5_000
    assert 0 < disk["before_mb"] < disk["peak_mb"]
    assert 1 <= worker["batches_max"] <= worker["held_max"] < 1000, "it never has the queue"
    assert 0 < worker["sent"] < 1000
    names = [bar["name"] for bar in found["bars"]]
    assert len(set(names)) == len(names) == 15


def run(*arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "scripts.benches", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_nothing_is_left_of_a_bench_that_is_told_to_end() -> None:
    mark = f"of-the-bench-{os.getpid()}"
    bench = subprocess.Popen(
        [sys.executable, "-m", "scripts.benches", "latency"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "BENCH_MARK": mark},
        stdout=subprocess.DEVNULL,
    )
    wait_until(lambda: len(marked(mark)) > 3, "broker and workers run")
    bench.terminate()
    assert bench.wait(60) == 128 + signal.SIGTERM
    wait_until(lambda: not marked(mark), "all have ended")


def marked(mark: str) -> list[Path]:
    """Processes with this in their environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if mark.encode() in (process / "environ").read_bytes():
                found.append(process)
    return found
