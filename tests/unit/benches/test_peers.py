"""scripts/bench peers: a count that is exact, and nobody who is dropped in silence."""

import json
import re
from pathlib import Path

import click
import pytest

from scripts.benches.peers import measure
from scripts.benches.peers.contestant import HERE
from scripts.benches.peers.sinks import Sinks, last_count
from scripts.benches.usage import Cost


def test_the_newest_count_is_read_also_while_it_is_written(tmp_path: Path) -> None:
    output = tmp_path / "sink.log"
    output.write_bytes(b"")
    assert last_count(output) == 0
    output.write_bytes(
        b"".join(b"sess=1 quit=0 mesg=%d\r" % n for n in range(1_000)) + b"sess=1 quit=0 mesg=10"
    )
    assert last_count(output) == 999


@pytest.mark.parametrize(("arrived", "words"), [(4, "1 messages didn't arrive"), (6, "1 messages more")])
def test_too_few_and_too_many_are_errors(arrived: int, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Sinks, "__init__", lambda self: None)
    monkeypatch.setattr(Sinks, "count", lambda self: arrived)
    with pytest.raises(click.ClickException, match=words):
        Sinks().wait_for(5, 0.0, "x")  # type: ignore[call-arg]  # no sink is started here


def test_a_peer_that_is_missing_is_told_and_its_bar_is_missed() -> None:
    found = measure.result(
        10, 1, Cost("Evenpost"), {}, {}, {"postfix": "postfix: get it", "exim": "exim: get it"}
    )
    assert [bar.held for bar in found.bars] == [False]
    assert found.figures["missing"] == {"postfix": "postfix: get it", "exim": "exim: get it"}
    assert {"Postfix as relay: missing: postfix: get it", "Exim as relay: missing: exim: get it"} <= set(
        found.notes
    )
    assert ["Postfix as relay", "missing"] in [list(row[:2]) for row in found.rows]


def test_the_peers_locks_name_no_registry_and_pin_everything() -> None:
    for name in ("requirements.lock", "package-lock.json", "package.json", "requirements.txt"):
        assert "http" not in (HERE / name).read_text(), name
    lock = (HERE / "requirements.lock").read_text()
    packages = re.findall(r"^([a-z0-9_.-]+)==", lock, re.MULTILINE)
    assert {"celery", "redis", "aiosmtplib"} <= set(packages)
    assert lock.count("--hash=sha256:") >= len(packages)
    locked = json.loads((HERE / "package-lock.json").read_text())["packages"]
    wanted = json.loads((HERE / "package.json").read_text())["dependencies"]
    assert {name: locked[f"node_modules/{name}"]["version"] for name in wanted} == wanted
    assert all("integrity" in each for name, each in locked.items() if name)
