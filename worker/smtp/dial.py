"""Opening a TCP connection to a name that has several addresses (RFC 8305, "happy eyeballs").

asyncio's own loop can do this, uvloop can't; so it is done here, the same for both.
"""

import asyncio
import socket
from asyncio.staggered import staggered_race
from collections.abc import Awaitable, Callable
from functools import partial
from itertools import chain, zip_longest

ATTEMPT_DELAY_S = 0.25
"""Head start of each address over the next one (RFC 8305 5)."""

_Address = tuple[socket.AddressFamily, tuple[str, int] | tuple[str, int, int, int]]


async def dial(host: str, port: int) -> socket.socket:
    """A connected, non-blocking socket. Raises OSError, of the first address that failed."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = _interleaved([(info[0], info[4]) for info in found])  # type: ignore[misc]  # TCP has no other
    if len(addresses) == 1:
        return await _connect(addresses[0])
    attempts: list[Callable[[], Awaitable[socket.socket]]] = [
        partial(_connect, address) for address in addresses
    ]
    winner: socket.socket | None
    winner, _, errors = await staggered_race(attempts, ATTEMPT_DELAY_S)
    if winner is not None:
        return winner
    raise next(error for error in errors if error is not None)


def _interleaved(addresses: list[_Address]) -> list[_Address]:
    """The resolver's order, but the families take turns."""
    first = [address for address in addresses if address[0] == addresses[0][0]]
    others = [address for address in addresses if address[0] != addresses[0][0]]
    turns = chain.from_iterable(zip_longest(first, others))
    return [address for address in turns if address is not None]


async def _connect(address: _Address) -> socket.socket:
    family, target = address
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, target)
    except BaseException:  # cancelled, when another address was faster
        sock.close()
        raise
    return sock
