"""Scenarios in which a server, or the broker, fails."""

from math import ceil

from scripts.benches.table import Bar
from scripts.simulation.compare import oracle
from scripts.simulation.compare.lab import CONNECTIONS, START_S, Case, Lab, Run, sites
from scripts.simulation.compare.policies import ENGINE
from scripts.simulation.compare.scenario import Column, Figures, Found, Scenario, at_least, at_most
from scripts.simulation.compare.speed import EQUAL_S, MAKESPAN
from scripts.simulation.servers import Server

FAILS_AT_S = 5.0
"""After the campaign's start."""
NOTICED_S = 2.0


def _four(case: Case) -> Lab:
    lab = Lab(case)
    for mean in EQUAL_S:
        lab.server(mean)
    return lab


# --- black hole --------------------------------------------------------------------------------

BLACK_HOLE_MESSAGES = 40_000


def black_hole(case: Case) -> Run:
    lab = _four(case)
    hole = lab.servers[0]
    fails_at = START_S + FAILS_AT_S * case.scale

    def fail() -> None:
        hole.is_.state = "reject"
        hole.hang_up_on_all()

    lab.at(fails_at, "relay-1 turns every connection away", fail)
    lab.submit(case.messages(BLACK_HOLE_MESSAGES))
    lab.run_until_done()
    end = lab.began + lab.makespan
    offered, everyone = lab.offered("w1", fails_at + NOTICED_S, end)
    good = lab.taken(fails_at + NOTICED_S, end) / (end - fails_at - NOTICED_S)
    return lab.result(
        offered=100 * offered / everyone, burst=lab.offered("w1", fails_at, fails_at + NOTICED_S)[0],
        rate=good, makespan=lab.makespan, copies=lab.seen.copies,
    )  # fmt: skip


def _black_hole_bars(found: Found, _: Figures) -> list[Bar]:
    return at_most(found, "offered", 0.5, "% of messages ever offered to it after the first 2 s")


# --- tarpit ------------------------------------------------------------------------------------

TARPIT_MESSAGES = 60_000
TARPIT_S = 15.0


def tarpit(case: Case) -> Run:
    lab = _four(case)
    pit, others = lab.servers[0], lab.servers[1:]
    fails_at = START_S + FAILS_AT_S
    end = fails_at + TARPIT_S

    def stick() -> None:
        pit.is_.state = "tarpit"

    lab.at(fails_at, "relay-1 answers nothing any more", stick)
    lab.submit(TARPIT_MESSAGES)
    lab.run(end)
    before = lab.taken(fails_at - 3.0, fails_at, others) / 3.0
    after = lab.taken(fails_at, end, others) / TARPIT_S
    held = len(lab.workers[0].session.batches)
    return lab.result(before=before, after=after, part=100 * after / before, held=held)


def _tarpit_bars(found: Found, _: Figures) -> list[Bar]:
    return at_least(found, "part", 95, "% of their rate that the others keep")


# --- return ------------------------------------------------------------------------------------

RETURN_MESSAGES = 65_000
DOWN_S = 5.0
SLOW_START_S = 20.0


def _caps(lab: Lab, server: Server, since: float) -> None:
    """The server itself takes only so many connections in its first seconds, rising like the ramp."""
    step_s = SLOW_START_S / CONNECTIONS

    def more(connections: int) -> None:
        server.is_.connections_max = connections
        if connections < CONNECTIONS:
            lab.world.at(since + connections * step_s, lambda: more(connections + 1))

    more(1)


def returns(case: Case) -> Run:
    lab = Lab(case, slow_start_s=SLOW_START_S)
    for mean in EQUAL_S:
        lab.server(mean)
    server = lab.servers[0]
    fails_at, back_at = START_S + FAILS_AT_S, START_S + FAILS_AT_S + DOWN_S
    refused_before = 0

    def fail() -> None:
        server.is_.state = "down"
        server.hang_up_on_all()

    def come_back() -> None:
        nonlocal refused_before
        server.is_.state = "up"
        refused_before = server.refused_connections
        _caps(lab, server, lab.world.time)

    lab.at(fails_at, "relay-1 goes down", fail)
    lab.at(back_at, "relay-1 is back", come_back)
    lab.submit(RETURN_MESSAGES)
    lab.run_until_done()
    # The ramp begins when the broker learns of the return; where a policy has none, when the server is back.
    since = next((at for at, name in lab.seen.returned if name == "w1" and at >= back_at), back_at)
    over = 0
    for time, ours, _ in server.open_over_time:
        if since < time <= since + SLOW_START_S:
            over = max(over, ours - max(1, ceil(CONNECTIONS * (time - since) / SLOW_START_S)))
    full = next((t for t, ours, _ in server.open_over_time if t > back_at and ours >= CONNECTIONS), 0.0)
    return lab.result(
        back=since - back_at, over=over, refused=server.refused_connections - refused_before,
        full=max(0.0, full - back_at), makespan=lab.makespan,
    )  # fmt: skip


def _return_bars(found: Found, _: Figures) -> list[Bar]:
    return [
        *at_most(found, "over", 0, "connections above the ramp"),
        *at_most(found, "refused", 0, "421s caused by us in the ramp"),
    ]


# --- restart -----------------------------------------------------------------------------------

RESTART_MESSAGES = 40_000
RESTART_AT_S = 10.0
BROKER_DOWN_S = 2.0


def restart(case: Case) -> Run:
    lab = _four(case)
    world = lab.world
    crash_at = START_S + RESTART_AT_S * case.scale
    lab.at(crash_at, "the broker is killed", world.broker.crash)
    lab.at(crash_at + BROKER_DOWN_S, "it starts again", world.broker.start)
    lab.submit(case.messages(RESTART_MESSAGES))
    lab.run_until_done()
    back = next(at for at, _, _ in lab.seen.offers if at > crash_at + BROKER_DOWN_S)
    counts = lab.counts()
    return lab.result(
        lost=counts["total"] - len(lab.seen.times), copies=lab.seen.copies, silent=back - crash_at,
        makespan=lab.makespan,
    )  # fmt: skip


def _perfect_restart(seed: int, scale: float) -> Figures:
    """Nothing happens to it."""
    return {"makespan": oracle.makespan(sites(EQUAL_S), round(RESTART_MESSAGES * scale), seed)}


def _restart_bars(found: Found, _: Figures) -> list[Bar]:
    return at_most(found, "lost", 0, "messages lost") + at_most(found, "copies", 0, "messages sent twice")


SCENARIOS = (
    Scenario(
        "black-hole",
        "Four equal servers and a campaign of 40,000; after 5 s one of them answers every connection with "
        "421, at once. How much of what is given out goes there from 2 s after that on, and what is sent "
        "meanwhile.",
        (
            Column("offered", "offered after 2 s, %", 2),
            Column("burst", "offered in the 2 s"),
            Column("rate", "sent, messages/s"),
            MAKESPAN,
            Column("copies", "copies"),
        ),
        black_hole,
        bars=_black_hole_bars,
        plots=True,
    ),
    Scenario(
        "tarpit",
        "Four equal servers and a campaign; after 5 s one of them accepts connections and answers "
        "nothing. What the other three send in the 15 s after that, against the 3 s before.",
        (
            Column("before", "others before, messages/s"),
            Column("after", "others after, messages/s"),
            Column("part", "kept, %", 1),
            Column("held", "batches stuck"),
        ),
        tarpit,
        bars=_tarpit_bars,
        plots=True,
    ),
    Scenario(
        "return",
        "Four equal servers and a campaign of 65,000; after 5 s one goes down for 5 s, and comes back "
        "cold: it takes one connection more each second. Connections above the ramp (20 s, from when the "
        "broker learns of the return), and connections that it had to turn away.",
        (
            Column("back", "noticed after, s", 1),
            Column("over", "connections over the ramp"),
            Column("refused", "turned away"),
            Column("full", "20 connections after, s", 1),
            MAKESPAN,
        ),
        returns,
        bars=_return_bars,
        plots=True,
    ),
    Scenario(
        "restart",
        "Four equal servers and a campaign of 40,000; after 10 s the broker is killed and started again 2 "
        "s later. The oracle's run is one to which nothing happens.",
        (
            Column("lost", "lost"),
            Column("copies", "copies"),
            Column("silent", "nothing given out for, s", 1),
            MAKESPAN,
        ),
        restart,
        _perfect_restart,
        "makespan",
        _restart_bars,
        policies=ENGINE,
    ),
)
