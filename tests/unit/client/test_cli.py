"""The command line: what it prints, and with which status it ends."""

import contextlib
import csv
import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest
from click.testing import CliRunner, Result
from msgspec.structs import replace

from client.cli import SECTIONS, cli
from evenpost import __version__
from evenpost.wire.errors import Code
from evenpost.wire.messages import (
    Attempt,
    Cancel,
    Done,
    Error,
    Explain,
    Explanation,
    Message,
    OpenCampaign,
    Pause,
    Reason,
    RetryFailed,
    Servers,
    ServersReply,
    SetServer,
    Trace,
    TracePage,
    Type,
    Watch,
    WatchUpdate,
)
from tests.unit.client.fake_broker import WORKER, FakeBroker, row, status

ROOT = Path(__file__).resolve().parents[3]
EVIL = "=HYPERLINK('http://x.example')\tsee\nhere"


@pytest.fixture
def broker() -> Iterator[FakeBroker]:
    with FakeBroker() as broker:
        yield broker


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "list.csv").write_text("email,name\nanna@example.com,Anna\nbob@example.org,Bob\n")
    (tmp_path / "body.html").write_text("<p>Dear {{ name }}</p>")
    (tmp_path / "campaign.toml").write_text(
        'from = "News <news@example.com>"\nsubject = "Hello {{ name }}"\nhtml = "body.html"\n'
        'recipients = "list.csv"\npriority = 2\n'
    )
    return tmp_path


def run(*arguments: str | Path, broker: FakeBroker | None = None, stdin: str | None = None) -> Result:
    environment = {"EVENPOST_BROKER": broker.endpoint if broker else "tcp://127.0.0.1:1", "TZ": "UTC"}
    result = CliRunner().invoke(cli, [str(a) for a in arguments], input=stdin, env=environment)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def start(
    *arguments: str | Path, broker: FakeBroker | None = None, terminal: int = subprocess.PIPE, **given: object
) -> subprocess.Popen[str]:
    endpoint = broker.endpoint if broker else "tcp://127.0.0.1:1"
    environment = {**os.environ, "EVENPOST_BROKER": endpoint, "PYTHONPATH": str(ROOT), "TZ": "UTC"}
    return subprocess.Popen(
        [sys.executable, "-m", "client", *map(str, arguments)],
        env=environment, text=True, stdout=terminal, stderr=terminal, **given,  # type: ignore[call-overload]  # loose on purpose
    )  # fmt: skip


# --- help ---------------------------------------------------------------------------------------


def test_every_command_is_listed_and_teaches() -> None:
    listed = {name for names in SECTIONS.values() for name in names}
    assert listed == set(cli.commands)
    for name in listed:
        result = run(name, "--help")
        assert result.exit_code == 0
        assert all(len(line) <= 100 for line in result.output.splitlines()), name
    help_ = run("--help").output
    assert "Exit status" in help_ and "evenpost submit" in help_ and "..." not in help_.split("Send:")[1]


def test_the_version_and_the_completion_scripts() -> None:
    assert run("--version").output == f"cli {__version__}\n"  # by the console script: "evenpost"
    for shell in ("zsh", "fish"):
        assert "_EVENPOST_COMPLETE" in run("completion", shell).output
    assert run("completion", "csh").exit_code == 2


# --- submit -------------------------------------------------------------------------------------


def test_submit_a_file(broker: FakeBroker, folder: Path) -> None:
    result = run("submit", folder / "campaign.toml", broker=broker)
    assert result.exit_code == 0, result.output
    assert result.stdout == "Campaign c1 accepted: 2 recipients.\n"
    assert "--submission-id" in result.stderr and "evenpost watch c1" in result.stderr
    [stored] = broker.submissions.values()
    assert [address for address, _ in stored.rows] == ["anna@example.com", "bob@example.org"]


def test_options_alone_and_options_that_beat_the_file(broker: FakeBroker, folder: Path) -> None:
    (folder / "logo.png").write_bytes(b"png")
    (folder / "a.html").write_text('<img src="cid:logo">')
    alone = run(
        "submit", "--from", "a@example.com", "--subject", "Hi", "--html", folder / "a.html", "--recipients",
        folder / "list.csv", "--header", "X-One: 1: 2", "--header", "List-Id: <x>", "--inline",
        f"logo={folder / 'logo.png'}", "--attach", folder / "list.csv", "--reply-to", "r@example.com",
        "--priority", "7", "--pool", "p", "--overflow", "o", "--weight", "50", "--rate", "14/s, 50000/day",
        "--window", "08:00-20:00 Europe/Berlin", "--on-unknown", "hold", "--name", "N", "--start-at", "+1h",
        "--expire-at", "+2d", "--envelope-from", "", "--to-name", "{{ name }}", "--submission-id", "s1",
        "--json", broker=broker,
    )  # fmt: skip
    assert alone.exit_code == 0, alone.output
    assert json.loads(alone.stdout) == {
        "campaign": "c1", "recipients": 2, "submission": "s1", "again": False, "skipped": 0,
    }  # fmt: skip
    [opening] = [m for m in broker.seen if isinstance(m, OpenCampaign)]
    template, options = opening.template, opening.options
    assert opening.submission == "s1"
    assert template.headers == [("X-One", "1: 2"), ("List-Id", "<x>")]
    assert [(a.filename, a.content_id) for a in template.attachments] == [
        ("list.csv", None),
        ("logo.png", "logo"),
    ]
    assert (template.reply_to, template.envelope_from, template.to_name) == (
        "r@example.com",
        "",
        "{{ name }}",
    )
    assert (options.priority, options.pool, options.on_unknown, options.name) == (7, "p", "hold", "N")
    assert (options.overflow, options.weight, options.rate, options.window) == (
        "o", 50, "14/s, 50000/day", "08:00-20:00 Europe/Berlin",
    )  # fmt: skip
    assert options.start_at and options.expire_at
    assert abs(options.expire_at - options.start_at - 2 * 86_400_000) < 2_000

    both = run("submit", folder / "campaign.toml", "--subject", "Other", broker=broker)
    assert both.exit_code == 0, both.output
    opening = [m for m in broker.seen if isinstance(m, OpenCampaign)][-1]
    assert (opening.template.subject, opening.options.priority) == ("Other", 2)
    assert opening.template.html == "<p>Dear {{ name }}</p>"


def test_recipients_from_standard_input(broker: FakeBroker, folder: Path) -> None:
    process = start(
        "submit", folder / "campaign.toml", "--recipients", "-", broker=broker, stdin=subprocess.PIPE
    )
    out, err = process.communicate("email,name\nx@example.com,X\n", timeout=30)
    assert process.returncode == 0, err
    assert "1 recipient." in out


def test_every_problem_is_listed_and_counted(broker: FakeBroker, folder: Path) -> None:
    (folder / "list.csv").write_text(
        "email,name\nanna@example.com,Anna\nno-address,B\nanna@example.com,A\nx@y z,C\n"
    )
    result = run("submit", folder / "campaign.toml", broker=broker)
    assert result.exit_code == 2
    lines = result.stderr.splitlines()
    assert [f"list.csv:{n}:" in line for n, line in zip((3, 4, 5), lines, strict=False)] == [True] * 3
    assert lines[-1] == "3 problems: nothing was sent. --skip-bad leaves these out."
    assert not broker.submissions

    result = run("submit", folder / "campaign.toml", "--json", broker=broker)
    error = json.loads(result.stdout)["error"]
    assert result.exit_code == 2 and error["code"] == "bad_input" and error["problems_total"] == 3
    assert [p["line"] for p in error["problems"]] == [3, 4, 5] and error["problems"][0]["file"].endswith(
        "list.csv"
    )

    result = run("submit", folder / "campaign.toml", "--skip-bad", broker=broker)
    assert result.exit_code == 0 and "1 recipient, 3 left out." in result.stdout
    assert "list.csv:4:" in result.stderr


def test_bad_options_are_all_told(broker: FakeBroker, folder: Path) -> None:
    result = run("submit", "--subject", "x", broker=broker)
    assert result.exit_code == 2
    assert all(word in result.stderr for word in ("from: missing", "recipients: missing", "nothing to send"))
    for options, words in (
        (["--header", "nonsense"], "--header"),
        (["--attach", folder / "none.pdf"], "none.pdf"),
        (["--inline", "x"], "--inline"),
        (["--html", folder / "none.html"], "none.html"),
        (["--encoding", "klingon"], "klingon"),
        (["--rate", "fast"], "rate: the rate 'fast'"),
        (["--window", "08:00-20:00 Europe/Berln"], "'Europe/Berlin'"),
        (["--weight", "0"], "--weight"),
        (["--weight", "\u0663"], "--weight"),
        (["--start-at", "+\u0663h"], "start_at"),
    ):
        result = run("submit", folder / "campaign.toml", *options, broker=broker)
        assert result.exit_code == 2 and words in result.stderr, result.output
    assert run("submit", folder / "none.toml", broker=broker).exit_code == 2
    assert run("submit", "--nonsense").exit_code == 2


def test_a_name_that_the_list_lacks_is_told_with_file_line_and_what_was_meant(folder: Path) -> None:
    (folder / "body.html").write_text("<p>\nDear {{ nam }}</p>")
    result = run("submit", folder / "campaign.toml", "--dry-run")
    assert result.exit_code == 2
    assert f"{folder / 'body.html'}:2: there is no field 'nam'; did you mean 'name'?" in result.stderr


def test_dry_run_needs_no_broker_and_says_what_would_go(folder: Path) -> None:
    result = run("submit", folder / "campaign.toml", "--dry-run")
    assert result.exit_code == 0, result.output
    assert "Nothing was sent. This would go to 2 recipients:" in result.stdout
    assert "example.com\t1\t50.0 %" in result.stdout
    facts = json.loads(run("submit", folder / "campaign.toml", "--dry-run", "--json").stdout)
    assert (facts["recipients"], facts["domains_total"]) == (2, 2)
    assert facts["bytes"] > 2 * 300 and facts["largest_bytes"] > 300


def test_dry_run_finds_the_message_that_cannot_be_made(folder: Path) -> None:
    (folder / "list.jsonl").write_text(
        '{"email": "a@example.com", "name": {"x": 1}}\n{"email": "b@example.com", "name": {}}\n'
    )
    result = run(
        "submit", folder / "campaign.toml", "--recipients", folder / "list.jsonl", "--subject",
        "{{ name.x }}", "--dry-run",
    )  # fmt: skip
    assert result.exit_code == 2 and "recipient 2, b@example.com: subject" in result.stderr, result.output


def test_preview_writes_messages_that_mail_programs_open(folder: Path) -> None:
    import email
    import email.policy

    result = run(
        "submit", folder / "campaign.toml", "--preview", "1", "--preview-dir", folder / "out", "--json"
    )
    assert result.exit_code == 0, result.output
    [path] = json.loads(result.stdout)["previews"]
    assert Path(path).name == "1-anna@example.com.eml"
    message = email.message_from_bytes(Path(path).read_bytes(), policy=email.policy.default)
    assert message["Subject"] == "Hello Anna" and message["To"] == "anna@example.com"


def test_wait_prints_the_end_and_exits_by_it(broker: FakeBroker, folder: Path) -> None:
    broker.statuses = [status(state="finished", total=2, sent=2)]
    broker.updates = [WatchUpdate(broker.statuses, [WORKER])]
    result = run("submit", folder / "campaign.toml", "--wait", broker=broker)
    assert result.exit_code == 0 and result.stdout.endswith("Campaign c1 finished in 1 min 0 s: 2 sent.\n")
    broker.statuses = [status("c2", "finished", total=2, sent=1, bounced=1)]
    result = run("submit", folder / "campaign.toml", "--wait", "--json", broker=broker)
    assert result.exit_code == 1
    assert json.loads(result.stdout)["status"]["counts"] == {"sent": 1, "bounced": 1}


def test_wait_on_a_pipe_says_what_it_waits_for(broker: FakeBroker, folder: Path) -> None:
    def waiting(words: str) -> WatchUpdate:
        return WatchUpdate([replace(status(total=2), waiting_for=words)], [])

    finished = status(state="finished", total=2, sent=2)
    broker.statuses = [status(total=2)]
    reasons = ["due again in 9 s", "due again in 8 s", "", "due again in 7 s", "no worker", ""]
    told = [waiting(words) for words in reasons]

    def watch(message: Message) -> Message | None:
        if not isinstance(message, Watch):
            return None
        if told:
            return told.pop(0)
        broker.statuses = [finished]
        return WatchUpdate([finished], [])

    broker.answer = watch
    result = run("submit", folder / "campaign.toml", "--wait", "--submission-id", "s", broker=broker)
    assert result.exit_code == 0, result.output
    assert [line for line in result.stderr.splitlines() if "waits" in line] == [
        f"Campaign c1 waits: {words}." for words in ("due again in 9 s", "due again in 7 s", "no worker")
    ]
    assert result.stdout.endswith("finished in 1 min 0 s: 2 sent.\n")
    told = [waiting("no worker")]
    broker.statuses = [status(total=2)]
    result = run(
        "submit", folder / "campaign.toml", "--wait", "--submission-id", "s", "--json", broker=broker
    )
    assert result.stderr == "" and json.loads(result.stdout)["status"]["state"] == "finished"


def test_send(broker: FakeBroker, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("Dear {{ name }}")
    arguments = ["send", "--to", "a@example.com", "--from", "b@example.com", "--subject", "S {{ name }}"]
    result = run(*arguments, "--text", tmp_path / "t.txt", "--value", "name=A=B", broker=broker)
    assert result.exit_code == 0 and "c1 accepted: 1 recipient." in result.stdout
    result = run(*arguments, "--text", tmp_path / "t.txt", broker=broker)
    assert result.exit_code == 2 and "name" in result.stderr
    result = run(
        *arguments, "--to", "nonsense", "--text", tmp_path / "t.txt", "--value", "name=x", broker=broker
    )
    assert result.exit_code == 2 and "nonsense" in result.stderr


# --- looking ------------------------------------------------------------------------------------


def test_status(broker: FakeBroker) -> None:
    assert run("status", broker=broker).stderr == "No campaign yet.\n"
    broker.statuses = [status("c1", sent=3, deferred=1), status("c2", "finished", sent=10)]
    lines = run("status", broker=broker).stdout.splitlines()
    assert lines[0].startswith("campaign\tname\tstate\ttotal\tsent") and lines[1].startswith(
        "c1\tNews\trunning\t10\t3"
    )
    one = run("status", "c2", broker=broker)
    assert "state\tfinished" in one.stdout and "sent\t10" in one.stdout
    assert json.loads(run("status", "c2", "--json", broker=broker).stdout)["counts"] == {"sent": 10}
    assert len(json.loads(run("status", "--json", broker=broker).stdout)) == 2
    missing = run("status", "c9", broker=broker)
    assert missing.exit_code == 2 and missing.stderr == "Error: no campaign 'c9'\n"
    missing = run("status", "c9", "--json", broker=broker)
    assert json.loads(missing.stdout) == {"error": {"code": "not_found", "message": "no campaign 'c9'"}}


def test_watch_is_a_line_an_update_on_a_pipe(broker: FakeBroker) -> None:
    finished = status(state="finished", sent=9, bounced=1)
    broker.statuses = [finished]
    broker.updates = [WatchUpdate([finished], [WORKER])]
    result = run("watch", "c1", broker=broker)
    assert result.exit_code == 1
    assert "c1 'News' finished: 9 sent, 1 bounced of 10" in result.stdout.splitlines()[0]
    result = run("watch", "c1", "--json", broker=broker)
    assert json.loads(result.stdout)["workers"][0]["worker"] == "w1"


def test_trace_says_what_it_cannot_search_and_status_what_is_left(broker: FakeBroker) -> None:
    at = 1_700_000_000_000
    broker.answer = lambda m: TracePage([], 2, at) if isinstance(m, Trace) else None
    found = run("trace", "u1@example.com", broker=broker)
    assert found.exit_code == 0
    assert "Not searched: 2 older campaigns, of those that ended up to 2023-11-14" in found.stderr
    assert run("trace", "u1@example.com", "--json", broker=broker).stdout == "[]\n"
    broker.statuses = [replace(status("c1", "finished", 5, sent=5), compacted_at=at)]
    assert "2023-11-14 22:13:20: only counts are kept" in run("status", "c1", broker=broker).stdout


def test_servers_and_trace(broker: FakeBroker) -> None:
    lines = run("servers", broker=broker).stdout.splitlines()
    cells = dict(zip(lines[0].split("\t"), lines[1].split("\t"), strict=True))
    told = {"worker": "w1", "server": "127.0.0.1:25", "state": "ready", "open": "3", "busy": "2",
            "limit": "5", "sent/s": "12.5", "sent": "30", "share": "100.0 %", "external": "0"}  # fmt: skip
    assert {name: cells[name] for name in told} == told, "on a pipe there are all columns, the empty ones too"
    assert json.loads(run("servers", "--json", broker=broker).stdout)[0]["limit"] == 5
    broker.report = [row(1, history=[Attempt(1_700_000_000_000, "w0", "deferred", 451, "later")])]
    lines = run("trace", "u1@example.com", broker=broker).stdout.splitlines()
    assert len(lines) == 3 and "\t451\tlater\tw0\t" in lines[2]
    [found] = json.loads(run("trace", "u1@example.com", "--json", broker=broker).stdout)
    assert found["history"][0]["code"] == 451 and found["address"] == "u1@example.com"
    assert run("trace", "x", broker=broker).exit_code == 2


def test_report_in_each_format(broker: FakeBroker, tmp_path: Path) -> None:
    broker.statuses = [status(state="finished")]
    broker.report = [
        row(0),
        row(1, "bounced", code=550, reply=EVIL),
        row(2, "held", address="=1+2@example.com"),
    ]
    lines = run("report", "c1", broker=broker).stdout.splitlines()
    assert len(lines) == 4 and lines[2].split("\t")[3] == "=HYPERLINK('http://x.example') see here"
    rows = list(csv.DictReader(io.StringIO(run("report", "c1", "--format", "csv", broker=broker).stdout)))
    assert rows[0]["email"] == "u0@example.com" and rows[0]["first_at"] == "2023-11-14T22:13:20.000Z"
    assert rows[1]["reply"] == "'" + EVIL and rows[2]["email"] == "'=1+2@example.com"
    found = [json.loads(line) for line in run("report", "c1", "--json", broker=broker).stdout.splitlines()]
    assert [f["reply"] for f in found] == ["2.0.0 Ok", EVIL, "2.0.0 Ok"]
    assert found[2]["address"] == "=1+2@example.com"
    target = tmp_path / "r.csv"
    result = run("report", "c1", "--format", "csv", "--only", "failed", "--output", target, broker=broker)
    assert result.stdout == "" and "2 recipients" in result.stderr
    assert [r["state"] for r in csv.DictReader(target.open(newline=""))] == ["bounced", "held"]
    assert run("report", "c1", "--output", tmp_path / "no" / "r", broker=broker).exit_code == 2
    assert run("report", "c9", broker=broker).exit_code == 2


@pytest.mark.parametrize("number", ["nan", "inf", "0"])
def test_seconds_are_finite_numbers(number: str) -> None:
    for arguments in (["status", "--timeout", number], ["watch", "--interval", number]):
        result = run(*arguments)
        assert result.exit_code == 2 and arguments[1] in result.stderr


def test_steering(broker: FakeBroker) -> None:
    for command in ("pause", "resume"):
        assert run(command, "c1", broker=broker).exit_code == 0
    assert "7 messages will not be sent" in run("cancel", "c1", broker=broker).stdout
    result = run("retry-failed", "c1", "--only", "held", "--json", broker=broker)
    assert json.loads(result.stdout) == {"campaign": "c1", "changed": 7}
    assert RetryFailed("c1", ["held"]) in broker.seen
    broker.answer = lambda message: Done(1) if isinstance(message, Cancel | RetryFailed) else None
    assert "1 message will not be sent" in run("cancel", "c1", broker=broker).stdout
    assert "1 message of c1 will be tried" in run("retry-failed", "c1", broker=broker).stdout

    def refuse(message: Message) -> Message | None:
        return Error(Code.WRONG_STATE, "it has ended") if isinstance(message, Pause) else None

    broker.answer = refuse
    result = run("pause", "c1", broker=broker)
    assert result.exit_code == 2 and result.stderr == "Error: it has ended\n"


def test_steering_servers(broker: FakeBroker) -> None:
    broker.workers = [WORKER, replace(WORKER, worker="w2")]
    for words, said in (
        (["drain", "w1"], "w1 gets nothing more. `evenpost ready w1` takes that back.\n"),
        (["maint", "w1"], "w1 gets nothing at all. `evenpost ready w1` takes that back.\n"),
        (["ready", "w1", "w2"], "w1 gets messages again.\nw2 gets messages again.\n"),
        (["weight", "w1", "50"], "w1 has the weight 50.\n"),
        (["weight", "w1", "w2", "default"], "w1 has its own weight again.\nw2 has its own weight again.\n"),
        (["maxconn", "w1", "1"], "w1 has at most 1 connection.\n"),
        (["maxconn", "w1", "default"], "w1 has its own limit again.\n"),
    ):
        result = run(*words, broker=broker)
        assert (result.exit_code, result.stdout) == (0, said)
    assert [m for m in broker.seen if isinstance(m, SetServer)] == [
        SetServer("w1", state="drain"), SetServer("w1", state="maint"), SetServer("w1", state="ready"),
        SetServer("w2", state="ready"), SetServer("w1", weight=50), SetServer("w1", weight=0),
        SetServer("w2", weight=0), SetServer("w1", max_connections=1), SetServer("w1", max_connections=0),
    ]  # fmt: skip
    lines = run("weight", "w1", "w2", "7", "--json", broker=broker).stdout.splitlines()
    assert [json.loads(line) for line in lines] == [{"worker": w, "weight": 7} for w in ("w1", "w2")]
    found = json.loads(run("maxconn", "w1", "default", "--json", broker=broker).stdout)
    assert found == {"worker": "w1", "max_connections": None}


def test_the_processes_of_a_worker_go_by_its_name(broker: FakeBroker) -> None:
    there = [f"w1/{n}" for n in (10, 2, 1)]
    broker.workers = [replace(WORKER, worker=name) for name in ("w1/11", *there, "w10", "w1-2")]
    broker.workers[0] = replace(broker.workers[0], state="gone")
    lines = run("servers", broker=broker).stdout.splitlines()
    assert [line.split("\t")[0] for line in lines[1:]] == ["w1/1", "w1/2", "w1/10", "w1/11", "w1-2", "w10"]
    assert run("drain", "w1", broker=broker).exit_code == 0
    assert run("ready", "w1/2", "w10", broker=broker).exit_code == 0
    assert run("weight", "w1", "100", broker=broker).exit_code == 0
    assert run("maxconn", "w1", "default", broker=broker).exit_code == 0
    assert [m for m in broker.seen if isinstance(m, SetServer)] == [
        *(SetServer(name, state="drain") for name in ("w1/1", "w1/2", "w1/10")),
        SetServer("w1/2", state="ready"), SetServer("w10", state="ready"),
        SetServer("w1/1", weight=34), SetServer("w1/2", weight=33), SetServer("w1/10", weight=33),
        *(SetServer(name, max_connections=0) for name in ("w1/1", "w1/2", "w1/10")),
    ]  # fmt: skip
    result = run("maxconn", "w1", "2", broker=broker)
    assert result.exit_code == 2 and "w1 has 3 processes: at least that many" in result.stderr
    assert broker.count(Type.SET_SERVER) == 11, "nothing was done by halves"


@pytest.mark.parametrize(
    ("words", "told"),
    [(["weight", "w1", "0"], "To give it nothing: evenpost drain"),
     (["weight", "w1", "1001"], "no number from 1 to 1,000"), (["weight", "w1", "heavy"], "'default'"),
     (["weight", "w1", "\u0663"], "no number from 1 to 1,000"), (["maxconn", "w1", "\uff11"], "no number"),
     (["maxconn", "w1", "9" * 5_000], "no number from 1 to 10,000"), (["weight", "50"], "Missing argument"),
     (["drain"], "Missing argument")],
)  # fmt: skip
def test_words_for_servers_that_are_wrong(broker: FakeBroker, words: list[str], told: str) -> None:
    result = run(*words, broker=broker)
    assert result.exit_code == 2 and told in result.stderr
    assert not broker.count(Type.SET_SERVER)


@pytest.mark.parametrize("words", [["drain"], ["maint"], ["ready"], ["weight", "5"], ["maxconn", "5"]])
def test_all_names_are_checked_before_anything_is_done(broker: FakeBroker, words: list[str]) -> None:
    command, *number = words
    result = run(command, "w1", "w2", *number, broker=broker)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "Error: no worker is called 'w2'; known: w1. Nothing was changed\n"
    for name in ("", "x" * 201, "a\nb", "\udcff"):
        result = run(command, name, *number, broker=broker)
        assert (result.exit_code, result.stdout) == (2, "")
        assert "is no worker's name: it has 1 to 200 printable characters" in result.stderr
    assert not broker.count(Type.SET_SERVER)


@pytest.mark.parametrize(
    ("state", "reason", "said"),
    [("maint", "maint, says its server's agent", "maint, says its server's agent"),
     ("draining", "", "its state is draining"), ("lost", "", "it is lost"), ("gone", "", "it has ended")],
)  # fmt: skip
def test_ready_says_what_still_holds_a_worker(broker: FakeBroker, state: str, reason: str, said: str) -> None:
    broker.workers = [replace(WORKER, state=state, reason=reason)]
    result = run("ready", "w1", broker=broker)
    assert result.exit_code == 0
    assert result.stdout == f"w1 is held by no operator any more, but gets no messages yet: {said}.\n"
    [found] = map(json.loads, run("ready", "w1", "--json", broker=broker).stdout.splitlines())
    assert found == {"worker": "w1", "state": "ready", "held": said}


# --- explain ------------------------------------------------------------------------------------


def test_explain_a_campaign(broker: FakeBroker) -> None:
    result = run("explain", "c1", broker=broker)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [
        "News waits for a token.",
        "- no token for gmail.com, until 2023-11-14 22:14:20",
        "- relay-2's breaker is open",
        "",
        "worker\tserver\tkey\tload/limit\tweight\twhy not",
        "w1\t127.0.0.1:25\t0.0123\t3/20\t100.0\t",
        "w2\t127.0.0.1:26\t\t0/5\t12.5\tits breaker is open",
    ]
    found = json.loads(run("explain", "c1", "--json", broker=broker).stdout)
    assert found["reasons"][0] == {"text": "no token for gmail.com", "until": 1_700_000_060_000}
    assert found["candidates"][1]["why_not"] == "its breaker is open" and found["row"] is None


def test_explain_says_nothing_twice(broker: FakeBroker) -> None:
    reason = Reason("no token: its own rate is 5/day", 1_700_000_060_000)
    told = Explanation("c1", None, f"It waits: {reason.text}.", [reason, Reason("w1: it is lost")])
    broker.answer = lambda message: told if isinstance(message, Explain) else None
    assert run("explain", "c1", broker=broker).stdout.splitlines() == [
        "It waits: no token: its own rate is 5/day, until 2023-11-14 22:14:20.",
        "- w1: it is lost",
    ]


def test_explain_a_message(broker: FakeBroker) -> None:
    tried = [Attempt(1_699_999_990_000, "w0", "deferred", 451, "later")]
    broker.report = [
        row(0),
        row(3, "deferred", code=450, reply="too\nfast", attempts=2, due_at=1_700_000_300_000, history=tried),
    ]
    result = run("explain", "c1/3", broker=broker)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[4:10] == [
        "Message c1/3 to u3@example.com: deferred, next attempt 2023-11-14 22:18:20.",
        "Batch 81 went to w1 (key 0.03) at 2023-11-14 22:13:20; next would have been w2 (key 0.05).",
        "",
        "attempt\twhen\toutcome\tcode\treply\tworker",
        "1\t2023-11-14 22:13:10\tdeferred\t451\tlater\tw0",
        "2\t2023-11-14 22:13:20\tdeferred\t450\ttoo fast\tw1",
    ]
    for words in (["c1", "3"], ["c1", "u3@example.com"], ["c1/u3@example.com"]):
        assert run("explain", *words, broker=broker).stdout == result.stdout
    found = json.loads(run("explain", "c1/3", "--json", broker=broker).stdout)
    assert found["row"]["history"][0]["code"] == 451 and found["pick"]["runner_up"] == "w2"


def test_explain_asks_for_what_there_can_be(broker: FakeBroker) -> None:
    for words in (["c1", "-"], ["c1", "x"], ["c1/4294967296"], ["c1/\u0663"], ["c1", "9" * 5_000]):
        result = run("explain", *words, broker=broker)
        assert result.exit_code == 2 and "neither an address nor the index" in result.stderr
    broker.statuses = [status("c1")]
    result = run("explain", "c1", "nobody@example.com", broker=broker)
    assert result.exit_code == 2 and "c1 has no message to nobody@example.com" in result.stderr


# --- real processes -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command", [["status"], ["servers"], ["watch"], ["pause", "c1"], ["trace", "a@b.example"]]
)
def test_no_broker_is_status_3_and_a_sentence(command: list[str]) -> None:
    process = start(*command, "--timeout", "0.3")
    out, err = process.communicate(timeout=30)
    assert process.returncode == 3, err
    assert out == "" and err.startswith("Error: no answer from the broker") and "tcp://127.0.0.1:1" in err
    assert "Traceback" not in err


def test_no_broker_for_a_submission(folder: Path) -> None:
    process = start("submit", folder / "campaign.toml", "--timeout", "0.3", "--json")
    out, err = process.communicate(timeout=30)
    assert process.returncode == 3
    assert json.loads(out)["error"]["code"] == "unavailable" and err == ""


def test_a_reader_that_goes_away_is_no_error(broker: FakeBroker) -> None:
    broker.statuses = [status(state="finished")]
    broker.report = [row(i, reply="x" * 400) for i in range(5_000)]
    process = start("report", "c1", broker=broker)
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.readline().startswith("email")
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait(30) == 141
    assert err == ""


def on_a_terminal(broker: FakeBroker, *arguments: str) -> list[str]:
    """The lines of a command on a terminal of 80 columns, without colours."""
    ours, theirs = pty.openpty()
    environment = {"COLUMNS": "80", "NO_COLOR": "1", "TERM": "dumb"}
    with patch.dict(os.environ, environment):
        process = start(*arguments, broker=broker, stdin=theirs, terminal=theirs)
    os.close(theirs)
    text = b""
    with contextlib.suppress(OSError), os.fdopen(ours, "rb", buffering=0) as file:  # EIO: they have closed it
        while part := file.read(65_536):
            text += part
    assert process.wait(30) == 0, text
    return re.sub(r"\x1b\[[0-9;]*m", "", text.decode()).splitlines()


def test_a_terminal_of_80_columns_is_enough(broker: FakeBroker) -> None:
    long = "smtp-relay-with-a-long-name.eu-central-1.provider.example:587"
    worker = replace(WORKER, server=long, operator="weight:50", reason="421 4.7.0 come back later, please")
    broker.answer = lambda message: ServersReply([worker]) if isinstance(message, Servers) else None
    broker.statuses = [replace(status("c1", sent=3, queued=7), name="A name " * 9, waiting_for="why? " * 30)]
    broker.report = [row(3, "deferred", reply="451 4.7.1 Greylisted, try again " * 3, server=long)]
    for command, words in (
        (["servers"], ["w1", "ready", "weight:50"]), (["status"], ["c1", "running", "10"]),
        (["report", "c1"], ["u3@example.com", "deferred", "250"]),
        (["trace", "u3@example.com"], ["c1", "deferred", "250"]),
        (["explain", "c1/3"], ["w1", "3/20"]),
    ):  # fmt: skip
        lines = on_a_terminal(broker, *command)
        if command[0] != "explain":  # its sentences are as long as they are; its tables are the same
            assert max(map(len, lines)) <= 80, lines
        assert any(all(word in line for word in words) for line in lines), (words, lines)
    assert any("No room for server" in line for line in on_a_terminal(broker, "servers"))


@pytest.mark.parametrize("command", ["submit", "watch"])
def test_ctrl_c_leaves_the_campaign_alone_and_says_how_to_go_on(
    broker: FakeBroker, folder: Path, command: str
) -> None:
    broker.statuses = [status(sent=1)]
    broker.updates = [WatchUpdate(broker.statuses, [WORKER])]
    arguments = ["submit", folder / "campaign.toml", "--wait"] if command == "submit" else ["watch", "c1"]
    process = start(*arguments, broker=broker)
    deadline = time.monotonic() + 30
    while not broker.count(Type.WATCH):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert "the campaign goes on" in err and "evenpost watch c1" in err and "evenpost cancel c1" in err
    assert "Traceback" not in err
    assert not broker.count(Type.CANCEL)
