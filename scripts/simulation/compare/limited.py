"""Scenarios in which somebody sets limits: other people's load, a provider, configured rates, priorities."""

import random
from bisect import bisect_left
from statistics import fmean

from broker.core.message_state import INDEX_BITS
from broker.core.settings import DomainGroup
from evenpost.wire.messages import Options
from scripts.benches.table import Bar
from scripts.simulation.compare.lab import CONNECTIONS, START_S, Case, Lab, Run, percentile
from scripts.simulation.compare.policies import ENGINE
from scripts.simulation.compare.scenario import Column, Figures, Found, Scenario, at_least, at_most
from scripts.simulation.compare.speed import EQUAL_S, MAKESPAN, arrivals

# --- external ----------------------------------------------------------------------------------

EXTERNAL = CONNECTIONS // 2
EXTERNAL_AT_S = 6.0
HEARTBEATS_S = 2.1
"""Two of them."""
EXTERNAL_S = 20.0
EXTERNAL_LOAD = 1_250.0
"""Messages a second: 50 connections' worth, where 70 are free."""


def external(case: Case) -> Run:
    lab = Lab(case, campaign=False)
    for mean in EQUAL_S:
        lab.server(mean, capacity=CONNECTIONS)
    end = EXTERNAL_AT_S + HEARTBEATS_S + EXTERNAL_S * case.scale
    lab.at(
        EXTERNAL_AT_S,
        "others take 10 of relay-1's connections",
        lambda: lab.servers[0].set_external(EXTERNAL),
    )
    for at in arrivals(case.seed, end, EXTERNAL_LOAD):
        lab.submit(1, at)
    lab.run(end)
    in_use = lab.in_use(EXTERNAL_AT_S + HEARTBEATS_S, end)
    even = fmean(in_use)
    took = lab.latencies(EXTERNAL_AT_S + HEARTBEATS_S, end - 1.0)
    return lab.result(
        off=100 * max(abs(mine - even) for mine in in_use) / even, first=in_use[0], others=fmean(in_use[1:]),
        mean=1000 * fmean(took), p99=1000 * percentile(took, 0.99),
    )  # fmt: skip


def _external_bars(found: Found, _: Figures) -> list[Bar]:
    return at_most(found, "off", 10, "% from even: connections, ours and theirs, after two heartbeats")


# --- throttle ----------------------------------------------------------------------------------

THROTTLE_MESSAGES = 40_000
THROTTLE_RATE = 100


def throttle(case: Case) -> Run:
    lab = Lab(case)
    for n, mean in enumerate(EQUAL_S):
        lab.server(mean, rate_max=0 if n else THROTTLE_RATE)
    lab.submit(case.messages(THROTTLE_MESSAGES))
    lab.run_until_done()
    counts = lab.counts()
    since, until = lab.began + 5.0 * case.scale, lab.began + lab.makespan - 2.0 * case.scale
    return lab.result(
        failed=counts["total"] - counts["sent"], burnt=counts["attempts"] - counts["total"],
        allowed=100 * lab.taken(since, until, lab.servers[:1]) / (until - since) / THROTTLE_RATE,
        refused=lab.servers[0].throttled, makespan=lab.makespan,
    )  # fmt: skip


def _throttle_bars(found: Found, _: Figures) -> list[Bar]:
    return [
        *at_most(found, "failed", 0, "messages failed"),
        *at_most(found, "burnt", 0, "attempts burnt"),
        *at_least(found, "allowed", 60, "% of what the provider allows"),
    ]


# --- windows -----------------------------------------------------------------------------------

WINDOWS = (("100/s", ((100, 1.0),)), ("100/s, 1000/15s", ((100, 1.0), (1_000, 15.0))))
WINDOWS_S = 60.0
"""Four times the longest window."""
WINDOWS_ALLOW = (100 * WINDOWS_S, 1_000 * WINDOWS_S / 15.0)


def windows(case: Case) -> Run:
    lab = Lab(case)
    for rate, _ in WINDOWS:
        lab.server(EQUAL_S[0], rate=rate)
    lab.submit(20_000)
    lab.run(START_S + 1.0 + WINDOWS_S)
    figures: dict[str, float] = {"over": 0.0, "arrivals": 0.0}
    for n, (_, quotas) in enumerate(WINDOWS):
        grants = [at for at, worker, count in lab.seen.offers if worker == f"w{n + 1}" for _ in range(count)]
        for messages, seconds in quotas:
            figures["over"] = max(figures["over"], most_in(grants, seconds) - messages)
            figures["arrivals"] = max(figures["arrivals"], most_in(lab.servers[n].began, seconds) - messages)
        used = sum(at < grants[0] + WINDOWS_S for at in grants)
        figures[f"used{n + 1}"] = 100 * used / WINDOWS_ALLOW[n]
    return lab.result(**figures)


def most_in(times: list[float], seconds: float) -> int:
    """The most of these times, which are in order, that lie in any stretch of so many seconds."""
    return max((bisect_left(times, at + seconds) - n for n, at in enumerate(times)), default=0)


def _windows_bars(found: Found, _: Figures) -> list[Bar]:
    return [
        *at_most(found, "over", 0, "messages above a window"),
        *at_least(found, "used1", 98, f"% used of {WINDOWS[0][0]!r}"),
        *at_least(found, "used2", 98, f"% used of {WINDOWS[1][0]!r}"),
    ]


# --- domains -----------------------------------------------------------------------------------

GROUP = DomainGroup("gmail", names=frozenset({"gmail.com"}), connections=8, rate="80/s")
GROUP_RATE = 80
GROUP_MESSAGES = 2_400
OTHERS_MESSAGES = 30_000


def domains(case: Case) -> Run:
    lab = Lab(case, domains=(GROUP,))
    lab.seen.domain = "@gmail.com"
    for mean in EQUAL_S:
        lab.server(mean)
    limited, others = case.messages(GROUP_MESSAGES), case.messages(OTHERS_MESSAGES)
    sorted_list = [f"u{n}@gmail.com" for n in range(limited)]
    sorted_list += [f"u{n}@{domain}.example" for domain in "xyz" for n in range(others // 3)]
    lab.submit(sorted_list)
    lab.run_until_done()
    grants = lab.seen.domain_offers
    others_end = max(at for id_, at in lab.seen.times.items() if id_ & (1 << INDEX_BITS) - 1 >= limited)
    return lab.result(
        connections=lab.seen.group_in_flight_max["gmail"], over=most_in(grants, 1.0) - GROUP_RATE,
        used=100 * len(grants) / (grants[-1] - grants[0]) / GROUP_RATE, others=others_end - lab.began,
        makespan=lab.makespan,
    )  # fmt: skip


def _domains_bars(found: Found, _: Figures) -> list[Bar]:
    return [
        *at_most(found, "connections", GROUP.connections, "connections of the limited group"),
        *at_most(found, "over", 0, "messages of the group above its rate"),
        *at_least(found, "used", 98, "% used of the group's rate"),
    ]


# --- priority ----------------------------------------------------------------------------------

BULK_MESSAGES = 50_000
URGENT = Options(name="reset", priority=9)
URGENT_A_SECOND = 20.0
URGENT_S = 20.0


def priority(case: Case) -> Run:
    lab = Lab(case)
    for mean in EQUAL_S:
        lab.server(mean)
    lab.submit(case.messages(BULK_MESSAGES))
    rng = random.Random(f"{case.seed} urgent")  # noqa: S311  # repeatable on purpose
    at, end = START_S + 2.0 * case.scale, START_S + URGENT_S * case.scale
    while (at := at + rng.expovariate(URGENT_A_SECOND)) < end:
        lab.submit(1, at, URGENT)
    lab.run_until_done()
    stored = lab.seen.stored
    urgent = {campaign for campaign in stored if campaign != min(stored)}
    took = lab.latencies(0.0, end, urgent)
    return lab.result(
        p50=1000 * percentile(took, 0.5), p99=1000 * percentile(took, 0.99), worst=1000 * max(took),
        makespan=lab.makespan,
    )  # fmt: skip


def _priority_bars(found: Found, _: Figures) -> list[Bar]:
    return at_most(found, "p99", 250, "ms, p99 of an urgent message beside a newsletter")


SCENARIOS = (
    Scenario(
        "external",
        "Four equal servers, single messages at random (1,250 a second, which is 50 connections' worth); "
        "after 5 s somebody else takes 10 of one server's 20 connections, and the worker beside it sees "
        "that. Connections in use, ours and theirs, over 20 s from two heartbeats after that on.",
        (
            Column("off", "furthest from even, %", 1),
            Column("first", "relay-1, ours and theirs", 1),
            Column("others", "each other", 1),
            Column("mean", "mean time to 250, ms", 1),
            Column("p99", "p99, ms", 1),
        ),
        external,
        bars=_external_bars,
        plots=True,
    ),
    Scenario(
        "throttle",
        "Four equal servers and a campaign of 40,000; one provider answers 454 to all above 100 messages "
        "a second.",
        (
            Column("failed", "failed"),
            Column("burnt", "attempts burnt"),
            Column("allowed", "of what it allows, %", 1),
            Column("refused", "454s"),
            MAKESPAN,
        ),
        throttle,
        bars=_throttle_bars,
    ),
    Scenario(
        "windows",
        "Two servers that could do 500 messages a second, with the configured rates 100/s and 100/s, "
        "1000/15s. What the broker gives out in any window, and how much of what the windows allow is "
        "used in 60 s; and how many more than a window's arrive at the server in its time, for batches "
        "and network shift them by milliseconds.",
        (
            Column("over", "given above a window"),
            Column("used1", "100/s used, %", 1),
            Column("used2", "1000/15s used, %", 1),
            Column("arrivals", "arrived above a window"),
        ),
        windows,
        bars=_windows_bars,
        policies=ENGINE,
    ),
    Scenario(
        "domains",
        "Four equal servers and a campaign of 32,400 sorted by domain; its first 2,400 are of a provider "
        "that may have 8 connections and 80 messages a second.",
        (
            Column("connections", "connections, at most"),
            Column("over", "given above 80/s"),
            Column("used", "of 80/s used, %", 1),
            Column("others", "all others done after, s", 1),
            MAKESPAN,
        ),
        domains,
        bars=_domains_bars,
        policies=ENGINE,
    ),
    Scenario(
        "priority",
        "Four equal servers, a newsletter of 50,000 that saturates them, and 20 urgent messages (priority "
        "9) a second. From submit to the server's 250.",
        (
            Column("p50", "p50, ms", 1),
            Column("p99", "p99, ms", 1),
            Column("worst", "worst, ms", 1),
            MAKESPAN,
        ),
        priority,
        bars=_priority_bars,
    ),
)
