"""The broker's control socket: a Unix socket beside the journal, for its owner on this host.

What is asked here names files of the broker's host, so it is nothing for clients, who come over the network.
One line of JSON asks; lines of JSON answer, the last of them with `done` or `error`.
"""

import contextlib
import os
import socket
import stat
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

ASKERS_MAX = 4
LINE_BYTES_MAX = 8 * 1024
"""A path has at most 4,096 bytes; JSON may double them."""
PATIENCE_S = 5.0
"""So long may a question take to come, and an answer to be taken."""
_ADDRESS_BYTES_MAX = 107
"""Of the address of a Unix socket (unix(7))."""


class Question(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Copy the journal to this file, an absolute path on the broker's host."""

    backup: str
    force: bool = False


class Progress(msgspec.Struct, frozen=True, omit_defaults=True):
    pages: int = 0
    copied: int = 0
    done: bool = False
    bytes: int = 0
    error: str = ""


class Asker:
    """Who asked; `tell` it how far its question is."""

    def __init__(self, connection: socket.socket, until: float) -> None:
        self.connection = connection
        self.until = until
        self.question: Question | None = None
        self.received = b""
        self.gone = False

    def tell(self, progress: Progress) -> None:
        if self.gone:
            return
        try:
            # A few bytes a turn: who doesn't read them for as long as it takes to fill the buffer has gone.
            self.connection.sendall(msgspec.json.encode(progress) + b"\n")
        except OSError:
            self.leave()

    def leave(self) -> None:
        self.gone = True
        self.connection.close()


Ask = Callable[[Question, Asker, float], None]


class Control:
    """Looked at once a tick: nobody is in a hurry here."""

    def __init__(self, journal: Path, ask: Ask) -> None:
        """Takes the place of a socket that a dead broker left: the journal is ours. Raises OSError."""
        self._file = control_file(journal)
        self._ask = ask
        self._askers: list[Asker] = []
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISSOCK(self._file.lstat().st_mode):
                raise OSError(f"{self._file} is there and isn't a socket")
            self._file.unlink()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        before = os.umask(0o177)
        try:
            with _address(self._file) as address:
                self._listener.bind(address)
            self._listener.listen(ASKERS_MAX)
        except OSError:
            self._listener.close()
            raise
        finally:
            os.umask(before)

    def tick(self, now: float) -> None:
        """Takes what came in. `now`: monotonic seconds."""
        with contextlib.suppress(OSError):  # nobody is there, or has gone already
            while len(self._askers) < ASKERS_MAX:
                connection, _ = self._listener.accept()
                if _user_of(connection) not in (0, os.geteuid()):
                    connection.close()
                    continue
                connection.setblocking(False)
                self._askers.append(Asker(connection, now + PATIENCE_S))
        for asker in self._askers:
            self._receive(asker, now)
        self._askers = [asker for asker in self._askers if not asker.gone]

    def _receive(self, asker: Asker, now: float) -> None:
        if asker.gone:
            return
        try:
            received = asker.connection.recv(LINE_BYTES_MAX)
        except BlockingIOError:
            if asker.question is None and now > asker.until:
                asker.leave()
            return
        except OSError:
            received = b""
        if not received:
            asker.leave()
            return
        if asker.question is not None:
            return  # more than one question: only the first one counts
        asker.received += received
        line, end, _ = asker.received.partition(b"\n")
        if not end:
            if len(asker.received) > LINE_BYTES_MAX:
                asker.leave()
            return
        try:
            asker.question = msgspec.json.decode(line, type=Question)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            asker.tell(Progress(error=f"not understood: {error}"))
            asker.leave()
            return
        self._ask(asker.question, asker, now)

    def close(self) -> None:
        for asker in self._askers:
            asker.leave()
        self._listener.close()
        self._file.unlink(missing_ok=True)


def control_file(journal: Path) -> Path:
    return journal.with_name(journal.name + ".control")


def ask(journal: Path, question: Question) -> Iterator[Progress]:
    """What the broker of this journal answers, until its last word. Raises OSError where there is none, and
    EOFError where it goes before that."""
    with contextlib.ExitStack() as stack:
        connection = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        with _address(control_file(journal)) as address:
            connection.connect(address)
        connection.sendall(msgspec.json.encode(question) + b"\n")
        lines = stack.enter_context(connection.makefile("rb"))
        for line in lines:
            progress = msgspec.json.decode(line, type=Progress)
            yield progress
            if progress.done or progress.error:
                return
    raise EOFError


@contextlib.contextmanager
def _address(file: Path) -> Iterator[str]:
    """What the kernel takes for a socket's path: a long one goes by way of its folder's descriptor."""
    if len(os.fsencode(file)) <= _ADDRESS_BYTES_MAX:
        yield str(file)
        return
    folder = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{file.name}"
    finally:
        os.close(folder)


def _user_of(connection: socket.socket) -> int:
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    user: int = struct.unpack("3i", credentials)[1]
    return user
