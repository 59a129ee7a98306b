"""Backups of a broker that is sending, and what comes of restoring one: real processes."""

import json
import os
import sqlite3
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from client import ClientError
from tests.integration.cluster import ROOT, Cluster, newsletter, wait_until
from tests.servers import RecordingServer


def broker(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """`evenpost-broker` with these words, to its end."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("EVENPOST_")}
    command = [sys.executable, "-m", "broker", *words]
    environment["PYTHONPATH"] = str(ROOT)
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60)


def test_a_backup_under_load_is_whole_and_nothing_waits_for_it(tmp_path: Path) -> None:
    total = 3_000
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
            said = broker(tmp_path, "backup", "--journal", "journal.db", "second.db").stdout
            assert said.startswith(f"{tmp_path / 'second.db'}: a copy of {tmp_path / 'journal.db'}, ")
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


def test_a_restored_journal_waits_for_a_word_and_believes_what_workers_still_know(tmp_path: Path) -> None:
    """The broker's disk is lost after the backup, the worker's log is not. What it hasn't told anyone yet
    isn't sent again. What it had told the lost journal, and only that, is."""
    total = 400
    with ExitStack() as stack:
        server = stack.enter_context(RecordingServer(delay_s=0.02))
        cluster = stack.enter_context(Cluster(tmp_path, "--lease", "2", "--heartbeat", "0.5"))
        cluster.start_broker()
        cluster.start_worker("w", server.url, "--max-connections", "2")
        with cluster.client() as client:
            cluster.wait_for_workers(client, 1)
            id_ = client.submit(newsletter(total)).campaign
            wait_until(lambda: server.count() >= 20, "some are sent")
            done = broker(tmp_path, "backup", "--journal", "journal.db", "--no-check", "copy.db")
            assert done.returncode == 0, done.stderr
            count = server.count()
            wait_until(lambda: server.count() > count + 20, "it went on after the backup")
            cluster.kill("broker")
            wait_until(lambda: settled(server), "the worker has ended what it had")
            lost, in_backup = sent_by(tmp_path, "journal.db"), sent_by(tmp_path, "copy.db")
            untold = server.count() - lost
            assert in_backup < lost and untold > 0
            assert broker(tmp_path, "restore", "copy.db", "--journal", "journal.db").returncode == 1
            restored = broker(tmp_path, "restore", "--force", "copy.db", "--journal", "journal.db")
            assert restored.returncode == 0, restored.stderr
            assert f"Campaign {id_} is paused." in restored.stdout
            cluster.restart("broker")
            cluster.wait_for_workers(client, 1)

            def sent() -> int:
                return client.status(id_).counts.get("sent", 0)

            wait_until(lambda: sent() >= in_backup + untold, "what the worker had sent is believed")
            status, taken = client.status(id_), server.count()
            assert status.state == "paused" and "came out of a backup" in status.waiting_for
            copies = taken - sent()
            assert taken == lost + untold and 0 < copies <= lost - in_backup
            client.resume(id_)
            assert client.wait(id_).counts == {"sent": total}
        got = server.recipients()
    assert len(got) == total and set(got.values()) == {1, 2}
    assert sum(count == 2 for count in got.values()) == copies


def sent_by(folder: Path, file: str) -> int:
    """Messages that were sent, as a journal's file says."""
    found = broker(folder, "check", "--json", file)
    assert found.returncode == 0, found.stderr
    (campaign,) = json.loads(found.stdout)["campaigns"]
    count: int = campaign["counts"]["sent"]
    return count


def settled(server: RecordingServer) -> bool:
    """Nothing has come for a while that is long beside the server's delay."""
    before = server.count()
    time.sleep(0.3)
    return server.count() == before


def test_recipients_are_removed_in_time_and_everybody_is_told(tmp_path: Path) -> None:
    """Retention of a second, in a broker that sends meanwhile; what is left answers as a summary."""
    with ExitStack() as stack:
        server = stack.enter_context(RecordingServer())
        cluster = stack.enter_context(Cluster(tmp_path, "--retain-days", str(1 / 86_400)))
        cluster.start_broker()
        cluster.start_worker("w", server.url)
        with cluster.client() as client:
            cluster.wait_for_workers(client, 1)
            old = client.submit(newsletter(700), submission_id="mine", wait=True).campaign
            cluster.terminate("broker")  # it looks once a minute, and when it starts
            wait_until(lambda: time.time() * 1000 > finished_at(tmp_path) + 1_000, "its time is over")
            cluster.restart("broker")
            wait_until(lambda: client.status(old).compacted_at is not None, "it is compacted")
            wait_until(lambda: client.trace_page("user3@example.com").compacted == 1, "all of it")
            assert client.trace("user3@example.com") == []
            assert client.status(old).counts == {"sent": 700}
            assert client.submit(newsletter(700), submission_id="mine").campaign == old
            newer = client.submit(newsletter(50), wait=True).campaign
            assert [row.campaign for row in client.trace("user3@example.com")] == [newer]
            for ask in (
                lambda: list(client.report(old)), lambda: client.retry_failed(old),
                lambda: client.explain(old, address="user3@example.com"),
            ):  # fmt: skip
                with pytest.raises(ClientError, match="What is left: 700 sent, of 700") as refused:
                    ask()
                assert refused.value.code == "wrong_state"
        assert server.count() == 750


def finished_at(folder: Path) -> int:
    with sqlite3.connect(folder / "journal.db") as db:
        (at,) = db.execute("SELECT finished_at FROM campaign").fetchone()
    db.close()
    return int(at)
