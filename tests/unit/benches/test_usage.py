"""What processes cost, by name and round."""

import os
import subprocess
import sys

import pytest

from scripts.benches.usage import Cost, Ended, Spread, cpu_s, memory_mb, run, tree, tree_cpu_s

SPIN = "import time\nwhile time.process_time() < 0.05: pass\n"


def test_a_spread() -> None:
    spread = Spread.of([3.0, 1.0, 8.0])
    assert spread == Spread(3.0, 1.0, 8.0)
    assert str(spread) == "3.00 (1.00 to 8.00)"


def test_a_process_that_ended_is_counted_with_all_that_it_waited_for() -> None:
    ended = run(
        [sys.executable, "-c", f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {SPIN!r}])"]
    )
    assert ended.cpu_s >= 0.05
    assert ended.rss_mb > 1
    assert ended.seconds > 0


def test_a_program_that_fails_is_an_error() -> None:
    with pytest.raises(subprocess.CalledProcessError):
        run([sys.executable, "-c", "raise SystemExit(3)"])


def test_children_count_those_that_run_and_those_that_have_ended() -> None:
    parent = (
        f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {SPIN!r}])\n"
        f"command = [sys.executable, '-c', {SPIN + 'print(flush=True); input()'!r}]\n"
        "p = subprocess.Popen(command, stdin=subprocess.PIPE)\n"
        "input()\np.communicate(b'x')\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()  # both have spun
        try:
            assert len(tree(process.pid)) == 2
            assert tree_cpu_s(process.pid) >= 0.1 - 0.02  # ended ones are counted in ticks
            assert memory_mb(process.pid, "VmHWM") > 1
        finally:
            process.communicate(b"\n")
    assert tree(process.pid) == []
    assert memory_mb(process.pid, "VmHWM") == 0


def test_of_this_process_its_children_do_not_count() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert tree(os.getpid()) == [os.getpid()]
        assert tree_cpu_s(os.getpid()) <= cpu_s(os.getpid())
        child.communicate(b"\n")


def test_a_round_counts_cpu_a_message_of_each_name() -> None:
    cost = Cost("ours")
    for seconds in (0.5, 0.25):
        with cost.round(100, {"client": os.getpid()}) as this:
            this.seconds = 2.0
            this.ended["source"] = Ended("", 1.0, seconds, 7.0)
    assert cost.per_s == [50.0, 50.0]
    assert cost.cpu_us["source"] == [5_000.0, 2_500.0]
    assert cost.us("source") == 3_750.0
    assert cost.rss_mb["source"] == 7.0
    assert [row[0] for row in cost.rows()] == ["ours: client", "ours: source"]
    assert cost.figures() == {
        "per_s": cost.per_s,
        "cpu_us": cost.cpu_us,
        "rss_mb": cost.rss_mb,
        "strangers_cores": cost.strangers,
    }


def test_what_nobody_in_a_round_used_is_a_strangers() -> None:
    cost = Cost("ours")
    with cost.round(1, {"client": os.getpid()}):
        run([sys.executable, "-c", SPIN])
    assert cost.strangers[0] > 0
    with cost.round(1, {"client": os.getpid()}) as this:
        this.ended["it"] = Ended("", 1.0, 1e6, 1.0)
    assert cost.strangers[1] == 0


def test_the_memory_of_a_program_is_its_own_and_not_that_of_who_started_it() -> None:
    ballast = bytearray(os.urandom(1)) * 100_000_000
    ended = run([sys.executable, "-c", "import time; time.sleep(0.2); print('done')"])
    assert ended.out == "done\n"
    assert 0 < ended.rss_mb < 60, len(ballast)
