"""Where a stack's time belongs."""

from pathlib import Path

import pytest

from scripts.benches.budget import OTHER, OUTCOMES, WRITING, budget, part_of, read_folded

RUN = "asyncio/runners.py:Runner.run"
PACK = "evenpost/wire/codec.py:pack;msgpack/__init__.py:packb"
LOOP = "broker/service.py:Broker.run;broker/service.py:Broker._loop"


@pytest.mark.parametrize(
    ("stack", "part"),
    [
        (f"{RUN};line_118:_run_until_complete", "event loop, reading from sockets"),
        (f"{RUN};worker/smtp/turn.py:T.t;evenpost/compose/composer.py:C.compose;line_1:_x", "composing"),
        (f"{RUN};worker/smtp/connection.py:C._pump;line_1:_x", "SMTP protocol"),
        (f"{RUN};worker/smtp/connection.py:C._write;line_1:_transport.write(data)", WRITING),
        (f"{RUN};worker/outcome_log.py:O.flush;{PACK}", "outcome log"),
        (f"{RUN};worker/service.py:W._receive;evenpost/wire/codec.py:decode;line_1:_x", "session and broker"),
        ("[thread_ZMQbg/IO/0]", "session and broker"),
        ("python3.11/threading.py:run", OTHER),
    ],
)  # fmt: skip
def test_the_workers_time(stack: str, part: str) -> None:
    assert part_of("worker", stack) == part


@pytest.mark.parametrize(
    ("stack", "part"),
    [
        (f"{LOOP};line_1:_while", "loop and upkeep"),
        (f"{LOOP};broker/gate.py:Gate.receive;broker/service.py:Broker._from_worker;evenpost/wire/codec.py:decode",
         "sockets and codec"),
        (f"{LOOP};broker/service.py:Broker._execute;broker/service.py:Broker._send_batch;msgpack/__init__.py:packb",
         "sockets and codec"),
        (f"{LOOP};broker/core/dispatcher.py:Dispatcher.dispatch;broker/core/balancer.py:Balancer.pick",
         "core: reading and dispatch"),
        (f"{LOOP};broker/gate.py:Gate.receive;broker/core/outcomes.py:reported;broker/core/balancer.py:B.update",
         OUTCOMES),
        (f"{LOOP};broker/core/outcomes.py:reported;broker/journal/sqlite.py:S.apply", "journal: statements"),
        ("[thread_journal_0]", "journal: the thread that flushes"),
    ],
)  # fmt: skip
def test_the_brokers_time(stack: str, part: str) -> None:
    assert part_of("broker", stack) == part


def test_a_budget_adds_up_to_the_whole_profile(tmp_path: Path) -> None:
    file = tmp_path / "broker.folded"
    file.write_text(f"{LOOP};line_1:_a b 3000\n[thread_journal_0] 4000\nnobody 1000\n")
    folded = read_folded(file, 4)
    found = budget("broker", folded)
    assert found["loop and upkeep"] == 0.75
    assert found["journal: the thread that flushes"] == 1.0
    assert found[OTHER] == 0.25
    assert sum(found.values()) == sum(folded.values()) == 2.0
