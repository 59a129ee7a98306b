"""scripts/simulate compare: the oracle, the contenders and the bars, at a small scale."""

import random
from pathlib import Path
from statistics import fmean

import pytest
from click.testing import CliRunner

from broker.core.settings import Settings
from broker.core.worker_state import Worker
from scripts.benches.table import Bar
from scripts.simulation.compare import limited, oracle, speed, trouble
from scripts.simulation.compare.catalogue import SCENARIOS
from scripts.simulation.compare.command import compare
from scripts.simulation.compare.contenders import (
    Contender,
    HeartbeatOnly,
    RoundRobin,
    Sessions,
    TwoChoices,
    WeightedRoundRobin,
)
from scripts.simulation.compare.lab import Case, sites
from scripts.simulation.compare.policies import POLICIES, Policy
from scripts.simulation.compare.report import into_document, place, result


def worker(number: int, **more: object) -> Worker:
    made = Worker(f"w{number}", number, welcomed=True, max_connections=2)
    for name, value in more.items():
        setattr(made, name, value)
    return made


def contender(kind: type[Contender], *workers: Worker) -> Contender:
    made = kind(Settings(), random.Random(1), None)
    for one in workers:
        made.update(one, 0.0)
    return made


def picks(balancer: Contender, count: int) -> list[str]:
    """Names; each pick stays in flight."""
    chosen = []
    for number in range(count):
        found = balancer.pick(None, 0.0)
        assert found is not None
        found[0].batches[number] = None  # type: ignore[assignment]  # only their number counts
        balancer.update(found[0], 0.0)
        chosen.append(found[0].name)
    return chosen


# --- the oracle --------------------------------------------------------------------------------


def test_the_oracle_needs_as_long_as_the_servers_need() -> None:
    # 2 + 1 connections, 3 messages a second in all, and an end of about the last message's time.
    found = oracle.makespan(sites([1.0], 2) + sites([1.0], 1), 3_000, seed=1)
    assert 1_000 * 0.97 < found < 1_000 * 1.03 + 5


def test_the_oracle_leaves_a_slow_server_out_at_the_end() -> None:
    # One message: the fast connection is free. Two: to wait for the fast one is quicker, too.
    assert oracle.makespan(sites([0.001, 1_000.0], 1), 2, seed=1) < 0.1


def test_the_oracle_knows_when_a_server_slows_down() -> None:
    site = oracle.Site(10, ((0.0, 0.01), (1.0, 0.1)))
    assert oracle.makespan([site], 1_500, seed=1) == pytest.approx(1.0 + 500 / 100, rel=0.1)


def test_the_oracle_takes_the_fastest_free_connection() -> None:
    took = oracle.times(sites([100.0, 0.001, 10.0], 1), [0.0, 1.0, 2.0], seed=1)
    assert max(took) < 0.1


def test_the_oracles_times_are_those_of_erlang() -> None:
    """M/M/1 at half load: mean time = mean service / (1 - load)."""
    rng = random.Random(1)
    at, arrivals = 0.0, []
    for _ in range(100_000):
        at += rng.expovariate(5.0)
        arrivals.append(at)
    assert fmean(oracle.times(sites([0.1], 1), arrivals, seed=1)) == pytest.approx(0.2, rel=0.05)


# --- the contenders ----------------------------------------------------------------------------


def test_weighted_round_robin_is_smooth() -> None:
    balancer = contender(
        WeightedRoundRobin, worker(1, hello_weight=5), worker(2, hello_weight=1), worker(3, hello_weight=1)
    )
    assert picks(balancer, 7) == ["w1", "w1", "w2", "w1", "w3", "w1", "w1"]  # nginx's own example


def test_two_choices_takes_the_one_with_less_in_flight() -> None:
    chosen = picks(contender(TwoChoices, worker(1), worker(2)), 10)
    assert chosen.count("w1") == 5


def test_heartbeat_only_sends_all_to_one_until_the_next_heartbeat() -> None:
    assert set(picks(contender(HeartbeatOnly, worker(1, busy=3), worker(2, busy=2)), 20)) == {"w2"}


def test_sessions_stay_where_they_were_opened() -> None:
    one, two = worker(1), worker(2)
    balancer = contender(Sessions, one, two)
    assert sorted(picks(balancer, 4)) == ["w1", "w1", "w2", "w2"]
    assert not balancer.has_room(None, False)
    two.batches.popitem()  # its session is free again: the next message goes over it, whoever has less
    one.batches.clear()
    balancer.update(two, 0.0)
    balancer.update(one, 0.0)
    found = balancer.pick(None, 0.0)
    assert found is not None
    assert found[0] is two


def test_a_campaigns_sender_has_only_so_much_outstanding() -> None:
    balancer = POLICIES["round-robin"].balancers(1, 2.0)
    assert balancer is not None
    made = balancer(Settings())
    assert isinstance(made, Contender)
    made.update(worker(1), 0.0)
    assert len(picks(made, 4)) == 4
    assert made.pick(None, 0.0) is None


# --- scenarios ---------------------------------------------------------------------------------


def bars_of(name: str, scale: float, *policies: str) -> tuple[dict[str, dict[str, float]], list[Bar]]:
    scenario = SCENARIOS[name]
    found = {policy: scenario.run(Case(POLICIES[policy], 1, scale)).figures for policy in policies}
    perfect = scenario.oracle(1, scale) if scenario.oracle else {}
    return found, scenario.bars(found, perfect)


def test_rates() -> None:
    found, bars = bars_of("rates", 0.1, "least-connections", "least-time", "round-robin")
    assert found["round-robin"]["makespan"] > 2.5 * found["least-connections"]["makespan"]
    assert [bar.name.partition(":")[0] for bar in bars] == ["least-connections", "least-time"]
    assert all(bar.value < 1.25 for bar in bars), bars  # the end of so small a campaign weighs more


def test_poisson_never_waits_beside_a_free_connection() -> None:
    found, _ = bars_of("poisson", 0.02, "least-connections", "heartbeat-only")
    assert found["least-connections"]["idle"] == 0
    assert found["least-connections"]["mean"] < found["heartbeat-only"]["mean"]


class Lazy(RoundRobin):
    """One message at a time, however many connections are free."""

    def has_room(self, tag: str | None, urgent: bool) -> bool:
        return self._out < 1 and super().has_room(tag, urgent)


def test_a_balancer_that_lets_messages_wait_is_caught() -> None:
    lazy = Policy("lazy", contender=Lazy)
    assert speed.poisson(Case(lazy, 1, 0.005)).figures["idle"] > 0


def test_one_seed_one_result() -> None:
    case = Case(POLICIES["two-choices"], 7, 0.02)
    assert speed.rates(case).figures == speed.rates(case).figures


def test_black_hole() -> None:
    found, bars = bars_of("black-hole", 0.2, "least-connections", "round-robin")
    assert all(bar.held for bar in bars), bars
    assert found["round-robin"]["offered"] > 5


def test_restart_loses_nothing() -> None:
    _, bars = bars_of("restart", 0.2, "least-connections")
    assert all(bar.held for bar in bars), bars


def test_most_in_a_window_counts_any_stretch_of_it() -> None:
    assert limited.most_in([0.0, 0.9, 1.0, 1.1, 1.89], 1.0) == 4
    assert limited.most_in([], 1.0) == 0


def test_a_missed_bar_is_told() -> None:
    found = {"least-connections": {"offered": 3.0}}
    assert [bar.held for bar in trouble.SCENARIOS[0].bars(found, {})] == [False]


# --- the command -------------------------------------------------------------------------------


def test_a_table_finds_its_place_in_a_document() -> None:
    figures = {"makespan": 2.0, "share1": 0.5, "share2": 0.5, "share3": 0, "share4": 0}
    found = result(SCENARIOS["rates"], 1, {"least-time": figures}, {"makespan": 1.0})
    text = "before\n<!-- compare rates -->\nold\n<!-- end -->\nafter\n"
    written = into_document(text, found)
    assert written.startswith("before\n<!-- compare rates -->\n| policy |")
    assert "| least-time | 2.00 |" in written
    assert "2.00 |\n| oracle" in written
    assert written.endswith("|\n<!-- end -->\nafter\n")
    assert "old" not in written
    with pytest.raises(ValueError, match="compare rates"):
        into_document("no place\n", found)
    with pytest.raises(ValueError, match="compare rates"):
        into_document("<!-- compare rates -->\n<!-- compare equal -->\n<!-- end -->\n", found)
    empty = "<!-- compare rates -->\n<!-- end -->\n<!-- compare equal -->\n<!-- end -->\n"
    assert into_document(empty, found).endswith("|\n<!-- end -->\n<!-- compare equal -->\n<!-- end -->\n")


def test_the_page_has_a_place_for_each_table() -> None:
    page = (Path(__file__).parents[2] / "docs/balancing.md").read_text("utf-8")
    for name in SCENARIOS:
        place(page, name)


def test_the_list_needs_no_run() -> None:
    told = CliRunner().invoke(compare, ["--list"])
    assert told.exit_code == 0
    assert all(name in told.output for name in SCENARIOS)


def test_an_unknown_scenario_is_refused() -> None:
    told = CliRunner().invoke(compare, ["nonsense"])
    assert told.exit_code == 2
    assert "rates" in told.output
