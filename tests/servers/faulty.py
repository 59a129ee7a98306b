"""An SMTP server in a test's own loop: keeps to the protocol but for one stage, where it does as it is told.

It remembers which messages it took, whatever it said about them: the book against which outcomes are held.
"""

import asyncio
import contextlib
import socket
import ssl
import struct
from collections import Counter
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

STAGES = ("banner", "ehlo", "starttls", "auth", "mail", "rcpt", "data", "content", "dot")
RECEIVE_BUFFER_BYTES = 32 * 1024
"""Of the kernel: so that a server that stops reading is felt after some hundred kilobytes, not megabytes."""
READ_OF_CONTENT_BYTES = 64 * 1024


class _GoneError(Exception):
    """The conversation is over."""


class FaultyServer:
    """`async with FaultyServer("dot", "hang") as server:`; `server.heal()` makes it honest."""

    def __init__(
        self,
        stage: str,
        behaviour: str,
        *,
        pipelining: bool = True,
        chunking: bool = False,
        context: ssl.SSLContext | None = None,
    ) -> None:
        self._stage = stage
        self._behave = BEHAVIOURS[behaviour]
        self._is_faulty = True
        self._context = context
        extensions = ["STARTTLS"] if stage == "starttls" else []
        extensions += ["AUTH PLAIN LOGIN"] if stage == "auth" else []
        extensions += ["PIPELINING"] if pipelining else []
        extensions += ["CHUNKING"] if chunking else []
        self._extensions = extensions
        self._released = asyncio.Event()
        self._writers: set[asyncio.StreamWriter] = set()
        self.taken: Counter[int] = Counter()
        """How often each message, by the number that its recipient begins with, was taken for good."""
        self.port = 0

    def heal(self) -> None:
        self._is_faulty = False

    async def __aenter__(self) -> Self:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        sock.bind(("127.0.0.1", 0))
        self._server = await asyncio.start_server(self._talk, sock=sock, limit=READ_OF_CONTENT_BYTES)
        self.port = sock.getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._released.set()
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()

    # -- the conversation ---------------------------------------------------------------------

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        with contextlib.suppress(_GoneError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            await _Conversation(self, reader, writer).hold()
        writer.close()

    async def fault(self, stage: str, reply: bytes, writer: asyncio.StreamWriter) -> None:
        """Says `reply`, or does what it was told to do at this stage."""
        if self._is_faulty and stage == self._stage:
            await self._behave(self, reply, writer)
        else:
            writer.write(reply)

    async def hang(self) -> None:
        await self._released.wait()
        raise _GoneError


class _Conversation:
    def __init__(
        self, server: FaultyServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._server, self._reader, self._writer = server, reader, writer
        self._has_tls = False

    async def hold(self) -> None:
        server = self._server
        await self._say("banner", b"220 mx.test ESMTP\r\n")
        key, mail = 0, False
        while not self._writer.is_closing():  # after a 421 nothing more is looked at, though it may be here
            line = (await self._reader.readuntil(b"\r\n"))[:-2]
            verb = line[:4].upper()
            if verb == b"EHLO":
                names = [n for n in server._extensions if n != "STARTTLS" or not self._has_tls]
                lines = [b"mx.test", *(name.encode() for name in names)]
                await self._say(
                    "ehlo", b"".join(b"250-%b\r\n" % each for each in lines[:-1]) + b"250 %b\r\n" % lines[-1]
                )
            elif verb == b"HELO":
                self._writer.write(b"250 mx.test\r\n")
            elif verb == b"STAR":
                await self._say("starttls", b"220 2.0.0 go\r\n")
                await self._writer.drain()
                assert server._context is not None
                await self._writer.start_tls(server._context)
                self._has_tls = True
            elif verb == b"AUTH":
                await self._say("auth", b"235 2.7.0 welcome\r\n")
            elif verb == b"MAIL":
                mail = await self._say("mail", b"250 2.1.0 ok\r\n")
            elif verb == b"RCPT":
                named = int(line.split(b"<")[1].split(b"@")[0])
                key = named if await self._say("rcpt", b"250 2.1.5 ok\r\n") else 0
            elif verb == b"DATA":
                if not mail or not key:
                    self._writer.write(b"503 5.5.1 MAIL and RCPT first\r\n")
                    continue
                if await self._say("data", b"354 go\r\n"):
                    await self._content(key)
                key, mail = 0, False
            elif verb == b"BDAT":
                await self._reader.readexactly(int(line.split()[1]))
                if not mail or not key:
                    self._writer.write(b"503 5.5.1 MAIL and RCPT first\r\n")
                    continue
                await self._take(key)
                key, mail = 0, False
            elif verb == b"RSET":
                key, mail = 0, False
                self._writer.write(b"250 2.0.0 ok\r\n")
            elif verb == b"QUIT":
                self._writer.write(b"221 2.0.0 bye\r\n")
                return
            else:
                self._writer.write(b"500 5.5.2 what?\r\n")

    async def _content(self, key: int) -> None:
        tail = b"\r\n"
        size = 0
        while not tail.endswith(b"\r\n.\r\n"):
            data = await self._reader.readuntil(b"\n")
            size += len(data)
            tail = (tail + data)[-5:]
            if self._server._stage == "content" and size > READ_OF_CONTENT_BYTES and self._server._is_faulty:
                await self._say("content", b"250 2.0.0 taken, as far as I am concerned\r\n")
                await self._server.hang()
        await self._take(key)

    async def _take(self, key: int) -> None:
        self._server.taken[key] += 1
        if not await self._say("dot", b"250 2.0.0 taken\r\n"):
            self._server.taken[key] -= 1

    async def _say(self, stage: str, reply: bytes) -> bool:
        """False where the server says no, and keeps to it."""
        try:
            await self._server.fault(stage, reply, self._writer)
        except _RefusedError:
            if stage == "starttls":
                raise _GoneError from None
            return False
        return True


class _RefusedError(Exception):
    """The server said no."""


# -- what it may do -----------------------------------------------------------------------------

Behaviour = Callable[[FaultyServer, bytes, asyncio.StreamWriter], Awaitable[None]]


async def _reset(server: FaultyServer, reply: bytes, writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # RST instead of FIN
    writer.transport.abort()
    raise _GoneError


async def _close(server: FaultyServer, reply: bytes, writer: asyncio.StreamWriter) -> None:
    writer.close()
    raise _GoneError


async def _hang(server: FaultyServer, reply: bytes, writer: asyncio.StreamWriter) -> None:
    await server.hang()


async def _half(server: FaultyServer, reply: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(reply[:-2])
    await server.hang()


async def _huge_line(server: FaultyServer, reply: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(reply[:4] + b"x" * 100_000)
    await server.hang()


async def _endless(server: FaultyServer, reply: bytes, writer: asyncio.StreamWriter) -> None:
    for _ in range(40):
        writer.write((reply[:3] + b"-and another thing\r\n") * 2_000)
        await writer.drain()
    await server.hang()


async def _long(server: FaultyServer, reply: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write((reply[:3] + b"-" + b"x" * 20 + b"\r\n") * 4_000 + reply)


async def _tiny(server: FaultyServer, reply: bytes, writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for number in range(len(reply)):
        writer.write(reply[number : number + 1])
        await writer.drain()
        await asyncio.sleep(0.001)


async def _binary(server: FaultyServer, reply: bytes, writer: asyncio.StreamWriter) -> None:
    last = reply.rstrip(b"\r\n").rfind(b"\n") + 5
    writer.write(reply[:last] + b"\0\x1b[2J\x9b31m\xff\xfe\x07 " + reply[last:])


async def _slow(server: FaultyServer, reply: bytes, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(0.2)
    writer.write(reply)


async def _twice(server: FaultyServer, reply: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(reply + reply)


async def _early(server: FaultyServer, reply: bytes, writer: asyncio.StreamWriter) -> None:
    """An answer to what hasn't been asked yet."""
    writer.write(reply + b"250 2.0.0 and the next one is taken too\r\n")


def _says(said: bytes, *, hangs_up: bool = False) -> Behaviour:
    async def say(server: FaultyServer, reply: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(said)
        if hangs_up:
            await writer.drain()
            writer.close()
        if said[:1] in b"45":
            raise _RefusedError

    return say


BEHAVIOURS: dict[str, Behaviour] = {
    "reset": _reset,
    "close": _close,
    "hang": _hang,
    "half": _half,
    "huge": _huge_line,
    "endless": _endless,
    "long": _long,
    "tiny": _tiny,
    "binary": _binary,
    "slow": _slow,
    "twice": _twice,
    "early": _early,
    "nonsense": _says(b"\x16\x03\x01 HTTP/1.1 400 Bad Request\r\n\r\n"),
    "mixed": _says(b"250-yes\r\n550 no\r\n"),
    "421": _says(b"421 4.3.2 closing down\r\n", hangs_up=True),
    "451": _says(b"451 4.7.1 later, perhaps\r\n"),
    "550": _says(b"550 5.7.1 never\r\n"),
    "354": _says(b"354 go\r\n"),
    "334": _says(b"334 \r\n"),
    "199": _says(b"199 what\r\n"),
}
