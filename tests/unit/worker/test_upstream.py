"""What heartbeat and session are told of the server."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from worker.agent import AgentState
from worker.settings import Settings, Share
from worker.smtp.config import ServerConfig
from worker.upstream import Upstream
from worker.vocabulary import AgentSaid, LimitChanged, SendHeartbeat


@pytest.fixture
async def heard() -> list[Any]:
    return []


@pytest.fixture
async def upstream(heard: list[Any], logger: Any) -> Upstream:
    server = ServerConfig.from_url("smtp://192.0.2.1:25")
    settings = Settings("tcp://127.0.0.1:1", server, "w1", Path("log"), weight=60)
    settings = dataclasses.replace(settings, server=dataclasses.replace(server, max_connections=10))
    return Upstream(settings, logger, heard.append, lambda *_: None)


async def test_a_heartbeat_tells_how_it_is(upstream: Upstream, heard: list[Any]) -> None:
    upstream._others.count = 7
    told = upstream.heartbeat(SendHeartbeat(3, 12, "drain", 30))
    assert (told.number, told.last_batch, told.state, told.weight) == (3, 12, "drain", 30)
    assert (told.busy, told.open, told.external, told.limit) == (0, 0, 7, 10)
    assert heard == []


async def test_what_the_agent_says_becomes_state_weight_and_limit(
    upstream: Upstream, heard: list[Any], logger: Any
) -> None:
    upstream._agent_said(AgentState("drain", percent=50, maxconn=4))
    assert heard == [LimitChanged(4), AgentSaid("drain", 30)]
    assert upstream.heartbeat(SendHeartbeat(1, 0)).limit == 4
    heard.clear()
    upstream._agent_said(AgentState(maxconn=400))
    assert heard == [LimitChanged(10), AgentSaid("ready", None)], "it may not have more than is configured"
    assert logger.names == ["agent.said", "agent.said"]


async def test_of_several_processes_each_takes_its_part_of_what_the_agent_says(
    heard: list[Any], logger: Any
) -> None:
    server = dataclasses.replace(ServerConfig.from_url("smtp://192.0.2.1:25"), max_connections=10)
    settings = Settings("tcp://127.0.0.1:1", server, "w1/2", Path("log"), weight=50, share=Share(2, 2))
    Upstream(settings, logger, heard.append, lambda *_: None)._agent_said(AgentState(absolute=80, maxconn=5))
    assert heard == [LimitChanged(2), AgentSaid("ready", 40)]


async def test_maint_closes_idle_connections(upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = []
    monkeypatch.setattr(upstream.pool, "close_idle", lambda: closed.append(True))
    upstream._agent_said(AgentState("drain"))
    assert not closed
    upstream._agent_said(AgentState(works=False, reason="backup"))
    assert closed
