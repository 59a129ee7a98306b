"""What a connected worker says of itself all the time: that it lives, how busy it is, its clock."""

from broker.core import words
from broker.core.balancer import Balancer
from broker.core.commands import Command, Log, ToWorker
from broker.core.state import State
from broker.core.worker_state import Worker
from evenpost.runtime.clock import Now
from evenpost.wire import messages as wire

CLOCK_SKEW_S = 60.0
"""Between a worker's wall clock and ours, from which on an operator is told. A heartbeat that was held up for
so long on its way looks like that too."""


def heard(worker: Worker, now: Now) -> None:
    """Any traffic proves life."""
    worker.heard_at = now.mono
    worker.heard_wall = now.wall


def heartbeat(
    state: State, balancer: Balancer, worker: Worker, request: wire.Heartbeat, now: Now
) -> list[Command]:
    worker.lease_from = now.mono
    worker.busy, worker.open, worker.external = request.busy, request.open, request.external
    worker.reported_limit = request.limit
    worker.begun = request.begun
    worker.in_flight_at_report = sum(1 for number in worker.batches if number <= request.last_batch)
    before = worker.state
    worker.own_state, worker.own_weight = request.state, request.weight
    out: list[Command] = [ToWorker(worker.peer, wire.HeartbeatAck(request.number))]
    if worker.state != before:
        out.extend(words.changed(worker, before, "worker", now))
    if request.wall:
        out.extend(_compare_clocks(worker, (request.wall - now.wall) / 1000))
    balancer.update(worker, now.mono)
    return out


def _compare_clocks(worker: Worker, skew_s: float) -> list[Command]:
    """Nothing is decided by a worker's clock, but people read its times: in reports, and in mail's Date."""
    was_off, worker.clock_off = worker.clock_off, abs(skew_s) > CLOCK_SKEW_S
    if worker.clock_off == was_off:
        return []
    fields = {"worker": worker.name, "server": worker.server, "seconds": round(skew_s, 1)}
    if was_off:
        return [Log("info", "worker.clock_right", fields)]
    hint = "dates of its mail and times in reports are off by that: is NTP running on both hosts?"
    return [Log("warning", "worker.clock_skew", fields | {"hint": hint})]
