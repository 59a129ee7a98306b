"""`evenpost up`: the file, and a supervisor with small programs in place of broker and workers."""

import asyncio
import io
import os
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner
from msgspec.structs import replace

from client.cli import cli
from client.problems import InputError
from client.up import Patience, Supervisor, _started
from client.up_config import Cluster, Program, environment_of, load
from tests.unit.client.fake_broker import WORKER

QUICK = Patience(restart_s=0.01, restart_s_max=0.02, crashes_max=3, drain_s=20, ask_s=0.05, nag_s=100)
ROOT = Path(__file__).resolve().parents[3]

GOOD = """
[broker]
clients = "tcp://*:7001"
workers = "tcp://127.0.0.1:7002"
journal = "data.db"

[[server]]
smtp = "smtp://user@relay.example:587"
password_file = "relay.password"
max_connections = 20

[[server]]
smtp = "smtps://second.example"
name = "second"
weight = 200
pools = ["a", "b c"]
password_env = "SECOND"
"""


def problems(tmp_path: Path, text: str) -> list[str]:
    (tmp_path / "c.toml").write_text(text)
    with pytest.raises(InputError) as caught:
        load(tmp_path / "c.toml", {})
    assert all(p.file == str(tmp_path / "c.toml") for p in caught.value.problems)
    return [str(p).removeprefix(f"{tmp_path / 'c.toml'}: ") for p in caught.value.problems]


def test_a_file_becomes_programs_without_secrets_in_their_arguments(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(GOOD)
    (tmp_path / "relay.password").write_text("s3cret\n")
    cluster = load(tmp_path / "c.toml", {"SECOND": "s3cret"})
    assert cluster.endpoint == "tcp://127.0.0.1:7001"
    assert cluster.broker.arguments == (
        "broker", "--clients", "tcp://*:7001", "--workers", "tcp://127.0.0.1:7002",
        "--journal", str(tmp_path / "data.db"),
    )  # fmt: skip
    first, second = cluster.workers
    assert first.arguments == (
        "worker", "--broker", "tcp://127.0.0.1:7002", "--smtp", "smtp://user@relay.example:587",
        "--name", "relay.example", "--max-connections", "20",
        "--smtp-password-file", str(tmp_path / "relay.password"),
    )  # fmt: skip
    assert second.arguments[-8:] == ("--name", "second", "--weight", "200", "--pool", "a", "--pool", "b c")
    assert "s3cret" not in " ".join([*first.arguments, *second.arguments])
    base = {"EVENPOST_SMTP_PASSWORD": "other", "EVENPOST_CONFIG": "x", "HOME": "/h"}
    assert environment_of(second, base)["EVENPOST_SMTP_PASSWORD"] == "s3cret"
    assert "EVENPOST_SMTP_PASSWORD" not in environment_of(first, base)
    assert (
        "EVENPOST_CONFIG" not in environment_of(first, base) and environment_of(first, base)["HOME"] == "/h"
    )


def test_everything_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    found = problems(
        tmp_path,
        """
        sever = 1
        [broker]
        clients = "localhost"
        journal = "no/where.db"
        [[server]]
        smtp = "http://x"
        max_connections = 0
        weight = "heavy"
        [[server]]
        name = "a"
        password_file = "none"
        password_env = "UNSET"
        [[server]]
        smtp = "smtp://u:pw@h.example"
        name = "a"
        password = "pw"
        [[server]]
        smtp = "smtp://h2.example"
        password_env = "UNSET"
        """,
    )
    expected = [
        "sever: unknown key. Did you mean 'server'?",
        "broker.clients: 'localhost' is no endpoint",
        "broker.journal: there is no folder",
        "server[1].weight: expected a whole number, got 'heavy'",
        "server[1].max_connections: 0 is not between",
        "server[1].smtp: 'http://x' is no server",
        "server[2].smtp: missing",
        "server[2].password_file: there is no file",
        "server[2].password_env: password_file is given too",
        "server[3].password: a password has no place here",
        "server[3].smtp: a password has no place in the URL",
        "server[3].name: 'a' is server[2]'s name already",
        "server[4].password_env: the variable 'UNSET' is not set",
    ]
    for words in expected:
        assert any(line.startswith(words) for line in found), (words, found)
    assert len(found) == len(expected), found
    assert "pw" not in " ".join(found)


@pytest.mark.parametrize(
    ("text", "words"),
    [("", "there is none"), ("[server]\nsmtp='smtp://x'", "two brackets"), ("x = ", "Invalid value"),
     ("broker = 1\n[[server]]\nsmtp='smtp://x'", "Write [broker]")],
)  # fmt: skip
def test_files_that_are_no_cluster(tmp_path: Path, text: str, words: str) -> None:
    assert any(words in line for line in problems(tmp_path, text))


def test_two_sockets_need_two_endpoints(tmp_path: Path) -> None:
    text = "[broker]\nclients = 'tcp://h:1'\nworkers = 'tcp://h:1'\n[[server]]\nsmtp = 'smtp://x.example'"
    assert problems(tmp_path, text) == ["broker.workers: the same as clients. Give each its own port"]


def test_the_command_checks_before_it_starts_anything(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("[[server]]\nsmtp = 'smtp://relay.example'\n")
    result = CliRunner().invoke(cli, ["up", str(tmp_path / "c.toml"), "--check"])
    assert (result.exit_code, result.output) == (
        0,
        f"{tmp_path / 'c.toml'}: a broker and 1 worker: relay.example.\n",
    )
    (tmp_path / "c.toml").write_text("[[server]]\nsmpt = 'smtp://relay.example'\n")
    result = CliRunner().invoke(cli, ["up", str(tmp_path / "c.toml")])
    assert result.exit_code == 2
    assert "server[1].smpt: unknown key. Did you mean 'smtp'?" in result.stderr
    assert "nothing was sent" not in result.stderr


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no such file"):
        load(tmp_path / "none.toml", {})


def test_options_of_the_programs_are_known_and_misspelled_ones_found(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(
        "[broker]\nheartbeat = 0.5\n[[server]]\nsmtp = 'smtp://h.example'\n"
        "verify = false\nhelo = 'me.example'\n"
    )
    cluster = load(tmp_path / "c.toml", os.environ)
    assert cluster.broker.arguments[-2:] == ("--heartbeat", "0.5")
    assert cluster.workers[0].arguments[-3:] == ("--no-verify", "--helo", "me.example")
    (tmp_path / "c.toml").write_text(
        "[broker]\nhartbeat = 0.5\n[[server]]\nsmtp = 'smtp://h.example'\nmax_connection = 4\nconfig = 'x'\n"
    )
    with pytest.raises(InputError) as caught:
        load(tmp_path / "c.toml", os.environ)
    texts = [str(p) for p in caught.value.problems]
    assert "Did you mean 'heartbeat'?" in texts[0]
    assert "Did you mean 'max_connections'?" in texts[1] and "config: unknown key" in texts[2]


def test_pins_are_passed_on_and_no_url_with_a_password_is_repeated(tmp_path: Path) -> None:
    pins = ["sha256:" + digit * 64 for digit in "ab"]
    (tmp_path / "c.toml").write_text(f"[[server]]\nsmtp = 'smtp://h.example'\ntls_pin = {pins}\n")
    (worker,) = load(tmp_path / "c.toml", os.environ).workers
    assert worker.arguments[-4:] == ("--tls-pin", pins[0], "--tls-pin", pins[1])
    for url in ("smtp://u:s3cret", "u:s3cret@h.example", "http://u:s3cret@h.example", "smtp://u:s3cret@[h"):
        (tmp_path / "c.toml").write_text(f"[[server]]\nsmtp = '{url}'\n")
        with pytest.raises(InputError) as caught:
            load(tmp_path / "c.toml", os.environ)
        assert "s3cret" not in str(caught.value.problems)


def test_a_workers_processes_are_workers_of_their_own_to_the_broker(tmp_path: Path) -> None:
    server = '[[server]]\nsmtp = "smtp://192.0.2.1"\nname = "relay"\n'
    (tmp_path / "c.toml").write_text(f"{server}processes = 2\n{server.replace('relay', 'other')}")
    several, one = load(tmp_path / "c.toml", {}).workers
    assert several.arguments[-2:] == ("--processes", "2") and several.workers == ("relay/1", "relay/2")
    assert one.workers == () and "--processes" not in one.arguments
    assert "EVENPOST_PROCESSES" not in environment_of(one, {"EVENPOST_PROCESSES": "3"})
    assert problems(tmp_path, f"{server}processes = 0\n") == [
        "server[1].processes: 0 is not between 1 and 100"
    ]


def test_a_workers_rate_is_checked_and_passed_on(tmp_path: Path) -> None:
    text = "[[server]]\nsmtp = 'smtp://h.example'\nrate = '14/s, 50000/day'\nagent = 'h.example:9999'\n"
    (tmp_path / "c.toml").write_text(text)
    (worker,) = load(tmp_path / "c.toml", os.environ).workers
    assert worker.arguments[-4:] == ("--rate", "14/s, 50000/day", "--agent", "h.example:9999")
    (tmp_path / "c.toml").write_text("[[server]]\nsmtp = 'smtp://h.example'\nrate = 'fast'\n")
    with pytest.raises(InputError) as caught:
        load(tmp_path / "c.toml", os.environ)
    (problem,) = caught.value.problems
    assert problem.field == "server[1].rate" and '"14/s, 50000/day"' in str(problem)


TABLES = """
[[server]]
smtp = "smtp://h.example"
[[domain]]
names = ["gmail.com", "bücher\\u007f.example"]
mx = ["google.com"]
connections = 20
rate = "100/s"
[[domain]]
name = "others"
names = ["example.org"]
rate = "1/s"
[[sender]]
domain = "news.example"
pool = 'the "bulk" one'
overflow = "spare"
"""


def test_domains_and_senders_go_to_the_broker_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(TABLES)
    cluster = load(tmp_path / "c.toml", {})
    assert tomllib.loads(cluster.broker.config) == {
        "domain": [
            {"names": ["gmail.com", "bücher\x7f.example"], "mx": ["google.com"], "connections": 20,
             "rate": "100/s"},
            {"name": "others", "names": ["example.org"], "rate": "1/s"},
        ],
        "sender": [{"domain": "news.example", "pool": 'the "bulk" one', "overflow": "spare"}],
    }  # fmt: skip
    assert "--config" not in cluster.broker.arguments and cluster.workers[0].config == ""
    (tmp_path / "c.toml").write_text("[[server]]\nsmtp = 'smtp://h.example'\n")
    assert load(tmp_path / "c.toml", {}).broker.config == ""


def test_what_is_wrong_with_domains_and_senders_is_told_too(tmp_path: Path) -> None:
    found = problems(
        tmp_path,
        """
        [[server]]
        smtp = "smtp://h.example"
        [[domain]]
        nams = ["gmail.com"]
        connections = 0
        rate = "lots"
        [[domain]]
        names = "gmail.com"
        mx = 2026-01-01
        rate = 5
        [[sender]]
        overflow = "x"
        [[sender]]
        domain = "a.example"
        pool = "x"
        overflow = " x "
        """,
    )
    expected = [
        "domain[1].nams: unknown key. Did you mean 'names'?",
        "domain[1].names: missing. Such as",
        "domain[1].connections: 0 is less than 1",
        "domain[1].rate: the rate 'lots'",
        "domain[2].names: expected a list of texts, got 'gmail.com'",
        "domain[2].mx: expected a list of texts",
        "domain[2].rate: expected a text, got 5",
        "sender[1].pool: missing",
        "sender[1].domain: missing",
        "sender[2].overflow: is the pool itself. Name another pool, or leave it out",
    ]
    for words in expected:
        assert any(line.startswith(words) for line in found), (words, found)
    assert len(found) == len(expected), found
    text = "[[server]]\nsmtp = 'smtp://h.example'\n[domain]\nnames = ['x.example']\n"
    assert problems(tmp_path, text) == [
        "domain: expected a list of tables. Write [[domain]], with two brackets"
    ]
    assert problems(tmp_path, "sender = 1\n[[server]]\nsmtp = 'smtp://h.example'\n") == [
        "sender: expected tables. Write [[sender]] and its keys below it, for each sender"
    ]


# --- the supervisor -----------------------------------------------------------------------------

RUNS = """
import signal, sys, time, pathlib
def end(*_):
    with open("order", "a") as f: f.write(sys.argv[1] + " ended\\n")
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
print(sys.argv[1], "runs", flush=True)
while True: signal.pause()
"""
DEAF = """
import signal, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(sys.argv[1], "runs", flush=True)
while True: signal.pause()
"""
CRASHES = "import sys; print('boom', flush=True); sys.exit(7)"
BAD_INPUT = "import sys; print('no such option', flush=True); sys.exit(2)"


class Cast:
    """A cluster of small programs by name; the first is the broker."""

    def __init__(
        self, folder: Path, patience: Patience = QUICK, *, config: str = "", **programs: str
    ) -> None:
        made = [Program(name, (name,), config=config * (not n)) for n, name in enumerate(programs)]
        cluster = Cluster(made[0], tuple(made[1:]), folder, "ipc:///nonexistent/nobody")
        self.out = io.StringIO()
        self.folder = folder
        self.supervisor = Supervisor(
            cluster,
            log_folder=folder / "logs",
            patience=patience,
            command=lambda p: [sys.executable, "-c", programs[p.name], p.name],
            out=self.out,
        )

    async def run(self, *acts: tuple[Callable[[str], bool], Callable[[], None]]) -> int:
        """Runs; does each act as soon as the output is as it says."""
        task = asyncio.get_running_loop().create_task(self.supervisor.run())
        for ready, act in acts:
            while not (ready(self.out.getvalue()) or task.done()):  # noqa: ASYNC110  # it reads text
                await asyncio.sleep(0.01)
            act()
        return await task


def said(*words: str) -> Callable[[str], bool]:
    return lambda text: all(word in text for word in words)


async def test_one_signal_ends_workers_first_and_then_the_broker(tmp_path: Path) -> None:
    cast = Cast(tmp_path, broker=RUNS, w1=RUNS, w2=RUNS)
    stop = partial(os.kill, os.getpid(), signal.SIGINT)
    assert await cast.run((said("broker runs", "w1 runs", "w2 runs"), stop)) == 0
    order = (tmp_path / "order").read_text().split("\n")
    assert set(order[:2]) == {"w1 ended", "w2 ended"} and order[2] == "broker ended"
    assert "w1       | w1 runs" in cast.out.getvalue() and cast.out.getvalue().endswith("Stopped.\n")
    assert (tmp_path / "logs" / "w1.log").read_text() == "w1 runs\n"


SHOWS_ITS_CONFIG = """
import signal, sys
option, path = sys.argv[2:]
with open(path) as f: print(option, path, f.read(), flush=True)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
while True: signal.pause()
"""


async def test_a_programs_config_is_a_file_while_it_runs(tmp_path: Path) -> None:
    cast = Cast(tmp_path, config="[[domain]] # it", broker=SHOWS_ITS_CONFIG, w1=RUNS)
    assert await cast.run((said("[[domain]] # it", "w1 runs"), cast.supervisor.stop)) == 0
    (line,) = [line for line in cast.out.getvalue().splitlines() if "# it" in line]
    option, path = line.split("|")[1].split()[:2]
    assert option == "--config"
    assert not os.access(path, os.F_OK), "it goes when all has ended"


@pytest.mark.parametrize(
    ("state", "started"),
    [("ready", True), ("slow start", True), ("throttled", True), ("draining", True), ("maint", True),
     ("backing off", False), ("lost", False), ("gone", False)],
)  # fmt: skip
def test_who_has_started(state: str, started: bool) -> None:
    assert _started(replace(WORKER, state=state)) is started


async def test_a_second_signal_stops_at_once(tmp_path: Path) -> None:
    cast = Cast(tmp_path, broker=DEAF, w1=DEAF)
    stop = partial(cast.supervisor.stop, signal.SIGINT)
    started = time.monotonic()
    assert await cast.run((said("broker runs", "w1 runs"), stop), (said("Again to stop"), stop)) == 130
    assert time.monotonic() - started < QUICK.drain_s


async def test_what_does_not_end_is_killed_in_the_end(tmp_path: Path) -> None:
    patience = Patience(drain_s=0.2, ask_s=0.05)
    cast = Cast(tmp_path, patience, broker=RUNS, w1=DEAF, w2=RUNS)
    assert await cast.run((said("broker runs", "w1 runs", "w2 runs"), cast.supervisor.stop)) == 1
    assert "killed: w1." in cast.out.getvalue()
    assert "broker ended" in (tmp_path / "order").read_text()


async def test_a_crash_is_restarted_with_pauses_and_in_the_end_given_up(tmp_path: Path) -> None:
    cast = Cast(tmp_path, broker=RUNS, w1=CRASHES, w2=RUNS)
    act = (said("w1 ended 3 times in a row", "broker runs", "w2 runs"), cast.supervisor.stop)
    assert await cast.run(act) == 1
    text = cast.out.getvalue()
    assert text.count("| boom") == 3
    assert "starts again in 0.01 s" in text and "starts again in 0.02 s" in text
    assert "w2 ended" in (tmp_path / "order").read_text(), "the others went on until the stop"


async def test_without_a_broker_or_any_worker_all_of_it_ends(tmp_path: Path) -> None:
    cast = Cast(tmp_path, broker=CRASHES, w1=RUNS)
    assert await cast.run() == 1
    cast = Cast(tmp_path, broker=RUNS, w1=CRASHES)
    assert await cast.run() == 1


async def test_wrong_settings_are_not_tried_again(tmp_path: Path) -> None:
    cast = Cast(tmp_path, broker=RUNS, w1=BAD_INPUT, w2=RUNS)
    assert await cast.run() == 2
    assert cast.out.getvalue().count("| no such option") == 1


async def test_who_has_no_right_by_its_key_is_not_started_again(tmp_path: Path) -> None:
    cast = Cast(tmp_path, broker=RUNS, w1="import sys; sys.exit(77)", w2=RUNS)
    said_so = said("w1 has no right to run, by its key", "broker runs", "w2 runs")
    assert await cast.run((said_so, cast.supervisor.stop)) == 1
    assert "starts again" not in cast.out.getvalue()


def test_nothing_is_left_when_the_supervisor_is_killed(tmp_path: Path) -> None:
    script = f"""
import asyncio, sys
from functools import partial
from pathlib import Path
from client.up import Supervisor
from client.up_config import Cluster, Program
cluster = Cluster(Program("broker", ("b",)), (Program("w1", ("w",)),), Path({str(tmp_path)!r}), "ipc:///no/one")
code = "import os, signal; print('pid', os.getpid(), flush=True)\\nwhile True: signal.pause()"
command = lambda program: [sys.executable, "-c", code]
asyncio.run(Supervisor(cluster, command=command).run())
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stderr is not None
    pids = [int(process.stderr.readline().rsplit(" ", 1)[1]) for _ in range(2)]
    process.kill()
    process.wait()
    deadline = time.monotonic() + 20
    while any(_lives(pid) for pid in pids):
        assert time.monotonic() < deadline, "a child outlived its parent"
        time.sleep(0.01)
    process.stderr.close()


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
