"""How long `evenpost trace` takes in a large journal."""

import random
import statistics
import tempfile
import time
from pathlib import Path

from broker.core.commands import AddCampaign, AddRecipients, SetCampaign
from broker.core.state import Campaign, Phase
from broker.journal.sqlite import SqliteJournal
from evenpost.wire.messages import Options, Recipient
from scripts.benches.processes import ROOT
from scripts.benches.table import Bar, Result

_CHUNK = 2_000
_CAMPAIGN = 1_000_000
_LOOK_UPS = 50


def measure(messages: int) -> Result:
    """A journal with this many messages in campaigns of a million; then 50 addresses are traced."""
    with tempfile.TemporaryDirectory(dir=ROOT, prefix=".bench-") as folder:
        path = Path(folder) / "journal.db"
        journal = SqliteJournal(path)
        began = time.monotonic()
        for number, first in enumerate(range(0, messages, _CAMPAIGN), 1):
            _fill(journal, number, min(_CAMPAIGN, messages - first))
        filled_s = time.monotonic() - began
        journal.close()
        journal = SqliteJournal(path)  # with a cold cache of its own
        people = min(_CAMPAIGN, messages)
        campaigns = -(-messages // _CAMPAIGN)
        times = []
        for _ in range(_LOOK_UPS):
            began = time.monotonic()
            found = journal.trace(_address(random.randrange(people)), 1_000)  # noqa: S311  # not a secret
            times.append(time.monotonic() - began)
            assert campaigns - 1 <= len(found) <= campaigns
        size_mb = path.stat().st_size / 1e6
        journal.close()
    median_ms, most_ms = statistics.median(times) * 1e3, max(times) * 1e3
    return Result(
        "trace",
        ["", "median, ms", "most, ms"],
        [[f"an address in {messages:,} messages", median_ms, most_ms]],
        {"messages": messages, "median_ms": median_ms, "most_ms": most_ms, "journal_mb": size_mb},
        [Bar("seconds, the slowest", most_ms / 1e3, 1, False)],
        [f"The journal has {size_mb:,.0f} MB; it took {messages / filled_s:,.0f} recipients/s to fill."],
    )


def _fill(journal: SqliteJournal, number: int, total: int) -> None:
    campaign = Campaign(number, f"c{number}", f"s{number}", b"", b"", Options(), 0, 0)
    journal.apply([AddCampaign(campaign)])
    for start in range(0, total, _CHUNK):
        rows = [Recipient(_address(n), b"\x91\xa4Anna") for n in range(start, min(start + _CHUNK, total))]
        journal.apply([AddRecipients(number, start, rows)])
        if start % (10 * _CHUNK) == 0:
            journal.commit()
    campaign.total, campaign.phase = total, Phase.ACTIVE
    journal.apply([SetCampaign.of(campaign)])
    journal.commit()


def _address(n: int) -> str:
    # Spread over the alphabet, as real lists are.
    return f"{n * 2654435761 % 2**32:08x}.{n}@example{n % 1000}.com"
