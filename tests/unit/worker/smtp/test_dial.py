import asyncio
import socket
from typing import Any

import pytest

from worker.smtp import dial
from worker.smtp.dial import _interleaved

V4, V6 = socket.AF_INET, socket.AF_INET6


def test_the_families_take_turns() -> None:
    found: list[Any] = [(V6, ("a", 1)), (V6, ("b", 1)), (V6, ("c", 1)), (V4, ("d", 1))]
    assert [address[1][0] for address in _interleaved(found)] == ["a", "d", "b", "c"]


async def dial_to(monkeypatch: pytest.MonkeyPatch, *addresses: tuple[str, int]) -> socket.socket:
    async def resolve(*_: Any, **__: Any) -> list[Any]:
        return [(V4, socket.SOCK_STREAM, 6, "", address) for address in addresses]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolve)
    return await asyncio.wait_for(dial.dial("host.example", 25), 10)


@pytest.fixture
def open_port() -> Any:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()


@pytest.fixture
def closed_port() -> Any:
    with socket.socket() as bound:  # but not listening
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()


async def test_the_next_address_when_one_refuses(
    monkeypatch: pytest.MonkeyPatch, open_port: Any, closed_port: Any
) -> None:
    with await dial_to(monkeypatch, closed_port, open_port) as sock:
        assert sock.getpeername() == open_port


async def test_the_next_address_when_one_is_silent(monkeypatch: pytest.MonkeyPatch, open_port: Any) -> None:
    monkeypatch.setattr(dial, "ATTEMPT_DELAY_S", 0.01)
    loop = asyncio.get_running_loop()
    connect = loop.sock_connect
    silent = ("127.0.0.1", 1)

    async def sock_connect(sock: socket.socket, address: Any) -> None:
        await (asyncio.Event().wait() if address == silent else connect(sock, address))

    monkeypatch.setattr(loop, "sock_connect", sock_connect)
    with await dial_to(monkeypatch, silent, open_port) as sock:
        assert sock.getpeername() == open_port


async def test_none_answers(monkeypatch: pytest.MonkeyPatch, closed_port: Any) -> None:
    with pytest.raises(ConnectionRefusedError):
        await dial_to(monkeypatch, closed_port)
    with pytest.raises(ConnectionRefusedError):
        await dial_to(monkeypatch, closed_port, closed_port)
