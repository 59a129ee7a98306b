"""Submits the newsletter from Python, waits for it and prints what failed.

python examples/submit.py [tcp://BROKER:5550]
"""

import sys
from pathlib import Path

from client import Campaign, Client

BROKER = sys.argv[1] if len(sys.argv) > 1 else "tcp://127.0.0.1:5550"
FOLDER = Path(__file__).parent / "newsletter"


def main() -> None:
    with Client(BROKER) as client:
        campaign = Campaign.load(FOLDER / "campaign.toml", submission_id="library-news-may")
        receipt = client.submit(campaign)
        print(client.wait(receipt.campaign).counts)
        for row in client.report(receipt.campaign, only=["bounced", "expired"]):
            print(row.address, row.code, row.reply)


if __name__ == "__main__":
    main()
