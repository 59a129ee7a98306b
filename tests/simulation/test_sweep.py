"""The shipping core and sessions through crashes, freezes, partitions, failing servers and operators' words:
small installations in virtual time, one a seed. `scripts/simulate sweep` runs more of them."""

import json
import os

import pytest
from click.testing import CliRunner

from broker.core.dispatcher import Dispatcher
from scripts.simulation import __main__ as command
from scripts.simulation import sweep
from scripts.simulation.kept_seeds import KEPT

SEEDS = int(os.environ.get("EVENPOST_SEEDS", "60"))
FIRST = int(os.environ.get("EVENPOST_FIRST_SEED", "1"))
SQLITE_SEEDS = 8


def told(history: sweep.History) -> str:
    return "\n".join([*history.last, history.violation, f"repeat it: {history.command}"])


@pytest.mark.parametrize("seed", sorted({*KEPT, *range(FIRST, FIRST + SEEDS)}))
def test_what_must_hold_holds(seed: int) -> None:
    history = sweep.run(seed)
    assert not history.violation, told(history)


@pytest.mark.parametrize("seed", range(FIRST, FIRST + SQLITE_SEEDS))
def test_it_holds_on_the_journal_that_ships(seed: int) -> None:
    history = sweep.run(seed, "sqlite")
    assert not history.violation, told(history)


@pytest.mark.parametrize("seed", [2, 49])
def test_a_seed_is_one_history(seed: int, capsys: pytest.CaptureFixture[str]) -> None:
    sweep.run(seed, verbose=True)
    first = capsys.readouterr().out
    sweep.run(seed, verbose=True)
    assert capsys.readouterr().out == first
    assert len(first) > 10_000


def test_seeds_differ() -> None:
    histories = [sweep.run(seed) for seed in range(1, 13)]
    assert len({history.events for history in histories}) > 10
    assert sum(history.messages for history in histories) > 500


def test_the_command_says_how_it_went() -> None:
    result = CliRunner().invoke(command.simulate, ["sweep", "--seeds", "4", "--first", "2", "--jobs", "1"])
    assert result.exit_code == 0, result.output
    assert "4 seeds, all well" in result.output
    result = CliRunner().invoke(command.simulate, ["sweep", "--seeds", "4", "--jobs", "2", "--json"])
    assert json.loads(result.output)["failed"] == []
    result = CliRunner().invoke(command.simulate, ["run", "--seed", "3"])
    assert "seed 3, all well" in result.output


def test_a_failure_names_the_command_that_repeats_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Dispatcher, "next_at", lambda self: 0.0)
    result = CliRunner().invoke(command.simulate, ["sweep", "--seeds", "2", "--jobs", "1"])
    assert result.exit_code == 1
    assert "scripts/simulate run --seed 1 -v" in result.output
    assert "the broker's loop spins" in result.output
    assert "2 of 2 seeds failed" in result.output
    result = CliRunner().invoke(command.simulate, ["run", "--seed", "1", "--json"])
    assert result.exit_code == 1
    assert "spins" in json.loads(result.output)["violation"]
