"""The broker's command line refuses what would make it misbehave later."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from broker.cli import command


def run(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(command, words, catch_exceptions=False)
    return result.exit_code, " ".join(result.output.split())


@pytest.mark.parametrize("option", ["heartbeat", "lease", "retry-initial", "retry-max", "lifetime"])
def test_seconds_are_a_number(option: str) -> None:
    code, output = run(f"--{option}", "nan")
    assert code == 2 and "'nan' is not a finite number" in output
    code, output = run(f"--{option}", "inf")
    assert code == 2 and f"--{option}" in output


def test_a_list_for_a_number_is_bad_input_and_no_bug(tmp_path: Path) -> None:
    file = tmp_path / "broker.toml"
    file.write_text("[broker]\nheartbeat = [1]\n")
    code, output = run("--config", str(file))
    assert code == 2
    assert f"{file}: 'heartbeat' takes a single value, not a list" in output
