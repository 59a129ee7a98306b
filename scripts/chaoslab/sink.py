"""SMTP servers that write down what they took, before they say so.

One process is all of a run's servers: `python -m scripts.chaoslab.sink BOOK SERVERS SERVICE_S`. It prints its
ports on one line and ends when its standard input closes. A message is taken once its final dot is here:
whether its client still lives to hear the 250 makes no difference, as with a real server. So it is written
into the book (one os.write, which outlives every other process) in front of the 250.

Of the time that a message takes, DOT_SHARE lies between the final dot and the 250, as in a real server that
puts the message on its disk there; that is where copies come from. The rest is in front of the 354. Each
second server has CHUNKING: all of that time lies behind the last byte, and whole messages wait before it.
"""

import asyncio
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

from scripts.smtp_sink import BYE, EHLO, EHLO_CHUNKING, OK, SinkConnection, standard_input

DOT_SHARE = 0.3
BOUNCE = b"bounce-"
"""Recipients whose address begins so are refused for good."""
_ID = b"\r\nmessage-id:"


class Book:
    """Lines of server, Message-ID and address."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def take(self, server: int, message_id: bytes, address: bytes) -> None:
        os.write(self._fd, b"%d\t%s\t%s\n" % (server, message_id, address))


class Connection(SinkConnection):
    def __init__(self, server: int, book: Book, service_s: float) -> None:
        super().__init__()
        self._server, self._book = server, book
        self._dot_s = service_s * DOT_SHARE
        self._data_s = service_s - self._dot_s
        self._is_chunked = server % 2 == 1
        self._ehlo = EHLO_CHUNKING if self._is_chunked else EHLO
        self._recipient = b""

    def _after(self, seconds: float, then: Callable[[], None]) -> None:
        self._is_waiting = True

        def go_on() -> None:
            self._is_waiting = False
            then()
            self._advance()

        self._loop.call_later(seconds, go_on)

    def _command(self, line: bytes) -> None:
        match line[:4].upper():
            case b"EHLO":
                self._out.append(self._ehlo)
            case b"RCPT":
                self._recipient = line[line.index(b"<") + 1 : line.rindex(b">")]
                if self._recipient.startswith(BOUNCE):
                    self._recipient = b""
                    self._out.append(b"550 5.1.1 No such user\r\n")
                else:
                    self._out.append(b"250 2.1.5 Ok\r\n")
            case b"DATA":
                if not self._recipient:
                    self._out.append(b"554 5.5.1 No valid recipients\r\n")
                else:
                    self._in_data = True
                    self._after(self._data_s, lambda: self._out.append(b"354 Go on\r\n"))
            case b"QUIT":
                self._out.append(BYE)
            case _:
                self._out.append(OK)

    def _message(self, head: bytes) -> None:
        if not self._recipient:
            self._out.append(b"503 5.5.1 No valid recipients\r\n")
        elif self._is_chunked:
            self._after(self._data_s, lambda: self._keep(head))
        else:
            self._keep(head)

    def _keep(self, head: bytes) -> None:
        # Taken: from here on nothing that happens to the client takes it back.
        self._book.take(self._server, message_id_of(head), self._recipient)
        self._recipient = b""
        self._after(self._dot_s, lambda: self._out.append(OK))


def message_id_of(head: bytes) -> bytes:
    """What stands between the angle brackets of a message's Message-ID; empty where it has none."""
    at = (b"\r\n" + head).lower().find(_ID)
    line = head[at:].partition(b"\r\n")[0] if at >= 0 else b""
    return line.partition(b"<")[2].partition(b">")[0]


async def _serve(path: Path, servers: int, service_s: float) -> None:
    loop = asyncio.get_running_loop()
    book = Book(path)
    listening = []
    ports = []
    for number in range(servers):
        listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        ports.append(listener.getsockname()[1])
        made = await loop.create_server(
            lambda number=number: Connection(number, book, service_s),  # type: ignore[misc]  # a default binds it
            sock=listener,
        )
        listening.append(made)
    print(*ports, flush=True)
    await (await standard_input()).read()
    for made in listening:
        made.close()


if __name__ == "__main__":
    import uvloop

    uvloop.run(_serve(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))
