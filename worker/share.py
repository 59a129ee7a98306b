"""One of several processes in front of one server: what it has of the worker's settings. Pure."""

from dataclasses import replace
from pathlib import Path

from evenpost.runtime.processes import process_name
from worker.agent import AgentState
from worker.settings import Settings, Share, default_outcome_log


def shared(settings: Settings, share: Share, outcome_log: Path | None) -> Settings:
    """The settings of one process. `outcome_log`: the one that was asked for; each process has its own.

    Connections and weight are parts of the worker's, so that the server gets what it would get from one
    process. The rate is the server's in any case: the broker holds it over all workers of a server."""
    name = process_name(settings.name, share.number)
    log = default_outcome_log(name) if outcome_log is None else Path(f"{outcome_log}.{share.number}")
    connections = share.of(settings.server.max_connections)
    return replace(
        settings,
        name=name,
        outcome_log=log,
        server=replace(settings.server, max_connections=connections),
        weight=max(1, share.of(settings.weight)),
        share=share,
    )


def shared_word(said: AgentState, share: Share) -> AgentState:
    """What the server's agent said, for one process: it speaks of the whole server. Of fewer connections than
    there are processes some get none: they drain."""
    if said.absolute:
        said = replace(said, absolute=max(1, share.of(said.absolute)))
    if said.maxconn is not None:
        most = share.of(said.maxconn)
        said = replace(said, maxconn=max(1, most))
        if not most and said.administrative == "ready":
            said = replace(said, administrative="drain")
    return said
