"""The broker's two sockets: who rests isn't looked at, and what can't be opened leaves nothing behind."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
import zmq

from broker.endpoints import Endpoints
from broker.gate import Gate
from broker.settings import Settings
from broker.wakeup import Wakeup
from evenpost.runtime.sockets import EndpointError
from tests.servers.ports import free_port


def opened(clients: str, workers: str, wakeup: Wakeup) -> Endpoints:
    settings = Settings(clients=clients, workers=workers)
    return Endpoints(settings, structlog.get_logger(), wakeup, Gate, client_left=lambda _: None)


@pytest.fixture
def wakeup() -> Wakeup:
    return Wakeup()


@pytest.fixture
def endpoints(tmp_path: Path, wakeup: Wakeup) -> Iterator[Endpoints]:
    made = opened(f"ipc://{tmp_path}/c", f"ipc://{tmp_path}/w", wakeup)
    yield made
    made.close()


def test_an_endpoint_that_rests_is_looked_at_when_its_rest_is_over(endpoints: Endpoints) -> None:
    client: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
    client.setsockopt(zmq.LINGER, 0)
    client.connect(endpoints.names()[0])
    client.send(b"x")
    try:
        now = time.monotonic()
        assert endpoints.clients in endpoints.wait(now + 30, now)
        now = time.monotonic()
        endpoints.client_gate.rests_until = now + 0.1
        assert not endpoints.wait(now + 30, now)
        assert time.monotonic() >= now + 0.09
        now = time.monotonic()
        assert endpoints.clients in endpoints.wait(now + 30, now)
    finally:
        client.close()


def test_the_wake_up_ends_the_wait_also_while_both_rest(endpoints: Endpoints, wakeup: Wakeup) -> None:
    now = time.monotonic()
    endpoints.client_gate.rests_until = endpoints.worker_gate.rests_until = now + 30
    wakeup.wake()
    assert list(endpoints.wait(now + 30, now)) == [wakeup.fileno()]


def test_when_the_second_cannot_be_bound_the_first_is_free_again(tmp_path: Path, wakeup: Wakeup) -> None:
    clients = f"tcp://127.0.0.1:{free_port()}"
    with pytest.raises(EndpointError, match="can't listen on") as failed:
        opened(clients, f"ipc://{tmp_path}/no/such/folder", wakeup)
    opened(clients, f"ipc://{tmp_path}/w", wakeup).close()
    assert failed  # till here its trace back keeps all that was opened
