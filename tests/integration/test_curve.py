"""A cluster with keys, by real processes: who gets in, who may do what, and who is cut off."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from client import Client, ClientError
from evenpost.runtime.curve import Role, SecretKey, new_key
from evenpost.runtime.curve_files import read_secret_key, write_new
from tests.integration.cluster import ROOT, Cluster, newsletter, wait_until
from tests.servers import RecordingServer
from tests.servers.ports import free_port

FOLDERS = {Role.CLIENT: "clients", Role.WORKER: "workers", Role.ADMIN: "admins"}


class KeyedCluster(Cluster):
    """Keys are in `folder`, allowed public ones under `folder/keys`."""

    def __init__(self, folder: Path, *options: str) -> None:
        super().__init__(folder, *options, "--curve-key", "broker.key", "--keys", "keys")
        write_new(new_key(Role.BROKER, "broker"), folder)
        for name in FOLDERS.values():
            (folder / "keys" / name).mkdir(parents=True)

    def key(self, role: Role, name: str, *, allowed: bool = True) -> SecretKey:
        key = new_key(role, name)
        _, public = write_new(key, self.folder)
        if allowed:
            public.rename(self.allowed(role, name))
        return key

    def allowed(self, role: Role, name: str) -> Path:
        return self.folder / "keys" / FOLDERS[role] / f"{name}.pub"

    def start_keyed_worker(self, name: str, url: str, *options: str, key: str | None = None) -> None:
        keys = ("--curve-key", f"{key or name}.key", "--broker-key", "broker.pub")
        self.start_worker(name, url, *keys, *options)

    def keyed(self, key: SecretKey | None, **options: float) -> Client:
        broker_key = self.folder / "broker.pub" if key is not None else None
        return Client(self.clients, key=key, broker_key=broker_key, **{"connect_timeout": 20, **options})

    def reload(self) -> None:
        before = self.log("broker").count("access.reloaded")
        self.processes["broker"].send_signal(signal.SIGHUP)
        wait_until(lambda: self.log("broker").count("access.reloaded") > before, "the keys are read again")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KeyedCluster]:
    """With a worker that is ready, an admin and a client: for tests that change nothing of it."""
    folder = tmp_path_factory.mktemp("keyed")
    with RecordingServer() as server, KeyedCluster(folder) as made:
        made.key(Role.WORKER, "w")
        made.key(Role.CLIENT, "shop")
        made.key(Role.ADMIN, "boss")
        made.start_broker()
        made.start_keyed_worker("w", server.url)
        with made.keyed(read_secret_key(folder / "boss.key")) as client:
            made.wait_for_workers(client, 1)
        yield made


def own(cluster: KeyedCluster, name: str) -> SecretKey:
    return read_secret_key(cluster.folder / f"{name}.key")


def test_mail_is_sent_by_those_who_have_keys(cluster: KeyedCluster) -> None:
    with cluster.keyed(own(cluster, "shop")) as client:
        receipt = client.submit(newsletter(200), wait=True)
        assert client.status(receipt.campaign).counts == {"sent": 200}
    assert "access.proven" in cluster.log("broker")


@pytest.mark.parametrize("stranger", ["random", "worker", "none"])
def test_clients_without_an_allowed_key_are_refused_and_told(cluster: KeyedCluster, stranger: str) -> None:
    key = {"random": new_key(Role.CLIENT, "x"), "worker": own(cluster, "w"), "none": None}[stranger]
    said = "wants a key: give --curve-key" if key is None else "the broker refused our key"
    with pytest.raises(ClientError, match=said) as error, cluster.keyed(key):
        pass
    assert error.value.code == "forbidden"


def test_another_brokers_key_is_noticed(cluster: KeyedCluster) -> None:
    other = new_key(Role.BROKER, "other").public
    with (
        pytest.raises(ClientError, match="isn't the holder of that broker key"),
        Client(cluster.clients, key=own(cluster, "shop"), broker_key=other, connect_timeout=0.8),
    ):
        pass


def test_a_client_may_not_drain_a_server_but_an_admin_may(cluster: KeyedCluster) -> None:
    with cluster.keyed(own(cluster, "shop")) as client:
        with pytest.raises(ClientError, match="client:shop may not change servers") as error:
            client.drain("w")
        assert error.value.code == "forbidden"
        assert client.servers()[0].state == "ready"
    with cluster.keyed(own(cluster, "boss")) as admin:
        admin.drain("w")
        assert admin.servers()[0].state == "draining"
        admin.ready("w")


def test_a_worker_may_not_take_the_name_of_another(cluster: KeyedCluster) -> None:
    cluster.key(Role.WORKER, "second")
    cluster.reload()
    options = ("--name", "w", "--outcome-log", str(cluster.folder / "stolen.outcomes"))
    cluster.start_keyed_worker("thief", "smtp://127.0.0.1:9", *options, key="second")
    assert cluster.processes["thief"].wait(20) == 77
    assert "the key of worker:second may not be worker 'w'" in cluster.log("thief")
    with cluster.keyed(own(cluster, "boss")) as client:
        assert [w.state for w in client.servers() if w.worker == "w"] == ["ready"]


def test_a_client_key_is_refused_on_the_workers_endpoint(cluster: KeyedCluster) -> None:
    public = cluster.folder / "posing.pub"
    write_new(key := new_key(Role.WORKER, "posing"), cluster.folder)
    public.write_text(public.read_text().replace('"worker"', '"client"'))
    public.rename(cluster.allowed(Role.CLIENT, "posing"))
    cluster.reload()
    assert key.public in cluster.allowed(Role.CLIENT, "posing").read_text()
    cluster.start_keyed_worker("posing", "smtp://127.0.0.1:9")
    wait_until(lambda: "worker.no_access" in cluster.log("posing"), "it is refused")
    assert "worker.welcomed" not in cluster.log("posing")
    cluster.terminate("posing")


def test_the_command_line_says_why_and_exits_by_it(cluster: KeyedCluster) -> None:
    def evenpost(*words: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "client", *words, "--broker", cluster.clients]
        env = {k: v for k, v in os.environ.items() if not k.startswith("EVENPOST_")}
        env["PYTHONPATH"] = str(ROOT)
        return subprocess.run(
            command, cwd=cluster.folder, env=env, capture_output=True, text=True, timeout=30
        )

    keys = ("--curve-key", "shop.key", "--broker-key", "broker.pub")
    assert evenpost("servers", *keys).returncode == 0
    drained = evenpost("drain", "w", *keys)
    assert (drained.returncode, "only an admin's key" in drained.stderr) == (2, True)
    half = evenpost("servers", *keys[:2])
    assert half.returncode == 2 and "--broker-key" in half.stderr
    secret = (cluster.folder / "shop.key").read_text().split('secret = "')[1][:40]
    cluster.folder.joinpath("open.key").write_text((cluster.folder / "shop.key").read_text())
    cluster.folder.joinpath("open.key").chmod(0o644)
    readable = evenpost("servers", "--curve-key", "open.key", *keys[2:])
    assert readable.returncode == 2 and "chmod 600 open.key" in readable.stderr
    assert secret not in readable.stderr + cluster.log("broker") + cluster.log("w")


def test_revoking_cuts_off_a_live_worker_and_a_live_client(tmp_path: Path) -> None:
    options = ("--heartbeat", "0.2", "--lease", "1")
    with RecordingServer(delay_s=0.03) as server, KeyedCluster(tmp_path, *options) as cluster:
        for name in ("kept", "gone"):
            cluster.key(Role.WORKER, name)
        boss = cluster.key(Role.ADMIN, "boss")
        shop = cluster.key(Role.CLIENT, "shop")
        cluster.start_broker()
        for name in ("kept", "gone"):
            cluster.start_keyed_worker(name, server.url, "--max-connections", "4")
        with cluster.keyed(boss) as admin, cluster.keyed(shop, timeout=20) as client:
            cluster.wait_for_workers(admin, 2)
            campaign = client.submit(newsletter(240)).campaign
            wait_until(lambda: server.count() > 20, "it has begun")
            updates = client.watch(campaign, interval=0.05)
            next(updates)
            cluster.allowed(Role.WORKER, "gone").unlink()
            cluster.allowed(Role.CLIENT, "shop").unlink()
            cluster.reload()
            state = {w.worker: (w.state, w.open) for w in admin.servers()}
            assert state["gone"][0] == "lost" and state["kept"][0] == "ready"
            given = {w.worker: w.sent for w in admin.servers()}["gone"]
            with pytest.raises(ClientError, match="the broker refused our key"):
                client.status(campaign)
            with pytest.raises(ClientError, match="the broker refused our key"):
                list(updates)
            wait_until(lambda: "worker.no_access" in cluster.log("gone"), "the worker is told")
            final = admin.wait(campaign)
            assert final.counts == {"sent": 240}
            assert {w.worker: w.sent for w in admin.servers()}[
                "gone"
            ] == given  # nothing more is believed of it
        assert cluster.processes["gone"].poll() is None  # it goes on asking: the key may come back


def test_a_key_that_is_added_works_without_a_restart(tmp_path: Path) -> None:
    with RecordingServer() as server, KeyedCluster(tmp_path) as cluster:
        boss = cluster.key(Role.ADMIN, "boss")
        cluster.key(Role.WORKER, "late", allowed=False)
        cluster.start_broker()
        cluster.start_keyed_worker("late", server.url)
        wait_until(lambda: "worker.no_access" in cluster.log("late"), "it is refused")
        (cluster.folder / "late.pub").rename(cluster.allowed(Role.WORKER, "late"))
        # A bad file beside it, as an editor may leave it, takes nothing away.
        cluster.allowed(Role.ADMIN, "boss").write_text("role = ")
        cluster.reload()
        with cluster.keyed(boss) as admin:
            cluster.wait_for_workers(admin, 1)
            assert admin.status(admin.submit(newsletter(20), wait=True).campaign).counts == {"sent": 20}
        assert "access.bad_key_file" in cluster.log("broker")


def test_a_broker_with_keys_restarts_under_its_workers(tmp_path: Path) -> None:
    with RecordingServer() as server, KeyedCluster(tmp_path) as cluster:
        boss = cluster.key(Role.ADMIN, "boss")
        cluster.key(Role.WORKER, "w")
        cluster.start_broker()
        cluster.start_keyed_worker("w", server.url)
        with cluster.keyed(boss) as admin:
            cluster.wait_for_workers(admin, 1)
            cluster.kill("broker")
            cluster.restart("broker")
            assert admin.status(admin.submit(newsletter(20), wait=True).campaign).counts == {"sent": 20}


def test_beyond_loopback_only_with_keys_or_when_told(tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster:
        cluster.clients = f"tcp://0.0.0.0:{free_port()}"
        cluster.start_broker()
        assert cluster.processes["broker"].wait(20) == 2
        assert "evenpost keys new broker" in cluster.log("broker")
        cluster.broker_options = ("--insecure",)
        cluster.start_broker()
        wait_until(lambda: "broker.started" in cluster.log("broker"), "it listens")
        started = [line for line in cluster.log("broker").splitlines() if '"event":"broker.' in line]
        assert started and all('"insecure":true' in line for line in started)
        assert '"level":"warning"' in started[0]
        cluster.terminate("broker")
    with KeyedCluster(tmp_path) as keyed:
        keyed.clients = f"tcp://0.0.0.0:{free_port()}"
        began = time.monotonic()
        keyed.start_broker()
        wait_until(lambda: "access.proven" in keyed.log("broker"), "it listens, with keys")
        assert time.monotonic() - began < 20
