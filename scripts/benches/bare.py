"""The limit of a part of the budget: what the calls cost, on this machine and just now, that no mailer of
this design can leave out, with nothing around them.

Each figure is CPU in microseconds a message, the median of a few rounds.
"""

import os
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import apsw
import msgpack
import zmq

from evenpost.wire import codec
from evenpost.wire import messages as wire
from scripts.benches.processes import ROOT

_ROUNDS = 9
_BATCH = 50
"""Messages of a batch, and of a report."""
_GROUP = 2_000
"""Rows in one transaction."""
_MESSAGE = 4_856
"""Bytes, as scripts.benches.processes.newsletter makes them."""
_WRITE = 65_536
_REPLIES = b"250 2.1.0 Ok\r\n250 2.1.5 Ok\r\n354 End data with <CR><LF>.<CR><LF>\r\n250 2.0.0 Ok\r\n"


def worker_limits() -> dict[str, float]:
    """By part of scripts.benches.budget.WORKER."""
    return {
        "composing": _composing(),
        "writing to sockets": _writing(),
        "SMTP protocol": _replies(),
        "outcome log": _appending(),
        "session and broker": _codec(_batch(), from_broker=False) + _zmq(len(codec.encode(_outcomes())[1])),
        "event loop, reading from sockets": _reading(),
    }


def broker_limits() -> dict[str, float]:
    """By part of scripts.benches.budget.BROKER."""
    statements, flushing = _journal()
    return {
        "sockets and codec": _codec(_batch(), from_broker=True) + _zmq(len(codec.encode(_batch())[1])),
        "journal: statements": statements,
        "journal: the thread that flushes": flushing,
    }


MEANS = {
    "worker": {
        "composing": "three values, escaped, put between constant pieces, and one encode",
        "writing to sockets": f"send(2) on loopback, {_WRITE:,} bytes at a time",
        "SMTP protocol": "the replies of 13 messages cut into lines",
        "outcome log": f"a row packed; write(2) of {_BATCH} rows at a time",
        "session and broker": f"a batch of {_BATCH} decoded, its outcomes encoded, one send to ZeroMQ",
        "event loop, reading from sockets": "recv(2) of the replies of 13 messages",
    },
    "broker": {
        "sockets and codec": f"a batch of {_BATCH} encoded, its outcomes decoded, one send to ZeroMQ",
        "journal: statements": "SQLite: one insert, one row of a range read, one update; no index",
        "journal: the thread that flushes": f"COMMIT, synchronous=FULL, {_GROUP:,} rows at a time",
    },
}
"""What each limit is made of, by role and part."""


def _median(messages: int, work: Callable[[], object]) -> float:
    def once() -> float:
        began = time.thread_time()
        work()
        return time.thread_time() - began

    return statistics.median(once() for _ in range(_ROUNDS)) / messages * 1e6


def _composing() -> float:
    constant = ["x" * (_MESSAGE // 8)] * 8
    values = [("Anna7", "Hamburg", f"{n:08x}", f"user{n}@example.com") for n in range(1_000)]

    def compose() -> None:
        for name, city, token, address in values:
            one, two, three = (
                part.replace("&", "&amp;").replace("<", "&lt;") for part in (name, city, token)
            )
            parts = [one, two, three, address, one, two, three, address]
            "".join([piece for pair in zip(constant, parts, strict=True) for piece in pair]).encode()

    return _median(len(values), compose)


def _loopback() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        one = socket.create_connection(listener.getsockname())
        return one, listener.accept()[0]


def _writing() -> float:
    one, other = _loopback()
    with one, other:
        reader = threading.Thread(target=_read_all, args=(other,))
        reader.start()
        piece, pieces = bytes(_WRITE), 200

        def write() -> None:
            for _ in range(pieces):
                one.sendall(piece)

        found = _median(pieces * _WRITE // _MESSAGE, write)
        one.shutdown(socket.SHUT_WR)
        reader.join()
    return found


def _read_all(from_: socket.socket) -> None:
    space = bytearray(1 << 20)
    while from_.recv_into(space):
        pass


def _reading() -> float:
    one, other = _loopback()
    replies, times = _REPLIES * 13, 500
    used = 0.0
    with one, other:
        for _ in range(times):
            one.sendall(replies)
            began = time.thread_time()
            other.recv(1 << 16)
            used += time.thread_time() - began
    return used / (13 * times) * 1e6


def _replies() -> float:
    replies = _REPLIES * 13
    return _median(13 * 200, lambda: [replies.split(b"\r\n") for _ in range(200)])


def _appending() -> float:
    row = [1 << 32, 1, 7, 1, "sent", "recipient", 250, "2.0.0 Ok", 1_790_000_000_000, 1_790_000_000_001]
    with tempfile.NamedTemporaryFile(dir=ROOT, prefix=".bench-") as file:
        descriptor = file.fileno()

        def append() -> None:
            for _ in range(100):
                os.write(descriptor, b"".join([msgpack.packb(row) for _ in range(_BATCH)]))

        return _median(100 * _BATCH, append)


def _batch() -> wire.Batch:
    values = codec.pack_values(["Anna7", "Hamburg", "00000001"])
    return wire.Batch(
        1 << 32, 1, [wire.BatchItem(n, 1, f"user{n}@example{n}.com", values) for n in range(_BATCH)]
    )


def _outcomes() -> wire.Outcomes:
    now = 1_790_000_000_000
    rows = [
        wire.Outcome(1 << 32, 1, n, 1, "sent", "recipient", 250, "2.0.0 Ok", now, now) for n in range(_BATCH)
    ]
    return wire.Outcomes(0, rows, [1 << 32])


def _codec(batch: wire.Batch, *, from_broker: bool) -> float:
    """Both messages, as the one side or the other has to treat them."""
    outcomes = _outcomes()
    ours, theirs = (batch, outcomes) if from_broker else (outcomes, batch)
    body = {name: getattr(ours, name) for name in ours.__struct_fields__}
    key = "items" if from_broker else "rows"
    body[key] = [tuple(getattr(row, name) for name in row.__struct_fields__) for row in body[key]]
    come, allowed = codec.encode(theirs), wire.FROM_WORKER if from_broker else wire.TO_WORKER

    def both() -> None:
        for _ in range(100):
            codec.encode_raw(ours.TYPE, body)
            codec.decode(come, allowed)

    return _median(100 * _BATCH, both)


def _zmq(size: int) -> float:
    """A message of this size given to ZeroMQ's thread and one taken from it, not what that thread does."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    with context.socket(zmq.DEALER) as one, context.socket(zmq.DEALER) as other:
        port = one.bind_to_random_port("tcp://127.0.0.1")
        other.connect(f"tcp://127.0.0.1:{port}")
        frame = bytes(size)

        def there_and_back() -> None:
            for _ in range(200):
                other.send_multipart([b"header", frame])
                one.recv_multipart()

        there_and_back()
        found = _median(200 * _BATCH, there_and_back)
    context.term()
    return found


def _journal() -> tuple[float, float]:
    """Statements; COMMIT."""
    rows = 20 * _GROUP
    statements_s = flushing_s = 0.0
    with tempfile.TemporaryDirectory(dir=ROOT, prefix=".bench-") as folder:
        db = apsw.Connection(str(Path(folder) / "bare.db"))
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA wal_autocheckpoint = 4000")
        db.execute("CREATE TABLE message (id INTEGER PRIMARY KEY, address, fields, state, at)")
        values = codec.pack_values(["Anna7", "Hamburg", "00000001"])
        insert = "INSERT INTO message VALUES (?, ?, ?, 0, NULL)"
        update = "UPDATE message SET state = 3, at = ?2 WHERE id = ?1"
        select = "SELECT id, address, fields FROM message WHERE id >= ? AND id < ?"
        for first in range(0, rows, _GROUP):
            new = [(n, f"user{n}@example{n % 97}.com", values) for n in range(first, first + _GROUP)]
            done = [(n, 1_790_000_000_000) for n in range(first, first + _GROUP)]
            for sql, bindings in ((insert, new), (update, done)):
                began = time.thread_time()
                db.execute("BEGIN IMMEDIATE")
                db.executemany(sql, bindings)
                applied = time.thread_time()
                db.execute("COMMIT")
                statements_s += applied - began
                flushing_s += time.thread_time() - applied
            began = time.thread_time()
            db.execute(select, (first, first + _GROUP)).fetchall()
            statements_s += time.thread_time() - began
        db.close()
    return statements_s / rows * 1e6, flushing_s / rows * 1e6
