"""Option beats environment beats file; what is wrong is said."""

import resource
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from evenpost.runtime import settings


@click.command()
@settings.config_option("broker")
@settings.option("--max-things", type=int, default=1, help="Things.")
@settings.option("--ratio", type=settings.FiniteRange(min=0), default=0.5)
@settings.option("--loud/--quiet", default=False)
@settings.option("--most", type=settings.WholeRange(1, 100))
@settings.option("--tag", multiple=True)
def program(
    config: Path | None, max_things: int, ratio: float, loud: bool, most: int | None, tag: tuple[str, ...]
) -> None:
    click.echo(f"things {max_things}" if most is None else f"most {most}")
    if ratio != 0.5 or loud or tag:
        click.echo(f"{ratio} {loud} {tag}")


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
        ("max_things = [1]", "b.toml: 'max_things' takes a single value, not a list"),
        ("max_things = {a = 1}", "b.toml: 'max_things' takes a single value, not a table"),
        ("[broker]\nmax_things = []", "b.toml: 'max_things' takes a single value, not a list"),
        ("max_things = true", "'true' is not a valid integer"),
        ("max_things = 1.5", "'1.5' is not a valid integer"),
        ("max_things = 2026-05-01", "'2026-05-01' is not a valid integer"),
        ("ratio = 2026-05-01", "'2026-05-01' is not a valid float"),
        ("ratio = nan", "'nan' is not a finite number"),
        ("loud = 2", "'2' is not a valid boolean"),
        ("loud = [true]", "b.toml: 'loud' takes a single value, not a list"),
        ("tag = [['x']]", "b.toml: 'tag' takes a list of single values, not one with a list in it"),
        ("tag = ['x', {a = 1}]", "b.toml: 'tag' takes a list of single values, not one with a table in it"),
        ("max_things = " + "1" * 5_000, "b.toml: a number of thousands of digits"),
        ("max_things = 0x" + "f" * 5_000, "b.toml: 'max_things' takes no number of thousands of digits"),
        ("max_things = " + "[" * 50_000, "b.toml: a number of thousands of digits, or lists in lists"),
        ("tag = {a = 1}", "b.toml: 'tag' takes a list or a single value, not a table"),
    ],
)
def test_a_wrong_file_is_refused_with_what_and_where(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "b.toml"
    file.write_text(text)
    code, output = run("--config", str(file))
    assert code == 2
    assert said in " ".join(output.split())


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("ratio = 2\nloud = true", "2.0 True ()"),
        ("loud = 'yes'", "0.5 True ()"),
        ("tag = 'one'", "0.5 False ('one',)"),
        ("tag = ['a', 'b', 3]", "0.5 False ('a', 'b', '3')"),
        ("tag = []\nratio = 1e-7", "1e-07 False ()"),
    ],
)
def test_a_file_may_say_what_a_command_line_may(tmp_path: Path, text: str, read: str) -> None:
    file = tmp_path / "b.toml"
    file.write_text(text)
    assert run("--config", str(file)) == (0, f"things 1\n{read}\n")


@pytest.mark.parametrize("number", ["nan", "inf", "-nan", "Infinity"])
def test_a_number_that_is_none_is_refused(number: str) -> None:
    for code, output in (run("--ratio", number), run(EVENPOST_RATIO=number)):
        assert code == 2 and f"'{number}' is not a finite number" in output
    assert "-1.0 is not in the range x>=0" in run("--ratio", "-1")[1]


@pytest.mark.parametrize("number", ["\u0663", "1_0", "\uff11", "1__0"])
@pytest.mark.parametrize("option", ["--ratio", "--most"])
def test_numbers_are_written_with_0_to_9(option: str, number: str) -> None:
    code, output = run(option, number)
    assert code == 2 and f"'{number}' is not a number that is written with 0 to 9" in output
    assert run("--most", " 7 ") == (0, "most 7\n")
    assert "101 is not in the range 1<=x<=100" in run("--most", "101")[1]
    assert "'x' is not a valid integer" in run("--most", "x")[1]


@click.command()
@settings.config_option("broker", tables=["domain"])
@settings.option("--max-things", type=int, default=1)
def with_tables(config: Path, max_things: int) -> None:
    click.echo(f"{max_things} {settings.read_tables(config, 'broker', 'domain')}")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("max_things = 2", "2 []"),
        ("max_things = 2\n[[domain]]\na = 1\n[[domain]]", "2 [{'a': 1}, {}]"),
        ("[broker]\nmax_things = 2\n[[domain]]\na = 1", "2 [{'a': 1}]"),
        ("[[domain]]\na = 1\n[broker]\nmax_things = 2\n[[broker.domain]]\nb = 2", "2 [{'a': 1}, {'b': 2}]"),
        ("[domain]\na = 1", "b.toml: 'domain' takes tables: write [[domain]] above each of them"),
        ("domain = [1]", "b.toml: 'domain' takes tables: write [[domain]] above each of them"),
        ("[[domian]]\na = 1", "b.toml: unknown key 'domian'. Did you mean 'domain'?"),
    ],
)
def test_a_command_may_have_tables_of_its_own(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "b.toml"
    file.write_text(text)
    result = CliRunner().invoke(with_tables, ["--config", str(file)])
    assert said in " ".join(result.output.split())
    assert result.exit_code == (0 if said[0] == "2" else 2)


def test_help_names_the_environment_twin() -> None:
    assert "EVENPOST_MAX_THINGS" in run("--help")[1]


def test_a_secret_is_the_first_line_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("pass word \r\nnotes\n")
    assert settings.read_secret(file).reveal() == "pass word "
    file.write_text("\n")
    with pytest.raises(click.BadParameter, match="first line is empty"):
        settings.read_secret(file)
    with pytest.raises(click.BadParameter, match="can't read"):
        settings.read_secret(tmp_path / "none")


@pytest.mark.parametrize(("mode", "warned"), [(0o600, False), (0o640, False), (0o644, True), (0o602, True)])
def test_a_secret_that_all_can_read_is_warned_about(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], mode: int, warned: bool
) -> None:
    file = tmp_path / "secret"
    file.write_text("hunter2\n")
    file.chmod(mode)
    settings.read_secret(file)
    said = capsys.readouterr().err
    assert (f"chmod 600 {file}" in said) == warned
    assert "hunter2" not in said


def test_a_secret_that_is_not_utf8_is_not_shown(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_bytes(b"hunter2\xff")
    with pytest.raises(click.BadParameter, match="byte 7 is not UTF-8") as caught:
        settings.read_secret(file)
    assert "hunter2" not in str(caught.value.message)


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


def test_an_argument_that_is_not_utf8_is_bad_input(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    @click.command()
    @settings.option("--name", default="")
    @click.argument("words", nargs=-1)
    def encoding(name: str, words: tuple[str, ...]) -> None:
        " ".join([name, *words]).encode()
        "\udcfe".encode()  # not from outside: a bug

    def status(*words: str) -> object:
        monkeypatch.setattr("sys.argv", ["program", *words])
        with pytest.raises(SystemExit) as ended:
            settings.run(encoding, "program")
        return ended.value.code

    assert status("a", "b\udcff") == settings.EXIT_BAD_INPUT
    assert capsys.readouterr().err == "Error: the argument 'b\\xff' is not UTF-8: write it in UTF-8.\n"
    monkeypatch.setenv("EVENPOST_NAME", "\udcff")
    assert status("a") == settings.EXIT_BAD_INPUT
    assert capsys.readouterr().err == "Error: the variable EVENPOST_NAME is not UTF-8: write it in UTF-8.\n"
    monkeypatch.delenv("EVENPOST_NAME")
    assert status("a") == settings.EXIT_INTERNAL


@pytest.mark.parametrize("debug", ["", "1"])
def test_no_core_is_dumped_unless_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], debug: str
) -> None:
    monkeypatch.setenv("EVENPOST_DEBUG", debug)
    monkeypatch.setattr("sys.argv", ["look"])
    before = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (before[1], before[1]))

    @click.command()
    def look() -> None:
        click.echo(f"soft {resource.getrlimit(resource.RLIMIT_CORE)[0]}")

    try:
        with pytest.raises(SystemExit):
            settings.run(look, "look")
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, before)
    assert capsys.readouterr().out == f"soft {before[1] if debug else 0}\n"
