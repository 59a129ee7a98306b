"""The DEALER inside asyncio: every message arrives, nothing is queued for nobody."""

import asyncio
import ctypes
import os
import socket

import pytest
import zmq

from evenpost.runtime import sockets
from evenpost.runtime.tasks import Tasks
from tests.servers.ports import free_port

DEADLINE_S = 10.0


@pytest.mark.parametrize(
    "endpoint", ["", "5550", "localhost:5550", "tcp://host", "tcp://:5550", "tcp://h:port", "http://h:1",
                 "tcp://a b:1", "tcp://a\x01b:1", "tcp://a\udcff:1"]
)  # fmt: skip
def test_what_is_no_endpoint_is_refused_with_an_example(endpoint: str) -> None:
    with pytest.raises(sockets.EndpointError, match=r"tcp://127\.0\.0\.1:5550"):
        sockets.check_endpoint(endpoint)


@pytest.mark.parametrize(
    "endpoint", ["tcp://127.0.0.1:5550", "tcp://[::1]:5550", "tcp://*:1", "ipc:///tmp/x"]
)
def test_endpoints(endpoint: str) -> None:
    assert sockets.check_endpoint(endpoint) == endpoint


def test_an_address_in_use_is_said(unused_tcp_port: int) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    first = sockets.router(context, f"tcp://127.0.0.1:{unused_tcp_port}")
    with pytest.raises(sockets.EndpointError, match="Address already in use"):
        sockets.router(context, f"tcp://127.0.0.1:{unused_tcp_port}")
    first.close()
    context.term()


async def test_everything_sent_both_ways_arrives(unused_tcp_port: int) -> None:
    """Far more than one edge of the descriptor brings, while sends swallow edges."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    endpoint = f"tcp://127.0.0.1:{unused_tcp_port}"
    router = sockets.router(context, endpoint)
    total = 5_000
    got: list[bytes] = []
    done = asyncio.Event()

    def receive(frames: list[bytes]) -> None:
        got.append(frames[0])
        if len(got) == total:
            done.set()

    dealer = sockets.Dealer(context, endpoint, receive)

    def echo() -> None:
        for _ in range(total):
            peer, frame = router.recv_multipart()
            router.send_multipart([peer, frame])

    echoing = asyncio.get_running_loop().run_in_executor(None, echo)
    async with asyncio.timeout(DEADLINE_S):
        for n in range(total):
            while not dealer.send([str(n).encode()]):  # noqa: ASYNC110  # no event says "there is room again"
                await asyncio.sleep(0.001)
            if n % 97 == 0:
                await asyncio.sleep(0)
        await done.wait()
        await echoing
    assert got == [str(n).encode() for n in range(total)]
    dealer.close()
    router.close()
    context.term()


async def test_nothing_is_queued_for_a_peer_that_is_not_there(unused_tcp_port: int) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    dealer = sockets.Dealer(context, f"tcp://127.0.0.1:{unused_tcp_port}", lambda frames: None)
    assert dealer.send([b"hello"]) is False
    dealer.close()
    dealer.close()
    assert dealer.send([b"hello"]) is False
    context.term()


async def test_a_dealer_tells_when_it_can_send(unused_tcp_port: int) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    endpoint = f"tcp://127.0.0.1:{unused_tcp_port}"
    connected = asyncio.Event()
    dealer = sockets.Dealer(context, endpoint, lambda _: None, connected=connected.set)
    assert dealer.send([b"hello"]) is False
    assert not connected.is_set()
    router = sockets.router(context, endpoint)
    async with asyncio.timeout(DEADLINE_S):
        await connected.wait()
    assert dealer.send([b"hello"]) is True
    dealer.close()
    router.close()
    context.term()


def test_a_router_tells_of_a_peer_that_is_gone(unused_tcp_port: int) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    router = sockets.router(context, f"tcp://127.0.0.1:{unused_tcp_port}")
    with pytest.raises(zmq.ZMQError) as refused:
        router.send_multipart([b"nobody", b"x"], zmq.NOBLOCK)
    assert refused.value.errno == zmq.EHOSTUNREACH
    router.close()
    context.term()


async def test_who_listens_has_no_timer_of_a_peer_and_the_kernel_watches_it(unused_tcp_port: int) -> None:
    """Each answer to a heartbeat makes libzmq go through all timers of its thread: 4,000 peers filled it."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    endpoint = f"tcp://127.0.0.1:{unused_tcp_port}"
    router = sockets.router(context, endpoint)
    assert router.getsockopt(zmq.HEARTBEAT_IVL) == 0
    dealer = sockets.Dealer(context, endpoint, lambda _: None)
    assert dealer._socket.getsockopt(zmq.HEARTBEAT_IVL) > 0
    assert dealer._socket.getsockopt(zmq.HEARTBEAT_TTL) == 0
    async with asyncio.timeout(DEADLINE_S):
        while not dealer.send([b"hello"]):  # noqa: ASYNC110  # no event says "there is a connection"
            await asyncio.sleep(0.01)
        while not router.poll(0):  # noqa: ASYNC110  # it is read here, without a loop
            await asyncio.sleep(0.01)
    router.recv()
    descriptor = int(router.recv(copy=False).get("__fd"))
    with socket.socket(fileno=os.dup(descriptor)) as accepted:
        assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        silent_s = accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE)
        between_s = accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL)
        probes = accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT)
        assert silent_s + between_s * probes <= 16
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 16_000
    dealer.close()
    router.close()
    context.term()


async def test_a_task_that_fails_is_told_of_by_name() -> None:
    failed: list[tuple[str, str]] = []
    tasks = Tasks(lambda name, error: failed.append((name, repr(error))))

    async def fail() -> None:
        raise ValueError("oh")

    async def wait() -> None:
        await asyncio.Event().wait()

    failing = tasks.start("failing", fail())
    tasks.start("waiting", wait())
    await asyncio.wait([failing])
    await asyncio.sleep(0)
    assert failed == [("failing", "ValueError('oh')")]
    assert len(tasks) == 1
    await tasks.cancel()
    assert len(tasks) == 0 and len(failed) == 1


def test_nobody_can_foretell_the_next_routing_id() -> None:
    """libzmq aborts the process whose next one a peer has taken: `Assertion failed: ok (socket_base.cpp)`."""
    first = set()
    for _ in range(2):
        ctypes.CDLL(None).srand(1)  # as in a process that has just begun
        with zmq.Context() as context:
            router = sockets.router(context, f"tcp://127.0.0.1:{free_port()}")
            peer = context.socket(zmq.DEALER)
            peer.connect(router.get_string(zmq.LAST_ENDPOINT))
            peer.send(b"x")
            assert router.poll(5_000)
            first.add(router.recv_multipart()[0])
            peer.close(0)
            router.close(0)
    assert len(first) == 2
