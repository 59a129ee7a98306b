"""The broker's loop, where its order matters."""

from pathlib import Path

import pytest

from broker import service
from broker.core.events import Event, Tick
from broker.service import Broker
from broker.settings import Settings
from evenpost.runtime.clock import Now

WALL = 1_790_000_000_000


def test_who_was_frozen_listens_for_a_heartbeat_before_it_judges_anybody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What its workers said meanwhile may be more than one turn of the loop takes."""
    broker = Broker(
        Settings(clients=f"ipc://{tmp_path}/c", workers=f"ipc://{tmp_path}/w", journal=tmp_path / "j.db")
    )
    clock = 100.0
    times = iter([100.05, 100.2, 130.0, 130.5, 130.9, 131.1, 131.3])
    ticks: list[float] = []

    def turn() -> float:
        """Asked once a turn: the time passes in which the loop waits."""
        nonlocal clock
        clock = next(times, clock)
        broker._stopping = clock > 131.2
        return 0.0

    def handle(event: Event) -> None:
        if isinstance(event, Tick):
            ticks.append(clock)

    monkeypatch.setattr(service, "now", lambda: Now(clock, WALL + int(clock * 1000)))
    monkeypatch.setattr(broker._core, "next_at", turn)
    monkeypatch.setattr(broker, "_handle", handle)
    try:
        broker._loop()
    finally:
        broker._upkeep.close(Now(clock, WALL))
        broker._endpoints.close()
        broker._journal.close()
    assert ticks == [100.05, 100.2, 131.1, 131.3]
