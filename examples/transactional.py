"""Sends one message at once, before all newsletters: a password reset.

python examples/transactional.py anna@example.com [tcp://BROKER:5550]
"""

import sys

from client import Campaign, Client


def main() -> None:
    address = sys.argv[1]
    broker = sys.argv[2] if len(sys.argv) > 2 else "tcp://127.0.0.1:5550"
    campaign = Campaign(
        sender="Accounts <accounts@example.com>",
        subject="Reset your password",
        text="Hello {{ first_name }},\n\nopen this link within an hour: {{ link }}\n",
        recipients=[{"email": address, "first_name": "Anna", "link": "https://example.com/reset/7f3a"}],
        priority=9,
        expire_at="+1h",
    )
    with Client(broker) as client:
        receipt = client.submit(campaign, wait=True)
        print(receipt.status.counts if receipt.status else "accepted")


if __name__ == "__main__":
    main()
