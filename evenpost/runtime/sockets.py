"""ZeroMQ sockets as Evenpost uses them.

Both sides bound what they queue and refuse frames that are too large. A half-open connection is noticed by
ZMTP heartbeats on the side that connected, by TCP's keepalive on the side that listens: ZeroMQ goes through
the timers of all connections whenever a heartbeat is answered, which took a whole core from 4,000 idle
clients on. A DEALER gets no routing id of its own: each connection is a new peer to the ROUTER, which
then can't confuse an old connection with the one that took its place.
"""

import asyncio
import ctypes
import secrets
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

import zmq

from evenpost.runtime.curve import CurvePeer
from evenpost.runtime.handshakes import Failure, HandshakeMonitor
from evenpost.wire import limits

SEND_QUEUE_MESSAGES_MAX = 1_000
RECEIVE_QUEUE_MESSAGES_MAX = 1_000
ROUTER_RECEIVE_QUEUE_MESSAGES_MAX = 0
"""Of one peer, in front of a ROUTER: no bound. libzmq stops reading from a connection whose queue is full,
and aborts the process (`!_io_error`) when such a one is reset while a PING of its own or of ours is due: any
stranger could do that. The broker's memory watch ends the connections that have most bytes unread."""
RECEIVED_PER_TURN_MAX = 100
"""Messages taken in a row before other work of the event loop gets its turn."""
_ZMTP_HEARTBEAT_MS = 2_000
_ZMTP_TIMEOUT_MS = 8_000
"""No TTL goes with a heartbeat: the other side would have a timer of it."""
_KEEPALIVE_IDLE_S = 8
_KEEPALIVE_INTERVAL_S = 2
_KEEPALIVE_PROBES = 4
"""Who connected sends a heartbeat every two seconds; who has been silent for 8 s is asked by the kernel."""
_UNTAKEN_MS = 16_000
"""Who takes nothing of what it is sent for so long is cut off."""
_HANDSHAKE_MS = 5_000
"""A peer that hasn't introduced itself by then is cut off: ZeroMQ's own 30 s let slow ones pile up."""
_LISTEN_BACKLOG = 4_096
_RECONNECT_MS = 100
_RECONNECT_MS_MAX = 1_000
"""A restarted broker waits for its workers for longer than this: RECOVERY_S_MIN of broker.core.settings."""
_REFUSED_RETRY_S = 1.0
_REFUSED_RETRY_S_MAX = 10.0
"""Pauses before a connection that was refused is tried again: the first, and the longest."""


class EndpointError(ValueError):
    """An endpoint that can't be used; the message says why and what one looks like."""


def check_endpoint(endpoint: str) -> str:
    """The endpoint, if it is `tcp://HOST:PORT` or `ipc://PATH`. Raises EndpointError."""
    parts = urlsplit(endpoint)
    if parts.scheme == "ipc" and (parts.path or parts.netloc):
        return endpoint
    if parts.scheme == "tcp":
        try:
            plain = endpoint.isprintable() and not any(map(str.isspace, endpoint))
            if plain and parts.hostname and parts.port is not None:
                return endpoint
        except ValueError:
            pass  # the port is no number: fall through to the one message that says what is right
    raise EndpointError(f"{endpoint!r} is no endpoint: write tcp://HOST:PORT, as in tcp://127.0.0.1:5550")


def _common(socket: zmq.Socket[bytes]) -> None:
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.SNDHWM, SEND_QUEUE_MESSAGES_MAX)
    socket.setsockopt(zmq.RCVHWM, RECEIVE_QUEUE_MESSAGES_MAX)
    socket.setsockopt(zmq.MAXMSGSIZE, limits.FRAME_BYTES_MAX)
    socket.setsockopt(zmq.HANDSHAKE_IVL, _HANDSHAKE_MS)
    socket.setsockopt(zmq.IPV6, 1)


def router(
    context: zmq.Context[zmq.Socket[bytes]],
    endpoint: str,
    frame_bytes_max: int = limits.FRAME_BYTES_MAX,
    secure: Callable[[zmq.Socket[bytes]], None] | None = None,
) -> zmq.Socket[bytes]:
    """A bound ROUTER. Sending to a peer that has gone or that doesn't read raises: EHOSTUNREACH, EAGAIN.
    Whoever sends a frame of more than `frame_bytes_max` is cut off before it is taken in. `secure` gives it
    its keys, before it binds.

    Raises EndpointError where the address can't be bound.
    """
    _shuffle_routing_ids()
    socket: zmq.Socket[bytes] = context.socket(zmq.ROUTER)
    _common(socket)
    socket.setsockopt(zmq.MAXMSGSIZE, frame_bytes_max)
    socket.setsockopt(zmq.RCVHWM, ROUTER_RECEIVE_QUEUE_MESSAGES_MAX)
    if secure is not None:
        secure(socket)
    socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
    socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
    socket.setsockopt(zmq.TCP_KEEPALIVE_IDLE, _KEEPALIVE_IDLE_S)
    socket.setsockopt(zmq.TCP_KEEPALIVE_INTVL, _KEEPALIVE_INTERVAL_S)
    socket.setsockopt(zmq.TCP_KEEPALIVE_CNT, _KEEPALIVE_PROBES)
    socket.setsockopt(zmq.TCP_MAXRT, _UNTAKEN_MS)
    socket.setsockopt(zmq.BACKLOG, _LISTEN_BACKLOG)
    try:
        socket.bind(check_endpoint(endpoint))
    except zmq.ZMQError as error:
        socket.close()
        raise EndpointError(f"can't listen on {endpoint}: {error.strerror}") from None
    return socket


def _shuffle_routing_ids() -> None:
    """Before a ROUTER is made. libzmq counts the routing ids that it gives from what C's rand() says first,
    which is the same in each process; and it aborts the process when the next one is taken, by a peer that
    has chosen it. With a seed nobody knows which is the next."""
    ctypes.CDLL(None).srand(secrets.randbits(32))


class Dealer:
    """A connected DEALER inside an asyncio loop: `receive` is called with the frames of each message,
    `refused` when a handshake failed, over and over while it does, and `connected` when one has succeeded:
    from then on it sends.

    Why not zmq.asyncio: it makes a future for every message; here a message is a plain call.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        endpoint: str,
        receive: Callable[[list[bytes]], None],
        curve: CurvePeer | None = None,
        refused: Callable[[Failure], None] | None = None,
        connected: Callable[[], None] | None = None,
    ) -> None:
        self._context = context
        self._endpoint = check_endpoint(endpoint)
        self._receive = receive
        self._curve = curve
        self._refused = refused
        self._connected = connected
        self._loop = asyncio.get_running_loop()
        self._scheduled = False
        self._closed = False
        self._retry_s = _REFUSED_RETRY_S
        self._retry: asyncio.TimerHandle | None = None
        self._open()

    def _open(self) -> None:
        self._socket: zmq.Socket[bytes] = self._context.socket(zmq.DEALER)
        try:
            _common(self._socket)
            # Nothing is queued for a broker that isn't there: what is due is said anew when it comes back.
            self._socket.setsockopt(zmq.IMMEDIATE, 1)
            self._socket.setsockopt(zmq.HEARTBEAT_IVL, _ZMTP_HEARTBEAT_MS)
            self._socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, _ZMTP_TIMEOUT_MS)
            self._socket.setsockopt(zmq.RECONNECT_IVL, _RECONNECT_MS)
            self._socket.setsockopt(zmq.RECONNECT_IVL_MAX, _RECONNECT_MS_MAX)
            if self._curve is not None:
                self._curve.secure(self._socket)
            self._monitor = HandshakeMonitor(
                self._socket, has_key=self._curve is not None, failed=self._failed, succeeded=self._succeeded
            )
            self._socket.connect(self._endpoint)
        except BaseException:
            self._socket.close()
            raise
        self._loop.add_reader(self._socket.FD, self._drain)
        self._schedule()

    def send(self, frames: Sequence[bytes]) -> bool:
        """False where there is no connection or the peer doesn't read: nothing was queued."""
        if self._closed:
            return False
        try:
            self._socket.send_multipart(frames, zmq.NOBLOCK)
        except zmq.Again:
            return False
        finally:
            # The descriptor signals edges, and a send can swallow the edge of a message that came in.
            self._schedule()
        return True

    def close(self) -> None:
        """Closes at once, whatever is queued."""
        if not self._closed:
            self._closed = True
            if self._retry is not None:
                self._retry.cancel()
            self._close_socket()

    def _close_socket(self) -> None:
        self._loop.remove_reader(self._socket.FD)
        self._monitor.close()
        self._socket.close()

    def _failed(self, failure: Failure) -> None:
        if failure.final and self._retry is None and not self._closed:
            # libzmq doesn't try again after these; a key may be allowed later, or the broker be another one.
            self._retry = self._loop.call_later(self._retry_s, self._reopen)
            self._retry_s = min(2 * self._retry_s, _REFUSED_RETRY_S_MAX)
        if self._refused is not None:
            self._refused(failure)

    def _reopen(self) -> None:
        self._retry = None
        self._close_socket()
        self._open()

    def _succeeded(self) -> None:
        self._retry_s = _REFUSED_RETRY_S
        if self._connected is not None:
            self._connected()

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._drain)

    def _drain(self) -> None:
        self._scheduled = False
        for _ in range(RECEIVED_PER_TURN_MAX):
            if self._closed:
                return
            try:
                frames = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            self._receive(frames)
        self._schedule()
