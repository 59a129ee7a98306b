"""What a long queue costs: the broker's memory with millions of messages waiting."""

import time

from scripts.benches.processes import cluster, newsletter, sink
from scripts.benches.table import Bar, Result


def measure(messages: int) -> Result:
    """The broker's memory while this many messages are queued, and while they leave.

    One campaign is submitted while its worker is drained; then it runs for ten seconds.
    """
    with sink() as port, cluster([port]) as made:
        empty_mb = made.broker.peak_rss_mb
        made.client.drain("w0")
        began = time.monotonic()
        receipt = made.client.submit(newsletter(messages))
        submit_s = time.monotonic() - began
        queued_mb = made.broker.peak_rss_mb
        made.client.ready("w0")
        time.sleep(10)
        sent = made.client.status(receipt.campaign).counts.get("sent", 0)
        running_mb = made.broker.peak_rss_mb
        made.client.cancel(receipt.campaign)
    return Result(
        "queue",
        ["", "broker's peak RSS, MB"],
        [
            ["empty", empty_mb],
            [f"{messages:,} queued", queued_mb],
            [f"while they leave ({sent:,} sent in 10 s)", running_mb],
        ],
        {
            "messages": messages,
            "empty_mb": empty_mb,
            "queued_mb": queued_mb,
            "running_mb": running_mb,
            "submit_s": submit_s,
        },
        [Bar("broker RSS, MB", running_mb, 200, False)],
        [f"The submission took {submit_s:.1f} s: {messages / submit_s:,.0f} recipients/s, durable."],
    )
