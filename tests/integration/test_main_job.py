"""The main job with real processes: campaigns leave through several servers, and the report is true."""

import os
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pytest

from client import Campaign, ClientError
from tests.integration.cluster import Cluster, newsletter, wait_until
from tests.servers import EximServer, OpenSmtpdServer, PostfixServer, RecordingServer, Rule, untraced

MESSAGES = int(os.environ.get("EVENPOST_MESSAGES", "1500"))
"""For the test with the real servers; the issue's figure is 20,000."""


def test_each_server_gets_what_it_can_take(tmp_path: Path) -> None:
    total = 3_000
    delays = {"slow": 0.04, "middle": 0.02, "fast": 0.01}
    with ExitStack() as stack:
        servers = {n: stack.enter_context(RecordingServer(delay_s=d)) for n, d in delays.items()}
        cluster = stack.enter_context(Cluster(tmp_path))
        cluster.start_broker()
        for name, server in servers.items():
            cluster.start_worker(name, server.url, "--max-connections", "5")
        with cluster.client() as client:
            cluster.wait_for_workers(client, 3)
            receipt = client.submit(newsletter(total), wait=True)
            final = client.status(receipt.campaign)
            rows = list(client.report(receipt.campaign))
        got = Counter[str]()
        for server in servers.values():
            got += server.recipients()
        taken = {name: server.count() for name, server in servers.items()}
    assert final.state == "finished" and final.counts == {"sent": total}
    assert got == Counter({f"user{n}@example.com": 1 for n in range(total)})
    assert [row.state for row in rows] == ["sent"] * total
    assert Counter(row.worker for row in rows) == taken
    # Twice as fast, about twice as many.
    counts = [taken[name] for name in ("slow", "middle", "fast")]
    assert counts[0] * 1.4 < counts[1] < counts[2] / 1.4, counts


def test_refused_and_deferred_mail_ends_as_the_servers_said(tmp_path: Path) -> None:
    rules = [
        Rule("rcpt", "550 5.1.1 no such user", match="user3@*"),
        Rule("rcpt", "450 4.2.0 greylisted", match="user5@*", times=1),
        Rule("message", "554 5.7.1 spam", match="user7@*"),
    ]
    with ExitStack() as stack:
        servers = [stack.enter_context(RecordingServer(rules=rules)) for _ in range(2)]
        cluster = stack.enter_context(Cluster(tmp_path, "--retry-initial", "0.3"))
        cluster.start_broker()
        for number, server in enumerate(servers):
            cluster.start_worker(f"w{number}", server.url)
        with cluster.client() as client:
            cluster.wait_for_workers(client, 2)
            receipt = client.submit(newsletter(10), wait=True)
            rows = {row.address: row for row in client.report(receipt.campaign)}
            failed = list(client.report(receipt.campaign, only=["bounced"]))
            traced = client.trace("USER5@example.com")
    assert {a for a, row in rows.items() if row.state == "bounced"} == {
        "user3@example.com",
        "user7@example.com",
    }
    assert {row.address for row in failed} == {"user3@example.com", "user7@example.com"}
    assert (rows["user3@example.com"].code, rows["user7@example.com"].code) == (550, 554)
    assert "no such user" in rows["user3@example.com"].reply
    greylisted = rows["user5@example.com"]
    assert greylisted.state == "sent" and greylisted.attempts >= 2
    assert greylisted.history[0].code == 450
    # Another server first; should that one greylist too, whoever comes.
    by = [*(attempt.worker for attempt in greylisted.history), greylisted.worker]
    assert by[0] != by[1]
    assert [row.attempts for row in traced] == [greylisted.attempts]


def test_a_dead_server_stalls_nobody(tmp_path: Path) -> None:
    with ExitStack() as stack:
        good = stack.enter_context(RecordingServer(delay_s=0.005))
        cluster = stack.enter_context(Cluster(tmp_path))
        cluster.start_broker()
        cluster.start_worker("good", good.url)
        cluster.start_worker("dead", "smtp://127.0.0.1:9")  # nothing listens on discard
        with cluster.client() as client:
            cluster.wait_for_workers(client, 2)
            receipt = client.submit(newsletter(500), wait=True)
            final = client.status(receipt.campaign)
        assert final.counts == {"sent": 500} and final.attempts == 500
        assert good.count() == 500


@pytest.mark.slow
def test_killed_broker_and_worker_lose_nothing(tmp_path: Path) -> None:
    total = 4_000
    with ExitStack() as stack:
        servers = [stack.enter_context(RecordingServer(delay_s=0.02)) for _ in range(3)]
        cluster = stack.enter_context(Cluster(tmp_path, "--lease", "3"))
        cluster.start_broker()
        for number, server in enumerate(servers):
            cluster.start_worker(f"w{number}", server.url, "--max-connections", "4")
        with cluster.client() as client:
            cluster.wait_for_workers(client, 3)
            receipt = client.submit(newsletter(total))

            def sent() -> int:
                return client.status(receipt.campaign).counts.get("sent", 0)

            wait_until(lambda: sent() > 300, "the first few hundred are sent")
            cluster.kill("broker")
            cluster.restart("broker")
            wait_until(lambda: sent() > 1_000, "it goes on after the broker's death")
            cluster.kill("w1")
            cluster.restart("w1")
            wait_until(lambda: sent() > 1_800, "it goes on after a worker's death")
            cluster.kill("broker")
            cluster.kill("w2")
            cluster.restart("broker")
            cluster.restart("w2")
            final = client.wait(receipt.campaign)
            rows = list(client.report(receipt.campaign))
        got = Counter[str]()
        ids = Counter[str]()
        for server in servers:
            got += server.recipients()
            ids += server.message_ids()
    assert final.state == "finished" and final.counts == {"sent": total}
    assert [row.index for row in rows] == list(range(total))
    assert {row.state for row in rows} == {"sent"}
    assert set(got) == {f"user{n}@example.com" for n in range(total)}
    copies = sum(got.values()) - total
    print(f"{copies} copies, {final.unknown} unknown, {final.duplicates} known duplicates")
    assert copies <= final.unknown
    assert copies == sum(count - 1 for count in ids.values())  # a copy has the same Message-ID


@pytest.mark.servers
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_through_postfix_exim_and_opensmtpd_at_once_with_kills(tmp_path: Path) -> None:
    total = MESSAGES
    with ExitStack() as stack:
        servers = {
            "postfix": stack.enter_context(PostfixServer()),
            "exim": stack.enter_context(EximServer()),
            "opensmtpd": stack.enter_context(OpenSmtpdServer()),
        }
        cluster = stack.enter_context(Cluster(tmp_path, "--lease", "3"))
        cluster.start_broker()
        for name, server in servers.items():
            cluster.start_worker(name, server.url, "--max-connections", "6")
        with cluster.client() as client:
            cluster.wait_for_workers(client, 3)
            receipt = client.submit(newsletter(total))

            def sent() -> int:
                return client.status(receipt.campaign).counts.get("sent", 0)

            wait_until(lambda: sent() > total // 4, "a quarter is sent", 120)
            cluster.kill("broker")
            cluster.restart("broker")
            wait_until(lambda: sent() > total // 2, "half is sent", 120)
            cluster.kill("exim")
            cluster.restart("exim")
            final = client.wait(receipt.campaign)
            rows = list(client.report(receipt.campaign))
        assert final.counts == {"sent": total}, final
        by_server = Counter(row.worker for row in rows)
        print(f"by server: {dict(by_server)}; unknown {final.unknown}, duplicates {final.duplicates}")
        assert all(by_server[name] for name in servers)
        for name, server in servers.items():
            server.wait_for(by_server[name], timeout_s=240)
        got = Counter[str]()
        for server in servers.values():
            got += server.recipients()
    assert set(got) == {f"user{n}@example.com" for n in range(total)}
    assert sum(got.values()) - total <= final.unknown


@pytest.mark.servers
def test_what_is_composed_arrives_identical_through_postfix(tmp_path: Path) -> None:
    campaign = Campaign.load(Path(__file__).parents[2] / "examples/newsletter/campaign.toml")
    recipients = [
        {
            "email": f"u{n}@library.test",
            "first_name": name,
            "last_name": "O'Neil",
            "city": "Łódź",
            "token": f"t{n}",
        }
        for n, name in enumerate(["Anna", "Žofie", "Василий", "李雷", "🦊", "From .dots"])
    ]
    fields = campaign.open_recipients([]).columns or ()
    recipients = [{**{f: "x" for f in fields if f != "email"}, **r} for r in recipients]
    with PostfixServer() as postfix, RecordingServer() as recorder:
        bodies = {}
        for server in (postfix, recorder):
            folder = tmp_path / server.name
            folder.mkdir()
            with Cluster(folder) as cluster:
                cluster.start_broker()
                cluster.start_worker("w", server.url)
                with cluster.client() as client:
                    cluster.wait_for_workers(client, 1)
                    sent = Campaign.load(campaign.file or "", recipients=recipients)
                    receipt = client.submit(sent, wait=True)
                    assert client.status(receipt.campaign).counts == {"sent": len(recipients)}
            server.wait_for(len(recipients))
            bodies[server.name] = sorted(_without_ids(untraced(raw)) for raw in server.messages())
    assert bodies["postfix"] == bodies["recording"]


def _without_ids(message: bytes) -> bytes:
    """Two campaigns differ in their ids and times, and in nothing else."""
    lines = message.split(b"\r\n")
    boundaries = {line[2:].removesuffix(b"--") for line in lines if line.startswith(b"--=_")}
    kept = [line for line in lines if not line.startswith((b"Date:", b"Message-ID:"))]
    text = b"\r\n".join(kept)
    for number, boundary in enumerate(sorted(boundaries)):
        text = text.replace(boundary, b"boundary-%d" % number)
    return text


def test_sigterm_drains_a_worker_and_its_mail_goes_elsewhere(tmp_path: Path) -> None:
    total = 1_500
    with ExitStack() as stack:
        servers = [stack.enter_context(RecordingServer(delay_s=0.02)) for _ in range(2)]
        cluster = stack.enter_context(Cluster(tmp_path))
        cluster.start_broker()
        for number, server in enumerate(servers):
            cluster.start_worker(f"w{number}", server.url, "--max-connections", "4")
        with cluster.client() as client:
            cluster.wait_for_workers(client, 2)
            receipt = client.submit(newsletter(total))
            wait_until(lambda: servers[1].count() > 100, "the second server is at work")
            assert cluster.terminate("w1") == 0
            assert {w.worker: w.state for w in client.servers()}["w1"] == "gone"
            final = client.wait(receipt.campaign)
        got = servers[0].recipients() + servers[1].recipients()
    assert final.counts == {"sent": total} and final.unknown == 0
    assert got == Counter({f"user{n}@example.com": 1 for n in range(total)})


def test_pause_resume_cancel_drain_ready_and_retry_failed(tmp_path: Path) -> None:
    rules = [Rule("rcpt", "550 5.1.1 no such user", match="user1@*")]
    with RecordingServer(delay_s=0.01, rules=rules) as server, Cluster(tmp_path) as cluster:
        cluster.start_broker()
        cluster.start_worker("w", server.url, "--max-connections", "2")
        with cluster.client() as client:
            cluster.wait_for_workers(client, 1)
            client.drain("w")
            first = client.submit(newsletter(50)).campaign
            assert client.status(first).waiting_for == "w: drain, says an operator"
            client.pause(first)
            client.ready("w")
            second = client.submit(newsletter(20), wait=True).campaign
            assert client.status(first).state == "paused"
            assert client.status(first).counts == {"queued": 50}
            client.resume(first)
            client.wait(first)
            assert client.status(first).counts == {"sent": 49, "bounced": 1}
            server.set_rules([])
            assert client.retry_failed(first) == 1
            assert client.wait(first).counts == {"sent": 50}
            client.drain("w")
            third = client.submit(newsletter(30)).campaign
            assert client.cancel(third) == 30
            assert client.wait(third).counts == {"cancelled": 30}
            assert client.cancel(third) == 30, "a client that didn't hear the answer asks again"
            with pytest.raises(ClientError, match="has ended"):
                client.cancel(first)
            assert {row.state for row in client.report(third)} == {"cancelled"}
            assert [s.campaign for s in client.status()] == [third, second, first]
            (row, *others) = client.trace("user1@example.com")
            assert row.campaign == third and len(others) == 2
