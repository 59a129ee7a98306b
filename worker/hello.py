"""How a worker introduces itself."""

from evenpost import __version__
from evenpost.wire import messages
from worker.outcome_log import OutcomeLog
from worker.settings import Settings
from worker.vocabulary import SendHello


def hello_of(settings: Settings, log: OutcomeLog, limit: int, command: SendHello) -> messages.WorkerHello:
    """`limit`: connections that it opens at most just now."""
    return messages.WorkerHello(
        worker=settings.name,
        incarnation=log.incarnation,
        server=settings.server_label,
        log=log.id,
        max_connections=settings.server.max_connections,
        weight=settings.weight,
        rate=settings.rate,
        pools=list(settings.pools),
        holding=command.holding,
        outcomes_from=command.outcomes[0],
        outcomes_upto=command.outcomes[1],
        state=command.state,
        agent_weight=command.weight,
        limit=limit,
        software=f"evenpost {__version__}",
    )
