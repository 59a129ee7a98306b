"""Fail points: what the setting says; that each place is there and tested; that unset there is nothing."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from broker.cli import command as broker
from evenpost.runtime.failpoints import IO_POINTS, POINTS, FailPointError, parse
from worker.cli import cli as worker

ROOT = Path(__file__).parents[4]
INTEGRATION = ROOT / "tests/integration/test_failpoints.py"


def words(path: Path) -> list[str]:
    """Every string of a file's code."""
    tree = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return [n.value for n in tree if isinstance(n, ast.Constant) and isinstance(n.value, str)]


@pytest.mark.parametrize("name", POINTS)
def test_each_point_is_reached_at_one_place_and_has_a_test(name: str) -> None:
    role = name.partition(".")[0]
    assert words(ROOT / role / "failpoints.py").count(name) == 1
    assert any(word.partition("@")[0] == name for word in words(INTEGRATION)), "no test"


def test_there_are_no_other_points() -> None:
    for role in ("broker", "worker"):
        named = {w for w in words(ROOT / role / "failpoints.py") if w.startswith(f"{role}.") and " " not in w}
        assert named <= set(POINTS)
    assert set(POINTS) >= IO_POINTS


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("broker.after_comit=kill", "no fail point 'broker.after_comit'. There are: broker.opening, "),
        ("broker.after_commit", "should be NAME=ACTION[@N]"),
        ("broker.after_commit=die", "kill, stop, stall:SECONDS or io, not 'die'"),
        ("broker.after_commit=stall", "a stall has its seconds"),
        ("broker.after_commit=stall:nan", "a stall has its seconds"),
        ("broker.after_commit=kill@0", "a number from 1"),
        ("broker.after_commit=kill@x", "a number from 1"),
        ("broker.after_submit_ok=io", "nothing is written there"),
    ],
)
@pytest.mark.parametrize("command", [broker, worker], ids=["broker", "worker"])
def test_a_wrong_setting_is_refused_with_what_there_is(command: click.Command, text: str, said: str) -> None:
    options = ["--smtp", "smtp://relay.example"] if command is worker else []
    result = CliRunner().invoke(command, options, env={"EVENPOST_FAILPOINTS": text})
    assert result.exit_code == 2
    assert said in " ".join(result.output.replace("│", " ").split())
    with pytest.raises(FailPointError):
        parse(text)


def test_nothing_set_is_nothing_and_each_role_gets_its_own() -> None:
    assert parse("") is None and parse(" ; ") is None
    points = parse("broker.after_commit=stall:0.001@2;")
    assert points is not None
    assert points.of("worker") is None
    assert points.of("broker") is not None


def test_a_point_acts_at_its_count_and_only_then() -> None:
    points = parse("broker.before_commit=io@2")
    assert points is not None
    points.hit("broker.before_commit")
    points.hit("broker.after_commit")
    with pytest.raises(OSError, match="Input/output error"):
        points.hit("broker.before_commit")
    points.hit("broker.before_commit")


@pytest.mark.parametrize("module", ["broker", "worker"])
def test_unset_the_code_of_fail_points_is_not_even_loaded(module: str, tmp_path: Path) -> None:
    code = f"import sys, {module}.service, {module}.cli; assert '{module}.failpoints' not in sys.modules"
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, env=environment, timeout=60)
