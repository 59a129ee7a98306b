"""What a peer can do to a ROUTER that is busy with something else."""

import subprocess
import sys
import textwrap

from tests.integration.cluster import ROOT

SCRIPT = textwrap.dedent("""
    import socket, struct, time, zmq
    from evenpost.runtime import sockets
    from tests.servers.attackers import handshaken, message
    from tests.servers.ports import free_port

    port = free_port()
    context = zmq.Context()
    router = sockets.router(context, f"tcp://127.0.0.1:{port}")
    monitor = router.get_monitor_socket(zmq.EVENT_DISCONNECTED)
    raw = handshaken(("127.0.0.1", port))
    ping = bytes([4, 7, 4]) + b"PING" + bytes(2)
    raw.sendall((message([b"header", b"body"]) * 7 + ping) * 400)
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    raw.close()
    monitor.poll(300)  # where the queue is bounded, the end is not told before it has been read
    while router.poll(300):
        router.recv_multipart()
    print("alive")
    """)


def test_a_connection_that_is_reset_while_much_of_it_is_unread_ends_nothing_else() -> None:
    """libzmq aborted the process where the queue had a bound and a PING was left in it."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=ROOT, capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr
