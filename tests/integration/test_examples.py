"""The examples and the demo do what they say."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from client.up_config import load
from tests.integration.cluster import Cluster
from tests.servers import RecordingServer

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("program", "words", "messages"),
    [("submit.py", [], 5_000), ("transactional.py", ["anna@example.com"], 1)],
)
def test_the_python_programs_send(program: str, words: list[str], messages: int, tmp_path: Path) -> None:
    with RecordingServer() as server, Cluster(tmp_path) as cluster:
        cluster.start_broker()
        cluster.start_worker("w", server.url)
        with cluster.client() as client:
            cluster.wait_for_workers(client, 1)
        command = [sys.executable, str(ROOT / "examples" / program), *words, cluster.clients]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        assert done.stdout == f"{{'sent': {messages}}}\n"
        assert server.count() == messages


def test_the_example_cluster_is_valid(tmp_path: Path) -> None:
    shutil.copy(ROOT / "examples/cluster.toml", tmp_path)
    (tmp_path / "relay-1.secret").write_text("secret\n")
    cluster = load(tmp_path / "cluster.toml", {"RELAY_2_PASSWORD": "secret"})
    assert [worker.name for worker in cluster.workers] == ["relay-1", "relay-2", "own-postfix"]


@pytest.mark.parametrize(("module", "name"), [("broker", "broker.toml"), ("worker", "relay-1.toml")])
def test_the_deployment_files_name_settings_that_exist(module: str, name: str) -> None:
    command = [sys.executable, "-m", module, "--config", str(ROOT / "deploy" / name), "--help"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert subprocess.run(command, env=environment, capture_output=True, timeout=30).returncode == 0


@pytest.mark.slow
def test_the_demo_sends_five_thousand(tmp_path: Path) -> None:
    """On a pipe, as CI has it, and with what requirements.lock installs: the test extras are hidden."""
    extras = ["aiosmtpd", "cryptography", "hypothesis", "mypy", "pytest"]
    hide = f"import sys\nsys.modules.update(dict.fromkeys({extras}))\n"
    (tmp_path / "sitecustomize.py").write_text(hide)
    environment = {
        **os.environ, "EVENPOST_DEMO": str(tmp_path / "demo"), "PYTHONPATH": f"{tmp_path}:{ROOT}",
    }  # fmt: skip
    command = [sys.executable, "-m", "scripts.demo_newsletter"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "The report says 5,000 sent; 5,000 people got it, 0 of them twice." in done.stdout
