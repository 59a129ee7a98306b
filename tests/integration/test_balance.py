"""Who gets what, with real processes: by speed, by rate, by an operator's word, by what the server takes."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from client import Campaign, Client
from scripts.benches.paced_sink import STAMPED_DOMAIN, PacedSink, paced_sinks
from tests.integration.cluster import ROOT, Cluster, newsletter, wait_until
from tests.servers import RecordingServer

JITTER_S = 0.25
"""Between the broker's grant of a message and the server's clock lie a batch's way and other processes on the
same cores. Two grants a second apart may arrive so much nearer to one another."""


@contextmanager
def running(
    folder: Path, *broker_options: str, **workers: tuple[str, ...]
) -> Iterator[tuple[Cluster, Client]]:
    """A broker and workers by their name: each with its server's URL and its options."""
    with Cluster(folder, *broker_options) as cluster:
        cluster.start_broker()
        for name, (url, *options) in workers.items():
            cluster.start_worker(name, url, *options)
        with cluster.client() as client:
            cluster.wait_for_workers(client, len(workers))
            yield cluster, client


def url(sink: PacedSink) -> str:
    return f"smtp://127.0.0.1:{sink.port}"


def campaign_to(addresses: list[str]) -> Campaign:
    recipients = [{"email": address} for address in addresses]
    return Campaign(sender="a@example.com", subject="News", text="News.\n", recipients=recipients)


def stamped(recipients: int) -> list[str]:
    """Addresses for which a paced sink keeps the times."""
    return [f"m{n}@{STAMPED_DOMAIN}" for n in range(recipients)]


def worker(client: Client, name: str) -> Any:
    return next(w for w in client.servers() if w.worker == name)


def test_the_faster_server_takes_the_larger_part(tmp_path: Path) -> None:
    with (
        RecordingServer(delay_s=0.005) as fast,
        RecordingServer(delay_s=0.05) as slow,
        running(
            tmp_path,
            fast=(fast.url, "--max-connections", "4"),
            slow=(slow.url, "--max-connections", "4"),
        ) as (_, client),
    ):
        client.submit(newsletter(1_500), wait=True)
        assert fast.count() + slow.count() == 1_500
        assert fast.count() > 3 * slow.count(), (fast.count(), slow.count())


@pytest.mark.slow
def test_a_rate_holds_in_any_second_by_the_servers_clock(tmp_path: Path) -> None:
    total, rate = 80, 20
    with paced_sinks([0.0]) as [sink], running(tmp_path, w=(url(sink), "--rate", f"{rate}/s")) as (_, client):
        client.submit(campaign_to(stamped(total)), wait=True)
        times = sorted(done for _, done in sink.seen().stamps.values())
    assert len(times) == total
    # A window of a second, less by what jitter may take from it.
    most = max(sum(start <= at < start + 1 - JITTER_S for at in times) for start in times)
    assert most <= rate
    # And what the rate allows is used: within a second of the time that it takes at least.
    assert times[-1] - times[0] < total / rate + 1


def test_a_quota_is_not_granted_twice_after_the_broker_was_killed(tmp_path: Path) -> None:
    quota = 30
    options = ("--rate", f"20/s, {quota}/hour")
    with (
        paced_sinks([0.0]) as [sink],
        running(tmp_path, "--lease", "3", w=(url(sink), *options)) as (cluster, client),
    ):

        def sent() -> int:
            return sink.seen().messages

        receipt = client.submit(newsletter(100))
        wait_until(lambda: sent() >= 10, "ten are sent")
        cluster.kill("broker")
        cluster.restart("broker")
        before = sent()
        assert before < quota, "it was killed too late to show anything"

        def waits() -> bool:
            found = client.explain(receipt.campaign)
            in_half_an_hour = (time.time() + 1_800) * 1_000
            return any((reason.until or 0) > in_half_an_hour for reason in found.reasons)

        wait_until(waits, "the campaign waits for the hour to pass")
        assert before < sent() <= quota
        # A crash costs what was allowed ahead of the journal, and no more.
        assert sent() >= quota - 2 * max(1, quota // 50), sent()


def test_a_domains_only_connection_is_never_two(tmp_path: Path) -> None:
    config = tmp_path / "broker.toml"
    config.write_text(f'[[domain]]\nnames = ["{STAMPED_DOMAIN}"]\nconnections = 1\n')
    limited, others = stamped(60), [f"user{n}@example.com" for n in range(600)]
    with (
        paced_sinks([0.01]) as [sink],
        running(tmp_path, "--config", str(config), a=(url(sink),), b=(url(sink),)) as (_, client),
    ):
        client.submit(campaign_to(limited + others), wait=True)
        seen = sink.seen()
    assert seen.messages == len(limited) + len(others)
    intervals = sorted(seen.stamps.values())
    assert len(intervals) == len(limited)
    # One process, one clock: from RCPT to 250, no two of them overlap.
    overlaps = [(a, b) for a, b in pairwise(intervals) if b[0] < a[1]]
    assert not overlaps, overlaps[:3]


def test_an_operators_words_reach_a_worker(tmp_path: Path) -> None:
    with ExitStack() as stack:
        a, b = (stack.enter_context(RecordingServer(delay_s=0.02)) for _ in range(2))
        options = ("--max-connections", "4")
        _, client = stack.enter_context(running(tmp_path, a=(a.url, *options), b=(b.url, *options)))

        client.drain("a")
        client.submit(newsletter(40), wait=True)
        assert (a.count(), b.count()) == (0, 40)
        assert worker(client, "a").state == "draining"
        client.ready("a")

        client.set_max_connections("a", 1)
        client.drain("b")
        client.submit(newsletter(40), wait=True)
        assert worker(client, "a").limit == 1
        assert len({message.session for message in a.recorded()}) == 1
        client.set_max_connections("a", None)
        client.ready("b")

        client.set_weight("a", 10)  # idle, b's key is lower by a factor of ten, whoever was used last
        before = a.count()
        for number in range(6):
            client.send(
                to=f"single{number}@example.com", sender="a@example.com", subject="s", text="t", wait=True
            )
        assert a.count() == before
        client.set_weight("a", None)
        assert worker(client, "a").weight == 100


def test_maint_calls_back_what_is_not_begun(tmp_path: Path) -> None:
    total, connections = 200, 2
    with (
        RecordingServer(delay_s=0.4) as slow,
        RecordingServer(delay_s=0.01) as good,
        running(
            tmp_path,
            slow=(slow.url, "--max-connections", str(connections)),
            good=(good.url, "--max-connections", str(connections)),
        ) as (_, client),
    ):
        receipt = client.submit(newsletter(total))
        wait_until(lambda: slow.count() >= connections, "the slow server is at work")
        begun = slow.count()
        client.maint("slow")
        final = client.wait(receipt.campaign)
        assert worker(client, "slow").state == "maint"
        taken = slow.count()
        assert final.counts == {"sent": total} and final.attempts == total
        assert good.count() == total - taken
        # On each connection, at most the one that the server has and the one behind it in the pipeline.
        assert taken <= begun + 2 * connections, (begun, taken)


def explained(cluster: Cluster, *arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "client", "explain", "--broker", cluster.clients, "--json", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_messages_that_run_wait_and_have_ended_are_explained(tmp_path: Path) -> None:
    with (
        RecordingServer(delay_s=0.5) as server,
        running(tmp_path, only=(server.url, "--max-connections", "1")) as (cluster, client),
    ):
        receipt = client.submit(newsletter(60))
        wait_until(lambda: server.count() >= 1, "the first is sent")
        wait_until(lambda: client.status(receipt.campaign).counts.get("sent", 0) >= 1, "its outcome is known")
        states = {row.state: str(row.index) for row in client.report(receipt.campaign)}
        sent, queued = (
            explained(cluster, receipt.campaign, states["sent"]),
            explained(cluster, f"{receipt.campaign}/59"),
        )
        assert (sent["row"]["state"], sent["row"]["worker"]) == ("sent", "only")
        assert sent["pick"]["worker"] == "only"
        assert queued["row"]["state"] == "queued" and queued["pick"] is None
        assert queued["summary"]
        [candidate] = queued["candidates"]
        assert "in use" in candidate["why_not"]
        sending = explained(cluster, receipt.campaign, states["sending"])
        assert sending["pick"]["worker"] == "only"
        campaign = explained(cluster, receipt.campaign)
        assert campaign["row"] is None and campaign["summary"]
        client.cancel(receipt.campaign)


@pytest.mark.slow
def test_a_server_that_takes_three_connections_gets_three(tmp_path: Path) -> None:
    total = 600
    with (
        RecordingServer(delay_s=0.02, max_sessions=3) as server,
        running(tmp_path, w=(server.url, "--max-connections", "8")) as (_, client),
    ):
        receipt = client.submit(newsletter(total))
        wait_until(lambda: server.count() > total // 2, "half of it is sent")
        limits = [worker(client, "w").limit]
        final = client.wait(receipt.campaign)
        limits.append(worker(client, "w").limit)
        sessions = server.sessions()
        assert final.counts == {"sent": total}
        assert final.attempts == total, "a 421 at the greeting cost a message an attempt"
        assert server.count() == total
    # It may try a fourth now and then, as Postfix would.
    assert set(limits) <= {3, 4}, limits
    assert sessions.total < 40, sessions


def test_an_urgent_message_passes_a_campaign_that_has_every_connection(tmp_path: Path) -> None:
    with paced_sinks([0.05, 0.05]) as sinks:
        workers = {f"w{n}": (url(sink), "--max-connections", "10") for n, sink in enumerate(sinks)}
        with running(tmp_path, **workers) as (_, client):

            def bulk() -> int:
                return sum(sink.seen().messages for sink in sinks)

            receipt = client.submit(newsletter(8_000))
            wait_until(lambda: bulk() > 400, "every connection has been in use")
            passed = []
            for number in range(5):
                before = bulk()
                client.send(
                    to=f"u{number}@{STAMPED_DOMAIN}", sender="a@example.com", subject="s", text="t", wait=True
                )
                passed.append(bulk() - before)
            assert sum(len(sink.seen().stamps) for sink in sinks) == 5
            assert client.status(receipt.campaign).state == "running"
            client.cancel(receipt.campaign)
    # 400 bulk messages a second: each took a second or two at most, its client's waiting included.
    assert max(passed) < 800, passed
