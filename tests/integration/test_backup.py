"""Backups of a broker that is sending, and what comes of restoring one: real processes."""

import json
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

from tests.integration.cluster import ROOT, Cluster, newsletter, wait_until
from tests.servers import RecordingServer


def broker(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """`evenpost-broker` with these words, to its end."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("EVENPOST_")}
    command = [sys.executable, "-m", "broker", *words]
    environment["PYTHONPATH"] = str(ROOT)
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60)


def test_a_backup_under_load_is_whole_and_nothing_waits_for_it(tmp_path: Path) -> None:
    total = 6_000
    with ExitStack() as stack:
        server = stack.enter_context(RecordingServer(delay_s=0.01))
        cluster = stack.enter_context(Cluster(tmp_path))
        cluster.start_broker()
        cluster.start_worker("w", server.url, "--max-connections", "10")
        with cluster.client() as client:
            cluster.wait_for_workers(client, 1)
            id_ = client.submit(newsletter(total)).campaign
            wait_until(lambda: client.status(id_).counts.get("sent", 0) > 100, "it is being sent")
            before = client.status(id_).counts.get("sent", 0)
            done = broker(tmp_path, "backup", "--journal", "journal.db", "--json", "copy.db")
            after = client.status(id_).counts.get("sent", 0)
            assert done.returncode == 0, done.stderr
            again = broker(tmp_path, "backup", "--journal", "journal.db", "copy.db")
            assert again.returncode == 1 and "is there already" in again.stderr
            assert client.wait(id_).counts == {"sent": total}
    copy = tmp_path / "copy.db"
    assert json.loads(done.stdout)["bytes"] == copy.stat().st_size
    assert copy.stat().st_mode & 0o777 == 0o600
    assert [p.name for p in tmp_path.glob("copy.db?*")] == []
    found = broker(tmp_path, "check", "--json", "copy.db")
    assert found.returncode == 0, found.stderr
    (campaign,) = json.loads(found.stdout)["campaigns"]
    assert (campaign["campaign"], campaign["total"], campaign["rows"]) == (id_, total, total)
    assert before <= campaign["counts"]["sent"] <= after
