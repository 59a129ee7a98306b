"""The agent as the worker meets it: over a socket, with all that can go wrong there."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from worker.agent import LINE_BYTES_MAX, AgentState
from worker.agent_check import WORDS_CHARS_MAX, AgentCheck

SOON_S = 0.2
DEADLINE_S = 10


@asynccontextmanager
async def agent(*answers: bytes | None) -> AsyncIterator[int]:
    """Each connection gets the next answer; None: it says nothing and waits."""
    left = list(answers)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        said = left.pop(0)
        if said is None:
            await reader.read()
        else:
            writer.write(said)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


def check(port: int, logger: Any, heard: list[AgentState]) -> AgentCheck:
    return AgentCheck(("127.0.0.1", port), SOON_S, logger, heard.append)


async def test_each_change_is_told_once(logger: Any) -> None:
    heard: list[AgentState] = []
    async with agent(b"ready\n", b"drain\n", b"drain\r\nmaint\n", b"50%") as port:
        asked = check(port, logger, heard)
        for _ in range(4):
            await asked.ask()
    assert heard == [AgentState("drain"), AgentState("drain", percent=50)]
    assert logger.events == []


async def test_an_agent_that_does_not_answer_changes_nothing_and_is_logged_once(logger: Any) -> None:
    heard: list[AgentState] = []
    async with agent(b"drain\n", None, b"", b"\n", b"drain\n", None) as port:
        asked = check(port, logger, heard)
        for _ in range(6):
            await asked.ask()
    assert heard == [AgentState("drain")]
    assert logger.names == ["agent.silent", "agent.answers_again", "agent.silent"]
    assert logger.events[0][1] == {"agent": f"127.0.0.1:{port}", "reason": "no answer in time"}
    await asked.ask()  # refused now: still the same outage
    assert len(logger.events) == 3


async def test_an_agent_that_never_stops_talking(logger: Any) -> None:
    heard: list[AgentState] = []
    async with agent(b"drain " + b"x" * 1_000_000) as port:
        await asyncio.wait_for(check(port, logger, heard).ask(), DEADLINE_S)
    assert heard == [AgentState("drain")]
    ((event, fields),) = logger.events
    assert event == "agent.not_understood"
    assert len(fields["words"]) == WORDS_CHARS_MAX < LINE_BYTES_MAX


async def test_what_is_not_understood_is_logged_when_it_changes(logger: Any) -> None:
    async with agent(b"\xff\x00 drian\n", b"\xff\x00 drian\n", b"ready\n", b"drian\n") as port:
        asked = check(port, logger, [])
        for _ in range(4):
            await asked.ask()
    assert logger.names == ["agent.not_understood", "agent.not_understood"]


async def test_other_garbage_each_time_is_logged_once(logger: Any) -> None:
    answers = [b"x%d ready\n" % number for number in range(5)]
    async with agent(*answers) as port:
        asked = check(port, logger, [])
        for _ in answers:
            await asked.ask()
    assert logger.names == ["agent.not_understood"]


async def test_it_goes_on_asking(logger: Any) -> None:
    heard: list[AgentState] = []
    second = asyncio.Event()

    def hear(state: AgentState) -> None:
        heard.append(state)
        if len(heard) == 2:
            second.set()

    async with agent(b"drain\n", b"", b"ready\n", *[b"ready\n"] * 100) as port:
        asked = AgentCheck(("127.0.0.1", port), 0.02, logger, hear)
        running = asyncio.get_running_loop().create_task(asked.run())
        await asyncio.wait_for(second.wait(), DEADLINE_S)
        running.cancel()
        await asyncio.wait([running])
    assert [state.state for state in heard] == ["drain", "ready"]
