"""Sends one message at once, before all newsletters: a password reset.

python examples/transactional.py anna@example.com [tcp://BROKER:5550]
"""

import sys

from client import Client


def main() -> None:
    address = sys.argv[1]
    broker = sys.argv[2] if len(sys.argv) > 2 else "tcp://127.0.0.1:5550"
    with Client(broker) as client:
        receipt = client.send(
            to=address,
            sender="Accounts <accounts@example.com>",
            subject="Reset your password",
            text="Hello {{ first_name }},\n\nopen this link within an hour: {{ link }}\n",
            values={"first_name": "Anna", "link": "https://example.com/reset/7f3a"},
            expire_at="+1h",
        )
        print(client.wait(receipt.campaign).counts)


if __name__ == "__main__":
    main()
