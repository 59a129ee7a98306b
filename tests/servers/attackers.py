"""Peers that mean no good, each at a bounded rate: raw sockets that speak as much ZMTP as they need.

As a program, `python -m tests.servers.attackers KIND HOST:PORT --rate 2000`, it attacks at the lowest
priority until it is killed: two cores are shared, and only what it costs the broker is to count.
"""

import argparse
import contextlib
import os
import random
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator

from evenpost.wire import codec
from evenpost.wire import messages as wire

GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
_READY = b"\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER\x08Identity\x00\x00\x00\x00"
READY = b"\x04" + bytes([len(_READY)]) + _READY
MORE = 1


def frame(body: bytes, more: bool = False) -> bytes:
    """A ZMTP 3 message frame."""
    flags = MORE if more else 0
    if len(body) < 256:
        return bytes([flags, len(body)]) + body
    return bytes([flags | 2]) + struct.pack("!Q", len(body)) + body


def message(frames: list[bytes]) -> bytes:
    return b"".join(frame(body, number < len(frames) - 1) for number, body in enumerate(frames))


def connect(address: tuple[str, int]) -> socket.socket:
    return socket.create_connection(address, 10)


def handshaken(address: tuple[str, int]) -> socket.socket:
    """A connection that has introduced itself as a DEALER, without keys."""
    made = connect(address)
    made.sendall(GREETING + READY)
    came = b""
    while len(came) < len(GREETING) + 2:
        some = made.recv(4096)
        if not some:
            raise ConnectionResetError("the handshake was refused")
        came += some
    return made


class Talker:
    """One connection that is made anew whenever the broker ends it; what comes back is read and forgotten."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address
        self._socket: socket.socket | None = None

    def send(self, data: bytes) -> None:
        try:
            if self._socket is None:
                self._socket = handshaken(self._address)
            self._socket.sendall(data)
            while select.select([self._socket], [], [], 0)[0]:
                if not self._socket.recv(1 << 16):
                    raise ConnectionResetError
        except OSError:
            if self._socket is not None:
                self._socket.close()
            self._socket = None


Attack = Callable[[tuple[str, int], random.Random], Iterator[None]]
"""One step of the attack at each `next`."""


def garbage(address: tuple[str, int], chance: random.Random) -> Iterator[None]:
    """Bytes that are no ZMTP."""
    while True:
        with contextlib.suppress(OSError), connect(address) as raw:
            raw.sendall(chance.choice([b"GET / HTTP/1.1\r\n\r\n", chance.randbytes(500), b"\xff\0\0"]))
        yield


def half_handshakes(address: tuple[str, int], chance: random.Random) -> Iterator[None]:
    """Greetings that end in the middle; up to 500 of them are kept open."""
    kept: list[socket.socket] = []
    while True:
        with contextlib.suppress(OSError):
            kept.append(connect(address))
            kept[-1].sendall(GREETING[: chance.randrange(len(GREETING))])
        if len(kept) > 500:
            kept.pop(0).close()
        yield


def slow(address: tuple[str, int], chance: random.Random) -> Iterator[None]:
    """500 connections that say a byte of their greeting each second."""
    kept: list[tuple[socket.socket, int]] = []
    while True:
        if len(kept) < 500:
            with contextlib.suppress(OSError):
                kept.append((connect(address), 0))
            yield
            continue
        began = time.monotonic()
        for number, (raw, at) in enumerate(kept):
            try:
                raw.sendall(GREETING[at : at + 1])
                kept[number] = (raw, (at + 1) % len(GREETING))
            except OSError:
                raw.close()
                with contextlib.suppress(OSError):
                    kept[number] = (connect(address), 0)
        while time.monotonic() - began < 1:
            yield


def churn(address: tuple[str, int], _: random.Random) -> Iterator[None]:
    """Connections that introduce themselves, ask once and go."""
    hello = message(codec.encode(wire.Hello("x")))
    while True:
        with contextlib.suppress(OSError), handshaken(address) as made:
            made.sendall(hello)
        yield


def _talk(address: tuple[str, int], make: Callable[[], bytes]) -> Iterator[None]:
    talker = Talker(address)
    while True:
        talker.send(make())
        yield


def requests(address: tuple[str, int], chance: random.Random) -> Iterator[None]:
    """Small requests that are right."""
    kinds = [wire.Hello("x"), wire.Status("nothing"), wire.Servers(), wire.Pause("nothing"), wire.Status()]
    return _talk(address, lambda: message(codec.encode(chance.choice(kinds), chance.randrange(1, 2**40))))


def questions(address: tuple[str, int], chance: random.Random) -> Iterator[None]:
    """Questions that make the journal read, and watches without end."""
    kinds = [wire.Status(limit=1000), wire.Trace("user1@example1.com"), wire.Watch(interval_s=0.05)]
    return _talk(address, lambda: message(codec.encode(chance.choice(kinds), chance.randrange(1, 2**40))))


def garbage_frames(address: tuple[str, int], chance: random.Random) -> Iterator[None]:
    """Messages that aren't ours, or whose body isn't what its type says."""
    header = codec.encode(wire.Status())[0]

    def make() -> bytes:
        body = chance.randbytes(chance.randrange(200))
        other = header[:3] + bytes([chance.randrange(256)]) + header[4:]
        return message(chance.choice([[body], [header, body], [other, body], [other] * 5, [b"", b""]]))

    return _talk(address, make)


def bombs(address: tuple[str, int], _: random.Random) -> Iterator[None]:
    """Chunks that would be nine million lists."""
    count = 9_000_000
    body = b"\x83\xa8campaign\xa1c\xa5chunk\x00\xa4rows\xdd" + struct.pack("!I", count) + b"\x90" * count
    bomb = message([codec.encode_raw(wire.Type.RECIPIENTS, {})[0], body])
    return _talk(address, lambda: bomb)


def huge_frames(address: tuple[str, int], chance: random.Random) -> Iterator[None]:
    """Frames as large as a frame may be, and larger."""
    header = codec.encode(wire.Status())[0]
    fits, too_large = message([header, bytes(39 << 20)]), message([header, bytes(41 << 20)])
    return _talk(address, lambda: chance.choice([fits, too_large]))


def many_frames(address: tuple[str, int], chance: random.Random) -> Iterator[None]:
    """Messages of very many frames; most of them have no end."""
    some = frame(b"", more=True) * 1_000
    return _talk(address, lambda: some + (frame(b"") if chance.random() < 0.1 else b""))


ATTACKS: dict[str, tuple[Attack, float]] = {
    "garbage": (garbage, 300.0),
    "half_handshakes": (half_handshakes, 300.0),
    "slow": (slow, 300.0),
    "churn": (churn, 200.0),
    "requests": (requests, 2_000.0),
    "questions": (questions, 2_000.0),
    "garbage_frames": (garbage_frames, 2_000.0),
    "bombs": (bombs, 2.0),
    "huge_frames": (huge_frames, 2.0),
    "many_frames": (many_frames, 10.0),
}
"""Each with its steps a second: 2,000 messages where it is messages, less where a step is a connection or
has megabytes, or thousands of frames."""


def attack(kind: str, address: tuple[str, int], rate: float, seed: int) -> None:
    """Attacks until somebody ends this process."""
    made, _ = ATTACKS[kind]
    steps = made(address, random.Random(seed))
    began = time.monotonic()
    for number, _ in enumerate(steps, 1):
        wait_s = began + number / rate - time.monotonic()
        if wait_s > 0:
            time.sleep(wait_s)
        elif wait_s < -1:
            began -= wait_s  # it can't keep up: what was missed isn't made up for in a burst


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=ATTACKS)
    parser.add_argument("address", help="HOST:PORT")
    parser.add_argument("--rate", type=float)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    host, _, port = given.address.rpartition(":")
    os.nice(19)
    attack(given.kind, (host, int(port)), given.rate or ATTACKS[given.kind][1], given.seed)


if __name__ == "__main__":
    main()
