"""The connections of one ROUTER as the kernel and ZeroMQ know them: how many there are, what each holds in
memory that nobody has read, and how to end one.

ZeroMQ bounds a frame, and how many whole messages it queues, but neither the number of frames of a message
nor the number of connections; a message's frames stay in memory until its last one has come. So those bounds
are kept here: ZeroMQ tells of each connection's socket, and the kernel how many bytes came through it.
"""

import contextlib
import os
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass

import zmq

from broker.guard import Backlog

_EVENT = struct.Struct("=HI")
_EVENTS = zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED
_TCP_INFO_BYTES = 136
_ACKED_RECEIVED = struct.Struct("=QQ")
_ACKED_AT = 120
"""Where tcpi_bytes_acked and tcpi_bytes_received are in struct tcp_info (linux/tcp.h), since Linux 4.1."""
EVENTS_PER_TURN_MAX = 2_000
HEARTBEAT_BYTES_PER_S = 22.0
"""PING, which we never see, every two seconds: 9 bytes, and 42 with CURVE; rounded up."""


@dataclass(slots=True)
class Connection:
    """One accepted socket."""

    descriptor: int
    address: object
    """The peer's, as the kernel has it: a descriptor's number may be another socket's by now."""
    peer: bytes = b""
    """Its routing id, once a message has come."""
    taken: int = 0
    """Bytes of messages that we have read."""
    given: int = 0
    """Bytes of messages that we have sent."""
    since: float = 0.0

    def took(self, frames: list[bytes]) -> None:
        self.taken += sum(map(len, frames)) + _framing(frames)

    def gave(self, frames: list[bytes]) -> None:
        self.given += sum(map(len, frames)) + _framing(frames)

    def backlog(self, acked: int, received: int, now: float) -> Backlog:
        """By the kernel's counts of bytes that came and that the peer has taken."""
        unread = received - self.taken - int((now - self.since) * HEARTBEAT_BYTES_PER_S)
        return Backlog(self.descriptor, max(0, unread), max(0, self.given - acked))


def _framing(frames: list[bytes]) -> int:
    """Flags and length of each frame (ZMTP 3.1, 2.2)."""
    return sum(2 if len(frame) < 256 else 9 for frame in frames)


class Connections:
    """Call `events` when `monitor` can be read."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], router: zmq.Socket[bytes], most: int) -> None:
        """`most`: with more connections than these, one that has said nothing is ended for each. Before the
        ROUTER is bound, or soon after."""
        self._router = router
        self._most = most
        self._by_descriptor: dict[int, Connection] = {}
        self._by_peer: dict[bytes, Connection] = {}
        self._silent: dict[int, Connection] = {}
        """Those that have said nothing yet and weren't ended, the oldest first."""
        self.refused = 0
        """Connections that were ended since there were too many."""
        self.monitor: zmq.Socket[bytes] = context.socket(zmq.PAIR)
        # The I/O thread waits where its events find no room: it shall never.
        self.monitor.setsockopt(zmq.RCVHWM, 0)
        self.monitor.setsockopt(zmq.LINGER, 0)
        endpoint = f"inproc://connections-{router.underlying}"
        router.monitor(endpoint, _EVENTS)
        self.monitor.connect(endpoint)

    def close(self) -> None:
        """Before the context ends: an event that nobody reads would hold it up."""
        self._router.disable_monitor()
        self.monitor.close()

    def __len__(self) -> int:
        return len(self._by_descriptor)

    def events(self) -> list[bytes]:
        """Takes in what has happened; the routing ids of connections that have ended."""
        gone = []
        for _ in range(EVENTS_PER_TURN_MAX):
            try:
                event, descriptor = _EVENT.unpack(self.monitor.recv_multipart(zmq.NOBLOCK)[0])
            except zmq.Again:
                break
            if event == zmq.EVENT_ACCEPTED:
                self._accepted(descriptor)
                continue
            self._silent.pop(descriptor, None)
            if (ended := self._by_descriptor.pop(descriptor, None)) is not None and ended.peer:
                self._by_peer.pop(ended.peer, None)
                gone.append(ended.peer)
        return gone

    def _accepted(self, descriptor: int) -> None:
        with _borrowed(descriptor) as found:
            if found is None:
                return  # it came and went
            connection = Connection(descriptor, _address(found), since=time.monotonic())
        self._by_descriptor[descriptor] = connection
        self._silent.pop(descriptor, None)
        self._silent[descriptor] = connection
        if len(self._by_descriptor) > self._most:
            # Our own peers speak at once. Who has been silent for longest is likeliest to be none of them: to
            # end the newest instead would let anybody keep them out, with no key and no word.
            self.refused += 1
            self._end(self._silent.pop(next(iter(self._silent))))

    def knows(self, peer: bytes) -> Connection | None:
        return self._by_peer.get(peer)

    def first_message(self, peer: bytes, frame: zmq.Frame) -> tuple[Connection | None, bytes]:
        """Learns from a frame of its first message which socket a peer is behind; None: it has ended.

        Also the peer that was taken to be behind it till now, if there was one: that had ended, and its last
        message was read after its socket's number had been given to this one."""
        connection = self._sender(frame)
        if connection is None:
            return None, b""
        self._silent.pop(connection.descriptor, None)
        mistaken, connection.peer = connection.peer, peer
        self._by_peer.pop(mistaken, None)
        self._by_peer[peer] = connection
        return connection, mistaken

    def end_sender(self, frame: zmq.Frame) -> None:
        """Ends the connection that a frame came by, whatever routing id its peer has."""
        if connection := self._sender(frame):
            self._end(connection)

    def _sender(self, frame: zmq.Frame) -> Connection | None:
        try:
            return self._by_descriptor.get(int(frame.get("__fd")))
        except (zmq.ZMQError, ValueError):
            return None

    def end(self, peer: bytes) -> None:
        """Ends a peer's connection, if its socket is known. It may come back."""
        if connection := self._by_peer.get(peer):
            self._end(connection)

    def end_descriptor(self, descriptor: int) -> None:
        if connection := self._by_descriptor.get(descriptor):
            self._end(connection)

    def _end(self, connection: Connection) -> None:
        # ZeroMQ sees the end of the stream and does the rest, as if the peer had closed.
        with _borrowed(connection.descriptor) as found, contextlib.suppress(OSError):
            if found is not None and _address(found) == connection.address:
                found.shutdown(socket.SHUT_RDWR)

    def backlogs(self) -> list[Backlog]:
        """What each connection holds in memory. One call of the kernel for each."""
        found = []
        now = time.monotonic()
        for descriptor, connection in self._by_descriptor.items():
            with _borrowed(descriptor) as sock, contextlib.suppress(OSError, struct.error):
                if sock is None or _address(sock) != connection.address:
                    continue
                info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
                acked, received = _ACKED_RECEIVED.unpack_from(info, _ACKED_AT)
                found.append(connection.backlog(acked, received, now))
        return found


def _address(sock: socket.socket) -> object:
    try:
        return sock.getpeername()
    except OSError:
        return None  # it has gone, and so it is nobody's


@contextlib.contextmanager
def _borrowed(descriptor: int) -> Iterator[socket.socket | None]:
    """The socket behind a descriptor that ZeroMQ owns, as a copy that is closed again. None: it is closed."""
    try:
        sock = socket.socket(fileno=os.dup(descriptor))
    except OSError:
        yield None
        return
    with sock:
        yield sock
