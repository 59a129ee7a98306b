"""Command-line options that are settings too: option beats environment beats file.

Each option made by `option` has an environment twin (`--max-connections`: EVENPOST_MAX_CONNECTIONS) and a
TOML key of the same name (`max_connections`); `config_option` reads the file.
"""

import difflib
import math
import os
import resource
import stat
import sys
import tomllib
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, TypeVar

import click

from evenpost import __version__
from evenpost.runtime import logs
from evenpost.runtime.secret import Secret

F = TypeVar("F", bound=Callable[..., Any])
Decorator = Callable[[F], F]

EXIT_BAD_INPUT = 2
EXIT_INTERNAL = 70
"""EX_SOFTWARE of sysexits.h: a bug of ours."""


class FiniteRange(click.FloatRange):
    """A click.FloatRange that refuses `nan`, which passes every comparison, and `inf`."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        _check_digits(self, value, param, ctx)
        number = float(click.FLOAT.convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{str(value)!r} is not a finite number.", param, ctx)
        return float(super().convert(number, param, ctx))


class WholeRange(click.IntRange):
    """A click.IntRange that reads what people call a number: Python takes `1_0` and the digits of all
    scripts."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        _check_digits(self, value, param, ctx)
        return int(super().convert(value, param, ctx))


def _check_digits(
    kind: click.FloatRange | click.IntRange,
    value: Any,
    param: click.Parameter | None,
    ctx: click.Context | None,
) -> None:
    if isinstance(value, str) and ("_" in value or not value.isascii()):
        kind.fail(f"{value!r} is not a number that is written with 0 to 9.", param, ctx)


def option(*names: str, **attributes: Any) -> Decorator[Any]:
    """A click option with its environment twin, shown in --help."""
    long = next(name for name in names if name.startswith("--"))
    attributes.setdefault("envvar", "EVENPOST_" + long.split("/")[0].lstrip("-").replace("-", "_").upper())
    attributes.setdefault("show_envvar", True)
    attributes.setdefault("show_default", True)
    return click.option(*names, **attributes)


def config_option(section: str, tables: Collection[str] = ()) -> Decorator[Any]:
    """`--config FILE`: a TOML file whose keys are the options' names, at the top or under `[section]`.

    `tables`: names of arrays of tables that it may have too; the command reads them with `read_tables`."""

    def load(context: click.Context, _: click.Parameter, path: Path | None) -> Path | None:
        if path is None:
            return None
        values = read_toml(path)
        if isinstance(values.get(section), dict):
            values = values[section]
        known = {p.name: p for p in context.command.params if isinstance(p, click.Option) and p.name}
        values = {key: value for key, value in values.items() if key not in tables}
        for key in values:
            if key not in known or key == "config":
                raise click.BadParameter(
                    f"{path}: unknown key {key!r}.{did_you_mean(key, [*known, *tables])}"
                )
        values = {key: _given(path, key, value, known[key]) for key, value in values.items()}
        context.default_map = {**(context.default_map or {}), **values}
        return path

    return option(
        "--config",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        is_eager=True,
        callback=load,
        help="Read settings from this TOML file. An option beats the environment, which beats the file.",
    )


def read_tables(path: Path, section: str, name: str) -> list[dict[str, Any]]:
    """The tables `[[name]]` of a file that --config names, those of `[[section.name]]` included. Raises
    click.BadParameter."""
    top = read_toml(path)
    places = [top, top[section]] if isinstance(top.get(section), dict) else [top]
    tables: list[dict[str, Any]] = []
    for place in places:
        rows = place.get(name, [])
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise click.BadParameter(f"{path}: {name!r} takes tables: write [[{name}]] above each of them")
        tables.extend(rows)
    return tables


def did_you_mean(word: str, known: Collection[str]) -> str:
    """A sentence, with a space before it, about what an unknown key may have been meant to be."""
    close = difflib.get_close_matches(word, known, 1)
    return f" Did you mean {close[0]!r}?" if close else f" Known keys: {', '.join(sorted(known))}."


def _given(path: Path, key: str, value: Any, to: click.Option) -> Any:
    """A value of the file as a command line would give it: then click's types say what is wrong with it.
    Raises click.BadParameter for what no command line can say."""
    if not to.multiple:
        if kind := _compound(value):
            raise click.BadParameter(f"{path}: {key!r} takes a single value, not {kind}")
        if isinstance(value, int) and value.bit_length() > _INTEGER_BITS_MAX:
            raise click.BadParameter(f"{path}: {key!r} takes no number of thousands of digits")
        return value if to.is_flag and isinstance(value, bool) else _word(value)
    if isinstance(value, dict):
        raise click.BadParameter(f"{path}: {key!r} takes a list or a single value, not a table")
    items = value if isinstance(value, list) else [value]
    if kind := next(filter(None, map(_compound, items)), ""):
        raise click.BadParameter(f"{path}: {key!r} takes a list of single values, not one with {kind} in it")
    return [_word(item) for item in items]


_INTEGER_BITS_MAX = 10_000
"""Python writes no integer of more than 4,300 decimal digits out; a file can hold one in hexadecimal."""


def _compound(value: Any) -> str:
    return "a list" if isinstance(value, list) else "a table" if isinstance(value, dict) else ""


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file's content. Raises click.BadParameter that names file, line and column."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise click.BadParameter(f"{path}: {error}") from None
    except UnicodeDecodeError as error:
        raise click.BadParameter(f"{path}: byte {error.start} is not UTF-8: save the file as UTF-8") from None
    except OSError as error:
        raise click.BadParameter(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError):  # Python's own bounds, which its parser passes on
        raise click.BadParameter(f"{path}: a number of thousands of digits, or lists in lists") from None


def log_options(function: F) -> F:
    """--log-level, --log-format and --log-addresses."""
    for decorator in (
        option(
            "--log-addresses",
            is_flag=True,
            help="Show mail addresses in logs in full; else only their first letter and domain.",
        ),
        option(
            "--log-format",
            type=click.Choice(["auto", "console", "json"]),
            default="auto",
            help="auto: colours on a terminal, JSON lines otherwise.",
        ),
        option(
            "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info",
            help="The least severe event that is logged.",
        ),
    ):  # fmt: skip
        function = decorator(function)
    return function


def version_option() -> Decorator[Any]:
    return click.version_option(__version__, "--version", message="%(prog)s %(version)s")


def read_secret(path: Path) -> Secret:
    """A secret from a file: its first line. Warns where every account of this machine can read it too. Raises
    click.BadParameter that says what is wrong."""
    try:
        with path.open(encoding="utf-8") as file:
            text, mode = file.read(), os.fstat(file.fileno()).st_mode
    except OSError as error:
        raise click.BadParameter(f"can't read the secret in {path}: {error}") from None
    except UnicodeDecodeError as error:
        # The error's own words would show a byte of it.
        raise click.BadParameter(
            f"can't read the secret in {path}: byte {error.start} is not UTF-8"
        ) from None
    if mode & (stat.S_IROTH | stat.S_IWOTH):
        click.echo(f"Warning: everybody on this machine can read {path}: chmod 600 {path}", err=True)
    secret = text.split("\n", 1)[0].rstrip("\r")
    if not secret:
        raise click.BadParameter(f"{path} holds no secret: its first line is empty")
    return Secret(secret)


def run(command: click.Command, name: str) -> None:
    """Runs a command line to its exit. Whatever happens, people get a sentence and not a trace back."""
    _dump_no_core()
    try:
        status = command.main(prog_name=name, standalone_mode=False)
    except click.exceptions.Exit as exit_:
        status = exit_.exit_code
    except click.ClickException as error:
        error.show()
        status = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("Stopped.", err=True)
        status = 130
    except BrokenPipeError:
        # Whoever read our output has gone (`| head`): nothing more to say, and nowhere to say it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 141
    except Exception as error:  # noqa: BLE001  # the last line of defence: a bug becomes a sentence
        status = _crashed(error, name)
    sys.exit(status if isinstance(status, int) else 0)


def _dump_no_core() -> None:
    """A core dump would hold our keys and passwords, for whoever finds it. Nothing is lost for debugging:
    EVENPOST_DEBUG=1 leaves the limit as it is."""
    if not os.environ.get("EVENPOST_DEBUG"):
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


def _crashed(error: Exception, name: str) -> int:
    if isinstance(error, UnicodeError) and (word := _not_utf8()):
        click.echo(f"Error: {word} is not UTF-8: write it in UTF-8.", err=True)
        return EXIT_BAD_INPUT
    logs.get().critical("process.crashed", error=repr(error), exc_info=bool(os.environ.get("EVENPOST_DEBUG")))
    click.echo(f"{name}: a bug in Evenpost: {error!r}. With EVENPOST_DEBUG=1 the log shows where.", err=True)
    return EXIT_INTERNAL


def _not_utf8() -> str:
    """What we were started with that isn't UTF-8, if there is such. Only what is sent or resolved has to be:
    the name of a file may be any bytes."""
    for word in sys.argv[1:]:
        if not _is_utf8(word):
            return f"the argument '{os.fsencode(word).decode('utf-8', 'backslashreplace')}'"
    for variable, value in os.environ.items():
        if variable.startswith("EVENPOST_") and not _is_utf8(value):
            return f"the variable {variable}"
    return ""


def _is_utf8(word: str) -> bool:
    return not any("\ud800" <= char <= "\udfff" for char in word)
