"""What other hosts can reach."""

import socket

import pytest

from broker.access import OpenToAllError, check_reach
from broker.reach import beyond_loopback
from broker.settings import AccessSettings
from evenpost.runtime.curve import Role, new_key


@pytest.mark.parametrize(
    ("endpoint", "beyond"),
    [
        ("tcp://127.0.0.1:5550", False), ("tcp://127.9.9.9:5550", False), ("tcp://[::1]:5550", False),
        ("tcp://[::ffff:127.0.0.1]:5550", False), ("tcp://localhost:5550", False), ("tcp://lo:5550", False),
        ("ipc:///run/evenpost.sock", False),
        ("tcp://*:5550", True), ("tcp://0.0.0.0:5550", True), ("tcp://[::]:5550", True),
        ("tcp://10.0.0.1:5550", True), ("tcp://[fe80::1%lo]:5550", True), ("tcp://[::ffff:10.0.0.1]:1", True),
        ("tcp://no-such-host.invalid:5550", True), ("tcp://127.0.0.1@0.0.0.0:5550", True),
    ],
)  # fmt: skip
def test_what_goes_beyond_this_host(endpoint: str, beyond: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def look_up(host: str, _: object) -> list[tuple[object, ...]]:
        if host == "localhost":
            return [(socket.AF_INET, 1, 6, "", ("127.0.0.1", 0)), (socket.AF_INET6, 1, 6, "", ("::1", 0))]
        raise socket.gaierror

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    assert beyond_loopback(endpoint) is beyond


def test_a_name_with_one_address_beyond_is_beyond(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(socket.AF_INET, 1, 6, "", (address, 0)) for address in ("127.0.0.1", "10.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: found)
    assert beyond_loopback("tcp://both.example:1")


def test_beyond_loopback_wants_keys_or_a_word() -> None:
    near, far = "tcp://127.0.0.1:1", "tcp://10.0.0.1:1"
    assert not check_reach(AccessSettings(), near, near)
    with pytest.raises(OpenToAllError, match=r"10\.0\.0\.1:1 can be reached .*evenpost keys new"):
        check_reach(AccessSettings(), near, far)
    assert check_reach(AccessSettings(insecure=True), near, far)
    assert not check_reach(AccessSettings(insecure=True), near, near)
    assert not check_reach(AccessSettings(own=new_key(Role.BROKER, "b")), far)
