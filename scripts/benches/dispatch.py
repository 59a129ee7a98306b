"""The core alone: what a decision costs, with few workers and with many."""

import gc
import time

from broker.core import commands as c
from broker.core import events as e
from broker.core.dispatcher import Dispatcher
from broker.core.settings import Settings
from evenpost.runtime.clock import Now
from evenpost.wire import messages as wire
from scripts.benches.table import Bar, Result

BATCH = 50
_ROUNDS = 3


def measure(messages: int) -> Result:
    """The pure core: from messages in memory to batches, and from outcomes to what is written.

    No sockets, no journal. Batches of 50, every worker with 20 connections. The best of three rounds each.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)  # as in the broker's process
    times = {count: min(_run(messages, count) for _ in range(_ROUNDS)) for count in (10, 100, 1_000)}
    rows = [[f"{count:,} workers", us] for count, us in times.items()]
    figures: dict[str, object] = {"messages": messages, **{f"us_{count}": us for count, us in times.items()}}
    bars = [
        Bar("us a message, 1,000 workers", times[1_000], 4, False),
        Bar("1,000 workers / 10 workers", times[1_000] / times[10], 1.3, False),
    ]
    return Result("dispatch", ["", "us a message"], rows, figures, bars)


def _run(messages: int, workers: int) -> float:
    now = Now(10.0, 1_790_000_000_000)
    settings = Settings(page_rows=messages)
    core = Dispatcher(settings, boot=1, broker="b", uniform=lambda a, b: b, campaigns=[], workers=[], now=now)
    core.handle(e.Tick(), now)
    for n in range(workers):
        hello = wire.WorkerHello(f"w{n}", 1, f"s{n}:25", f"log{n}", 20)
        core.handle(e.FromWorker(f"p{n}".encode(), 1, hello), now)
        core.handle(e.WorkerStored(f"w{n}", f"p{n}".encode(), 1), now)
        core.state.workers[f"w{n}"].seconds_a_message = settings.batch_target_s / BATCH
    template = wire.Template("a@example.com", "s", text="t")
    core.handle(e.SubmissionOpened(b"k", 1, wire.OpenCampaign("s", template), b"", b"", None, "c", 1), now)
    campaign = core.state.by_id["c"]
    campaign.total, campaign.chunks = messages + 10_000_000, 1  # far from its tail
    core.handle(e.FromClient(b"k", 2, wire.Commit("c", 1, campaign.total)), now)
    core.handle(e.CampaignStored(1), now)
    core.dispatch(now)
    fresh = [((1 << 32) + n, f"user{n}@example{n % 97}.com", b"x" * 30, 0) for n in range(messages)]
    stripes = core.state.campaigns[1].stripes
    rows = [fresh, *([] for _ in stripes[1:])]
    began = time.process_time()
    core.handle(e.FreshRead(1, rows, [stripe.read_upto + messages for stripe in stripes]), now)
    reading_s = time.process_time() - began
    peers = {f"p{n}".encode() for n in range(workers)}
    outcomes_s, sent, began = 0.0, 0, time.process_time()
    while sent < messages:
        batches = [command for command in core.dispatch(now) if isinstance(command, c.SendBatch)]
        if not batches:
            break
        for batch in batches:
            assert batch.peer in peers
            made = time.process_time()
            told = [
                wire.Outcome(batch.batch, 1, item[0], 1, "sent", "recipient", 250, "ok", 1, 201)
                for item in batch.items
            ]
            outcomes_s += time.process_time() - made  # the benchmark's own work
            report = wire.Outcomes(0, told, [batch.batch])
            core.handle(e.FromWorker(batch.peer, 0, report), now)
            sent += len(told)
    return (time.process_time() - began - outcomes_s + reading_s) / sent * 1e6
