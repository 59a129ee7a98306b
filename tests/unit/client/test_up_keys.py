"""The keys of a cluster.toml: what is wrong is told at once, and who knows whose key."""

import io
from pathlib import Path

import pytest

from client.problems import InputError
from client.up import Patience, Supervisor
from client.up_config import Cluster, load
from evenpost.runtime.curve import Role, new_key
from evenpost.runtime.curve_files import write_new

BROKER = "[broker]\ncurve_key = 'main.key'\nkeys = 'keys'\n"
SERVER = "[[server]]\nname = 'relay-1'\nsmtp = 'smtp://h.example'\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "keys").mkdir()
    write_new(new_key(Role.BROKER, "main"), tmp_path)
    write_new(new_key(Role.WORKER, "relay-1"), tmp_path)
    write_new(new_key(Role.ADMIN, "anna"), tmp_path)
    return tmp_path


def read(folder: Path, text: str, environment: dict[str, str] | None = None) -> Cluster:
    (folder / "c.toml").write_text(text)
    return load(folder / "c.toml", environment or {})


def problems(folder: Path, text: str) -> str:
    with pytest.raises(InputError) as caught:
        read(folder, text)
    return "\n".join(str(problem) for problem in caught.value.problems)


def public(folder: Path) -> str:
    return (folder / "main.pub").read_text().split('public = "')[1][:40]


def test_workers_are_told_the_brokers_public_key(folder: Path) -> None:
    cluster = read(folder, BROKER + SERVER + "curve_key = 'relay-1.key'\n")
    assert cluster.broker_key == public(folder)
    assert cluster.broker.arguments[-4:] == ("--curve-key", "main.key", "--keys", "keys")
    (worker,) = cluster.workers
    assert worker.arguments[-2:] == ("--curve-key", "relay-1.key")
    assert worker.environment == {"EVENPOST_BROKER_KEY": public(folder)}


def test_a_key_from_the_environment_counts_too(folder: Path) -> None:
    environment = {
        "EVENPOST_BROKER_CURVE_KEY": "main.key", "EVENPOST_KEYS": "keys",
        "EVENPOST_WORKER_CURVE_KEY": "relay-1.key",
    }  # fmt: skip
    cluster = read(folder, SERVER, environment)
    assert cluster.broker_key == public(folder)
    assert cluster.workers[0].environment == {"EVENPOST_BROKER_KEY": public(folder)}


def test_a_server_that_names_its_brokers_key_keeps_it(folder: Path) -> None:
    text = BROKER + SERVER + "curve_key = 'relay-1.key'\nbroker_key = 'main.pub'\n"
    assert read(folder, text).workers[0].environment == {}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (BROKER + SERVER, "server[1].curve_key: missing, and the broker has keys"),
        (SERVER + "curve_key = 'relay-1.key'\n", "server[1].curve_key: the broker of this file has no key"),
        ("[broker]\ncurve_key = 'main.key'\n" + SERVER, "broker.keys: missing"),
        ("[broker]\nkeys = 'keys'\n" + SERVER, "broker.curve_key: missing"),
        ("[broker]\ncurve_key = 'main.key'\nkeys = 'kyes'\n" + SERVER, "broker.keys: there is no folder"),
        ("[broker]\ncurve_key = 5\nkeys = 'keys'\n" + SERVER, "broker.curve_key: expected a text, got 5"),
        (BROKER.replace("main.key", "main.pub") + SERVER, "give the .key file, not the .pub file"),
        (
            BROKER + SERVER + "curve_key = 'anna.key'\n",
            "is a key of role admin: here goes one of role worker",
        ),
    ],
)
def test_what_is_wrong_with_keys(folder: Path, text: str, words: str) -> None:
    assert words in problems(folder, text)


async def test_without_a_clients_key_it_says_that_it_cannot_ask(folder: Path) -> None:
    cluster = read(folder, BROKER + SERVER + "curve_key = 'relay-1.key'\n")
    out = io.StringIO()
    await Supervisor(cluster, patience=Patience(ask_s=0.01), out=out)._tell_when_ready()
    assert "the broker tells only a client's key: --curve-key FILE" in out.getvalue()
