"""scripts/bench peers: each contestant whose programs are here sends, briefly. No figure is judged."""

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from scripts.benches.peers.measure import PEERS
from scripts.benches.peers.ours import Evenpost
from tests.integration.cluster import ROOT

BENCH = [sys.executable, "-m", "scripts.benches", "peers"]


@pytest.fixture(scope="module")
def found() -> Iterator[dict[str, Any]]:
    """One run for all of them."""
    if reason := Evenpost.missing():
        pytest.skip(reason)
    command = [*BENCH, "--messages", "300", "--rounds", "1", "--no-install", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=110, check=False)
    assert done.returncode == 0, done.stderr
    yield json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("name", PEERS)
def test_each_peer_sends_and_all_arrives(name: str, found: dict[str, Any]) -> None:
    if reason := PEERS[name].missing():
        assert found["missing"][name] == reason
        pytest.skip(f"missing: {reason}")
    assert len(found["per_s"][name]) == len(found["ratios"][name]) == 1
    assert found["versions"][name]
    costs = found["costs"][PEERS[name].title]
    assert costs["cpu_us"].keys() > {"sink"}


@pytest.mark.slow
def test_evenpost_has_a_round_before_each_of_theirs(found: dict[str, Any]) -> None:
    assert len(found["per_s"]["evenpost"]) == len(found["ratios"])


def test_the_configuration_of_each_is_shown() -> None:
    done = subprocess.run(
        [*BENCH, "--show"], capture_output=True, text=True, cwd=ROOT, timeout=60, check=True
    )
    for name, peer in PEERS.items():
        assert f"### {name}: {peer.title}" in done.stdout
    for words in ("smtp_destination_concurrency_limit", "split_spool_directory", "leastconn", "acks_late"):
        assert words in done.stdout
