"""The rules of the house: who may import whom, and what the pure cores may not touch."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROLES = {"broker", "worker", "client"}
PURE = [
    "broker/core", "client/session.py",
    "worker/agent.py", "worker/concurrency.py", "worker/session.py", "worker/smtp/protocol.py",
]  # fmt: skip
IMPURE = {
    "asyncio", "zmq", "time", "random", "secrets", "socket", "ssl", "os", "io", "pathlib", "tempfile",
    "subprocess", "threading", "logging", "structlog", "apsw", "sqlite3", "datetime", "uvloop", "shutil",
    "select",
}  # fmt: skip
LONG_FILES = {
    "worker/session.py": "one state machine: its states and transitions are read together",
    "worker/smtp/protocol.py": "one state machine: its states and transitions are read together",
    "worker/smtp/connection.py": "the shell of that machine: half of it would have to know the other half",
}
"""Files over the limit, each with its reason."""
LINES_MAX = 350


def files(*places: str) -> list[Path]:
    found: list[Path] = []
    for place in places:
        path = ROOT / place
        found.extend([path] if path.is_file() else sorted(path.rglob("*.py")))
    return found


def imports(path: Path) -> set[str]:
    """Full names of what a file imports, in functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return names


def roots(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imports(path)}


@pytest.mark.parametrize("path", files("evenpost", *sorted(ROLES)), ids=lambda p: str(p.relative_to(ROOT)))
def test_roles_meet_only_on_the_wire(path: Path) -> None:
    own = path.relative_to(ROOT).parts[0]
    assert not (roots(path) & ROLES) - ({own} if own in ROLES else set())


@pytest.mark.parametrize("path", files("evenpost/wire"), ids=lambda p: p.name)
def test_the_wire_knows_nothing_else(path: Path) -> None:
    ours = {name for name in imports(path) if name.split(".")[0] == "evenpost"}
    assert all(name == "evenpost" or name.startswith("evenpost.wire") for name in ours)


@pytest.mark.parametrize("path", files(*PURE), ids=lambda p: str(p.relative_to(ROOT)))
def test_pure_code_has_no_clock_socket_disk_or_chance(path: Path) -> None:
    assert not roots(path) & IMPURE
    shared = ("evenpost.wire", "evenpost.schedule", "evenpost.runtime.clock")
    allowed = (*shared, "broker.core", "worker.", "client.")
    ours = {n for n in imports(path) if n.split(".")[0] in ROLES | {"evenpost"}}
    assert all(n.startswith(allowed) for n in ours), ours
    # Of the clock, the type only: reading it is for shells.
    assert "evenpost.runtime.clock.now" not in ours


@pytest.mark.parametrize("path", files("evenpost", *sorted(ROLES)), ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_can_be_read_in_one_sitting(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= LINES_MAX or str(path.relative_to(ROOT)) in LONG_FILES, f"{lines} lines"


def test_msgpack_has_one_door() -> None:
    doors = {str(p.relative_to(ROOT)) for p in files("evenpost", *sorted(ROLES)) if "msgpack" in roots(p)}
    assert doors <= {"evenpost/wire/codec.py"}
