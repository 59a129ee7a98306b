"""How near to the ideal the last message of a campaign is, where servers differ in speed."""

import os
import time

from scripts.benches.paced_sink import PacedSink, paced_sinks
from scripts.benches.processes import Process, cluster, newsletter
from scripts.benches.table import Bar, Result

CONNECTIONS = 20
SERVICES_S = (0.18, 0.06, 0.02)
"""What a message takes on a connection of each server: speeds of 1:3:9, 1,444 messages a second in all."""


def measure(messages: int) -> Result:
    """Three servers whose speeds are 1:3:9, and a campaign: its makespan against the ideal.

    The servers are sinks that hold each message for 180, 60 and 20 ms, on 20 connections each; the mean that
    they held it is measured. The ideal is what they could take if no connection ever stood idle and all
    ended together: messages / sum(connections / mean time). Timed from SUBMIT_OK to the server's last 250.
    1,444 messages a second are chosen so that two cores have enough to spare; the CPU is measured.
    """
    with paced_sinks(SERVICES_S) as sinks, cluster([s.port for s in sinks], CONNECTIONS) as made:
        names = sorted(worker.worker for worker in made.client.servers())
        for name in names:  # all of the list is in the journal before the first message leaves
            made.client.drain(name)
        receipt = made.client.submit(newsletter(messages))
        processes: list[Process | PacedSink] = [made.broker, *made.workers, *sinks]
        cpu = sum(process.cpu_s for process in processes)
        began = time.monotonic()
        for name in names:
            made.client.ready(name)
        final = made.client.wait(receipt.campaign, interval=0.2)
        assert final.counts == {"sent": messages}, final
        cpu = sum(process.cpu_s for process in processes) - cpu
        seen = [sink.seen() for sink in sinks]
    makespan_s = max(one.last_at for one in seen) - began
    means_s = [one.service_s / one.messages for one in seen]
    speeds = [CONNECTIONS / mean for mean in means_s]
    ideal_s = messages / sum(speeds)
    busy = [one.service_s / (CONNECTIONS * makespan_s) for one in seen]
    cores = cpu / makespan_s / (os.cpu_count() or 1)
    tail_s = makespan_s - (min(one.last_at for one in seen) - began)
    return Result(
        "balance",
        ["server", "ms a message", "messages", "ideal", "connections busy, %"],
        [
            [name, mean * 1e3, one.messages, messages * speed / sum(speeds), part * 100]
            for name, mean, one, speed, part in zip(names, means_s, seen, speeds, busy, strict=True)
        ],
        {
            "messages": messages,
            "makespan_s": makespan_s,
            "ideal_s": ideal_s,
            "ratio": makespan_s / ideal_s,
            "service_s": means_s,
            "taken": [one.messages for one in seen],
            "busy": busy,
            "tail_s": tail_s,
            "cpu": cores,
        },
        [Bar("makespan / ideal", makespan_s / ideal_s, 1.10, False)],
        [
            f"Makespan {makespan_s:.2f} s, ideal {ideal_s:.2f} s; "
            f"the first server was done {tail_s:.2f} s before the last.",
            f"All processes together used {cores:.0%} of this machine's CPU.",
        ],
    )
