"""What scripts/demo runs: the commands that a user would type, against SMTP servers that only count."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

from client import Client, ClientError
from tests.servers.ports import free_port
from tests.servers.recording import RecordingServer

ROOT = Path(__file__).resolve().parents[1]
FOLDER = Path(os.environ.get("EVENPOST_DEMO", ROOT / ".demo"))
CAMPAIGN = "examples/newsletter/campaign.toml"
RECIPIENTS = 5_000
SPEEDS = {"fast": 0.02, "middle": 0.04, "slow": 0.08}
"""Seconds that each SMTP server takes for a message."""
READY_WITHIN_S = 30.0

_CLUSTER = """\
# Made by scripts/demo. Your own looks the same: see examples/cluster.toml.
[broker]
clients = "{clients}"
workers = "{workers}"
journal = "broker.db"
log_level = "info"
"""
_SERVER = """
[[server]]
name = "{name}"
smtp = "{url}"
max_connections = 8
"""


def main() -> int:
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir()
    with ExitStack() as stack:
        servers = {
            name: stack.enter_context(RecordingServer(delay_s=seconds)) for name, seconds in SPEEDS.items()
        }
        clients = f"tcp://127.0.0.1:{free_port()}"
        cluster = _CLUSTER.format(clients=clients, workers=f"tcp://127.0.0.1:{free_port()}")
        cluster += "".join(_SERVER.format(name=name, url=server.url) for name, server in servers.items())
        (FOLDER / "cluster.toml").write_text(cluster)

        say("Three SMTP servers are up that take 20, 40 and 80 ms for a message. A broker, a worker each:")
        typed("up", ".demo/cluster.toml", ">.demo/up.log", "2>&1", "&")
        with (FOLDER / "up.log").open("wb") as log:
            up = subprocess.Popen(command("up", str(FOLDER / "cluster.toml")), stdout=log, stderr=log)
        try:
            with connected(clients, up) as client:
                campaign = send(client, clients)
                arrived = sum((server.recipients() for server in servers.values()), Counter[str]())
                ended = client.status(campaign)
        finally:
            up.send_signal(signal.SIGINT)
            status = up.wait(60)
        say("What the three servers took:")
        for name, server in servers.items():
            print(f"  {name:8} {server.count():5,} messages, {server.count() / RECIPIENTS:6.1%}")
    twice = sum(count > 1 for count in arrived.values())
    sent = ended.counts.get("sent", 0)
    print(f"\nThe report says {sent:,} sent; {len(arrived):,} people got it, {twice} of them twice.")
    print("Log, journal and configuration are in .demo. README.md goes on: your own relays in five minutes.")
    return 0 if (sent, len(arrived), twice, status) == (RECIPIENTS, RECIPIENTS, 0, 0) else 1


def send(client: Client, clients: str) -> str:
    """Submits the newsletter, watches it leave, and shows what became of it."""
    broker = ("--broker", clients)
    say("A newsletter to 5,000 people: HTML and text, merge fields, names in many scripts, an inline image.")
    evenpost("submit", CAMPAIGN, *broker)
    campaign = client.status(limit=1)[0].campaign
    say("It leaves through the least busy server, message by message:")
    evenpost("watch", campaign, *broker)
    say("A line for each recipient (here the first five), and then what failed (nothing should):")
    evenpost("report", campaign, *broker, head=6)
    evenpost("report", campaign, "--only", "failed", *broker)
    return campaign


def connected(clients: str, up: "subprocess.Popen[bytes]") -> Client:
    """A client, once broker and workers are there."""
    end = time.monotonic() + READY_WITHIN_S
    client = Client(clients, connect_timeout=READY_WITHIN_S)
    while True:
        try:
            if sum(worker.state == "ready" for worker in client.servers()) == len(SPEEDS):
                return client
        except ClientError:
            pass  # not up yet
        if up.poll() is not None or time.monotonic() > end:
            client.close()
            raise SystemExit("demo: the cluster didn't come up; see .demo/up.log")
        time.sleep(0.05)


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "client", *words]


def evenpost(*words: str, head: int | None = None) -> None:
    """Runs a command as a user would, and shows it."""
    typed(*words, *(("|", "head", "-n", str(head)) if head else ()))
    if head is None:
        subprocess.run(command(*words), cwd=ROOT, check=True)
        return
    shown = subprocess.run(command(*words), cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    print("\n".join(shown.stdout.splitlines()[:head]), flush=True)


def typed(*words: str) -> None:
    hidden = [word for n, word in enumerate(words) if "--broker" not in words[max(0, n - 1) : n + 1]]
    print("  $ evenpost " + " ".join(hidden), flush=True)


def say(text: str) -> None:
    print(f"\n{text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
