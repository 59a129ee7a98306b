"""The broker's proof to itself that strangers stay out: by real connections to its own endpoints."""

import time

import zmq
from zmq.utils.monitor import recv_monitor_message

TIMEOUT_S = 15.0
"""A connection to ourselves takes milliseconds; what can't be shown in this time counts as not shown."""
STRANGERS = ("a random key", "a peer without a key")
_FAILED = zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
_SUCCEEDED = zmq.EVENT_HANDSHAKE_SUCCEEDED


def open_door(endpoint: str, broker_key: str, timeout_s: float = TIMEOUT_S) -> str:
    """What is wrong with an endpoint of ours; empty where both a random key and a peer without CURVE are
    refused. `broker_key`: the public key that it serves with."""
    for stranger in STRANGERS:
        has_key = stranger == "a random key"
        event = _knock(endpoint, broker_key.encode() if has_key else None, timeout_s)
        if event == _SUCCEEDED:
            return f"{endpoint} lets {stranger} in"
        # A key has to be refused by the ZAP handler's word; another failure would prove nothing.
        refused = event == zmq.EVENT_HANDSHAKE_FAILED_AUTH if has_key else event
        if not refused:
            return f"{endpoint} didn't refuse {stranger} within {timeout_s:g} s"
    return ""


def _knock(endpoint: str, broker_key: bytes | None, timeout_s: float) -> int:
    """How a handshake ended, with a random key where there is a broker's: the monitor's event, or 0 where
    none came."""
    # A context of its own: nothing of the broker's is shared with the stranger.
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    stranger = context.socket(zmq.DEALER)
    stranger.setsockopt(zmq.LINGER, 0)
    stranger.setsockopt(zmq.IPV6, 1)
    if broker_key is not None:
        stranger.curve_publickey, stranger.curve_secretkey = zmq.curve_keypair()
        stranger.curve_serverkey = broker_key
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
