"""The broker's door, by real sockets: whose each message is, who is cut off, and that the proof can fail."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
import zmq
from msgspec.structs import replace
from structlog.testing import capture_logs
from zmq.utils.monitor import recv_monitor_message

from broker import access as access_module
from broker import zap
from broker.access import Access
from broker.ring import FOLDERS, Ring
from broker.self_check import open_door
from broker.settings import AccessSettings
from evenpost.runtime import sockets
from evenpost.runtime.curve import CurvePeer, PublicKey, Role, SecretKey, new_key
from evenpost.runtime.curve_files import write_new
from evenpost.wire import messages as wire
from evenpost.wire.errors import Code, WireError
from tests.servers.ports import free_port

WAIT_MS = 5_000
HELLO = wire.WorkerHello(worker="w", incarnation=1, server="s", log="l", max_connections=1)


class Door:
    """A broker's two sockets with keys, without the broker."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in FOLDERS:
            (folder / name).mkdir()
        self.own = new_key(Role.BROKER, "broker")
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.strangers: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.peers: list[tuple[zmq.Socket[bytes], zmq.Socket[bytes]]] = []

    def open(self) -> None:
        settings = AccessSettings(self.own, self.folder)
        self.access = Access(settings, self.context, structlog.get_logger())
        self.sockets = {
            domain: sockets.router(
                self.context, f"tcp://127.0.0.1:{free_port()}", secure=self.access.securing(domain)
            )
            for domain in ("clients", "workers")
        }

    def endpoint(self, domain: str) -> str:
        return self.sockets[domain].get_string(zmq.LAST_ENDPOINT)

    def allow(self, name: str, who: str) -> SecretKey:
        key = new_key(FOLDERS[name], who)
        secret, _ = write_new(key, self.folder / name)
        secret.unlink()
        return key

    def connect(
        self, domain: str, key: SecretKey | None, routing_id: bytes = b""
    ) -> "tuple[zmq.Socket[bytes], zmq.Socket[bytes]]":
        """A peer and the monitor of its handshakes and its end."""
        peer = self.strangers.socket(zmq.DEALER)
        peer.setsockopt(zmq.LINGER, 0)
        peer.setsockopt(zmq.RECONNECT_IVL, -1)
        if routing_id:
            peer.setsockopt(zmq.ROUTING_ID, routing_id)
        if key is not None:
            CurvePeer(key, self.own.public).secure(peer)
        events = zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_DISCONNECTED
        monitor: zmq.Socket[bytes] = peer.get_monitor_socket(events)
        peer.connect(self.endpoint(domain))
        self.peers.append((peer, monitor))
        return peer, monitor

    def receive(self, domain: str) -> tuple[bytes, list[bytes], PublicKey | None]:
        assert self.sockets[domain].poll(WAIT_MS), "nothing came"
        holder = self.access.holder(domain)
        assert holder is not None
        first, *rest = self.sockets[domain].recv_multipart(copy=False)
        return first.bytes, [frame.bytes for frame in rest], holder(first)

    def close(self) -> None:
        for peer, monitor in self.peers:
            if not peer.closed:
                peer.disable_monitor()
                peer.close()
            monitor.close()
        self.strangers.term()
        self.access.close()
        self.context.destroy(0)


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    made = Door(tmp_path)
    yield made
    made.close()


def event(monitor: "zmq.Socket[bytes]") -> int:
    assert monitor.poll(WAIT_MS), "no event came"
    return int(recv_monitor_message(monitor)["event"])


def test_each_message_says_whose_it_is(door: Door) -> None:
    shop, boss = door.allow("clients", "shop"), door.allow("admins", "boss")
    door.open()
    for key, user in ((shop, "client:shop"), (boss, "admin:boss")):
        peer, _ = door.connect("clients", key)
        peer.send_multipart([b"a", b"b"])
        _, frames, who = door.receive("clients")
        assert frames == [b"a", b"b"] and who is not None and who.user_id == user
        assert who.key == key.public


@pytest.mark.parametrize("domain", ["clients", "workers"])
def test_who_does_not_belong_gets_no_connection(door: Door, domain: str) -> None:
    other = {"clients": "workers", "workers": "clients"}[domain]
    wrong = [new_key(Role.ADMIN, "x"), door.allow(other, "other")]
    door.open()
    for key in wrong:
        _, monitor = door.connect(domain, key)
        assert event(monitor) == zmq.EVENT_HANDSHAKE_FAILED_AUTH


def test_without_the_handler_nobody_gets_in(door: Door) -> None:
    shop = door.allow("clients", "shop")
    door.open()
    door.access.close()
    _, monitor = door.connect("clients", shop)
    # libzmq closes the handler's socket a little later: a handshake that has found it still there gets no
    # answer, and nothing is heard of it until it times out.
    assert not monitor.poll(1_000) or event(monitor) != zmq.EVENT_HANDSHAKE_SUCCEEDED
    assert not door.sockets["clients"].poll(100)


def test_a_taken_routing_id_brings_no_rights(door: Door) -> None:
    """libzmq gives routing ids of its own that begin with a zero, and lets a peer choose such a one too."""
    boss, shop = door.allow("admins", "boss"), door.allow("clients", "shop")
    door.open()
    first, _ = door.connect("clients", boss)
    first.send(b"x")
    routing_id, _, who = door.receive("clients")
    assert who is not None and who.role is Role.ADMIN
    first.disable_monitor()
    first.close()
    end = 100
    while end:  # the broker's side has to have noticed, or the id is still taken
        thief, _ = door.connect("clients", shop, routing_id)
        thief.send(b"y")
        if door.sockets["clients"].poll(200):
            break
        end -= 1
    again, _, who = door.receive("clients")
    assert again == routing_id
    assert who is not None and who.role is Role.CLIENT


def test_a_revoked_key_is_nobodys_at_its_next_word(door: Door) -> None:
    shop, kept = door.allow("clients", "shop"), door.allow("clients", "kept")
    door.open()
    peer, monitor = door.connect("clients", shop)
    other, _ = door.connect("clients", kept)
    assert event(monitor) == zmq.EVENT_HANDSHAKE_SUCCEEDED
    (door.folder / "clients/shop.pub").unlink()
    revoked = door.access.reload()
    assert revoked.keys == {shop.public} and revoked.workers == ()
    peer.send(b"x")
    assert door.receive("clients")[2] is None
    other.send(b"y")
    _, _, who = door.receive("clients")
    assert who is not None and who.name == "kept"


def test_another_key_under_the_same_name_revokes_the_first(door: Door) -> None:
    old = door.allow("clients", "shop")
    door.open()
    peer, _ = door.connect("clients", old)
    peer.send(b"x")
    assert door.receive("clients")[2] is not None
    (door.folder / "clients/shop.pub").unlink()
    door.allow("clients", "shop")
    door.access.reload()
    peer.send(b"y")
    assert door.receive("clients")[2] is None


def test_a_reload_names_the_workers_that_are_not_who_they_said(door: Door) -> None:
    key = door.allow("workers", "w")
    door.allow("workers", "kept")
    door.open()
    path = door.folder / "workers/w.pub"
    who = door.access._ring.holder(key.public, "workers")
    assert who is not None
    door.access.check_worker(who, HELLO, None)
    door.access.registered("w", who)
    assert door.access.reload().workers == ()
    text = path.read_text()
    path.write_text(text + 'workers = ["other"]\n')
    revoked = door.access.reload()
    assert revoked.workers == ("w",)
    path.write_text(text)
    assert door.access.reload().workers == ()  # it has to say hello again


def test_a_hello_that_the_core_refuses_is_not_remembered(door: Door) -> None:
    """A key that may be any worker would fill the memory with names: the core bounds how many there are."""
    secret, _ = write_new(new_key(Role.WORKER, "any"), door.folder / "workers", ["*"])
    secret.unlink()
    door.open()
    (who,) = door.access._ring.by_key.values()
    for number in range(10):
        door.access.check_worker(who, replace(HELLO, worker=f"w{number}"), None)
    door.access.registered("w3", who)
    (door.folder / "workers/any.pub").unlink()
    assert door.access.reload().workers == ("w3",)


def test_rights_are_refused_as_forbidden(door: Door) -> None:
    door.open()
    who = PublicKey(Role.CLIENT, "c", "k")
    with pytest.raises(WireError) as error:
        door.access.check_client(who, wire.SetServer("w", state="drain"))
    assert error.value.code is Code.FORBIDDEN
    with pytest.raises(WireError) as error:
        door.access.check_worker(PublicKey(Role.WORKER, "v", "k", ("v",)), HELLO, None)
    assert error.value.code is Code.FORBIDDEN


def test_the_proof_holds_where_strangers_are_refused(door: Door) -> None:
    door.allow("clients", "shop")
    door.open()
    with capture_logs() as logs:
        assert door.access.prove(door.endpoint("clients"), door.endpoint("workers"))
    assert [(e["event"], e["clients"]) for e in logs] == [("access.proven", 1)]


def test_the_proof_fails_where_the_handler_lets_everybody_in(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = zap.answer

    def answer(request: list[bytes], ring: Ring) -> list[bytes]:
        version, number, _, _, _, _ = real(request, ring)
        return [version, number, b"200", b"OK", b"anybody", b""]

    monkeypatch.setattr(zap, "answer", answer)
    door.open()
    with capture_logs() as logs:
        assert not door.access.prove(door.endpoint("clients"), door.endpoint("workers"))
    assert logs[0]["event"] == "access.open" and logs[0]["log_level"] == "critical"
    assert "lets a random key in" in logs[0]["error"]


def test_the_proof_fails_where_a_socket_has_no_keys(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_module, "serve", lambda *_: None)
    door.open()
    assert "a random key" in open_door(door.endpoint("clients"), door.own.public, 1.0)
    plain = sockets.router(door.context, f"tcp://127.0.0.1:{free_port()}")
    monkeypatch.setattr("broker.self_check.STRANGERS", ("a peer without a key",))
    said = open_door(plain.get_string(zmq.LAST_ENDPOINT), door.own.public, 1.0)
    plain.close()
    assert said.endswith("lets a peer without a key in")


def test_the_proof_fails_where_nobody_answers(door: Door) -> None:
    door.open()
    silent = f"tcp://127.0.0.1:{free_port()}"
    assert "didn't refuse a random key within" in open_door(silent, door.own.public, 0.3)


def test_without_keys_everybody_may_do_everything() -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    access = Access(AccessSettings(), context, structlog.get_logger())
    assert access.securing("clients") is None and access.prove("tcp://127.0.0.1:1")
    assert access.holder("clients") is None
    assert access.reload().workers == ()
    access.close()
    context.destroy(0)
