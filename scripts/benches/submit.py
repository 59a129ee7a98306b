"""From a CSV file to SUBMIT_OK: how fast, and in how much memory."""

import json
import sys
import tempfile
from pathlib import Path

from scripts.benches.processes import ROOT, Cluster, cluster, smtp_sink
from scripts.benches.table import Bar, Result
from scripts.benches.usage import Cost, Spread, run

RATE_MIN = 150_000
RSS_MB_MAX = 80
_CLIENT = """
import json, sys, time
from client import Campaign, Client
broker, path = sys.argv[1:]
subject, text = "Hello {{ first_name }}", "{{ city }} {{ last_name }}"
campaign = Campaign(sender="a@example.com", subject=subject, text=text, recipients=path)
began = time.monotonic()
with Client(broker, connect_timeout=20, timeout=120) as client:
    receipt = client.submit(campaign)
print(json.dumps({"recipients": receipt.recipients, "seconds": time.monotonic() - began}))
"""


def measure(recipients: int, rounds: int, long: int) -> Result:
    """A CSV file of four columns: checked, sent, and durable in the journal.

    --rounds times --recipients lines, for the rate; then once --long lines, for the client's memory. Timed
    inside the client's process, from the call to SUBMIT_OK; CPU and memory are those of the whole process,
    Python's start included.
    """
    cost, long_cost = Cost("CSV to SUBMIT_OK"), Cost("the long list")
    with (
        smtp_sink() as (port, _),
        cluster([port]) as made,
        tempfile.TemporaryDirectory(dir=ROOT, prefix=".bench-") as folder,
    ):
        made.client.drain("w0")
        path = Path(folder) / "list.csv"
        _write(path, recipients)
        for _ in range(rounds):
            _submit(cost, made, path, recipients)
        _write(path, long)
        _submit(long_cost, made, path, long)
    rate = Spread.of(cost.per_s)
    rss_mb = max(cost.rss_mb["client"], long_cost.rss_mb["client"])
    return Result(
        "submit",
        ["recipients/s", "median", "least", "most", "client's peak RSS, MB"],
        [
            [f"{recipients:,} lines", rate.median, rate.least, rate.most, cost.rss_mb["client"]],
            [f"{long:,} lines, once", long_cost.per_s[0], "", "", long_cost.rss_mb["client"]],
        ],
        {
            "recipients": recipients,
            "rounds": rounds,
            "long": long,
            "rate": rate.median,
            "long_rate": long_cost.per_s[0],
            "client_rss_mb": rss_mb,
            "client_cpu_us": cost.us("client"),
            "broker_cpu_us": cost.us("broker"),
        },
        [
            Bar("recipients/s", rate.median, RATE_MIN, True),
            Bar(f"client RSS at {long:,} lines, MB", rss_mb, RSS_MB_MAX, False),
        ],
        costs=[cost, long_cost],
        unit="a recipient",
    )


def _write(path: Path, lines: int) -> None:
    with path.open("w") as file:
        file.write("email,first_name,last_name,city\n")
        for n in range(lines):
            file.write(f"anna.meier{n}@example{n % 1_000}.com,Anna,Meier,Hamburg\n")


def _submit(cost: Cost, made: Cluster, path: Path, lines: int) -> None:
    with cost.round(lines, {"broker": made.broker.pid}) as this:
        ended = run([sys.executable, "-c", _CLIENT, made.client.broker, str(path)], cwd=ROOT)
        found = json.loads(ended.out)
        assert found["recipients"] == lines, found
        this.seconds = found["seconds"]
        this.ended["client"] = ended
