"""`evenpost keys`: what is no key is refused before a file is written."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from client.cli_keys import keys


@pytest.mark.parametrize("name", ["", "a\nb", "x" * 201])
def test_what_cannot_be_a_workers_name_is_refused(tmp_path: Path, name: str) -> None:
    result = CliRunner().invoke(keys, ["new", "worker", "relay", "--dir", str(tmp_path), "--worker", name])
    assert result.exit_code == 2 and "can't be a worker's name" in result.output
    assert not list(tmp_path.iterdir())
