"""Why a connection doesn't come about: libzmq retries in silence, so its socket monitor is asked."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import zmq
from zmq.utils.monitor import recv_monitor_message

_EVENTS = (
    zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
)


@dataclass(frozen=True, slots=True)
class Failure:
    """A handshake that failed."""

    reason: str
    """A sentence's part, for people."""
    final: bool
    """The other side has said no, and will again; else the connection just ended, which a broker that stops
    at this moment may have caused too."""


class HandshakeMonitor:
    """Reports the handshakes of one socket, in the running event loop. To be made before the socket connects,
    and closed before it."""

    def __init__(
        self,
        socket: zmq.Socket[bytes],
        *,
        has_key: bool,
        failed: Callable[[Failure], None],
        succeeded: Callable[[], None],
    ) -> None:
        self._has_key = has_key
        self._failed = failed
        self._succeeded = succeeded
        self._watched = socket
        self._loop = asyncio.get_running_loop()
        self._socket: zmq.Socket[bytes] = socket.get_monitor_socket(_EVENTS)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._closed = False
        self._loop.add_reader(self._socket.FD, self._drain)
        self._loop.call_soon(self._drain)

    def close(self) -> None:
        self._closed = True
        self._loop.remove_reader(self._socket.FD)
        self._watched.disable_monitor()
        self._socket.close()

    def _drain(self) -> None:
        while not self._closed:  # what we call may close us
            try:
                event = recv_monitor_message(self._socket, zmq.NOBLOCK)
            except zmq.Again:
                return
            if event["event"] == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self._succeeded()
            elif failure := explain(int(event["event"]), int(event["value"]), has_key=self._has_key):
                self._failed(failure)


def explain(event: int, value: int, *, has_key: bool) -> Failure | None:
    """What a monitor's event means for people; None: nothing worth a word."""
    if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
        return Failure("the broker refused our key: it isn't among those that it allows here", True)
    if event == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
        if value != zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH:
            return Failure("the other side doesn't speak as a broker does, or hasn't that broker key", True)
        if has_key:
            return Failure("the broker has no CURVE, and we have a key: start it with --curve-key", True)
        return Failure("the broker wants a key: give --curve-key and --broker-key", True)
    if not has_key:
        return None  # a broker that wants keys says so in its next answer; one that stops may end like this
    return Failure("whoever listens there isn't the holder of that broker key, or stopped just then", False)
