"""Asks a server's agent how the server is, again and again. What its words mean is in worker.agent."""

import asyncio
from collections.abc import Callable

from structlog.typing import FilteringBoundLogger

from worker.agent import LINE_BYTES_MAX, AgentState

TIMEOUT_S = 5.0
"""For one answer. HAProxy's default is the interval between two questions."""
WORDS_CHARS_MAX = 200
"""Of what isn't understood, so much is logged."""


class AgentCheck:
    """`run` it as a task. An agent that doesn't answer changes nothing, as with HAProxy."""

    def __init__(
        self,
        address: tuple[str, int],
        interval_s: float,
        logger: FilteringBoundLogger,
        heard: Callable[[AgentState], None],
    ) -> None:
        """`heard` is called when the state is another one than before; at first it is AgentState()."""
        self._host, self._port = address
        self._interval_s = interval_s
        self._logger = logger
        self._heard = heard
        self._state = AgentState()
        self._silent = False
        self._understood = True

    async def run(self) -> None:
        while True:
            await self.ask()
            await asyncio.sleep(self._interval_s)

    async def ask(self) -> None:
        """One question and what follows from its answer."""
        try:
            async with asyncio.timeout(min(self._interval_s, TIMEOUT_S)):
                line = await self._line()
            if not line.strip():
                raise ConnectionError("it closed the connection without a word")
        except (OSError, TimeoutError) as error:
            if not self._silent:
                self._silent = True
                reason = str(error) or "no answer in time"
                self._logger.warning("agent.silent", agent=self._address, reason=reason)
            return
        if self._silent:
            self._silent = False
            self._logger.info("agent.answers_again", agent=self._address)
        state, unknown = self._state.after(line)
        if unknown and self._understood:  # once until it is understood: garbage may be new each time
            words = " ".join(unknown)[:WORDS_CHARS_MAX]
            self._logger.warning("agent.not_understood", agent=self._address, words=words)
        self._understood = not unknown
        if state != self._state:
            self._state = state
            self._heard(state)

    async def _line(self) -> str:
        reader, writer = await asyncio.open_connection(self._host, self._port, limit=LINE_BYTES_MAX)
        try:
            line = b""
            while b"\n" not in line and len(line) < LINE_BYTES_MAX:
                if not (data := await reader.read(LINE_BYTES_MAX)):
                    break
                line += data
        finally:
            writer.close()
        return line[:LINE_BYTES_MAX].partition(b"\n")[0].decode("ascii", "replace")

    @property
    def _address(self) -> str:
        return f"[{self._host}]:{self._port}" if ":" in self._host else f"{self._host}:{self._port}"
