"""The broker's two sockets, for clients and for workers: opened with keys and gates, waited for, closed."""

from collections.abc import Callable
from typing import Any

import structlog
import zmq

from broker.access import Access, check_reach
from broker.gate import Gate
from broker.rejections import Rejections
from broker.settings import Settings
from broker.wakeup import Wakeup
from evenpost.runtime import sockets
from evenpost.wire import limits


class Endpoints:
    def __init__(
        self,
        settings: Settings,
        log: structlog.typing.FilteringBoundLogger,
        wakeup: Wakeup,
        open_gate: Callable[..., Gate],
        client_left: Callable[[bytes], None],
    ) -> None:
        """`open_gate`: makes a Gate of its arguments. `client_left` is told of each client whose connection
        has ended. Raises EndpointError, with nothing left open."""
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.access = Access(settings.access, self._context, log)
        securing, holder = self.access.securing, self.access.holder
        try:
            self.clients = sockets.router(self._context, settings.clients, secure=securing("clients"))
            self.workers = sockets.router(
                self._context, settings.workers, limits.WORKER_FRAME_BYTES_MAX, securing("workers")
            )
            # An endpoint that is a name is known only now.
            check_reach(settings.access, *self.names())
        except sockets.EndpointError:
            self.access.close()
            self._context.destroy(0)
            raise
        self.rejections = Rejections()
        self.client_gate = open_gate(
            "clients", self._context, self.clients, settings.client_limits, self.rejections,
            may_wait=True, holder=holder("clients"), left=client_left,
        )  # fmt: skip
        self.worker_gate = open_gate(
            "workers", self._context, self.workers, settings.worker_limits, self.rejections,
            may_wait=False, holder=holder("workers"),
        )  # fmt: skip
        self._pollers = {
            (clients, workers): _poller(wakeup, *[self.clients] * clients, *[self.workers] * workers)
            for clients in (False, True)
            for workers in (False, True)
        }

    def names(self) -> tuple[str, str]:
        """Where clients and workers connect, as bound: with the port's number where any was asked for."""
        return self.clients.get_string(zmq.LAST_ENDPOINT), self.workers.get_string(zmq.LAST_ENDPOINT)

    def wait(self, until: float, now: float) -> dict[Any, int]:
        """Returns as soon as something has come or the wake-up was used, at `until` at the latest (both are
        monotonic seconds). What can be read: sockets, and the wake-up's descriptor. An endpoint that rests
        isn't looked at before its rest is over."""
        clients_rest, workers_rest = self.client_gate.rests_until, self.worker_gate.rests_until
        if clients_rest > now:
            until = min(until, clients_rest)
        if workers_rest > now:
            until = min(until, workers_rest)
        poller = self._pollers[clients_rest <= now, workers_rest <= now]
        return dict(poller.poll(int(max(0.0, until - now) * 1000 + 0.999)))

    def close(self, linger_ms: int = 0) -> None:
        """`linger_ms`: for what was sent and isn't on its way yet."""
        self.client_gate.close()
        self.worker_gate.close()
        self.access.close()
        self._context.destroy(linger_ms)


def _poller(*places: "zmq.Socket[bytes] | Wakeup") -> zmq.Poller:
    poller = zmq.Poller()
    for place in places:
        poller.register(place, zmq.POLLIN)
    return poller
