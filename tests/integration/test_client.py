"""The command line and the Python API against a whole cluster, run by `evenpost up`."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from client import Campaign, Client, ClientError
from tests.servers import RecordingServer, Rule
from tests.servers.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 60.0


class Up:
    """`evenpost up` with two servers, its output as it comes."""

    def __init__(self, folder: Path) -> None:
        self.servers = [
            RecordingServer(rules=[Rule("rcpt", "550 5.1.1 no such user", match="bad*")]) for _ in "ab"
        ]
        for server in self.servers:
            server.__enter__()
        self.folder = folder
        self.endpoint = f"tcp://127.0.0.1:{free_port()}"
        file = folder / "cluster.toml"
        file.write_text(
            f'[broker]\nclients = "{self.endpoint}"\nworkers = "tcp://127.0.0.1:{free_port()}"\n'
            "heartbeat = 0.2\nlease = 2.0\n"
            + "".join(
                f'[[server]]\nname = "{name}"\nsmtp = "{server.url}"\nmax_connections = 4\n'
                for name, server in zip("ab", self.servers, strict=True)
            )
            + 'pools = ["b only"]\n'
            '[[domain]]\nnames = ["limited.example"]\nconnections = 1\nrate = "100000/s"\n'
            '[[sender]]\ndomain = "pooled.example"\npool = "b only"\n'
        )
        self.process = subprocess.Popen(
            [sys.executable, "-m", "client", "up", str(file)],
            stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        self.lines: list[str] = []
        self._came = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._came:
                self.lines.append(line)
                self._came.notify_all()

    def wait_for(self, words: str, times: int = 1) -> None:
        with self._came:
            if not self._came.wait_for(
                lambda: sum(words in line for line in self.lines) >= times, DEADLINE_S
            ):
                pytest.fail(f"never said {words!r}:\n{''.join(self.lines)}")

    def pid(self, role: str) -> int:
        """The broker's process, or a worker's."""
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                arguments = (entry / "cmdline").read_bytes().split(b"\0")
                parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
            except OSError:
                continue
            if int(parent) == self.process.pid and role.encode() in arguments:
                return int(entry.name)
        raise AssertionError(f"no {role} runs")

    def received(self) -> Counter[str]:
        total: Counter[str] = Counter()
        for server in self.servers:
            total += server.recipients()
        return total

    def run(self, *arguments: str | Path, status: int = 0) -> str:
        """An `evenpost` command's standard output."""
        done = subprocess.run(
            [sys.executable, "-m", "client", *map(str, arguments)],
            env={**os.environ, "EVENPOST_BROKER": self.endpoint, "PYTHONPATH": str(ROOT)},
            capture_output=True, text=True, timeout=DEADLINE_S, check=False,
        )  # fmt: skip
        assert done.returncode == status, (done.returncode, done.stdout, done.stderr)
        return done.stdout

    def stop(self) -> int:
        self.process.send_signal(signal.SIGINT)
        status = self.process.wait(DEADLINE_S)
        self._reader.join()
        assert self.process.stderr is not None
        self.process.stderr.close()
        return status

    def close(self) -> None:
        if self.process.poll() is None:
            self.stop()
        for server in self.servers:
            server.__exit__(None, None, None)


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    cluster = Up(tmp_path_factory.mktemp("cluster"))
    try:
        cluster.wait_for("Ready: the broker and 2 workers")
        yield cluster
    finally:
        cluster.close()


def write_list(folder: Path, prefix: str, count: int, bad: int = 0) -> Path:
    path = folder / f"{prefix}.csv"
    rows = [f"bad-{prefix}{i}@example.com,B" for i in range(bad)]
    rows += [f"{prefix}{i}@example.com,Zoë {i}" for i in range(count)]
    path.write_text("\n".join(["email,name", *rows, ""]))
    return path


def message(recipients: Path) -> list[str]:
    body = recipients.parent / "body.html"
    body.write_text("<p>Dear {{ name }}</p>")
    return [
        "submit", "--from", "news@example.com", "--subject", "Hello {{ name }}", "--html", str(body),
        "--recipients", str(recipients),
    ]  # fmt: skip


def test_a_campaign_from_end_to_end(up: Up, tmp_path: Path) -> None:
    arguments = message(write_list(tmp_path, "u", 400, bad=3))
    found = json.loads(up.run(*arguments, "--wait", "--json", status=1))
    campaign = found["campaign"]
    assert found["recipients"] == 403
    assert found["status"]["counts"] == {"sent": 400, "bounced": 3}
    assert {a: n for a, n in up.received().items() if a.startswith("u")} == {
        f"u{i}@example.com": 1 for i in range(400)
    }
    assert all(server.count() for server in up.servers)

    rows = list(csv.DictReader(io.StringIO(up.run("report", campaign, "--format", "csv"))))
    assert [row["email"] for row in rows[:4]] == [f"bad-u{i}@example.com" for i in range(3)] + [
        "u0@example.com"
    ]
    assert Counter(row["state"] for row in rows) == {"sent": 400, "bounced": 3}
    failed = up.run("report", campaign, "--only", "failed").splitlines()
    assert len(failed) == 4 and "550" in failed[1] and "no such user" in failed[1]
    [traced] = json.loads(up.run("trace", "bad-u1@example.com", "--json"))
    assert (traced["campaign"], traced["code"], traced["attempts"]) == (campaign, 550, 1)
    assert campaign in up.run("status") and "state\tfinished" in up.run("status", campaign)
    assert up.run("watch", campaign, status=1).splitlines()[-1].startswith(campaign)
    workers = json.loads(up.run("servers", "--json"))
    assert [w["worker"] for w in workers] == ["a", "b"] and sum(w["sent"] for w in workers) >= 400

    for server in up.servers:
        server.set_rules([])
    assert json.loads(up.run("retry-failed", campaign, "--json"))["changed"] == 3
    up.run("watch", campaign)
    assert up.received()["bad-u1@example.com"] == 1
    assert up.run("report", campaign, "--only", "failed").count("\n") == 1


def test_one_message(up: Up, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("Your code is {{ code }}.")
    text = up.run(
        "send", "--to", "one@example.com", "--from", "shop@example.com", "--subject", "Code", "--text",
        tmp_path / "t.txt", "--value", "code=42", "--wait",
    )  # fmt: skip
    assert "1 sent." in text and up.received()["one@example.com"] == 1


def test_the_same_submission_twice_counts_once(up: Up, tmp_path: Path) -> None:
    arguments = [
        *message(write_list(tmp_path, "twice", 20)),
        "--submission-id",
        "twice-1",
        "--json",
        "--wait",
    ]
    first, second = json.loads(up.run(*arguments)), json.loads(up.run(*arguments))
    assert first["campaign"] == second["campaign"] and (first["again"], second["again"]) == (False, True)
    assert {up.received()[f"twice{i}@example.com"] for i in range(20)} == {1}


def test_steering_a_campaign_that_waits(up: Up, tmp_path: Path) -> None:
    arguments = [*message(write_list(tmp_path, "later", 5)), "--start-at", "+1h", "--json"]
    campaign = json.loads(up.run(*arguments))["campaign"]
    assert json.loads(up.run("status", campaign, "--json"))["state"] == "scheduled"
    up.run("pause", campaign)
    assert json.loads(up.run("status", campaign, "--json"))["state"] == "paused"
    up.run("resume", campaign)
    assert "5 messages will not be sent" in up.run("cancel", campaign)
    status = json.loads(up.run("status", campaign, "--json"))
    assert (status["state"], status["counts"]) == ("cancelled", {"cancelled": 5})
    up.run("resume", campaign, status=2)
    assert not any(a.startswith("later") for a in up.received())


def test_a_drained_worker_gets_nothing(up: Up, tmp_path: Path) -> None:
    up.run("drain", "a")
    before = up.servers[0].count()
    up.run(*message(write_list(tmp_path, "drained", 50)), "--wait")
    assert up.servers[0].count() == before
    up.run("ready", "a")
    up.run("drain", "nobody", status=2)


def worker(up: Up, name: str) -> dict[str, Any]:
    (found,) = [w for w in json.loads(up.run("servers", "--json")) if w["worker"] == name]
    return found  # type: ignore[no-any-return]  # JSON


def test_an_operators_words_stand_until_they_are_taken_back(up: Up, tmp_path: Path) -> None:
    for words in (["weight", "a", "50"], ["maxconn", "a", "2"], ["maint", "a"]):
        up.run(*words)
    told = worker(up, "a")
    assert (told["state"], told["weight"]) == ("maint", 50)
    assert all(word in told["operator"] for word in ("maint", "weight:50", "maxconn:2"))
    before = up.servers[0].count()
    up.run(*message(write_list(tmp_path, "maint", 50)), "--wait")
    assert up.servers[0].count() == before
    for words in (["ready", "a"], ["weight", "a", "default"], ["maxconn", "a", "default"]):
        up.run(*words)
    told = worker(up, "a")
    assert (told["operator"], told["weight"], told["max_connections"]) == ("", 100, 4)
    assert told["state"] in ("ready", "slow start")
    up.run("weight", "nobody", "5", status=2)


def test_a_senders_domain_has_its_pool_by_the_cluster_file(up: Up, tmp_path: Path) -> None:
    before = up.servers[0].count()
    arguments = message(write_list(tmp_path, "pooled", 30))
    arguments[arguments.index("news@example.com")] = "news@pooled.example"
    found = json.loads(up.run(*arguments, "--wait", "--json"))
    assert found["status"]["counts"] == {"sent": 30} and found["status"]["pool"] == "b only"
    assert up.servers[0].count() == before


def test_what_waits_for_its_window_says_until_when(up: Up, tmp_path: Path) -> None:
    hour = time.gmtime().tm_hour
    window = f"{(hour + 2) % 24:02}:00-{(hour + 3) % 24:02}:00 UTC"
    arguments = [*message(write_list(tmp_path, "window", 5)), "--window", window, "--rate", "14/s, 50000/day"]
    campaign = json.loads(up.run(*arguments, "--json"))["campaign"]
    status = json.loads(up.run("status", campaign, "--json"))
    assert (status["window"], status["rate_limit"]) == (window, "14/s, 50000/day") and status["waiting_for"]
    found = json.loads(up.run("explain", campaign, "--json"))
    opens = [reason["until"] for reason in found["reasons"] if reason["until"]]
    assert opens and 0 < opens[0] / 1000 - time.time() < 3 * 3600
    assert time.gmtime(opens[0] / 1000)[3:6] == ((hour + 2) % 24, 0, 0)
    assert "until" in up.run("explain", campaign)
    up.run("cancel", campaign)
    assert not any(a.startswith("window") for a in up.received())


def test_a_message_that_was_sent_is_explained(up: Up, tmp_path: Path) -> None:
    arguments = [*message(write_list(tmp_path, "explained", 3)), "--wait", "--json"]
    campaign = json.loads(up.run(*arguments))["campaign"]
    by_address = json.loads(up.run("explain", campaign, "explained1@example.com", "--json"))
    by_index = json.loads(up.run("explain", f"{campaign}/1", "--json"))
    assert by_address["row"] == by_index["row"]
    assert (by_index["row"]["address"], by_index["row"]["state"]) == ("explained1@example.com", "sent")
    assert "explained1@example.com: sent" in up.run("explain", campaign, "1")
    up.run("explain", campaign, "nobody@example.com", status=2)
    up.run("explain", f"{campaign}/3", status=2)
    up.run("explain", "nothing", status=2)


def test_kill_9_of_the_broker_in_the_middle_of_a_submission_loses_and_doubles_nothing(up: Up) -> None:
    total, killed = 60_000, []

    def progress(phase: str, done: int, _: int) -> None:
        if phase == "send" and done >= 10_000 and not killed:
            os.kill(up.pid("broker"), signal.SIGKILL)
            killed.append(done)

    campaign = Campaign(
        sender="news@example.com", subject="{{ n }}", text="x", start_at="+1h",
        recipients=({"email": f"k{i}@example.com", "n": i} for i in range(total)),
    )  # fmt: skip
    with Client(up.endpoint) as client:
        receipt = client.submit(campaign, progress=progress)
        assert killed and receipt.recipients == total
        up.wait_for("it starts again")
        addresses = [row.address for row in client.report(receipt.campaign)]
        assert addresses == [f"k{i}@example.com" for i in range(total)]
        assert client.cancel(receipt.campaign) == total
        with pytest.raises(ClientError) as caught:
            client.pause(receipt.campaign)
        assert caught.value.code in ("wrong_state", "not_found")
        deadline = time.monotonic() + DEADLINE_S
        while not {w.state for w in client.servers()} <= {"ready", "slow start"}:
            assert time.monotonic() < deadline
            time.sleep(0.05)


SUBMIT_AND_DIE = """
import os, signal, sys
from client import Campaign, Client

def progress(phase, done, total):
    if phase == "send" and done >= 10_000:
        os.kill(os.getpid(), signal.SIGKILL)

with Client(sys.argv[1]) as client:
    client.submit(Campaign.load(sys.argv[2]), progress=progress)
"""


def test_kill_9_of_a_client_then_another_list_is_refused_and_the_same_list_goes_on(
    up: Up, tmp_path: Path
) -> None:
    total = 60_000
    for prefix in "xy":
        write_list(tmp_path, prefix, total)
    (tmp_path / "t.txt").write_text("Dear {{ name }}")
    file = tmp_path / "campaign.toml"
    file.write_text(
        'from = "news@example.com"\nsubject = "Hello"\ntext = "t.txt"\nrecipients = "x.csv"\n'
        'submission_id = "killed-1"\nstart_at = "+1h"\nname = "News"\n'
    )
    killed = subprocess.run(
        [sys.executable, "-c", SUBMIT_AND_DIE, up.endpoint, str(file)],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=DEADLINE_S, check=False,
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL
    (begun,) = [c for c in json.loads(up.run("status", "--json")) if c["name"] == "News"]
    assert begun["state"] == "open" and 10_000 <= begun["total"] < total

    for other in (["--recipients", tmp_path / "y.csv"], ["--priority", "7"], ["--name", "Old news"]):
        refused = up.run("submit", file, *other, "--json", status=2)
        error = json.loads(refused)["error"]
        assert error["code"] == "conflict"
        for word in ("killed-1", begun["campaign"], "another list, template or options"):
            assert word in error["message"]
    assert json.loads(up.run("status", begun["campaign"], "--json"))["total"] == begun["total"]

    accepted = json.loads(up.run("submit", file, "--json"))
    assert (accepted["campaign"], accepted["recipients"]) == (begun["campaign"], total)
    rows = csv.DictReader(io.StringIO(up.run("report", accepted["campaign"], "--format", "csv")))
    assert [row["email"] for row in rows] == [f"x{i}@example.com" for i in range(total)]
    up.run("cancel", accepted["campaign"])


def test_ctrl_c_ends_all_of_it_cleanly(up: Up) -> None:
    pids = [up.pid("broker"), up.pid("worker")]
    assert up.stop() == 0, "".join(up.lines[-20:])
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    text = "".join(up.lines)
    assert text.rstrip().endswith("Stopped.")
    assert "Traceback" not in text
