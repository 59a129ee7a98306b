"""The folder of allowed keys: a slip of the pen cuts nobody off, and what is deleted is revoked."""

from pathlib import Path

import pytest

from broker.ring import FOLDERS, Ring, read_ring
from evenpost.runtime.curve import PublicKey, Role, new_key
from evenpost.runtime.curve_files import write_new


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in FOLDERS:
        (tmp_path / name).mkdir()
    return tmp_path


def allow(folder: Path, name: str, who: str, role: Role | None = None) -> tuple[Path, str]:
    key = new_key(role or FOLDERS[name], who)
    secret, public = write_new(key, folder / name)
    secret.unlink()
    return public, key.public


def names(ring: Ring) -> set[str]:
    return {who.user_id for who in ring.by_key.values()}


def test_each_role_connects_where_it_belongs(folder: Path) -> None:
    keys = {name: allow(folder, name, "n")[1] for name in FOLDERS}
    ring, wrong = read_ring(folder, Ring())
    assert not wrong and names(ring) == {"client:n", "worker:n", "admin:n"}
    places = [(name, domain) for name in FOLDERS for domain in ("clients", "workers")]
    may = {(name, domain) for name, domain in places if ring.holder(keys[name], domain)}
    assert may == {("clients", "clients"), ("admins", "clients"), ("workers", "workers")}
    assert ring.holder(keys["clients"], "") is None and ring.holder("", "clients") is None
    assert ring.holder(new_key(Role.CLIENT, "x").public, "clients") is None


def test_what_is_deleted_is_revoked_and_what_is_bad_is_kept(folder: Path) -> None:
    gone, _ = allow(folder, "clients", "gone")
    bad, key = allow(folder, "clients", "bad")
    ring, _ = read_ring(folder, Ring())
    gone.unlink()
    bad.write_text("role = ")
    ring, wrong = read_ring(folder, ring)
    assert names(ring) == {"client:bad"} and len(wrong) == 1 and str(bad) in wrong[0]
    assert ring.holder(key, "clients")
    ring, wrong = read_ring(folder, ring)  # and again: what was kept is kept
    assert names(ring) == {"client:bad"} and len(wrong) == 1


def test_a_folder_that_has_gone_keeps_its_keys_an_empty_one_has_none(folder: Path) -> None:
    path, _ = allow(folder, "workers", "w")
    ring, _ = read_ring(folder, Ring())
    (folder / "workers").rename(folder / "away")
    ring, wrong = read_ring(folder, ring)
    assert names(ring) == {"worker:w"} and "has gone" in wrong[0]
    (folder / "workers").mkdir()
    assert not names(read_ring(folder, ring)[0])
    assert not path.exists()


def test_folders_that_nobody_made_hold_nobody(tmp_path: Path) -> None:
    assert read_ring(tmp_path, Ring()) == (Ring(), [])


def test_a_key_in_the_wrong_folder_does_not_count(folder: Path) -> None:
    path, _ = allow(folder, "admins", "c", Role.CLIENT)
    ring, wrong = read_ring(folder, Ring())
    assert not names(ring) and str(path) in wrong[0] and "key of a client" in wrong[0]


def test_one_key_for_two_holders_counts_once(folder: Path) -> None:
    path, key = allow(folder, "clients", "a")
    path.with_name("b.pub").write_text(path.read_text().replace('"a"', '"b"'))
    ring, wrong = read_ring(folder, Ring())
    assert ring.by_key == {key: PublicKey(Role.CLIENT, "a", key)} and "only that one counts" in wrong[0]


def test_two_keys_of_one_holder_both_count_while_they_are_changed(folder: Path) -> None:
    path, old = allow(folder, "workers", "w")
    path.rename(path.with_name("w-old.pub"))
    _, new = allow(folder, "workers", "w")
    ring, wrong = read_ring(folder, Ring())
    assert not wrong and set(ring.by_key) == {old, new} and names(ring) == {"worker:w"}


def test_what_is_no_pub_file_is_passed_over(folder: Path) -> None:
    path, _ = allow(folder, "clients", "a")
    path.with_name(".a.pub").write_text("an editor's")
    path.with_name("a.pub~").write_text("a copy")
    path.with_name("README").write_text("words")
    ring, wrong = read_ring(folder, Ring())
    assert names(ring) == {"client:a"} and not wrong


def test_a_key_that_anybody_may_write_does_not_count(folder: Path) -> None:
    path, _ = allow(folder, "admins", "a")
    path.chmod(0o646)
    ring, wrong = read_ring(folder, Ring())
    assert not names(ring) and "chmod o-w" in wrong[0]


@pytest.mark.parametrize("name", [".", "admins"])
def test_a_folder_to_which_anybody_may_add_keys_does_not_count(folder: Path, name: str) -> None:
    allow(folder, "admins", "a")
    former, _ = read_ring(folder, Ring())
    (folder / name).chmod(0o1777)
    allow(folder, "admins", "stranger")
    ring, wrong = read_ring(folder, Ring())
    assert not names(ring) and f"chmod o-w {folder / name}" in wrong[-1]
    ring, _ = read_ring(folder, former)
    assert names(ring) == {"admin:a"}, "what was read before it could be changed still counts"
