"""Campaigns through crashes, lost connections and stalls: nothing is lost, no copy without its reason."""

import os
import random
from pathlib import Path

import pytest

from broker.core.state import Stored
from tests.simulation.cluster import Cluster

SEEDS = int(os.environ.get("EVENPOST_SEEDS", "25"))
FIRST = int(os.environ.get("EVENPOST_FIRST_SEED", "1"))
KEPT = [59, 60, 81, 108, 257, 438, 501, 581, 1157, 1509, 1735]
"""Seeds that once failed."""


@pytest.mark.parametrize("seed", sorted({*KEPT, *range(FIRST, FIRST + SEEDS)}))
def test_every_message_ends_once(seed: int, tmp_path: Path) -> None:
    print(f"repeat with: EVENPOST_FIRST_SEED={seed} EVENPOST_SEEDS=1 pytest {__file__}")
    cluster = Cluster(seed, tmp_path / "journal.db")
    on_unknown = random.Random(seed).choice(["resend", "hold"])
    total = 150
    id_ = cluster.submit(total, on_unknown)
    for _ in range(1_500):
        cluster.fault()
        cluster.step()
    cluster.deferrals = cluster.server_failures = 0.0
    for worker in cluster.workers:
        if not worker.up:
            worker.start()
    for _ in range(20_000):
        cluster.step()
        cluster.flush()
        if id_ not in cluster.core.state.by_id and not any(w.log or w.begun for w in cluster.workers):
            break
    cluster.flush()
    campaign = cluster.journal.campaign(id_)
    assert campaign is not None
    assert campaign.finished_at, f"it never ended: {cluster.core.state.by_id.get(id_)}"
    lines = cluster.journal.report(campaign.number, -1, total, [], total + 1)
    by_state = {state: sum(line.state == state for line in lines) for state in Stored}
    assert sum(by_state.values()) == total
    # The campaign's counts are what its rows say.
    assert {s: n for s, n in by_state.items() if n} == {s: n for s, n in campaign.counts.items() if n}
    for line in lines:
        if line.state == Stored.SENT:
            assert cluster.takes[line.id] >= 1, f"{line} was never taken by a server"
        if line.state == Stored.BOUNCED:
            assert line.attempts >= 1
    # A second copy is one that is told of, or it came of an attempt whose outcome is unknown.
    copies = sum(takes - 1 for takes in cluster.takes.values() if takes > 1)
    assert copies <= campaign.unknown + campaign.duplicates
    if not cluster.blind_recoveries:
        assert copies <= campaign.unknown
    # Held for a person instead, unless broker and worker died together and the worker stayed away.
    if on_unknown == "hold" and not cluster.blind_recoveries:
        assert copies == 0
    lost = [line for line in lines if line.state in (Stored.QUEUED, Stored.DEFERRED)]
    assert not lost
