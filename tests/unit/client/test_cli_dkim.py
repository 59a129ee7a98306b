"""`evenpost dkim-key`: a key that the worker reads, and the record that goes with it."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from client.cli import cli
from evenpost.dkim import SigningKey


def run(folder: Path, *arguments: str) -> Result:
    return CliRunner().invoke(cli, ["dkim-key", *arguments, "--dir", str(folder)])


@pytest.mark.parametrize("algorithm", ["rsa", "ed25519"])
def test_a_key_and_its_record(tmp_path: Path, algorithm: str) -> None:
    done = run(tmp_path, "Example.com", "2026a", "--algorithm", algorithm)
    assert done.exit_code == 0, done.output
    path = tmp_path / "2026a.example.com.pem"
    assert path.stat().st_mode & 0o777 == 0o600
    key = SigningKey("example.com", "2026a", path.read_bytes())
    assert key.algorithm == algorithm
    assert key.zone_line in done.stdout
    assert 'private_key = "2026a.example.com.pem"' in done.stdout
    assert "PRIVATE KEY" not in done.output


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    run(tmp_path, "example.com", "s1", "--algorithm", "ed25519")
    before = (tmp_path / "s1.example.com.pem").read_bytes()
    again = run(tmp_path, "example.com", "s1", "--algorithm", "ed25519")
    assert again.exit_code == 1 and "is there already" in again.output
    assert (tmp_path / "s1.example.com.pem").read_bytes() == before


@pytest.mark.parametrize(
    "names", [("a..b", "s1"), ("example.com", "../s1"), ("example.com", "s 1"), ("é.x", "s")]
)
def test_what_is_no_name_makes_no_key(tmp_path: Path, names: tuple[str, str]) -> None:
    done = run(tmp_path, *names)
    assert done.exit_code == 2 and "can't be a" in done.output
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("bits", ["1024", "2047", "8192"])
def test_a_key_has_a_length_that_receivers_take(tmp_path: Path, bits: str) -> None:
    assert run(tmp_path, "example.com", "s1", "--bits", bits).exit_code == 2
