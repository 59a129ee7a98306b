"""The gate between a real ROUTER and its peers."""

import struct
import time
from collections.abc import Iterator

import pytest
import zmq

from broker.gate import FRAMES_MAX, Gate
from broker.guard import Limits
from broker.rejections import Rejections
from evenpost.runtime import sockets
from evenpost.runtime.curve import PublicKey, Role
from evenpost.wire import codec
from evenpost.wire import messages as wire
from evenpost.wire.errors import Code, WireError
from tests.servers.attackers import connect, handshaken, message
from tests.servers.ports import free_port


class Bench:
    """A gate that notes what came through."""

    def __init__(self, may_wait: bool = True, **limits: float) -> None:
        self.address = ("127.0.0.1", free_port())
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.router = sockets.router(self.context, f"tcp://127.0.0.1:{self.address[1]}")
        self.rejections = Rejections()
        self.left: list[bytes] = []
        self.who: PublicKey | None = PublicKey(Role.CLIENT, "shop", "x" * 40)
        self.gate = Gate(
            "clients", self.context, self.router, Limits(**limits), self.rejections,  # type: ignore[arg-type]
            may_wait=may_wait, holder=self.holder, left=self.left.append,
        )  # fmt: skip
        self.came: list[tuple[bytes, list[bytes]]] = []

    def holder(self, _: zmq.Frame) -> PublicKey | None:
        return self.who

    def handle(self, peer: bytes, frames: list[bytes], who: PublicKey) -> None:
        assert who is self.who
        if frames[-1] == b"bad":
            raise WireError(Code.BAD_MESSAGE, "it is bad")
        self.came.append((peer, frames))

    def run(self, until: "object", seconds: float = 10.0) -> None:
        end = time.monotonic() + seconds
        while not until():  # type: ignore[operator]  # a lambda
            assert time.monotonic() < end, "it didn't happen"
            self.router.poll(10)
            self.gate.events()
            self.gate.receive(self.handle)

    def codes(self) -> dict[str, int]:
        return {code: kind.count for (_, code), kind in self.rejections._kinds.items()}


@pytest.fixture
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    made = Bench(**getattr(request, "param", {}))
    yield made
    made.gate.close()
    made.context.destroy(0)


def test_messages_come_through_and_answers_go_back(bench: Bench) -> None:
    with handshaken(bench.address) as raw:
        raw.sendall(message([b"one", b"body"]) * 3)
        bench.run(lambda: len(bench.came) == 3)
        peer, frames = bench.came[0]
        assert frames == [b"one", b"body"] and len({peer for peer, _ in bench.came}) == 1
        assert bench.gate.send(peer, [b"answer", b"x"])
        assert raw.recv(100) == message([b"answer", b"x"])
        assert len(bench.gate.guard) == 1
    bench.run(lambda: bench.left == [peer])
    assert len(bench.gate.guard) == 0 and not bench.gate.guard._accounts
    assert not bench.gate.send(peer, [b"answer"])


def test_who_has_no_right_any_more_is_cut_off_unheard(bench: Bench) -> None:
    with handshaken(bench.address) as raw:
        bench.who = None
        raw.sendall(message([b"one", b"body"]))
        bench.run(lambda: "revoked" in bench.codes())
        assert bench.came == []
        assert raw.recv(100) == b""


def test_a_mistake_is_answered_and_many_are_not(bench: Bench) -> None:
    header = codec.encode(wire.Done(), 7)[0]
    with handshaken(bench.address) as raw:
        raw.sendall(message([header, b"bad"]) * 500)
        bench.run(lambda: bench.codes().get("bad_message", 0) + bench.codes().get("busy", 0) >= 500)
        raw.settimeout(0.2)
        got = b""
        with pytest.raises(TimeoutError):
            while True:
                got += raw.recv(1 << 16)
    assert 1 <= got.count(b"it is bad") <= 30
    assert struct.pack("!Q", 7) in got


@pytest.mark.parametrize("bench", [{"messages_per_s": 20.0}], indirect=True)
def test_too_fast_is_busy(bench: Bench) -> None:
    header = codec.encode(wire.Done(), 7)[0]
    with handshaken(bench.address) as raw:
        raw.sendall(message([header, b"x"]) * 40)
        bench.run(lambda: len(bench.came) + bench.codes().get("busy", 0) == 40)
        assert 20 <= len(bench.came) < 40
        raw.settimeout(5)
        assert b"busy" in raw.recv(1000)


@pytest.mark.parametrize("bench", [{"messages_per_s": 20.0, "may_wait": False}], indirect=True)
def test_a_worker_of_which_something_was_lost_has_to_come_back(bench: Bench) -> None:
    """Its outcomes aren't sent again on the same connection, so it mustn't stay on it."""
    with handshaken(bench.address) as raw:
        raw.sendall(message([b"h", b"x"]) * 40)
        bench.run(lambda: len(bench.came) + bench.codes().get("busy", 0) == 40)
        time.sleep(0.1)  # one token comes back
        raw.sendall(message([b"h", b"last"]))
        bench.run(lambda: bool(bench.left))
    assert all(frames[1] == b"x" for _, frames in bench.came)


def test_too_many_frames_end_the_connection_and_nothing_else(bench: Bench) -> None:
    with handshaken(bench.address) as other, handshaken(bench.address) as raw:
        raw.sendall(message([b"h", b"b", b"c"]))
        bench.run(lambda: len(bench.came) == 1)
        assert bench.came[0][1] == [b"h", b"b", b""], "a few too many are the codec's to refuse"
        raw.sendall(message([b"x"] * (FRAMES_MAX + 100_000)))
        bench.run(lambda: bool(bench.left))
        other.sendall(message([b"still", b"here"]))
        bench.run(lambda: len(bench.came) == 2)
        assert bench.came[1][1] == [b"still", b"here"]
        raw.settimeout(5)
        try:
            while raw.recv(1000):
                pass
        except ConnectionResetError:
            pass
    assert bench.codes()["frames"] == 1


@pytest.mark.parametrize("bench", [{"connections_max": 3}], indirect=True)
def test_connections_are_bounded(bench: Bench) -> None:
    kept = [handshaken(bench.address) for _ in range(3)]
    for raw in kept:
        raw.sendall(message([b"h", b"x"]))
    bench.run(lambda: len(bench.came) == 3)
    try:
        fourth = handshaken(bench.address)
    except OSError:
        pass
    else:
        bench.run(lambda: bench.codes().get("connections") == 1)
        fourth.close()
    bench.run(lambda: len(bench.gate.connections) == 3)
    for raw in kept:
        raw.sendall(message([b"h", b"y"]))
    bench.run(lambda: len(bench.came) == 6)
    for raw in kept:
        raw.close()


@pytest.mark.parametrize("bench", [{"connections_max": 3}], indirect=True)
def test_who_says_nothing_keeps_nobody_out(bench: Bench) -> None:
    """Not even a handshake is needed to take all connections: with CURVE, no key."""
    speaks = handshaken(bench.address)
    speaks.sendall(message([b"h", b"first"]))
    bench.run(lambda: len(bench.came) == 1)
    silent = [connect(bench.address) for _ in range(2)]
    bench.run(lambda: len(bench.gate.connections) == 3)
    for number in range(3):
        late = handshaken(bench.address)
        for word in (b"late", b"and again"):
            late.sendall(message([b"h", word + b"%d" % number]))
            bench.run(lambda said=word + b"%d" % number: bench.came[-1][1][-1] == said)  # type: ignore[misc]  # bound now
        late.close()
        silent.append(connect(bench.address))
        bench.run(lambda: len(bench.gate.connections) == 3)
    speaks.sendall(message([b"h", b"still here"]))
    bench.run(lambda: bench.came[-1][1][-1] == b"still here")
    assert bench.codes()["connections"] >= 3
    for raw in (speaks, *silent):
        raw.close()


@pytest.mark.parametrize("bench", [{"connections_max": 4}], indirect=True)
def test_one_key_does_not_take_all_connections(bench: Bench) -> None:
    shop = [handshaken(bench.address) for _ in range(4)]
    for raw in shop:
        raw.sendall(message([b"h", b"x"]))
    bench.run(lambda: len(bench.gate.connections) == 3 and bench.codes().get("connections") == 1)
    bench.who = PublicKey(Role.CLIENT, "other", "y" * 40)
    other = handshaken(bench.address)
    for word in (b"one", b"two"):
        other.sendall(message([b"h", word]))
        bench.run(lambda word=word: bench.came[-1][1][-1] == word)  # type: ignore[misc]  # bound now
    for raw in (*shop, other):
        raw.close()


def test_the_kernel_tells_what_nobody_has_read(bench: Bench) -> None:
    """A message that isn't whole is in ZeroMQ's memory; shedding ends its connection and no other."""
    with handshaken(bench.address) as honest, handshaken(bench.address) as raw:
        for each in (honest, raw):
            each.sendall(message([b"h", b"x"]))
        bench.run(lambda: len(bench.came) == 2)
        honest.sendall(message([b"h", bytes(3_000_000)]))
        bench.run(lambda: len(bench.came) == 3)
        raw.sendall(message([b"h", bytes(3_000_000)])[:-1])

        def unread() -> list[int]:
            return sorted(backlog.unread for backlog in bench.gate.connections.backlogs())

        bench.run(lambda: unread()[1] > 2_900_000)
        assert unread()[0] < 200
        bench.gate.shed()
        bench.run(lambda: bool(bench.left))
        assert bench.left == [bench.came[1][0]] or bench.left == [bench.came[0][0]]
        honest.sendall(message([b"h", b"last"]))
        bench.run(lambda: len(bench.came) == 4)
    assert bench.codes() == {"memory": 1}


def test_the_kernel_tells_what_a_peer_does_not_take(bench: Bench) -> None:
    with handshaken(bench.address) as raw:
        raw.sendall(message([b"h", b"x"]))
        bench.run(lambda: len(bench.came) == 1)
        for _ in range(20):
            assert bench.gate.send(bench.came[0][0], [b"h", bytes(1_000_000)])
        (backlog,) = bench.gate.connections.backlogs()
        assert backlog.unsent > 10_000_000 and backlog.unread < 200
