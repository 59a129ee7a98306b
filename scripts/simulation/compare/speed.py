"""Scenarios in which nothing fails: how near each policy comes to perfect knowledge."""

import random
import time
from dataclasses import replace
from statistics import fmean

from scripts.benches.table import Bar
from scripts.simulation.compare import oracle
from scripts.simulation.compare.lab import CONNECTIONS, START_S, Case, Lab, Run, percentile, sites
from scripts.simulation.compare.policies import ENGINE
from scripts.simulation.compare.scenario import Column, Figures, Found, Scenario, at_most
from scripts.simulation.network import Latency

RATES_S = [0.160, 0.080, 0.040, 0.020]
"""Speeds 1:2:4:8."""
EQUAL_S = [0.040] * 4
MAKESPAN = Column("makespan", "makespan, s", 2)


def _campaign(means: list[float], messages: int, case: Case) -> Run:
    lab = Lab(case)
    for mean in means:
        lab.server(mean, speed=means[0] / mean)
    lab.submit(case.messages(messages))
    lab.run_until_done()
    shares = {f"share{n}": len(s.taken) / case.messages(messages) for n, s in enumerate(lab.servers, 1)}
    return lab.result(makespan=lab.makespan, **shares)


# --- equal, rates ------------------------------------------------------------------------------

MESSAGES = 60_000
EQUAL_MESSAGES = 30_000


def equal(case: Case) -> Run:
    return _campaign(EQUAL_S, EQUAL_MESSAGES, case)


def rates(case: Case) -> Run:
    return _campaign(RATES_S, MESSAGES, case)


def _perfect_equal(seed: int, scale: float) -> Figures:
    return {"makespan": oracle.makespan(sites(EQUAL_S), round(EQUAL_MESSAGES * scale), seed)}


def _perfect_rates(seed: int, scale: float) -> Figures:
    return {"makespan": oracle.makespan(sites(RATES_S), round(MESSAGES * scale), seed)}


def _makespan_bars(found: Found, perfect: Figures) -> list[Bar]:
    return at_most(found, "makespan", 1.05, "makespan, x the oracle's", perfect)


SHARES = tuple(Column(f"share{n}", f"relay-{n} got", 3) for n in range(1, 5))

# --- poisson -----------------------------------------------------------------------------------

LOAD = 0.7
CAPACITY = sum(CONNECTIONS / mean for mean in RATES_S)
LAN = Latency(0.0001, 0.00005)
"""Broker and workers are in one room: what is measured is where messages wait, not how far they travel."""
WARM_UP_S = 10.0
MEASURED_S = 60.0


def arrivals(seed: int, until: float, a_second: float) -> list[float]:
    """Times of a Poisson process, from START_S to `until`."""
    rng = random.Random(f"{seed} arrivals")  # noqa: S311  # repeatable on purpose
    found = []
    at = START_S
    while (at := at + rng.expovariate(a_second)) < until:
        found.append(at)
    return found


def poisson(case: Case) -> Run:
    lab = Lab(case, campaign=False, latency=LAN)
    lab.seen.keep_offers = False
    for mean in RATES_S:
        lab.server(mean, speed=RATES_S[0] / mean)
    begin = START_S + WARM_UP_S * case.scale
    end = begin + MEASURED_S * case.scale
    submitted = arrivals(case.seed, end, LOAD * CAPACITY)
    for at in submitted:
        lab.submit(1, at)
    lab.run_until_done()
    took = lab.latencies(begin, end)
    ideal = zip(submitted, oracle.times(sites(RATES_S), submitted, case.seed), strict=True)
    return lab.result(
        mean=1000 * fmean(took),
        oracle=1000 * fmean(seconds for at, seconds in ideal if begin <= at < end),
        p50=1000 * percentile(took, 0.5),
        p99=1000 * percentile(took, 0.99),
        wait=1000 * fmean(lab.seen.waits[len(lab.seen.waits) // 7 :]),
        idle=lab.seen.idle_while_waiting,
    )


def _poisson_bars(found: Found, _: Figures) -> list[Bar]:
    what = "mean time from submit to 250, x the oracle's"
    limits = zip(ENGINE, (1.6, 1.15), strict=True)
    bars = [
        Bar(f"{name}: {what}", found[name]["mean"] / found[name]["oracle"], limit, at_least=False)
        for name, limit in limits
        if name in found
    ]
    return bars + at_most(found, "idle", 0, "turns in which a message waited beside a free connection")


# --- slowdown ----------------------------------------------------------------------------------

SLOWDOWN_AT_S = 15.0
SLOWDOWN = 10
SLOWDOWN_RUNS = 3
"""Of neighbouring seeds, whose mean counts: when the slow server's last message ends is chance, and one in
some runs takes ten times the mean."""


def slowdown(case: Case) -> Run:
    runs = [_slowdown(replace(case, seed=case.seed + n)) for n in range(SLOWDOWN_RUNS)]
    return replace(runs[0], figures={key: fmean(run.figures[key] for run in runs) for key in runs[0].figures})


def _slowdown(case: Case) -> Run:
    lab = Lab(case)
    for mean in EQUAL_S:
        lab.server(mean)
    slow = lab.servers[0]

    def slow_down() -> None:
        service = slow.is_.service
        slow.is_.service = lambda rng: SLOWDOWN * service(rng)

    lab.at(START_S + SLOWDOWN_AT_S * case.scale, "relay-1 slows down 10 x", slow_down)
    lab.submit(case.messages(MESSAGES))
    lab.run_until_done()
    return lab.result(makespan=lab.makespan, share1=len(slow.taken) / case.messages(MESSAGES))


def _perfect_slowdown(seed: int, scale: float) -> Figures:
    slow = oracle.Site(CONNECTIONS, ((0.0, EQUAL_S[0]), (SLOWDOWN_AT_S * scale, SLOWDOWN * EQUAL_S[0])))
    return {"makespan": oracle.makespan([slow, *sites(EQUAL_S[1:])], round(MESSAGES * scale), seed)}


# --- thousand ----------------------------------------------------------------------------------

THOUSAND = 1_000
THOUSAND_CONNECTIONS = 4
THOUSAND_MESSAGES = 200_000
THOUSAND_S = [4 * mean for mean in RATES_S]


def _thousand_means(scale: float) -> list[float]:
    return [THOUSAND_S[n % 4] for n in range(max(4, round(THOUSAND * scale)))]


def thousand(case: Case) -> Run:
    lab = Lab(case)
    lab.seen.keep_offers = lab.seen.keep_idle = False
    for mean in _thousand_means(case.scale):
        lab.server(mean, connections=THOUSAND_CONNECTIONS)
    messages = case.messages(THOUSAND_MESSAGES)
    lab.submit(messages)
    before = time.process_time()
    lab.run_until_done()
    spent = time.process_time() - before
    return Run({"makespan": lab.makespan, "cpu": spent, "us": 1e6 * spent / messages})


def _perfect_thousand(seed: int, scale: float) -> Figures:
    means = _thousand_means(scale)
    # Servers of one speed are one server with all their connections, to who knows everything.
    grouped = [oracle.Site(THOUSAND_CONNECTIONS * means.count(mean), ((0.0, mean),)) for mean in THOUSAND_S]
    return {"makespan": oracle.makespan(grouped, round(THOUSAND_MESSAGES * scale), seed, runs=1)}


SCENARIOS = (
    Scenario(
        "equal",
        "Four equal servers (20 connections each, mean 40 ms, exponential) and a campaign of 30,000.",
        (MAKESPAN, *SHARES),
        equal,
        _perfect_equal,
        "makespan",
        _makespan_bars,
    ),
    Scenario(
        "rates",
        "Four servers with speeds 1:2:4:8 (20 connections each, mean 160, 80, 40, 20 ms, exponential) and "
        "a campaign of 60,000.",
        (MAKESPAN, *SHARES),
        rates,
        _perfect_rates,
        "makespan",
        _makespan_bars,
        plots=True,
    ),
    Scenario(
        "poisson",
        "The same four servers; single messages come at random (Poisson), at 70 % of what the servers can "
        "do. From submit, which is when the message is on disk, to the server's 250, over 60 s after 10 "
        "s.",
        (
            Column("mean", "mean, ms", 1),
            Column("oracle", "the oracle's, ms", 1),
            Column("p50", "p50, ms", 1),
            Column("p99", "p99, ms", 1),
            Column("wait", "mean wait, ms", 1),
            Column("idle", "waits beside a free connection"),
        ),
        poisson,
        ratio="mean",
        bars=_poisson_bars,
        plots=True,
    ),
    Scenario(
        "slowdown",
        "Four equal servers and a campaign of 60,000; after 15 s one of them takes 10 times as long for "
        "each message. The mean of three runs.",
        (MAKESPAN, Column("share1", "relay-1 got", 3)),
        slowdown,
        _perfect_slowdown,
        "makespan",
        _makespan_bars,
        plots=True,
    ),
    Scenario(
        "thousand",
        "1,000 servers of four connections each, 250 each with a mean of 640, 320, 160 and 80 ms, and a "
        "campaign of 200,000. CPU is this simulation's, all of it: broker, workers, servers, network.",
        (MAKESPAN, Column("cpu", "CPU, s", 1), Column("us", "CPU a message, us", 1)),
        thousand,
        _perfect_thousand,
        "makespan",
        policies=ENGINE,
    ),
)
