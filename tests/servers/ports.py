"""Ports for test servers, each given out once: test processes that run side by side never meet on one.

Looking for a free port and using it later is a race between whole test runs. So a port is held by a lock on a
file of its number, and the kernel lets go of it when this process ends, however it ends.
"""

import fcntl
import os
import random
import socket
import tempfile
from pathlib import Path

HOST = "127.0.0.1"
PORT_MIN = 10_000
PORT_MAX = 30_000
"""Below the kernel's ephemeral ports (32768 on): no outgoing connection takes one meanwhile."""
_TRIES_MAX = 500

_held: list[int] = []


def free_port() -> int:
    """A port of loopback on which nobody listens; no other test process gets it while this one lives."""
    folder = Path(tempfile.gettempdir()) / f"evenpost-test-ports-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    for _ in range(_TRIES_MAX):
        port = random.randint(PORT_MIN, PORT_MAX)
        lock = os.open(folder / str(port), os.O_RDWR | os.O_CREAT, 0o600)
        if _lock(lock) and _is_free(port):
            _held.append(lock)
            return port
        os.close(lock)
    raise RuntimeError(f"no free port between {PORT_MIN} and {PORT_MAX} on {HOST}")


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True
