"""Back-pressure, part 2: clients that submit faster than the journal's disk writes."""

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from sys import getsizeof
from typing import Any

import apsw
import click

from broker.admission import ROWS_WAITING_MAX
from broker.guard import MIB
from broker.journal.group_commit import GROUP_ROWS_MAX
from evenpost.runtime.sockets import ROUTER_RECEIVE_QUEUE_MESSAGES_MAX
from evenpost.wire import codec, limits
from evenpost.wire.messages import Recipient
from scripts.benches.processes import ROOT, Cluster, cluster
from scripts.benches.rude_client import CHUNK_ROWS, SUBMISSION, Acknowledged, RudeClient
from scripts.benches.table import Bar

_FLUSHES_MAX = 2_000
"""So many are slow; the run has far fewer."""
_ENDS_WITHIN_S = 300.0
SQLITE_CACHE_MIB = 48
"""broker.journal.sqlite's cache_size, which a fresh journal fills."""
CLIENT_MB_MAX = 80
"""As for `scripts/bench submit`: a client holds the chunks that it has under way, not its list."""
ALLOCATOR = 1.5
"""Freed memory that malloc keeps, and objects' headers, as a factor."""

_CLIENT = """
import json, resource, sys
from client import Client
from scripts.benches.processes import newsletter
endpoint, submission, recipients = sys.argv[1:]
with Client(endpoint, connect_timeout=60, timeout=120) as client:
    receipt = client.submit(newsletter(int(recipients)), submission_id=submission)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"submission": submission, "recipients": receipt.recipients, "rss_mb": peak}))
"""


@dataclass(frozen=True)
class SlowDisk:
    flush_ms: int
    clients: int
    recipients: int
    """Of each."""
    accepted: dict[str, int]
    """By submission: recipients that its client was told of by SUBMIT_OK."""
    stored: dict[str, int]
    """The same in the journal of the broker that was killed behind the last SUBMIT_OK."""
    rude: Acknowledged
    rude_stored: int
    """Recipients of the rude client in that journal."""
    seconds: float
    before_mb: float
    peak_mb: float
    client_peak_mb: float

    @property
    def bound_mb(self) -> float:
        return bound_mb(self.before_mb, self.clients)

    @property
    def missing(self) -> int:
        told = sum(abs(self.stored.get(id_, 0) - count) for id_, count in self.accepted.items())
        return told + max(0, self.rude.stored * CHUNK_ROWS - self.rude_stored)

    def rows(self) -> list[list[object]]:
        total = sum(self.accepted.values())
        return [
            [f"slow disk ({self.flush_ms} ms a flush): {self.clients} clients, recipients accepted",
             f"{total:,}"],
            ["  recipients/s", f"{total / self.seconds:,.0f}"],
            [f"  beside them a client without a window: chunks of {CHUNK_ROWS:,} sent, acknowledged, refused",
             f"{self.rude.sent:,}, {self.rude.stored:,}, {self.rude.refused:,}"],
            ["  broker's RSS before, peak, bound, MB",
             f"{self.before_mb:.0f}, {self.peak_mb:.0f}, {self.bound_mb:.0f}"],
            ["  largest client's peak RSS, MB", self.client_peak_mb],
            ["  acknowledged and not in the journal", f"{self.missing:,}"],
        ]  # fmt: skip

    def bars(self) -> list[Bar]:
        return [
            Bar("slow disk: submissions accepted", len(self.accepted), self.clients, True),
            Bar("slow disk: broker's peak RSS, MB", self.peak_mb, round(self.bound_mb), False),
            Bar("slow disk: a client's peak RSS, MB", self.client_peak_mb, CLIENT_MB_MAX, False),
            Bar("slow disk: acknowledged and not in the journal", self.missing, 0, False),
        ]


def bound_mb(before_mb: float, clients: int) -> float:
    """What the broker's limits allow it: rows in front of the journal (one chunk may pass the mark), a group
    that is being written and one that is being flushed, each client's chunks under way (of the one that keeps
    to no window: what ZeroMQ takes in of a peer before it stops reading), and SQLite's cache."""
    row = _a_row()
    rows = ROWS_WAITING_MAX + limits.CHUNK_ROWS_MAX + 2 * (GROUP_ROWS_MAX + limits.CHUNK_ROWS_MAX)
    objects = getsizeof(row) + getsizeof(row.address) + getsizeof(row.values) + 8  # a place in a list
    chunk = limits.CHUNK_ROWS_MAX * len(codec.pack_struct(row))
    wire = (clients * limits.CHUNKS_IN_FLIGHT_MAX + ROUTER_RECEIVE_QUEUE_MESSAGES_MAX) * chunk
    return before_mb + SQLITE_CACHE_MIB + ALLOCATOR * (rows * objects + wire) / MIB


def _a_row() -> Recipient:
    """As scripts.benches.processes.newsletter has them."""
    return Recipient("user100000@example90.com", codec.pack_values(["Anna000", "Hamburg", "000186a0"]))


def measure(clients: int, recipients: int, flush_ms: int) -> SlowDisk:
    """This many clients at once with `recipients` each, and a disk that takes its time for each flush."""
    stalls = ";".join(f"broker.before_commit=stall:{flush_ms / 1000}@{n}" for n in range(1, _FLUSHES_MAX))
    with cluster([], broker=("-m", "broker", "--failpoints", stalls)) as made:
        before_mb = made.broker.rss_mb
        began = time.monotonic()
        rude = RudeClient(made.clients)
        try:
            found = _submit(made, clients, recipients)
        except BaseException:
            rude.stop()
            raise
        seconds = time.monotonic() - began
        peak_mb = made.broker.peak_rss_mb
        made.broker.kill()
        told = rude.stop()
        by_submission = _stored(made.folder / "journal.db")
    return SlowDisk(
        flush_ms,
        clients, recipients, {one["submission"]: one["recipients"] for one in found},
        by_submission, told, by_submission.pop(SUBMISSION, 0),
        seconds, before_mb, peak_mb, max(one["rss_mb"] for one in found),
    )  # fmt: skip


def _submit(made: Cluster, clients: int, recipients: int) -> list[dict[str, Any]]:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _CLIENT, made.clients, f"s{number}", str(recipients)],
            cwd=ROOT, stdout=subprocess.PIPE, text=True,
        )
        for number in range(clients)
    ]  # fmt: skip
    try:
        outputs = [process.communicate(timeout=_ENDS_WITHIN_S)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    if not all(outputs):
        raise click.ClickException("a client gave up: see above")
    return [json.loads(output) for output in outputs]


def _stored(journal: Path) -> dict[str, int]:
    """Recipients by submission, as the next broker would find them."""
    db = apsw.Connection(str(journal))
    try:
        query = (
            "SELECT submission, count(*) FROM message JOIN campaign ON number = message.id >> 32 GROUP BY 1"
        )
        return dict(db.execute(query))
    finally:
        db.close()
