"""The ledger, briefly: real processes, killed by a schedule, and three books that agree afterwards."""

import json
import subprocess
import sys

import pytest

from tests.integration.cluster import ROOT

SEED = 4
MESSAGES, KILLS = 3_000, 6


@pytest.mark.slow
def test_nothing_is_lost_and_every_copy_is_counted() -> None:
    command = [
        "-m",
        "scripts.chaoslab",
        "--seed",
        str(SEED),
        "--messages",
        str(MESSAGES),
        "--kills",
        str(KILLS),
    ]
    done = subprocess.run(
        [sys.executable, *command, "--json", "-v"], cwd=ROOT, capture_output=True, text=True, timeout=110
    )
    print(f"seed {SEED}\n{done.stdout}\n{done.stderr}")
    assert done.returncode == 0
    facts = json.loads(done.stdout.splitlines()[0])
    assert facts["kills"] == KILLS
    assert facts["accepted"] == MESSAGES
    assert facts["sent"] + facts["bounced"] + facts["held"] == MESSAGES
    assert facts["bounced"] == MESSAGES // 100
    assert facts["duplicates"] <= facts["bound"]
    assert facts["wrong"] == []


def test_a_seed_that_is_none_is_refused_in_plain_words() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "scripts.chaoslab", "--seed", "5..x"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "neither a number nor a range such as 1..20" in done.stderr
