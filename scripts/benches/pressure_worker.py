"""Back-pressure, part 3: a worker far slower than its broker."""

import time
from dataclasses import dataclass

from evenpost.wire import limits
from scripts.benches.paced_sink import paced_sinks
from scripts.benches.processes import cluster, newsletter
from scripts.benches.table import Bar

SERVICE_S = 0.05
"""What its server takes for a message: 20 a second."""
BATCHES_MAX = 2
"""One on the connection and one ahead: broker.core.balancer's `in_flight < limit + max(1, limit // 4)`."""
FIRST_BATCH = 10
BATCH_TARGET_S = 0.2
"""A batch is about this much work (broker.core.settings), ten messages before the pace is known."""
MESSAGES_MAX = BATCHES_MAX * max(FIRST_BATCH, int(BATCH_TARGET_S / SERVICE_S))
BROKER_MB_MAX = 200
"""As for `scripts/bench queue`: a window of each campaign is in memory, and not the list."""
WORKER_GROWTH_MB_MAX = 8
"""Its window is some twenty messages of a few hundred bytes, and its outcomes are confirmed ten times a
second; the rest is what the allocator and the interpreter's caches do in a while."""
_WARM_MESSAGES = 20
_SAMPLE_S = 0.05


@dataclass(frozen=True)
class SlowWorker:
    messages: int
    seconds: float
    sent: int
    batches_max: int
    """In the worker, by the broker's count, in any sample."""
    held_max: int
    """Messages that had been given to the worker and had no outcome, in any sample."""
    samples: int
    broker_before_mb: float
    broker_peak_mb: float
    worker_warm_mb: float
    worker_peak_mb: float

    def rows(self) -> list[list[object]]:
        return [
            [f"slow worker ({SERVICE_S * 1000:.0f} ms a message): messages queued", f"{self.messages:,}"],
            [f"  sent in {self.seconds:.0f} s", f"{self.sent:,}"],
            [f"  most batches, messages in the worker ({self.samples} samples)",
             f"{self.batches_max}, {self.held_max}"],
            ["  broker's RSS before, peak, MB", f"{self.broker_before_mb:.0f}, {self.broker_peak_mb:.0f}"],
            ["  worker's RSS after its first messages, peak, MB",
             f"{self.worker_warm_mb:.1f}, {self.worker_peak_mb:.1f}"],
        ]  # fmt: skip

    def bars(self) -> list[Bar]:
        growth_mb = self.worker_peak_mb - self.worker_warm_mb
        return [
            Bar("slow worker: batches in it", self.batches_max, BATCHES_MAX, False),
            Bar("slow worker: messages in it", self.held_max, MESSAGES_MAX, False),
            Bar("slow worker: messages sent", self.sent, 1, True),
            Bar("slow worker: its RSS's growth, MB", growth_mb, WORKER_GROWTH_MB_MAX, False),
            Bar("slow worker: broker's peak RSS, MB", self.broker_peak_mb, BROKER_MB_MAX, False),
        ]


def measure(messages: int, seconds: int) -> SlowWorker:
    """`messages` are submitted while the worker is at work, with one connection; then it goes on a while."""
    assert MESSAGES_MAX <= BATCHES_MAX * limits.BATCH_MESSAGES_MAX
    with paced_sinks([SERVICE_S]) as (sink,), cluster([sink.port], connections=1) as made:
        (worker,) = made.workers
        before_mb = made.broker.rss_mb
        warm = made.client.submit(newsletter(_WARM_MESSAGES))
        made.client.wait(warm.campaign, interval=0.05)
        warm_mb = worker.rss_mb
        receipt = made.client.submit(newsletter(messages))
        batches_max = held_max = samples = 0
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            batches_max = max(batches_max, made.client.servers()[0].in_flight)
            held_max = max(held_max, made.client.status(receipt.campaign).counts.get("sending", 0))
            samples += 1
            time.sleep(_SAMPLE_S)
        sent = made.client.status(receipt.campaign).counts.get("sent", 0)
        result = SlowWorker(
            messages, seconds, sent, batches_max, held_max, samples,
            before_mb, made.broker.peak_rss_mb, warm_mb, worker.peak_rss_mb,
        )  # fmt: skip
        made.client.cancel(receipt.campaign)
        return result
