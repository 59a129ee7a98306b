"""A server that introduces itself as a ZMTP peer does, and then takes all that comes and forgets it.

As a program, `python -m tests.servers.discard PORT...`, at the lowest priority: where attackers are to cost
what they cost by themselves, they attack this.
"""

import os
import selectors
import socket
import sys
import time

from tests.servers.attackers import GREETING, READY

TURN_S = 0.01
"""It looks at its connections so often: to be woken for each message would cost more than to take it."""
LISTEN_BACKLOG = 1_024
READS_PER_TURN_MAX = 16
"""Of one connection, 1 MiB each."""


def discard(ports: list[int]) -> None:
    """Until somebody ends this process."""
    buffer = bytearray(1 << 20)
    with selectors.DefaultSelector() as selector:
        for port in ports:
            listener = socket.create_server(("127.0.0.1", port), backlog=LISTEN_BACKLOG)
            listener.setblocking(False)
            selector.register(listener, selectors.EVENT_READ, data=True)
        while True:
            for key, _ in selector.select():
                made = key.fileobj
                assert isinstance(made, socket.socket)
                try:
                    if key.data:
                        _accept(made, selector)
                    elif not _read(made, buffer):
                        selector.unregister(made)
                        made.close()
                except BlockingIOError:
                    pass  # that was all, for now
                except OSError:
                    if not key.data:
                        selector.unregister(made)
                        made.close()
            time.sleep(TURN_S)


def _accept(listener: socket.socket, selector: selectors.BaseSelector) -> None:
    while True:
        made, _ = listener.accept()
        made.setblocking(False)
        made.sendall(GREETING + READY)
        selector.register(made, selectors.EVENT_READ, data=False)


def _read(made: socket.socket, buffer: bytearray) -> bool:
    """False at the end of what a peer sends."""
    return all(made.recv_into(buffer) for _ in range(READS_PER_TURN_MAX))


if __name__ == "__main__":
    os.nice(19)
    discard([int(port) for port in sys.argv[1:]])
