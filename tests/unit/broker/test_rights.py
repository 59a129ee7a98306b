"""Who may do what."""

import pytest

from broker import rights
from evenpost.runtime.curve import ANY_WORKER, PublicKey, Role
from evenpost.wire import messages as wire

CLIENT = PublicKey(Role.CLIENT, "c", "k1")
ADMIN = PublicKey(Role.ADMIN, "a", "k2")
WORKER = PublicKey(Role.WORKER, "w", "k3", ("w", "w2"))
HELLO = wire.WorkerHello(worker="w", incarnation=1, server="s", log="l", max_connections=1)


def test_only_admins_change_servers() -> None:
    order = wire.SetServer("w", state="drain")
    assert "only an admin's key" in rights.client_refusal(CLIENT, order)
    assert not rights.client_refusal(ADMIN, order)
    assert not rights.client_refusal(rights.EVERYONE, order)


@pytest.mark.parametrize(
    "message",
    [wire.Hello("c"), wire.Status(), wire.Servers(), wire.Pause("c"), wire.Cancel("c"), wire.Watch()],
)
def test_campaigns_are_a_clients_work(message: wire.Message) -> None:
    assert not rights.client_refusal(CLIENT, message)


def test_every_message_of_a_client_has_its_right() -> None:
    """A new message is an admin's until somebody says that clients may send it."""
    clients = {
        wire.Type.HELLO, wire.Type.OPEN_CAMPAIGN, wire.Type.RECIPIENTS, wire.Type.COMMIT, wire.Type.STATUS,
        wire.Type.WATCH, wire.Type.PAUSE, wire.Type.RESUME, wire.Type.CANCEL, wire.Type.RETRY_FAILED,
        wire.Type.REPORT, wire.Type.TRACE, wire.Type.SERVERS, wire.Type.EXPLAIN,
    }  # fmt: skip
    assert set(wire.FROM_CLIENT) - rights.ADMIN_ONLY == clients


def test_a_worker_is_who_its_key_says() -> None:
    assert not rights.worker_refusal(WORKER, HELLO, None)
    other = wire.WorkerHello(worker="v", incarnation=1, server="s", log="l", max_connections=1)
    refusal = rights.worker_refusal(WORKER, other, None)
    assert "worker:w" in refusal and "'v'" in refusal and "'w', 'w2'" in refusal
    assert rights.worker_refusal(CLIENT, HELLO, None)
    assert not rights.worker_refusal(rights.EVERYONE, other, None)
    assert not rights.worker_refusal(PublicKey(Role.WORKER, "x", "k", (ANY_WORKER,)), other, None)


def test_a_connection_that_took_anothers_routing_id_speaks_for_nobody() -> None:
    assert not rights.worker_refusal(WORKER, wire.Goodbye("x"), "w2")
    assert rights.worker_refusal(WORKER, wire.Goodbye("x"), "v")
    assert not rights.worker_refusal(WORKER, wire.Goodbye("x"), None)  # the core asks it to say hello
