"""The repository itself: links that lead somewhere, locks that hold, scripts that run."""

import json
import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from evenpost.runtime.failpoints import POINTS

ROOT = Path(__file__).parents[2]
LOCKS = sorted(ROOT.glob("requirements*.lock"))
PAGES = [
    ROOT / "README.md",
    ROOT / "SECURITY.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").glob("*.md")),
]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        path, _, anchor = target.partition("#")
        if path.startswith("http"):
            continue
        assert (page.parent / path).exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", (page.parent / path).read_text(), re.MULTILINE)
            anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in anchors, target


def test_the_locks_name_no_index_and_hash_everything() -> None:
    for name in [path.name for path in LOCKS]:
        text = (ROOT / name).read_text()
        assert "http" not in text and "index" not in text
        packages = re.findall(r"^([a-z0-9_.-]+)==", text, re.MULTILINE)
        assert packages
        assert text.count("--hash=sha256:") >= len(packages)


def test_the_locks_hold_every_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    runtime = set(project["dependencies"])
    test = runtime | set(project["optional-dependencies"]["test"])
    locks = {"requirements": runtime, "requirements-test": test}
    locks |= {f"requirements-{extra}": test for extra in ("plots", "fuzz")}
    for name, wanted in locks.items():
        locked = set(re.findall(r"^([a-z0-9_.-]+)==", (ROOT / f"{name}.lock").read_text(), re.MULTILINE))
        names = {re.split(r"[<>=!~;\s\[]", d)[0].lower() for d in wanted}
        assert names <= locked, names - locked


def test_the_bill_of_materials_names_all_that_is_pinned_with_its_hashes(tmp_path: Path) -> None:
    bill = tmp_path / "sbom.json"
    subprocess.run([ROOT / "scripts/sbom", bill], check=True, capture_output=True, timeout=100)
    components = json.loads(bill.read_text())["components"]
    locked = dict(
        re.findall(r"^([a-z0-9_.-]+)==([^ ]+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    )
    assert {c["name"]: c["version"] for c in components} == locked
    for component in components:
        hashes = [h for reference in component["externalReferences"] for h in reference["hashes"]]
        assert hashes, component["name"]


@pytest.mark.parametrize(
    "name", ["demo", "test", "setup", "bench", "lock", "simulate", "chaos", "fuzz", "sbom"]
)
def test_scripts_can_be_run(name: str) -> None:
    script = ROOT / "scripts" / name
    assert os.access(script, os.X_OK)
    assert script.read_text().startswith("#!/usr/bin/env bash\n")


def test_every_event_that_is_logged_is_documented() -> None:
    operations = (ROOT / "docs/operations.md").read_text()
    prefixes = r"(?:access|agent|batch|broker|campaign|clock|journal|message|peer|process|server|worker)"
    logged = {"dispatch"}
    for role in ("broker", "worker", "evenpost"):
        for path in (ROOT / role).rglob("*.py"):
            logged |= set(re.findall(rf'"({prefixes}\.[a-z_]+)"', path.read_text()))
    not_events = {"broker.clients", "broker.journal", "broker.workers", "campaign.toml", *POINTS}
    assert len(logged) > 30
    assert {event for event in logged - not_events if f"`{event}`" not in operations} == set()


@pytest.mark.parametrize("page", ["docs/reliability.md", "SECURITY.md"])
def test_each_test_that_is_named_is_there(page: str) -> None:
    """Rows that promise a test which nobody runs would be worse than no rows."""
    text = (ROOT / page).read_text()
    source = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("*.py"))
    files = re.findall(r"\btest_\w+\.py", text)
    assert len(files) > 15
    assert set(files) <= {path.name for path in (ROOT / "tests").rglob("*.py")}
    named = set(re.findall(r"\btest_\w+\b(?!\.py)", text)) - {"test_"}
    assert {name for name in named if f"def {name}(" not in source} == set()
