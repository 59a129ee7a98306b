"""The SMTP server as this worker sees it: connections, the limit, others' connections, its agent's word."""

import os
from collections.abc import Callable

from structlog.typing import FilteringBoundLogger

from evenpost.runtime.tasks import Tasks
from evenpost.wire import messages
from worker.agent import AgentState
from worker.agent_check import AgentCheck
from worker.external import ExternalConnections
from worker.server_watch import ServerWatch
from worker.settings import Settings
from worker.share import shared_word
from worker.smtp.pool import Pool
from worker.vocabulary import AgentSaid, LimitChanged, SendHeartbeat


class Upstream:
    """Owns the pool. What the session is to know is an event."""

    def __init__(
        self,
        settings: Settings,
        logger: FilteringBoundLogger,
        hears: Callable[[AgentSaid | LimitChanged], None],
        failed: Callable[[str, BaseException], None],
    ) -> None:
        """`hears` gets the events, `failed` the name and the error of a task of ours that crashed."""
        self._settings = settings
        self._logger = logger
        self._hears = hears
        server = settings.server
        self.pool = Pool(server, watcher=ServerWatch(logger, lambda limit: hears(LimitChanged(limit))))
        siblings_of = os.getppid() if settings.share.processes > 1 else None
        self._others = ExternalConnections(
            server.host, server.port, lambda: self.pool.addresses, logger, siblings_of
        )
        self._tasks = Tasks(failed)

    async def start(self) -> None:
        """Asks the agent, if there is one, before anything is sent: its first answer may be `maint`."""
        settings = self._settings
        if settings.agent is not None:
            check = AgentCheck(settings.agent, settings.agent_interval_s, self._logger, self._agent_said)
            await check.ask()
            self._tasks.start("agent", check.run())

    async def stop(self) -> None:
        """The agent isn't asked any more. The pool is closed by whoever ends the batches."""
        await self._tasks.cancel()

    def heartbeat(self, command: SendHeartbeat, wall: int = 0) -> messages.Heartbeat:
        """What is told now; begins to look for what the next one tells of others' connections."""
        heartbeat = messages.Heartbeat(
            command.number, busy=self.pool.busy, open=self.pool.open, external=self._others.count,
            limit=self.pool.limit, last_batch=command.last_batch, state=command.state, weight=command.weight,
            wall=wall, begun=command.begun,
        )  # fmt: skip
        self._others.read()
        return heartbeat

    def _agent_said(self, said: AgentState) -> None:
        said = shared_word(said, self._settings.share)
        configured = self._settings.server.max_connections
        state, weight = said.state, said.weight(self._settings.weight)
        self._logger.info(
            "agent.said", state=state, weight=weight, max_connections=said.maxconn, reason=said.reason
        )
        self.pool.set_max(min(configured, said.maxconn or configured))
        if state == "maint":
            self.pool.close_idle()
        self._hears(AgentSaid(state, weight))
