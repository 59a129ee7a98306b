"""The sampler: whose time is whose."""

import subprocess
import sys

import pytest

from tests.integration.cluster import ROOT

# hot burns twice the CPU of warm; zlib is C, called from `in_c`.
PROGRAM = """
import os, re, signal, sys, time, zlib
from pathlib import Path
from scripts.benches.profiled import Sampler

def until(seconds):
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass

def hot():
    until(0.4)

def warm():
    until(0.2)

def in_c():
    data, end = os.urandom(1 << 20), time.thread_time() + 0.2
    while time.thread_time() < end:
        zlib.compress(data)  # C

def called_back(match):
    return ""

def from_c():
    text, end = "a" * 1_000_000 + "b", time.thread_time() + 0.2
    while time.thread_time() < end:
        re.sub("b", called_back, text)  # looks long before it calls

sampler = Sampler(Path(sys.argv[1]))
os.kill(os.getpid(), signal.SIGUSR1)
hot(), warm(), in_c(), from_c()
os.kill(os.getpid(), signal.SIGUSR2)
"""


@pytest.fixture(scope="module")
def stacks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    file = tmp_path_factory.mktemp("profile") / "folded"
    program = file.with_suffix(".py")
    program.write_text(PROGRAM)
    subprocess.run([sys.executable, program, file], check=True, env={"PYTHONPATH": str(ROOT)})
    found = {}
    for line in file.read_text().splitlines():
        stack, _, ns = line.rpartition(" ")
        found[stack] = int(ns)
    return found


def share(stacks: dict[str, int], name: str) -> float:
    inside = sum(ns for stack, ns in stacks.items() if any(f.endswith(name) for f in stack.split(";")))
    return inside / sum(stacks.values())


def test_shares_are_those_of_the_cpu(stacks: dict[str, int]) -> None:
    assert share(stacks, ":hot") > share(stacks, ":warm") > 0.1


def test_time_in_c_is_on_the_line_that_called_it(stacks: dict[str, int]) -> None:
    assert share(stacks, "_zlib.compress(data)__#_C") > 0.1


def test_time_in_c_before_it_calls_back_is_not_the_callbacks(stacks: dict[str, int]) -> None:
    assert share(stacks, ":from_c") > 0.1
    assert share(stacks, ":called_back") < share(stacks, ":from_c") / 10


def test_a_stack_is_read_from_the_outermost_frame_inwards(stacks: dict[str, int]) -> None:
    hot = next(stack.split(";") for stack in stacks if ":hot" in stack)
    assert [frame.rpartition(":")[2] for frame in hot[:3]] == ["<module>", "hot", "until"]
    assert hot[-1].startswith("line_")
