"""What SMTP servers of ours that take whatever they are sent have in common. They offer PIPELINING, and know
BDAT where they say so.

scripts.chaoslab.sink writes down what it took; scripts.benches.paced_sink keeps to a time for each message.
"""

import asyncio
import sys
from typing import cast

EHLO = b"250-sink.example\r\n250-PIPELINING\r\n250 8BITMIME\r\n"
EHLO_CHUNKING = b"250-sink.example\r\n250-PIPELINING\r\n250-CHUNKING\r\n250 8BITMIME\r\n"
OK = b"250 2.0.0 Ok\r\n"
BYE = b"221 2.0.0 Bye\r\n"
_HEAD_BYTES = 4_096


class SinkConnection(asyncio.Protocol):
    """One connection. Derived classes put answers into `_out`, set `_in_data` where a content follows, and
    `_is_waiting` while nothing more is looked at; they call `_advance` after that."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._buffer = bytearray()
        self._out: list[bytes] = []
        self._in_data = False
        self._chunk: int | None = None  # bytes of a BDAT that comes
        self._is_waiting = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's isn't a subclass
        self._transport.write(b"220 sink.example ESMTP\r\n")

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._advance()

    def _advance(self) -> None:
        while not self._is_waiting and self._take():
            pass
        if self._out and not self._transport.is_closing():
            self._transport.write(b"".join(self._out))
        self._out.clear()

    def _take(self) -> bool:
        """The next command or message; False where it isn't whole yet."""
        if (size := self._chunk) is not None:
            if len(self._buffer) < size:
                return False
            head = bytes(self._buffer[: min(size, _HEAD_BYTES)])
            del self._buffer[:size]
            self._chunk = None
            self._message(head)
            return True
        ending = b"\r\n.\r\n" if self._in_data else b"\r\n"
        end = self._buffer.find(ending)
        if end < 0:
            return False
        taken = bytes(self._buffer[: min(end, _HEAD_BYTES)])
        del self._buffer[: end + len(ending)]
        if self._in_data:
            self._in_data = False
            self._message(taken)
        elif taken[:4].upper() == b"BDAT":
            self._chunk = int(taken.split()[1])
        else:
            self._command(taken)
        return True

    def _command(self, line: bytes) -> None:
        raise NotImplementedError

    def _message(self, head: bytes) -> None:
        """`head`: what it begins with, at least all of its first fields."""
        raise NotImplementedError


async def standard_input() -> asyncio.StreamReader:
    """By it a sink is told what to do; when it closes, the sink ends."""
    lines = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    return lines
