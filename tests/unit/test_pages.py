"""The pages say what the code has: each module, each message and field, each option."""

import re
from pathlib import Path

import click
import msgspec
import pytest

import broker.cli
import worker.cli
from broker.journal import schema
from evenpost.wire import client_messages, codec, operator_messages, types, worker_messages
from evenpost.wire.errors import Code
from evenpost.wire.types import Type
from worker import outcome_log_file

ROOT = Path(__file__).parents[2]
ROOTS = ("evenpost", "broker", "worker", "client")


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text()


# --- architecture.md ------------------------------------------------------------------------------


def rooms() -> dict[str, set[str]]:
    """Folder -> what the tree and the table of broker/core name in it. A trailing `*` stands for anything."""
    text = page("architecture.md")
    tree = text.split("**Who may import whom:**")[0].split("\n\n    ")[1]
    found: dict[str, set[str]] = {}
    path: list[tuple[int, str]] = []
    for line in ("    " + tree).splitlines():
        indent = len(line) - len(line.lstrip())
        path = [(depth, name) for depth, name in path if depth < indent]
        folder = "/".join(name for _, name in path)
        names = re.split(r"\s{2,}|(?<!,) ", line.strip())[0].split(", ")
        if names[0].endswith("/"):
            path.append((indent, names[0].rstrip("/")))
            names = [names[0]]
        found.setdefault(folder, set()).update(names)
    table = text.split("## The rooms of broker/core")[1].split("\n## ")[0]
    rows = re.findall(r"^\| ([a-z_, ]+) \|", table, re.MULTILINE)
    found["broker/core"] = {name for row in rows for name in row.split(", ")} - {"module"}
    return found


def test_each_room_that_is_there_is_named_and_each_that_is_named_is_there() -> None:
    named = rooms()
    for folder in [path for root in ROOTS for path in (ROOT / root, *(ROOT / root).rglob("*"))]:
        if not folder.is_dir() or folder.name == "__pycache__":
            continue
        names = named.get(str(folder.relative_to(ROOT)), set())
        modules = {path.stem for path in folder.glob("*.py")} - {"__init__", "__main__"}
        prefixes = tuple(name.rstrip("*") for name in names if name.endswith("*"))
        files = {name for name in names if not name.endswith(("/", "*"))}
        unnamed = {name for name in modules - files if not (prefixes and name.startswith(prefixes))}
        assert not unnamed, f"{folder}: architecture.md doesn't name {unnamed}"
        assert not files - modules, f"{folder}: architecture.md names {files - modules}"
    for name in named["scripts"]:
        assert (ROOT / "scripts" / name).exists(), name


# --- protocol.md ----------------------------------------------------------------------------------

MESSAGES = [
    each
    for module in (client_messages, operator_messages, worker_messages, types)
    for each in vars(module).values()
    if isinstance(each, type) and issubclass(each, types.Message) and each is not types.Message
]
ROWS = [
    each
    for module in (client_messages, operator_messages, worker_messages, types)
    for each in vars(module).values()
    if isinstance(each, type) and issubclass(each, msgspec.Struct) and not issubclass(each, types.Message)
    if each is not types.Row
]  # fmt: skip


def words(text: str) -> set[str]:
    """Names in back-ticks."""
    return {word for quoted in re.findall(r"`([^`]+)`", text) for word in re.findall(r"[a-z_]+", quoted)}


@pytest.mark.parametrize("message", sorted(set(MESSAGES), key=lambda m: m.TYPE), ids=lambda m: m.__name__)
def test_each_message_is_told_with_its_number_and_fields(message: type[types.Message]) -> None:
    name = f"{message.TYPE.name} ({message.TYPE.value})"
    lines = [line for line in page("protocol.md").splitlines() if name in line]
    assert lines, name
    missing = set(message.__struct_fields__) - words("\n".join(lines))
    assert not missing, f"{name}: {missing}"


@pytest.mark.parametrize("row", sorted(set(ROWS), key=lambda r: r.__name__), ids=lambda r: r.__name__)
def test_each_field_of_what_messages_hold_is_told(row: type[msgspec.Struct]) -> None:
    text = page("protocol.md")
    assert not set(row.__struct_fields__) - words(text)
    if issubclass(row, types.Row):  # an array: their order is what counts
        (told,) = re.findall(rf"^\| {row.__name__} \| (.+) \|$", text, re.MULTILINE)
        assert told == ", ".join(f"`{field}`" for field in row.__struct_fields__)


def test_no_message_and_no_error_is_made_up() -> None:
    text = page("protocol.md")
    told = set(re.findall(r"\b([A-Z][A-Z_]+) \((\d+)\)", text))
    assert told == {(type_.name, str(type_.value)) for type_ in Type}
    assert set(Code) <= words(text)
    assert f"now **{codec.VERSION}**" in text


def test_the_formats_versions_are_those_of_the_code() -> None:
    formats = f"protocol {codec.VERSION}, journal {schema.VERSION}, outcome log {outcome_log_file.VERSION}."
    assert f"Formats: {formats}" in (ROOT / "CHANGELOG.md").read_text()
    assert f"`evenpost.db` is version {schema.VERSION}." in page("architecture.md")


# --- operations.md --------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [broker.cli.command, worker.cli.cli], ids=["broker", "worker"])
def test_each_option_of_a_role_is_in_operations(command: click.Command) -> None:
    text = page("operations.md")
    options = {p.opts[0] for p in command.params if isinstance(p, click.Option)} - {"--version", "--help"}
    assert len(options) > 20
    assert {option for option in options if not re.search(rf"{option}\b(?!-)", text)} == set()


def test_each_event_is_told_with_its_level() -> None:
    """As far as a level stands beside its event in the code."""
    logged: dict[str, str] = {}
    for path in [path for root in ROOTS for path in (ROOT / root).rglob("*.py")]:
        calls = r'(?:\.(info|warning|error|critical|debug)\(|Log\(\s*"(\w+)",)\s*"([a-z_]+\.[a-z_]+)"'
        for method, word, event in re.findall(calls, path.read_text()):
            logged[event] = method or word
    assert len(logged) > 40
    told: dict[str, str] = {}
    table = page("operations.md").split("## Events in the logs")[1]
    for events, levels in re.findall(r"^\| (`.*?) \| ([a-z, ]+) \|", table, re.MULTILINE):
        names, each = re.findall(r"`([a-z_.]+)`", events), levels.split(", ")
        assert len(each) in (1, len(names)), events
        told |= dict(zip(names, each * len(names) if len(each) == 1 else each, strict=True))
    assert {event: level for event, level in logged.items() if told.get(event) != level} == {}


def test_tables_have_as_many_cells_in_each_row() -> None:
    for path in (*sorted((ROOT / "docs").glob("*.md")), *ROOT.glob("*.md")):
        for table in re.findall(r"(?:^\|.*\n)+", path.read_text(), re.MULTILINE):
            cells = [len(re.findall(r"(?<!\\)\|", re.sub(r"`[^`]*`", "", row))) for row in table.splitlines()]
            assert len(set(cells)) == 1, f"{path.name}: {table.splitlines()[cells.index(min(cells))][:80]}"
