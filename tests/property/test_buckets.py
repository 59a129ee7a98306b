"""Rates are neither overdrawn nor wasted: whatever the demand, refunds, changes of the clock, and crashes."""

import random
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.core.buckets import Bucket, StoredBucket
from evenpost.runtime.clock import Now
from evenpost.schedule.rate import Quota, parse_rate

EPSILON_S = 1e-6
"""Time stamps are floats."""

quotas = st.lists(
    st.builds(
        Quota,
        st.one_of(st.integers(1, 20), st.integers(1, 5_000)),
        st.sampled_from([1.0, 2.0, 5.0, 10.0, 60.0, 600.0, 3_600.0]),
    ),
    min_size=1,
    max_size=3,
    unique_by=lambda quota: quota.seconds,
).map(tuple)

pauses = st.one_of(st.just(0.0), st.floats(0.0001, 0.02), st.floats(0.02, 3.0), st.floats(3.0, 900.0))
steps = st.lists(
    st.one_of(
        st.tuples(
            st.just("demand"),
            st.one_of(st.integers(1, 10), st.integers(1, 1_000)),
            st.integers(1, 60),
            pauses,
        ),
        st.tuples(st.just("refund"), st.integers(0, 1_000), st.booleans(), pauses),
        st.tuples(st.just("clock"), st.floats(-100_000, 100_000), st.none(), pauses),
        st.tuples(st.just("crash"), st.booleans(), st.floats(-50_000, 0), pauses),
        st.tuples(st.just("promise"), st.none(), st.none(), pauses),
        st.tuples(st.just("written"), st.none(), st.none(), pauses),
    ),
    min_size=5,
    max_size=60,
)


@dataclass
class World:
    """A bucket, its broker, its disk, and the truth about what went."""

    quotas: tuple[Quota, ...]
    time: float = 0.0
    """The true one."""
    boot: float = 1_000.0
    """The monotonic clock's reading at time 0."""
    wall_set: float = 1.7e9
    disk: StoredBucket | None = None
    writing: StoredBucket | None = None
    sent: list[tuple[float, int]] = field(default_factory=list)
    lost: set[int] = field(default_factory=set)
    """Of `sent`: granted before the last crash, so nobody can refund them."""

    def __post_init__(self) -> None:
        self.bucket = Bucket(self.quotas, self.now())

    def now(self) -> Now:
        return Now(self.boot + self.time, int((self.wall_set + self.time) * 1000))

    def demand(self, want: int) -> int:
        got = self.bucket.available(self.now().mono, want)
        assert 0 <= got <= want
        if got:
            self.bucket.take(self.now().mono, got)
            self.sent.append((self.time, got))
        return got

    def promise(self) -> None:
        if self.writing is None:
            self.writing = self.bucket.promise(self.now())
        else:
            assert self.bucket.promise(self.now()) is None

    def written(self) -> None:
        if self.writing is not None:
            self.disk, self.writing = self.writing, None
            self.bucket.promised()

    def commit(self) -> None:
        self.promise()
        self.written()

    def refund(self, which: int, told: bool) -> None:
        kept = [n for n in range(len(self.sent)) if n not in self.lost]
        if not kept:
            return
        at, count = self.sent[kept[which % len(kept)]]
        if not told and self.time - at > 3_600:
            return
        part = 1 + which % count
        self.sent[kept[which % len(kept)]] = (at, count - part)
        self.bucket.refund(self.now().mono, part, self.boot + at if told else None)
        if count == part:
            self.lost.add(kept[which % len(kept)])

    def set_clock(self, by: float) -> None:
        self.wall_set += by
        if by > 0:  # else nobody could tell it from time that went by while the broker was down
            self.written()
            self.commit()

    def crash(self, in_time: bool, clock_back: float, quotas: tuple[Quota, ...] | None = None) -> None:
        if in_time and self.writing is not None:
            self.disk = self.writing
        self.writing = None
        self.wall_set += clock_back
        self.boot += 12_345.0
        self.lost.update(range(len(self.sent)))
        disk = StoredBucket.from_plain(self.disk.to_plain()) if self.disk is not None else None
        assert disk == self.disk
        self.quotas = quotas or self.quotas
        self.bucket = Bucket(self.quotas, self.now(), disk)

    def check(self, skip: int = 0) -> None:
        """`skip`: so many grants came before what is checked. By number, not by time: a change can come in
        the same instant as a grant."""
        for quota in self.quotas:
            inside: deque[tuple[float, int]] = deque()
            used = 0
            for at, count in self.sent[skip:]:
                inside.append((at, count))
                used += count
                while inside[0][0] <= at - quota.seconds + EPSILON_S:
                    used -= inside.popleft()[1]
                assert used <= quota.messages, f"{used} in {quota} until {at}"


def play(world: World, steps: list[tuple]) -> None:  # type: ignore[type-arg]
    for what, one, two, pause in steps:
        match what:
            case "demand":
                for _ in range(two):
                    world.demand(one)
                    world.time += pause / two
                    world.promise()
                continue
            case "refund":
                world.refund(one, two)
            case "clock":
                world.set_clock(one)
            case "crash":
                world.crash(one, two)
            case "promise":
                world.promise()
            case "written":
                world.written()
        world.time += pause


@settings(max_examples=400, deadline=None)
@given(quotas, steps, st.booleans())
def test_no_window_is_ever_overdrawn(quotas: tuple[Quota, ...], steps: list[tuple], at_once: bool) -> None:  # type: ignore[type-arg]
    world = World(quotas)
    if at_once:
        world.commit()
    play(world, steps)
    world.check()


@settings(max_examples=300, deadline=None)
@given(quotas, st.integers(0, 2**32), st.floats(0.0, 0.3), st.floats(0.0, 0.1))
def test_nor_by_a_busy_broker(quotas: tuple[Quota, ...], seed: int, latency: float, accidents: float) -> None:
    """Demand that never ends, asked for just when something is to be had, and commits that take time."""
    world, rng = World(quotas), random.Random(seed)
    for _ in range(1_000):
        world.demand(rng.choice([1, 10, 500]))
        if world.writing is None:
            world.promise()
        elif rng.random() < 0.5:
            world.time += latency
            world.written()
        if rng.random() < accidents:
            accident(world, rng)
        wait = world.bucket.next_at(world.now().mono) - world.now().mono
        world.time += rng.uniform(0.0, 0.02) if wait == float("inf") else wait + rng.uniform(0, 0.001)
    world.check()


def accident(world: World, rng: random.Random) -> None:
    match rng.randrange(5):
        case 0:
            world.crash(rng.random() < 0.5, 0.0)
            world.time += rng.choice([0.0, 0.1, 5.0])
        case 1:
            world.crash(rng.random() < 0.5, -rng.choice([1.0, 3_000.0, 1e6]))
        case 2:
            world.set_clock(rng.uniform(-1e5, 1e5))
        case _:
            for _ in range(rng.randrange(1, 20)):
                recent = -rng.choice([1, 10, 1_000]) + rng.randrange(10)
                world.refund(recent, rng.random() < 0.8)


@settings(max_examples=150, deadline=None)
@given(quotas, quotas, steps, steps, st.booleans())
def test_a_changed_rate_keeps_to_what_it_says(
    before: tuple[Quota, ...],
    after: tuple[Quota, ...],
    first: list[tuple],
    then: list[tuple],
    crash: bool,  # type: ignore[type-arg]
) -> None:
    """From the change on, and over it in windows that there were before."""
    world = World(before)
    world.commit()
    play(world, first)
    granted_before = len(world.sent)
    if crash:
        world.crash(in_time=True, clock_back=0.0, quotas=after)
    else:
        world.bucket.change(after, world.now())
        world.quotas = after
    play(world, then)
    world.check(skip=granted_before)
    limits = {quota.seconds: quota for quota in before}
    world.quotas = tuple(
        Quota(max(quota.messages, limits[quota.seconds].messages), quota.seconds)
        for quota in after
        if quota.seconds in limits
    )
    world.check()


def polls(until: float, rng: random.Random, step: tuple[float, float]) -> Iterator[float]:
    time = 0.0
    while time < until:
        yield time
        time += rng.uniform(*step)


@pytest.mark.parametrize(
    ("rate", "seconds", "step"),
    [
        ("14/s", 60, (0.001, 0.01)),
        ("14/s", 60, (0.01, 0.01)),
        ("1/s", 120, (0.001, 0.01)),
        ("2/s", 60, (0.001, 0.01)),
        ("127/s", 30, (0.001, 0.01)),
        ("128/s", 30, (0.001, 0.01)),
        ("129/s", 30, (0.001, 0.01)),
        ("1000/s", 20, (0.001, 0.01)),
        ("100000/s", 10, (0.001, 0.01)),
        ("100/10s", 120, (0.001, 0.01)),
        ("5000/10s", 60, (0.001, 0.01)),
        ("3/2s, 10/10s", 120, (0.001, 0.01)),
        ("14/s, 500/min", 300, (0.001, 0.01)),
        ("100/s, 2000/min", 180, (0.001, 0.01)),
        ("14/s, 600/min, 20000/h", 7_200, (0.01, 0.02)),
        ("1000/h", 14_400, (0.05, 0.1)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("latency", [0.0, 0.03])
def test_while_there_is_demand_98_percent_go(
    rate: str, seconds: float, step: tuple[float, float], latency: float
) -> None:
    world, rng = World(parse_rate(rate)), random.Random(7)
    ready = -1.0
    for world.time in polls(seconds - EPSILON_S, rng, step):
        world.promise()
        if world.writing is not None:
            ready = world.time + latency if ready < 0 else ready
            if world.time >= ready:
                world.written()
                ready = -1.0
        world.demand(1_000)
    world.check()
    allowed = min(quota.messages * seconds / quota.seconds for quota in world.quotas)
    assert sum(count for _, count in world.sent) >= 0.98 * allowed - 1


def test_a_day_s_quota_goes_every_day() -> None:
    world = World(parse_rate("14/s, 50000/day"))
    sent = [0, 0, 0]
    world.commit()
    while world.time < 3 * 86_400:
        sent[int(world.time // 86_400)] += world.demand(50)
        world.commit()
        world.time = max(world.time + 0.01, world.bucket.next_at(world.now().mono) - world.boot)
    world.check()
    assert all(count >= 0.98 * 50_000 for count in sent)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 2_000), st.sampled_from([1.0, 2.0, 10.0, 30.0]), st.integers(0, 2**32))
def test_any_rate_goes_to_98_percent_evenly(messages: int, window: float, seed: int) -> None:
    world, rng = World((Quota(messages, window),)), random.Random(seed)
    spans = 4
    for world.time in polls(window * spans - EPSILON_S, rng, (0.001, 0.01)):
        world.commit()
        world.demand(1_000)
    total = sum(count for _, count in world.sent)
    assert total >= 0.98 * messages * spans - 1
    pace = messages / window
    for end in range(1, 9):
        by = sum(count for at, count in world.sent if at < window * end / 8)
        assert by <= pace * window * end / 8 + 0.05 * pace + 1, "it isn't spent in its first instant"
