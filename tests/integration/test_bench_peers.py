"""scripts/bench peers: all that are installed get every message through. No figure is judged here."""

import subprocess
import sys

import pytest

from scripts.benches.peers.measure import PEERS
from scripts.benches.peers.ours import Evenpost
from tests.integration.cluster import ROOT
from tests.integration.test_benches import run

MESSAGES = 500

pytestmark = pytest.mark.skipif(
    Evenpost.missing() is not None, reason="smtp-sink isn't installed: .ci/install-mail-servers"
)


@pytest.mark.slow
def test_each_that_is_here_sends_all_and_who_is_missing_is_told() -> None:
    found = run("peers", f"--messages={MESSAGES}", "--rounds=1", "--no-install", "--json")
    missing = {name: reason for name, peer in PEERS.items() if (reason := peer.missing())}
    assert found["missing"] == missing
    here = PEERS.keys() - missing.keys()
    assert found["per_s"].keys() == here | {"evenpost"}
    assert found["ratios"].keys() == here
    assert all(rate > 0 for rates in found["per_s"].values() for rate in rates)
    assert found["versions"].keys() == here | {"evenpost"}
    # A bar of who is missing is missed, not left out.
    held = {bar["name"]: bar["held"] for bar in found["bars"]}
    assert len(held) == 3
    for name in missing.keys() & {"postfix", "celery", "haproxy"}:
        assert not held[f"Evenpost / {PEERS[name].title}"]


def test_each_tells_how_it_is_configured() -> None:
    command = [sys.executable, "-m", "scripts.benches", "peers", "--show"]
    shown = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60, check=True).stdout
    for name, peer in PEERS.items():
        assert f"### {name}: {peer.title}" in shown
        assert all(f"--- {title}\n" in shown for title in peer.configuration())
