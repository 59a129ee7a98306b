"""The broker's proof to itself that strangers stay out: by real connections to its own endpoints."""

import time

import zmq
from zmq.utils.monitor import recv_monitor_message

TIMEOUT_S = 5.0
"""A connection to ourselves takes milliseconds; what can't be shown in this time counts as not shown."""
_FAILED = zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
_SUCCEEDED = zmq.EVENT_HANDSHAKE_SUCCEEDED


def open_door(endpoint: str, broker_key: str, timeout_s: float = TIMEOUT_S) -> str:
    """What is wrong with an endpoint of ours; empty where both a random key and a peer without CURVE are
    refused. `broker_key`: the public key that it serves with."""
    public, secret = zmq.curve_keypair()
    for stranger, keys in (("a random key", (public, secret)), ("a peer without a key", None)):
        event = _knock(endpoint, broker_key.encode(), keys, timeout_s)
        if event == _SUCCEEDED:
            return f"{endpoint} lets {stranger} in"
        if keys is not None and event != zmq.EVENT_HANDSHAKE_FAILED_AUTH:
            return f"{endpoint} didn't refuse {stranger} within {timeout_s:.0f} s"
        if not event:
            return f"{endpoint} didn't refuse {stranger} within {timeout_s:.0f} s"
    return ""


def _knock(endpoint: str, broker_key: bytes, keys: tuple[bytes, bytes] | None, timeout_s: float) -> int:
    """How a handshake ended: the monitor's event, or 0 where none came."""
    # A context of its own: sockets of one context may find each other without a handshake's checks.
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    stranger = context.socket(zmq.DEALER)
    stranger.setsockopt(zmq.LINGER, 0)
    stranger.setsockopt(zmq.IPV6, 1)
    if keys is not None:
        stranger.setsockopt(zmq.CURVE_PUBLICKEY, keys[0])
        stranger.setsockopt(zmq.CURVE_SECRETKEY, keys[1])
        stranger.setsockopt(zmq.CURVE_SERVERKEY, broker_key)
    monitor = stranger.get_monitor_socket(_FAILED | _SUCCEEDED)
    try:
        stranger.connect(endpoint)
        end = time.monotonic() + timeout_s
        while (left_s := end - time.monotonic()) > 0:
            if monitor.poll(int(left_s * 1000) + 1):
                return int(recv_monitor_message(monitor)["event"])
        return 0
    finally:
        stranger.disable_monitor()
        stranger.close()
        monitor.close()
        context.term()
