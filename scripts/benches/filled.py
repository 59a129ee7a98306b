"""A journal with a long list in it, written by the journal's own code, without a broker."""

import time
from pathlib import Path

from broker.core.commands import AddCampaign, AddRecipients, SetCampaign
from broker.core.state import Campaign, Phase
from broker.journal.sqlite import SqliteJournal
from evenpost.wire import codec
from evenpost.wire.messages import Options, Recipient
from scripts.benches.processes import newsletter

CAMPAIGN = "c1"
"""Its id."""
_CHUNK = 5_000
_CHUNKS_A_COMMIT = 4


def fill(path: Path, total: int, phase: Phase = Phase.ACTIVE) -> None:
    """Makes the journal, with one campaign of so many recipients; `phase`: ACTIVE or PAUSED."""
    made = newsletter(1)
    template = codec.pack_struct(made.template(("first_name", "city", "token")))
    journal = SqliteJournal(path)
    number, wall = journal.next_campaign_number(), time.time_ns() // 1_000_000
    campaign = Campaign(number, CAMPAIGN, "s1", template, b"", Options(), wall, wall + 86_400_000)
    journal.apply([AddCampaign(campaign)])
    for first in range(0, total, _CHUNK):
        rows = [
            Recipient(f"user{n}@example{n % 97}.com", codec.pack_values(["Anna", "Hamburg", f"{n:08x}"]))
            for n in range(first, min(first + _CHUNK, total))
        ]
        journal.apply([AddRecipients(number, first, rows)])
        if first // _CHUNK % _CHUNKS_A_COMMIT == 0:
            journal.commit()
    campaign.total, campaign.chunks, campaign.phase = total, 1, phase
    journal.apply([SetCampaign.of(campaign)])
    journal.close()
