"""The ZAP handler (ZeroMQ RFC 27): libzmq asks it about every connection before a byte of ours is read.

It has a thread of its own, so that connections come in while the broker's loop is busy, and its answer is a
look-up in memory: nothing in it waits, reads a file or raises. Whatever isn't exactly right is a 400.
"""

import contextlib
import socket
import threading
from collections.abc import Callable, Sequence

import zmq
import zmq.utils.z85

from broker.ring import Ring

ENDPOINT = "inproc://zeromq.zap.01"
KEY_PROPERTY = "X-Evenpost-Key"
"""The metadata of each message from this connection: the public key. The User-Id alone would hold on when a
name gets another key."""
_VERSION = b"1.0"
_KEY_BYTES = 32
_STOP_S = 5.0


def answer(request: Sequence[bytes], ring: Ring) -> list[bytes]:
    """The reply to the frames of one request: version, request id, status, text, User-Id, metadata.

    Never raises, whatever the frames are: they hold what a stranger has sent."""
    request_id = request[1] if len(request) > 1 else b""
    refused = [_VERSION, request_id, b"400", b"No access", b"", b""]
    if len(request) != 7:
        return refused
    version, _, domain, _, _, mechanism, key = request
    if version != _VERSION or mechanism != b"CURVE" or len(key) != _KEY_BYTES:
        return refused
    text = zmq.utils.z85.encode(key)
    holder = ring.holder(text.decode(), domain.decode("latin-1"))
    if holder is None:
        return refused
    metadata = _property(KEY_PROPERTY, text)
    return [_VERSION, request_id, b"200", b"OK", holder.user_id.encode(), metadata]


def _property(name: str, value: bytes) -> bytes:
    """As ZMTP writes metadata: a name's length in one octet, a value's in four."""
    return bytes([len(name)]) + name.encode() + len(value).to_bytes(4, "big") + value


class ZapHandler:
    """Answers from `ring()` until closed. To be made before any socket of the context binds."""

    def __init__(self, context: "zmq.Context[zmq.Socket[bytes]]", ring: Callable[[], Ring]) -> None:
        self._ring = ring
        self._socket: zmq.Socket[bytes] = context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.bind(ENDPOINT)
        self._stop_receiver, self._stop_sender = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name="zap", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Before the context ends: sockets are closed by the thread that uses them."""
        self._stop_sender.close()
        self._thread.join(_STOP_S)
        self._stop_receiver.close()

    def _run(self) -> None:
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._stop_receiver, zmq.POLLIN)
        while self._stop_receiver.fileno() not in (ready := dict(poller.poll())):
            if self._socket in ready:
                self._serve()
        self._socket.close()

    def _serve(self) -> None:
        with contextlib.suppress(zmq.Again):
            frames = self._socket.recv_multipart(zmq.NOBLOCK)
            # libzmq asks as a REQ does: its address, an empty frame, the request.
            reply = answer(frames[2:], self._ring())
            self._socket.send_multipart([*frames[:2], *reply], zmq.NOBLOCK)
