"""Wall clocks that jump, and a worker whose clock is a year off."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from email import message_from_bytes
from email.utils import parsedate_to_datetime
from pathlib import Path

import pytest

from tests.integration.books import balance
from tests.integration.cluster import Cluster, newsletter, wait_until
from tests.servers import RecordingServer, Rule
from tests.servers.faketime import WallClock, require

pytestmark = pytest.mark.servers

QUICK = ("--heartbeat", "0.5", "--lease", "4", "--retry-initial", "0.3", "--slow-start", "0")
JUMPS = ("+1h", "-1h", "+1d", "+1y", "-2y", "+0")
YEAR_S = 365 * 86_400


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    require()
    with ExitStack() as made:
        yield made


def test_a_clock_that_jumps_loses_nothing_and_expires_nothing(stack: ExitStack, tmp_path: Path) -> None:
    clock = WallClock(tmp_path)
    rules = [Rule("rcpt", "450 4.2.0 greylisted", match="user?5*", times=1)]
    server = stack.enter_context(RecordingServer(delay_s=0.01, rules=rules))
    cluster = stack.enter_context(Cluster(tmp_path, *QUICK))
    cluster.environments = dict.fromkeys(("broker", "w"), clock.environment)
    cluster.start_broker()
    cluster.start_worker("w", server.url, "--max-connections", "4")
    client = stack.enter_context(cluster.client())
    cluster.wait_for_workers(client, 1)
    total = 400
    receipt = client.submit(newsletter(total, expire_at="+10m"))
    for number, jump in enumerate(JUMPS, 1):
        wait_until(lambda mark=number * total // 10: server.count() > mark, "it is under way")  # type: ignore[misc]  # mypy can't infer a lambda with a default
        clock.set(jump)
        event = "clock.returned" if jump == "+0" else "clock.jumped"
        for name in ("broker", "w"):
            times = 1 if jump == "+0" else number
            wait_until(
                lambda name=name, e=event, n=times: cluster.log(name).count(e) >= n, f"{event}: {jump}"
            )  # type: ignore[misc]  # as above
    wait_until(lambda: client.status(receipt.campaign).state == "finished", "the campaign ends", 60)
    books = balance(client, receipt.campaign, total, [server])
    assert books.states == {"sent": total}
    assert (books.copies, books.unknown) == (0, 0)
    status = client.status(receipt.campaign)
    assert abs(status.finished_at - status.created_at) < 120_000, "times in reports are those of before"
    assert "lease_ended" not in cluster.log("broker") + cluster.log("w")


def test_a_rate_is_not_granted_twice_when_the_clock_jumps(stack: ExitStack, tmp_path: Path) -> None:
    clock = WallClock(tmp_path)
    server = stack.enter_context(RecordingServer())
    cluster = stack.enter_context(Cluster(tmp_path, *QUICK))
    cluster.environments = {"broker": clock.environment}
    cluster.start_broker()
    cluster.start_worker("w", server.url)
    client = stack.enter_context(cluster.client())
    cluster.wait_for_workers(client, 1)
    receipt = client.submit(newsletter(200, rate="200/s, 100/day"))
    wait_until(lambda: server.count() == 100, "the day's messages are sent")
    for number, jump in enumerate(("+2d", "-2d"), 1):
        clock.set(jump)
        wait_until(lambda n=number: cluster.log("broker").count("clock.jumped") == n, jump)  # type: ignore[misc]  # as above
    # Whatever it would send, it would send at once: an order goes through its loop behind that.
    client.cancel(receipt.campaign)
    wait_until(lambda: client.status(receipt.campaign).state == "cancelled", "it ends")
    books = balance(client, receipt.campaign, 200, [server])
    assert books.states == {"sent": 100, "cancelled": 100}


def test_a_worker_whose_clock_is_a_year_off(stack: ExitStack, tmp_path: Path) -> None:
    clock = WallClock(tmp_path, "-1y")
    rules = [Rule("rcpt", "450 4.2.0 greylisted", match="user1@*", times=1)]
    server = stack.enter_context(RecordingServer(rules=rules))
    cluster = stack.enter_context(Cluster(tmp_path, *QUICK))
    cluster.environments = {"w": clock.environment}
    cluster.start_broker()
    cluster.start_worker("w", server.url)
    client = stack.enter_context(cluster.client())
    cluster.wait_for_workers(client, 1)
    receipt = client.submit(newsletter(10))
    wait_until(lambda: client.status(receipt.campaign).state == "finished", "the campaign ends")
    books = balance(client, receipt.campaign, 10, [server])
    assert books.states == {"sent": 10} and books.copies == 0
    wait_until(lambda: "worker.clock_skew" in cluster.log("broker"), "the broker names the worker")
    # What the user sees: mail with that Date, and reports with those times.
    dates = [message_from_bytes(raw)["Date"] for raw in server.messages()]
    ages = {round((time.time() - parsedate_to_datetime(date).timestamp()) / YEAR_S, 1) for date in dates}
    assert ages == {1.0}
    rows = list(client.report(receipt.campaign))
    assert {round((time.time() - row.last_at / 1000) / YEAR_S, 1) for row in rows} == {1.0}
