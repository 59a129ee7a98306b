"""Hostile lists and templates, through a whole cluster into Postfix, and into a server that only counts."""

from pathlib import Path

import pytest

from client import Campaign
from tests.integration.cluster import Cluster, newsletter, wait_until
from tests.servers import PostfixServer, RecordingServer, Rule

EVIL = "evil@example.net"
SMUGGLED = "".join(
    f"{line}\r\n"
    for line in [
        "",
        f"MAIL FROM:<{EVIL}>",
        f"RCPT TO:<{EVIL}>",
        "DATA",
        "Subject: smuggled",
        "",
        "x",
        ".",
        "",
    ]
)
ENDS = (
    "\r\n.\r\n", "\n.\n", "\r.\r", "\r\n.\n", "\n.\r\n", "\r.\r\n", "\r\n.\r", "\u2028.\u2028", "\x85.\x85",
)  # fmt: skip
VALUES = [f"one{end}{SMUGGLED}" for end in ENDS]


def campaign(rows: list[dict[str, object]]) -> Campaign:
    return Campaign(
        sender="News <news@example.com>", subject="Hello {{ name }}", html="<p>{{ n|safe }}</p>",
        text="{{ n }}\n.\n{{ n }}\n", recipients=rows,
    )  # fmt: skip


@pytest.mark.parametrize(
    "server_type", [pytest.param(PostfixServer, marks=pytest.mark.servers), RecordingServer]
)
def test_no_message_is_smuggled_in_by_a_recipients_data(server_type: type, tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"email": f"u{n}@example.com", "name": f"User {n}", "n": value} for n, value in enumerate(VALUES)
    ]
    with server_type() as server, Cluster(tmp_path) as cluster:
        cluster.start_broker()
        cluster.start_worker("w", server.url)
        with cluster.client() as client:
            cluster.wait_for_workers(client, 1)
            receipt = client.submit(campaign(rows), wait=True)
            assert client.status(receipt.campaign).counts == {"sent": len(VALUES)}
        wait_until(lambda: server.count() >= len(VALUES), "all are there")
        assert server.recipients() == {row["email"]: 1 for row in rows}
        for raw in server.messages():
            head = raw.replace(b"\r\n", b"\n").partition(b"\n\n")[0]
            assert b"smuggled" not in head and EVIL.encode() not in head


def test_a_header_that_would_end_is_refused_before_it_is_sent(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"email": "good@example.com", "name": "Ada", "n": 1},
        {"email": "bad@example.com", "name": f"Eve\r\nBcc: {EVIL}", "n": 2},
    ]
    with RecordingServer() as server, Cluster(tmp_path) as cluster:
        cluster.start_broker()
        cluster.start_worker("w", server.url)
        with cluster.client() as client:
            cluster.wait_for_workers(client, 1)
            with pytest.raises(Exception, match="line break"):
                client.submit(campaign(rows), wait=True)
            assert server.count() == 0


def test_nothing_of_a_reply_steers_a_terminal(tmp_path: Path) -> None:
    """In the log, in the report, in `servers`: escapes, bells, changes of direction."""
    steering = "550 5.1.1 no \x1b]0;owned\x07\x1b[2J\x9b31m \u202egnp.exe \r nobody"
    with RecordingServer(rules=[Rule("rcpt", steering)]) as server, Cluster(tmp_path) as cluster:
        cluster.start_broker()
        cluster.start_worker("w", server.url, "--log-format", "console")
        with cluster.client() as client:
            cluster.wait_for_workers(client, 1)
            receipt = client.submit(newsletter(2), wait=True)
            assert client.status(receipt.campaign).counts == {"bounced": 2}
            rows = list(client.report(receipt.campaign))
        shown = [cluster.log("w"), *(row.reply for row in rows)]
    assert all("nobody" in text for text in shown)
    for text in shown:
        for char in "\x1b\x07\x9b\u202e\r":
            assert char not in text, repr(text)
