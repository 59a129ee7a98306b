"""Other people's connections to the server, counted where the worker runs beside it.

The kernel's table of TCP connections tells them: established, with the server's port as the local one, and
not from one of our own sockets, or of those of this worker's other processes. Reading it takes milliseconds
and walks through /proc: a thread does it, at the pace of the heartbeats and for no more than a small part of
the time. With a server on another host there is nothing to see, and the count is 0.
"""

import asyncio
import ipaddress
import socket
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import psutil  # type: ignore[import-untyped]  # ships no types
from structlog.typing import FilteringBoundLogger

SHARE_MAX = 0.05
"""Of the time that reading may take: on a host with very many processes it is read less often."""
LOOK_UP_S = 60.0
"""How long it is believed where the server is."""

Address = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Socket:
    """One TCP socket of this host, as far as we care. `remote` is None for one that listens."""

    local: Address
    remote: Address | None


def count(sockets: Iterable[Socket], port: int, server: set[str], own: set[Address]) -> int:
    """How many connections to `port` on the addresses `server` there are that don't come from `own`. Pure.

    A server that listens on a wildcard (0.0.0.0, ::) is reached by each address of the host, apart from those
    on which another one listens alone.
    """
    at_port = [one for one in sockets if one.local[1] == port]
    listening = {one.local[0] for one in at_port if one.remote is None}
    wildcard = not listening.isdisjoint(("0.0.0.0", "::"))  # noqa: S104  # it is compared with, not bound
    return sum(
        one.remote is not None
        and one.remote not in own
        and (one.local[0] in server or (wildcard and one.local[0] not in listening))
        for one in at_port
    )


def plain(address: str) -> str:
    """An address as it is compared: IPv4 also where it came by way of IPv6, without a zone."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return str(mapped or parsed)


class ExternalConnections:
    """`count` is what the last reading found; `read` begins the next one."""

    def __init__(
        self,
        host: str,
        port: int,
        own: Callable[[], set[Address]],
        logger: FilteringBoundLogger,
        siblings_of: int | None = None,
    ) -> None:
        """`own` gives the local addresses of our connections to the server. `siblings_of`: the process id of
        our parent, whose other children's connections aren't others' either."""
        self.count = 0
        self._host, self._port = host, port
        self._own = own
        self._siblings_of = siblings_of
        self._logger = logger
        self._server: set[str] = set()
        self._looked_up_at = float("-inf")
        self._not_before = float("-inf")
        self._reading = False
        self._failed = False

    def read(self) -> asyncio.Future[None] | None:
        """Reads in a thread; None where it is too early. What it gives is done once `count` is new."""
        loop = asyncio.get_running_loop()
        if self._reading or loop.time() < self._not_before:
            return None
        self._reading = True
        own, began_at = self._own(), loop.time()
        done: asyncio.Future[None] = loop.create_future()

        def finish(found: asyncio.Future[tuple[list[Socket], set[Address]]]) -> None:
            self._reading = False
            if not found.cancelled():
                sockets, siblings = found.result()
                # A connection of ours may have been made, or have ended, while the table was read.
                self.count = count(sockets, self._port, self._server, own | siblings | self._own())
                self._not_before = loop.time() + (loop.time() - began_at) / SHARE_MAX
            if not done.done():
                done.set_result(None)

        loop.run_in_executor(None, self._sockets).add_done_callback(finish)
        return done

    def _sockets(self) -> tuple[list[Socket], set[Address]]:
        """In a thread: those at the server's port, and the local addresses of our siblings' connections to
        it. Empty where the server isn't here, or the system doesn't tell."""
        try:
            if time.monotonic() >= self._looked_up_at + LOOK_UP_S:
                own = _own_addresses()
                found = _addresses(self._host, self._port)
                self._server = {one for one in found if one in own or _is_loopback(one)}
                self._looked_up_at = time.monotonic()
            if not self._server:
                return [], set()
            table = psutil.net_connections("tcp")
            sockets = [
                Socket(_address(one.laddr), _address(one.raddr) if one.raddr else None)
                for one in table
                if one.status in (psutil.CONN_ESTABLISHED, psutil.CONN_LISTEN)
                and one.laddr[1:] == (self._port,)
            ]
            if self._siblings_of is None:
                return sockets, set()
            siblings = {child.pid for child in psutil.Process(self._siblings_of).children()}
            to_server = (one for one in table if one.raddr and one.raddr[1] == self._port)
            return sockets, {_address(one.laddr) for one in to_server if one.pid in siblings}
        except (psutil.Error, OSError) as error:
            if not self._failed:
                self._failed = True
                self._logger.warning(
                    "server.others_unseen", reason=str(error) or type(error).__name__,
                    hint="connections of others to the same server count as 0",
                )  # fmt: skip
            return [], set()


def _address(of: tuple[str, int]) -> Address:
    return plain(of[0]), of[1]


def _addresses(host: str, port: int) -> set[str]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except socket.gaierror:
        return set()  # whoever connects to it says so
    return {plain(str(info[4][0])) for info in found}


def _own_addresses() -> set[str]:
    return {
        plain(address.address)
        for interface in psutil.net_if_addrs().values()
        for address in interface
        if address.family in (socket.AF_INET, socket.AF_INET6)
    }


def _is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address).is_loopback
