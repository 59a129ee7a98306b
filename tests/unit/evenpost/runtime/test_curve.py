"""Keys and their files: nothing is shown, nothing overwritten, and what is wrong is said."""

import itertools
import os
import pickle
import stat
from pathlib import Path

import pytest

from evenpost.runtime import curve_files
from evenpost.runtime.curve import ANY_WORKER, CurvePeer, KeyFileError, Role, is_key, new_key
from evenpost.runtime.curve_files import (
    read_broker_key,
    read_peer,
    read_public_key,
    read_secret_key,
    write_new,
)
from evenpost.runtime.secret import Secret


def test_a_pair_is_written_and_read(tmp_path: Path) -> None:
    made = new_key(Role.WORKER, "relay-1")
    secret, public = write_new(made, tmp_path, ["a b", 'q"\\'])
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert stat.S_IMODE(public.stat().st_mode) == 0o644
    read = read_secret_key(secret, {Role.WORKER})
    assert (read.role, read.name, read.public) == (Role.WORKER, "relay-1", made.public)
    assert read.secret.reveal() == made.secret.reveal()
    found = read_public_key(public)
    assert (found.key, found.workers, found.user_id) == (made.public, ("a b", 'q"\\'), "worker:relay-1")
    assert made.secret.reveal() not in public.read_text()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["relay-1.key", "relay-1.pub"]


def test_a_worker_may_use_its_own_name_unless_more_are_named(tmp_path: Path) -> None:
    own = read_public_key(write_new(new_key(Role.WORKER, "w"), tmp_path)[1])
    assert own.may_be("w") and not own.may_be("v") and not own.may_be(ANY_WORKER)
    assert own.may_be("w/2") and not own.may_be("v/1") and not own.may_be("w/x")
    any_ = read_public_key(write_new(new_key(Role.WORKER, "x"), tmp_path, [ANY_WORKER])[1])
    assert any_.may_be("v")


def test_a_secret_is_not_shown() -> None:
    key = new_key(Role.CLIENT, "c")
    text = key.secret.reveal()
    peer = CurvePeer(key, key.public)
    for shown in (repr(key), str(key), f"{key.secret}", f"{key.secret!r}", repr([peer]), "%s" % key.secret):  # noqa: UP031  # old formatting is a way out, too
        assert text not in shown
    with pytest.raises(TypeError):
        pickle.dumps(key.secret)


@pytest.mark.parametrize("there", ["w.key", "w.pub"])
def test_a_key_is_never_overwritten(tmp_path: Path, there: str) -> None:
    (tmp_path / there).write_text("mine")
    with pytest.raises(KeyFileError, match=f"{there} is there already"):
        write_new(new_key(Role.WORKER, "w"), tmp_path)
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [(there, "mine")]


def test_a_file_that_appears_meanwhile_is_kept(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="is there already"):
        (tmp_path / "w.key").write_text("mine")
        curve_files._write(tmp_path / "w.key", "new", 0o600)
    assert (tmp_path / "w.key").read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o660])
def test_a_secret_that_others_can_read_is_refused(
    tmp_path: Path, mode: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = write_new(new_key(Role.BROKER, "b"), tmp_path)
    path.chmod(mode)
    with pytest.raises(KeyFileError, match=f"chmod 600 {path}"):
        read_secret_key(path)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))  # systemd's ACLs look like that
    assert read_secret_key(path).name == "b"


KEY = new_key(Role.WORKER, "k")
GOOD = f'role = "worker"\nname = "w"\npublic = "{KEY.public}"\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "'role' is one of"),
        ("role = ", "is no key file"),
        ("\xff", "is no key file"),
        (GOOD.replace('"worker"', '"king"'), "'role' is one of"),
        (GOOD.replace('"worker"', '["worker"]'), "'role' is one of"),
        (GOOD.replace('"w"', "3"), "'name' is missing"),
        (GOOD.replace('"w"', '"../w"'), "can't be a key's name"),
        (GOOD.replace(KEY.public, KEY.public[:-1]), "40 characters"),
        (GOOD.replace(KEY.public, "#" * 40), "40 characters"),
        (GOOD + "workers = 3", "list of worker names"),
        (GOOD + "workers = [3]", "list of worker names"),
        (GOOD + 'workers = ["a\\nb"]', "list of worker names"),
        (GOOD.replace('"worker"', '"client"') + 'workers = ["w"]', "only a worker's key"),
        (GOOD + "wrokers = []", "unknown key 'wrokers'"),
        (GOOD + f'secret = "{KEY.secret.reveal()}"', "here goes the .pub file"),
        (GOOD + "n = " + "1" * 5_000, "is no key file"),
        ("#" * 70_000, "larger than 64 KB"),
    ],
    ids=itertools.count(),  # not the texts: each process that runs tests has another key in them
)
def test_what_is_wrong_with_a_public_key_file_is_said(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "w.pub"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(KeyFileError, match=said) as error:
        read_public_key(path)
    assert str(path) in str(error.value)


def test_what_is_wrong_with_a_secret_key_file_is_said(tmp_path: Path) -> None:
    path, public = write_new(KEY, tmp_path)
    with pytest.raises(KeyFileError, match=r"not the \.pub file"):
        public.chmod(0o600)
        read_secret_key(public)
    with pytest.raises(KeyFileError, match="key of role worker: here goes one of role admin or client"):
        read_secret_key(path, {Role.CLIENT, Role.ADMIN})
    other = new_key(Role.WORKER, "k")
    text = path.read_text()
    for wrong, said in (
        (text.replace(KEY.public, other.public), "doesn't belong"),
        (text.replace(KEY.secret.reveal(), "short"), "'secret' isn't a key"),
        (text.replace('secret = "', 'secret = """'), "is no key file"),
    ):
        path.write_text(wrong)
        with pytest.raises(KeyFileError, match=said) as error:
            read_secret_key(path)
        assert KEY.secret.reveal() not in str(error.value)


def test_no_file_a_folder_and_a_pipe_are_no_keys(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for name, said in (("no", "No such file"), (".", "is no file"), ("pipe", "is no file")):
        with pytest.raises(KeyFileError, match=said):
            read_public_key(tmp_path / name)
    assert len(list(Path("/proc/self/fd").iterdir())) == before, "a broker reads its keys again and again"


def test_a_broker_key_is_a_file_or_the_key_itself(tmp_path: Path) -> None:
    key = new_key(Role.BROKER, "b")
    _, public = write_new(key, tmp_path)
    assert read_broker_key(str(public)) == read_broker_key(key.public) == key.public
    _, other = write_new(KEY, tmp_path)
    with pytest.raises(KeyFileError, match="here goes the broker's"):
        read_broker_key(str(other))
    with pytest.raises(KeyFileError, match="can't read"):
        read_broker_key(key.public[:-1])


def test_half_of_what_is_needed_is_refused(tmp_path: Path) -> None:
    secret, _ = write_new(KEY, tmp_path)
    assert read_peer(None, None, set(Role)) is None
    with pytest.raises(KeyFileError, match="--broker-key"):
        read_peer(secret, None, set(Role))
    with pytest.raises(KeyFileError, match="--curve-key"):
        read_peer(None, KEY.public, set(Role))


@pytest.mark.parametrize("name", ["", ".***", "a/b", "a b", "ä", "a\n", "x" * 201, "-x"])
def test_names_that_would_escape_or_mislead_are_refused(name: str) -> None:
    with pytest.raises(KeyFileError, match="can't be a key's name"):
        new_key(Role.CLIENT, name)


def test_what_a_key_is() -> None:
    assert all(is_key(new_key(Role.CLIENT, "c").public) for _ in range(20))
    assert is_key("0" * 40) and not is_key("0" * 39) and not is_key("0" * 41)
    assert not is_key("#" * 40)  # 85^5 - 1 is more than 32 bits
    assert not is_key('"' * 40) and not is_key("0" * 39 + "\n")
    assert Secret("a").reveal() == "a"
