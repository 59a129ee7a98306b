"""A fault of ours ends the process; it is never half dead."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from evenpost.wire import codec, messages
from evenpost.wire.messages import Batch, BatchItem, CampaignTemplate, Message, Template
from worker.outcome_log import OutcomeLog
from worker.service import Worker
from worker.settings import Settings
from worker.smtp.config import ServerConfig
from worker.templates import CampaignComposer

INTERNAL = 70
DEADLINE_S = 10


@pytest.fixture
async def worker(tmp_path: Path) -> AsyncIterator[Worker]:
    settings = Settings(
        broker=f"ipc://{tmp_path}/nobody",
        server=ServerConfig.from_url("smtp://127.0.0.1:9"),
        name="w1",
        outcome_log=tmp_path / "log",
    )
    made = Worker(settings, OutcomeLog.open(settings.outcome_log, now_ms=1))
    yield made
    OutcomeLog.open(settings.outcome_log, now_ms=2).close()  # it has been let go of


def receive(worker: Worker, *received: Message, request: int = 0) -> None:
    for message in received:
        worker._receive(codec.encode(message, request))


async def status_after(worker: Worker, act: Callable[[], None]) -> int:
    async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as group:
        running = group.create_task(worker.run())
        group.create_task(asyncio.sleep(0)).add_done_callback(lambda _: act())
    assert len(worker._tasks) == 0
    return running.result()


async def test_a_batch_that_crashes_ends_the_worker(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    async def crash(_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(worker._pool, "run", crash)
    template = CampaignTemplate(7, "c7", 1, Template(sender="a@b.example", subject="Hi", text="x"))
    items = [BatchItem(1, 1, "r@example.org", b"\x90")]

    def act() -> None:
        hello = worker._session._hello
        receive(worker, messages.WorkerWelcome("b", 1.0, 10.0), template, request=hello)
        worker._session._lease.end = float("inf")  # HELLO found nobody, so there is no lease to be had
        receive(worker, Batch(1, 7, items))

    assert await status_after(worker, act) == INTERNAL


async def test_a_callback_that_crashes_ends_the_worker(worker: Worker) -> None:
    def crash() -> None:
        raise RuntimeError("a bug")

    loop = asyncio.get_running_loop()

    def act() -> None:
        loop.call_soon(crash)

    assert await status_after(worker, act) == INTERNAL
    loop.set_exception_handler(None)


async def test_a_connection_that_breaks_oddly_does_not(worker: Worker) -> None:
    loop = asyncio.get_running_loop()

    def act() -> None:
        loop.call_exception_handler(
            {"message": "Fatal error", "exception": OSError("odd"), "transport": object()}
        )
        worker._signalled(signal.SIGTERM)

    assert await status_after(worker, act) == 0
    loop.set_exception_handler(None)


async def test_an_answer_is_in_the_file_at_once_though_nothing_else_happens(worker: Worker) -> None:
    path = worker.settings.outcome_log
    async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as group:
        running = group.create_task(worker.run())
        await asyncio.sleep(0)
        worker.log.begin(1, 7, 3, 1, 1)
        worker.log.flush()
        worker.log.add((1, 7, 3, 1, "sent", "recipient", 250, "what it answered", 1, 2))
        assert b"what it answered" not in path.read_bytes()
        worker.noted()
        while b"what it answered" not in path.read_bytes():  # noqa: ASYNC110  # a file tells of nothing
            await asyncio.sleep(0.001)
        worker._signalled(signal.SIGTERM)
        worker._signalled(signal.SIGTERM)  # nobody is there to be told
    assert running.result() == 1


async def test_an_answer_that_comes_after_anothers_write_is_in_the_file_soon_too(worker: Worker) -> None:
    path = worker.settings.outcome_log
    async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as group:
        running = group.create_task(worker.run())
        await asyncio.sleep(0)
        worker.log.begin(1, 7, 3, 1, 1)
        worker.log.begin(1, 7, 4, 1, 1)
        worker.log.add((1, 7, 3, 1, "sent", "recipient", 250, "the first answer", 1, 2))
        worker.noted()
        worker.log.flush()
        worker.log.add((1, 7, 4, 1, "sent", "recipient", 250, "the second answer", 1, 2))
        worker.noted()
        while b"the second answer" not in path.read_bytes():  # noqa: ASYNC110  # a file tells of nothing
            await asyncio.sleep(0.001)
        worker._signalled(signal.SIGTERM)
        worker._signalled(signal.SIGTERM)  # nobody is there to be told
    assert running.result() == 1


async def test_who_wakes_after_its_lease_begins_nothing_and_ends_nothing(worker: Worker) -> None:
    """What each batch asks before it writes a content, and before it ends one: the clock goes on while a
    process is frozen, and no event tells it so."""
    worker._session._lease.end = 100.0
    assert worker.may_begin(99.9) and worker.has_lease(99.9)
    assert not worker.may_begin(100.0) and not worker.has_lease(100.0)
    worker._session._ending = "drain"
    assert not worker.may_begin(99.9) and worker.has_lease(99.9)
    worker.log.close()


async def test_a_batch_is_run_when_its_template_is_compiled(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []

    async def compiled(_: CampaignComposer) -> None:
        steps.append("compiles")
        await asyncio.sleep(0)
        steps.append("compiled")

    async def run(*_: object) -> None:
        steps.append("runs")
        worker._signalled(signal.SIGTERM)
        worker._signalled(signal.SIGTERM)

    monkeypatch.setattr(CampaignComposer, "compiled", compiled)
    monkeypatch.setattr(worker._pool, "run", run)
    template = CampaignTemplate(7, "c7", 1, Template(sender="a@b.example", subject="Hi", text="x"))

    def act() -> None:
        hello = worker._session._hello
        receive(worker, messages.WorkerWelcome("b", 1.0, 10.0), template, request=hello)
        worker._session._lease.end = float("inf")
        receive(worker, Batch(1, 7, [BatchItem(1, 1, "r@example.org", b"\x90")]))

    await status_after(worker, act)
    assert steps == ["compiles", "compiled", "runs"]
