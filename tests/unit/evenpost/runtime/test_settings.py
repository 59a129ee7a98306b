"""Option beats environment beats file; what is wrong is said."""

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from evenpost.runtime import settings


@click.command()
@settings.config_option("broker")
@settings.option("--max-things", type=int, default=1, help="Things.")
def program(config: Path | None, max_things: int) -> None:
    click.echo(f"things {max_things}")


def run(*words: str, **environment: str) -> tuple[int, str]:
    result = CliRunner().invoke(program, words, env=environment)
    return result.exit_code, result.output


@pytest.mark.parametrize("text", ["max_things = 2", "[broker]\nmax_things = 2\n[other]\nx = 1"])
def test_option_beats_environment_beats_file_beats_default(tmp_path: Path, text: str) -> None:
    file = tmp_path / "b.toml"
    file.write_text(text)
    config = ("--config", str(file))
    assert run() == (0, "things 1\n")
    assert run(*config) == (0, "things 2\n")
    assert run(*config, EVENPOST_MAX_THINGS="3") == (0, "things 3\n")
    assert run(*config, "--max-things", "4", EVENPOST_MAX_THINGS="3") == (0, "things 4\n")
    assert run(EVENPOST_CONFIG=str(file)) == (0, "things 2\n")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("max_thing = 2", "unknown key 'max_thing'. Did you mean 'max_things'?"),
        ("max_things = \n", "line 1, column 14"),
        ("max_things = 'many'", "'many' is not a valid integer"),
        ("config = 'x'", "unknown key 'config'"),
    ],
)
def test_a_wrong_file_is_refused_with_what_and_where(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "b.toml"
    file.write_text(text)
    code, output = run("--config", str(file))
    assert code == 2
    assert said in " ".join(output.split())


def test_help_names_the_environment_twin() -> None:
    assert "EVENPOST_MAX_THINGS" in run("--help")[1]


def test_a_secret_is_the_first_line_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("pass word \r\nnotes\n")
    assert settings.read_secret(file) == "pass word "
    file.write_text("\n")
    with pytest.raises(click.BadParameter, match="first line is empty"):
        settings.read_secret(file)
    with pytest.raises(click.BadParameter, match="can't read"):
        settings.read_secret(tmp_path / "none")


def test_a_bug_becomes_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    @click.command()
    def broken() -> None:
        raise ZeroDivisionError("oh")

    with pytest.raises(SystemExit) as ended:
        import sys

        sys.argv = ["broken"]
        settings.run(broken, "broken")
    assert ended.value.code == settings.EXIT_INTERNAL
    told = capsys.readouterr().err
    assert "a bug in Evenpost: ZeroDivisionError('oh')" in told and "Traceback" not in told
