"""From a CSV file to SUBMIT_OK: how fast, and in how much memory."""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from scripts.benches.processes import ROOT, cluster, sink
from scripts.benches.table import Bar, Result

_CLIENT = """
import json, resource, sys, time
from client import Campaign, Client
broker, path = sys.argv[1:]
subject, text = "Hello {{ first_name }}", "{{ city }} {{ last_name }}"
campaign = Campaign(sender="a@example.com", subject=subject, text=text, recipients=path)
began = time.monotonic()
with Client(broker, connect_timeout=20, timeout=120) as client:
    receipt = client.submit(campaign)
seconds = time.monotonic() - began
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"recipients": receipt.recipients, "seconds": seconds, "client_rss_mb": peak}))
"""


def measure(recipients: int) -> Result:
    """A CSV file of this many lines and four columns: checked, sent, and durable in the journal."""
    with (
        sink() as port,
        cluster([port]) as made,
        tempfile.TemporaryDirectory(dir=ROOT, prefix=".bench-") as folder,
    ):
        made.client.drain("w0")
        path = Path(folder) / "list.csv"
        with path.open("w") as file:
            file.write("email,first_name,last_name,city\n")
            for n in range(recipients):
                file.write(f"anna.meier{n}@example{n % 1_000}.com,Anna,Meier,Hamburg\n")
        broker_s = made.broker.cpu_s
        command = [sys.executable, "-c", _CLIENT, made.client.broker, str(path)]
        began = time.monotonic()
        out = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout
        whole_s = time.monotonic() - began
        found = json.loads(out)
        broker_us = (made.broker.cpu_s - broker_s) / recipients * 1e6
        rate = found["recipients"] / found["seconds"]
    return Result(
        "submit",
        ["", "recipients/s", "seconds", "client's peak RSS, MB"],
        [["CSV to SUBMIT_OK", rate, found["seconds"], found["client_rss_mb"]]],
        {**found, "rate": rate, "process_s": whole_s, "broker_cpu_us": broker_us},
        [
            Bar("recipients/s", rate, 100_000, True),
            Bar("client RSS, MB", found["client_rss_mb"], 80, False),
        ],
        [f"The broker used {broker_us:.1f} us of CPU a recipient."],
    )
