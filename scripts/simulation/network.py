"""Connections as ZeroMQ gives them to a DEALER and a ROUTER.

Messages of one connection keep their order, those of different peers overtake each other. A connection that
is cut loses what is under way; each end learns of it in its own time, and says things into the void until
then. A partition holds everything back and may end in a cut. Sending to a peer that is gone, or that doesn't
read, fails.
"""

import random
from collections.abc import Set
from dataclasses import dataclass
from typing import Protocol

from evenpost.wire import codec
from evenpost.wire.messages import Message, Type
from scripts.simulation.clock import Callback, Clock, Host

QUEUE_MAX = 2_000
"""Messages under way in one direction (SNDHWM and RCVHWM of evenpost.runtime.sockets): more aren't taken."""
RECONNECT_S = 0.1
RECONNECT_S_MAX = 2.0


@dataclass(slots=True)
class Latency:
    """One way, in seconds: `least`, and on top an exponential part with this mean."""

    least: float = 0.0002
    mean: float = 0.0003

    def sample(self, rng: random.Random) -> float:
        return self.least + (rng.expovariate(1.0 / self.mean) if self.mean else 0.0)


class Receiver(Protocol):
    """The dialling side's process."""

    host: Host

    def receive(self, request: int, message: Message) -> None: ...


class Router(Protocol):
    """The broker's side of one of its sockets."""

    host: Host

    def receive(self, peer: bytes, request: int, message: Message) -> None: ...


class Connection:
    """One connection, both ways."""

    def __init__(self, network: "Network", peer: bytes, dealer: "Dealer", router: "Listener") -> None:
        self.network = network
        self.peer = peer
        self.dealer = dealer
        self.listener = router
        self.dead = False
        """Nothing that is sent from now on arrives."""
        self.held_until = 0.0
        self._last = {True: 0.0, False: 0.0}
        self._under_way = {True: 0, False: 0}

    def send(self, up: bool, deliver: Callback) -> bool:
        """`up`: from the dealer to the router. False where the queue is full."""
        if self._under_way[up] >= QUEUE_MAX:
            return False
        if self.dead:
            return True
        network = self.network
        time = max(network.clock.time, self.held_until) + network.latency.sample(network.rng)
        self._last[up] = time = max(time, self._last[up])
        self._under_way[up] += 1
        host = self.listener.router.host if up else self.dealer.owner.host
        process = host.process

        def taken() -> None:
            self._under_way[up] -= 1
            deliver()

        def arrive() -> None:
            if self.held_until > network.clock.time:
                network.clock.at(self.held_until, arrive)  # a partition that began while it was under way
            elif not self.dead and host.process == process:
                host.bound(taken)()

        network.clock.at(time, arrive)
        return True


class Dealer:
    """A peer that dials and dials again."""

    def __init__(self, network: "Network", owner: Receiver, listener: "Listener", name: str) -> None:
        self.owner = owner
        self.name = name
        self.connection: Connection | None = None
        self._network = network
        self._listener = listener
        self._process = owner.host.process
        self._wait = RECONNECT_S
        self._dial()

    def _dial(self) -> None:
        network = self._network
        if self.owner.host.process != self._process or self.connection is not None:
            return
        if self._listener.router.host.up and not network.is_cut_off(self.name):
            self._wait = RECONNECT_S
            self.connection = self._listener.accept(self)
        else:
            wait, self._wait = self._wait, min(2 * self._wait, RECONNECT_S_MAX)
            network.clock.after(wait, self._dial)  # a thread of its own: frozen processes dial too

    def send(self, request: int, message: Message) -> bool:
        """False where there is no connection, or the other side doesn't read."""
        connection = self.connection
        if connection is None:
            return False
        peer, router = connection.peer, self._listener.router
        message = self._network.coded(message, request, self._listener.hears)
        return connection.send(True, lambda: router.receive(peer, request, message))

    def lost(self, connection: Connection) -> None:
        """This end learns that its connection is gone."""
        if self.connection is connection:
            self.connection = None
            self._network.clock.after(self._wait, self._dial)


class Listener:
    """A bound ROUTER."""

    def __init__(
        self, network: "Network", router: Router, name: str, hears: Set[Type], says: Set[Type]
    ) -> None:
        self.router = router
        self.hears = hears
        self.says = says
        self.peers: dict[bytes, Connection] = {}
        self._network = network
        self._name = name
        self._made = 0

    def accept(self, dealer: Dealer) -> Connection:
        self._made += 1
        peer = f"{dealer.name}/{self._name}{self._made}".encode()
        connection = Connection(self._network, peer, dealer, self)
        self.peers[peer] = connection
        return connection

    def send(self, peer: bytes, request: int, message: Message) -> bool:
        """False where the peer has gone or doesn't read."""
        connection = self.peers.get(peer)
        if connection is None:
            return False
        owner = connection.dealer.owner
        message = self._network.coded(message, request, self.says)
        return connection.send(False, lambda: owner.receive(request, message))

    def lost(self, connection: Connection) -> None:
        self.peers.pop(connection.peer, None)

    def close(self) -> None:
        """The process behind it has ended: the system tells every peer."""
        for connection in list(self.peers.values()):
            self._network.cut(connection)


class Network:
    """All connections of the world."""

    def __init__(
        self, clock: Clock, rng: random.Random, latency: Latency | None = None, *, encodes: bool = False
    ) -> None:
        """`encodes`: messages go through bytes, as on a real socket, and are refused as there."""
        self.clock = clock
        self.rng = rng
        self.latency = latency or Latency()
        self._encodes = encodes
        self._cut_off: dict[str, float] = {}

    def cut(self, connection: Connection, dealer_s: float = 0.0, router_s: float = 0.0) -> None:
        """The connection ends, with what is under way; its ends learn of it after so many seconds."""
        connection.dead = True
        self.clock.after(dealer_s, lambda: connection.dealer.lost(connection))
        if router_s:
            self.clock.after(router_s, lambda: connection.listener.lost(connection))
        else:
            connection.listener.lost(connection)

    def cut_dealer(self, dealer: Dealer, dealer_s: float = 0.0, router_s: float = 0.0) -> None:
        """The same for the connection that a dealer has now, if it has one."""
        if dealer.connection is not None:
            self.cut(dealer.connection, dealer_s, router_s)

    def partition(self, dealer: Dealer, seconds: float, *, survives: bool) -> None:
        """Nothing comes through for a while; then what waited does, or the connection is found dead."""
        end = self.clock.time + seconds
        self._cut_off[dealer.name] = end
        connection = dealer.connection
        if connection is None:
            return
        connection.held_until = max(connection.held_until, end)
        if not survives:
            self.cut(connection, self.rng.uniform(0, seconds), self.rng.uniform(0, seconds))

    def coded(self, message: Message, request: int, accepted: Set[Type]) -> Message:
        """The message as the other side gets it. Raises WireError where that can't hear it."""
        if not self._encodes:
            return message
        return codec.decode(codec.encode(message, request), accepted).message

    def is_cut_off(self, name: str) -> bool:
        return self._cut_off.get(name, 0.0) > self.clock.time
