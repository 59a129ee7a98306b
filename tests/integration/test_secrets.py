"""A marked password, and everywhere that it may not be: real processes, at the most talkative log level."""

import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.integration.cluster import ROOT, Cluster, newsletter, wait_until
from tests.servers import RecordingServer, Rule

MARK = "c0rrect-h0rse-m4rk"
BASE64 = ["YzBycmVjdC1oMHJzZS1tNHJr", "AG1haWxlcgBjMHJyZWN0LWgwcnNlLW00cms="]
"""As AUTH LOGIN and AUTH PLAIN say it for the user `mailer`."""


def places(folder: Path, cluster: Cluster) -> dict[str, bytes]:
    """All that could be read: files, and what `ps` shows."""
    found = {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".secret"
    }
    for name, process in cluster.processes.items():
        found[f"ps {name}"] = Path(f"/proc/{process.pid}/cmdline").read_bytes()
    return found


@pytest.mark.parametrize("source", ["file", "environment", "systemd"])
def test_a_password_is_nowhere_but_where_it_belongs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    rules = [Rule("auth", f"535 5.7.8 no: {BASE64[1]} and {MARK}", times=1)]
    with ExitStack() as stack:
        server = stack.enter_context(
            RecordingServer(rules=rules, extensions=["PIPELINING", "AUTH PLAIN LOGIN"])
        )
        cluster = stack.enter_context(Cluster(tmp_path))
        secret = tmp_path / "smtp-password.secret"
        secret.write_text(MARK + "\n")
        secret.chmod(0o600)
        options = ["--cleartext-auth", "--log-level", "debug"]
        environment: dict[str, str] = {}
        if source == "file":
            options += ["--smtp-password-file", str(secret)]
        elif source == "environment":
            environment["EVENPOST_SMTP_PASSWORD"] = MARK
        else:
            (tmp_path / "credentials").mkdir()
            secret.rename(tmp_path / "credentials" / "smtp-password")
            environment["CREDENTIALS_DIRECTORY"] = str(tmp_path / "credentials")
        cluster.start_broker()
        cluster.environment = environment
        cluster.start_worker("w", f"smtp://mailer@{server.host}:{server.port}", *options)
        with cluster.client() as client:
            cluster.wait_for_workers(client, 1)
            receipt = client.submit(newsletter(20), wait=True)
            assert client.status(receipt.campaign).counts == {"sent": 20}
            report = repr([list(client.report(receipt.campaign)), client.servers(), client.status()])
        assert BASE64[1] in server.auth_lines(), "it was logged in with, so the mark is the right one"
        if source == "systemd":
            (tmp_path / "credentials" / "smtp-password").rename(secret)
        found = places(tmp_path, cluster) | {"report": report.encode()}
        cluster.terminate("w")
        found["worker's log"] = cluster.log("w").encode()
        assert "535" in cluster.log("w"), "the server's echo was logged"
    assert any("outcomes" in name for name in found) and any("journal" in name for name in found)
    for place, content in found.items():
        for word in (MARK, *BASE64):
            assert word.encode() not in content, place


@pytest.mark.parametrize(
    "command",
    [
        ["worker", "--smtp", f"smtp://u:{MARK}@h"],
        ["worker", "--smtp", f"smtp://u:{MARK}"],
        ["worker", "--smtp", f"u:{MARK}@h:25"],
        ["worker", "--smtp", "smtp://u@h", "--smtp-password-file", "bad.secret"],
        ["worker", "--help"],
        ["client", "up", "c.toml"],
        ["client", "up", "d.toml"],
    ],
)
@pytest.mark.parametrize("debug", [False, True])
def test_no_error_repeats_it(tmp_path: Path, command: list[str], debug: bool) -> None:
    (tmp_path / "bad.secret").write_bytes(MARK.encode() + b"\xff\n")
    (tmp_path / "c.toml").write_text(f'[[server]]\nsmtp = "smtp://u:{MARK}"\n')
    (tmp_path / "d.toml").write_text(f'[[server]]\nsmtp = "u:{MARK}@h"\npassword = "{MARK}"\n')
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "EVENPOST_SMTP_PASSWORD": MARK}
    if debug:
        environment |= {"EVENPOST_DEBUG": "1", "PYTHONASYNCIODEBUG": "1"}
    run = subprocess.run(
        [sys.executable, "-m", *command], cwd=tmp_path, env=environment, capture_output=True, text=True,
        timeout=60,
    )  # fmt: skip
    assert run.returncode == (0 if "--help" in command else 2)
    assert MARK not in run.stdout + run.stderr
    assert run.stdout + run.stderr


def test_a_crash_does_not_show_it(tmp_path: Path) -> None:
    """Also not with EVENPOST_DEBUG and a terminal's format, where rich would show each variable."""
    (tmp_path / "run.py").write_text(
        "import sys, worker.cli, worker.smtp.handshake as h\n"
        "from evenpost.runtime.settings import run\n"
        "def start(settings, failpoints=None):\n"
        "    password = settings.server.password\n"
        "    raise ZeroDivisionError('here')\n"
        "worker.cli.start = start\n"
        "run(worker.cli.cli, 'evenpost-worker')\n"
    )
    environment = {
        **os.environ, "PYTHONPATH": str(ROOT), "EVENPOST_SMTP_PASSWORD": MARK, "EVENPOST_DEBUG": "1",
        "EVENPOST_SMTP": "smtp://u@h",
    }  # fmt: skip
    for log_format in ("json", "console"):
        run = subprocess.run(
            [sys.executable, "run.py", "--log-format", log_format, "--log-level", "debug"], cwd=tmp_path,
            env=environment, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert run.returncode == 70 and "ZeroDivisionError" in run.stderr
        assert MARK not in run.stderr
        assert "settings =" not in run.stderr, "no variables of a frame in a log"


def test_a_file_that_all_can_read_is_warned_about(tmp_path: Path) -> None:
    with RecordingServer() as server, Cluster(tmp_path) as cluster:
        secret = tmp_path / "relay.secret"
        secret.write_text(MARK)
        secret.chmod(0o644)
        url = f"smtp://me@{server.host}:{server.port}"
        cluster.start_worker("w", url, "--cleartext-auth", "--smtp-password-file", str(secret))
        wait_until(lambda: f"chmod 600 {secret}" in cluster.log("w"), "the warning")
