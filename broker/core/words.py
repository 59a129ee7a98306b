"""HAProxy's agent words, from operators: ready, drain, maint, weight:N, maxconn:N.

A worker says the same of itself in its heartbeats. The stricter word counts, and an operator's stays until
the operator takes it back.
"""

from broker.core import campaigns
from broker.core.balancer import Balancer
from broker.core.commands import Command, Log, Persist, Reply, SetWorker, ToWorker
from broker.core.events import FromClient
from broker.core.state import State
from broker.core.worker_state import Worker
from evenpost.runtime.clock import Now
from evenpost.wire import messages as wire
from evenpost.wire.errors import Code


def order(
    state: State, balancer: Balancer, event: FromClient, request: wire.SetServer, now: Now
) -> list[Command]:
    """SET_SERVER: an operator's words, kept in the journal."""
    worker = state.workers.get(request.worker)
    if worker is None:
        known = ", ".join(sorted(state.workers)) or "none has ever connected"
        text = f"no worker is called {request.worker!r}; known: {known}"
        return [campaigns.refuse(event.peer, event.request, Code.NOT_FOUND, text)]
    before = worker.state
    if request.state is not None:
        worker.operator_state = request.state
        if request.state == "ready":
            worker.breaker.reset()
    if request.weight is not None:
        worker.operator_weight = request.weight
    if request.max_connections is not None:
        worker.operator_limit = request.max_connections
    done = Reply(event.peer, event.request, wire.Done())
    fields = {"worker": worker.name, "server": worker.server, "operator": spoken(worker) or "ready"}
    out: list[Command] = [
        Persist((SetWorker.of(worker),), (done,)),
        Log("info", "worker.ordered", fields),
        *changed(worker, before, "operator", now),
    ]
    balancer.update(worker, now.mono)
    return out


def changed(worker: Worker, before: wire.ServerWord, by: str, now: Now) -> list[Command]:
    """Another word holds for a worker: what follows."""
    after = worker.state
    if after == before:
        return []
    fields = {"worker": worker.name, "server": worker.server, "state": after, "before": before, "by": by}
    out: list[Command] = [Log("info", "worker.state", fields)]
    if before == "maint":
        worker.breaker.returned_at = now.mono  # its server was away, as far as we know
    if after == "maint" and worker.peer and worker.batches:
        out.append(ToWorker(worker.peer, wire.Revoke(list(worker.batches))))
    return out


def spoken(worker: Worker) -> str:
    """An operator's words that still stand; empty for none."""
    words = [] if worker.operator_state == "ready" else [str(worker.operator_state)]
    if worker.operator_weight:
        words.append(f"weight:{worker.operator_weight}")
    if worker.operator_limit:
        words.append(f"maxconn:{worker.operator_limit}")
    return " ".join(words)
