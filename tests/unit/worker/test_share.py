"""What one of several processes has of the worker's settings, and of what the server's agent says."""

from pathlib import Path

import pytest

from worker.agent import AgentState
from worker.settings import Settings, Share
from worker.share import shared, shared_word
from worker.smtp.config import ServerConfig


def settings(weight: int = 100) -> Settings:
    server = ServerConfig.from_url("smtp://192.0.2.1:25")
    return Settings("tcp://127.0.0.1:1", server, "relay", Path("x"), weight=weight, rate="14/s")


@pytest.mark.parametrize("log", [None, Path("/var/x.outcomes")])
def test_all_processes_together_are_the_worker(log: Path | None) -> None:
    whole = settings(weight=101)
    parts = [shared(whole, Share(number, 3), log) for number in (1, 2, 3)]
    assert [one.name for one in parts] == ["relay/1", "relay/2", "relay/3"]
    assert sum(one.server.max_connections for one in parts) == whole.server.max_connections
    assert [one.weight for one in parts] == [34, 34, 33]
    assert {one.rate for one in parts} == {"14/s"}
    assert len({one.outcome_log for one in parts}) == 3
    assert {one.server_label for one in parts} == {whole.server_label}


def test_no_weight_is_nothing() -> None:
    assert [shared(settings(weight=1), Share(n, 2), None).weight for n in (1, 2)] == [1, 1]


def test_the_agent_speaks_of_the_whole_server() -> None:
    first, last = Share(1, 2), Share(2, 2)
    said = AgentState(absolute=151, maxconn=11)
    assert shared_word(said, first) == AgentState(absolute=76, maxconn=6)
    assert shared_word(said, last) == AgentState(absolute=75, maxconn=5)
    assert shared_word(said, Share()) == said
    for same in (AgentState(), AgentState("maint"), AgentState(percent=50), AgentState(absolute=0)):
        assert shared_word(same, last) == same


def test_of_fewer_connections_than_processes_some_get_none() -> None:
    said = AgentState(maxconn=1)
    assert shared_word(said, Share(1, 2)).state == "ready"
    assert shared_word(said, Share(2, 2)).state == "drain"
    assert shared_word(AgentState("maint", maxconn=1), Share(2, 2)).state == "maint"
