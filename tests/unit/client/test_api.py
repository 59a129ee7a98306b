"""The clients against a broker that loses, doubles and restarts."""

import asyncio
import os
import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from client import AsyncClient, Campaign, Client, ClientError, InputError
from client.session import Timing
from client.sync_api import _close, _next
from evenpost.wire import codec
from evenpost.wire.errors import Code
from evenpost.wire.messages import (
    Cancel,
    Commit,
    Error,
    Explain,
    Message,
    OpenCampaign,
    Recipients,
    RetryFailed,
    SetServer,
    Trace,
    Type,
    Watch,
    WatchUpdate,
    Welcome,
)
from tests.servers.ports import free_port
from tests.unit.client.fake_broker import WORKER, FakeBroker, row, status

FAST = Timing(timeout_s=20, retry_s=0.05, retry_s_max=0.2, busy_s=0.01)
"""Answers that get lost are missed soon; the broker is next door."""


def campaign(count: int = 950, **values: object) -> Campaign:
    given: dict[str, object] = {
        "sender": "News <news@example.com>",
        "subject": "Hello {{ name }}",
        "text": "Dear {{ name }}",
        "recipients": ({"email": f"u{i}@example.com", "name": f"N{i}"} for i in range(count)),
        **values,
    }
    return Campaign(**given)  # type: ignore[arg-type]  # loose on purpose


def async_client(broker: FakeBroker) -> AsyncClient:
    client = AsyncClient(broker.endpoint)
    client._timing = FAST
    return client


async def until(reached: Callable[[], bool]) -> None:
    """Until a thread has come so far; the test's own time-out ends a wait in vain."""
    while not reached():  # noqa: ASYNC110  # a thread can't set an asyncio event
        await asyncio.sleep(0.005)


def expect_all(broker: FakeBroker, count: int = 950) -> None:
    [stored] = broker.submissions.values()
    assert stored.committed
    assert stored.rows == [(f"u{i}@example.com", codec.pack_values([f"N{i}"])) for i in range(count)]
    assert stored.template.fields == ["name"]


@pytest.fixture
def broker() -> Iterator[FakeBroker]:
    with FakeBroker() as broker:
        yield broker


async def test_a_submission_arrives_whole_and_tells_how_far_it_is(broker: FakeBroker) -> None:
    told: list[tuple[str, int, int]] = []
    async with async_client(broker) as client:
        receipt = await client.submit(campaign(), progress=lambda *facts: told.append(facts))
    expect_all(broker)
    assert (receipt.campaign, receipt.recipients, receipt.again) == ("c1", 950, False)
    sent = [done for phase, done, _ in told if phase == "send"]
    assert sent[-1] == 950 and sent == sorted(set(sent)) and len(sent) >= 4
    assert all(total == 950 for phase, _, total in told if phase == "send")


async def test_no_more_chunks_are_in_flight_than_the_broker_allows(broker: FakeBroker) -> None:
    release = threading.Event()

    def hold_back(message: Message, count: int) -> int:
        # With the first chunk unacknowledged, the second and third may come, and no fourth.
        return 0 if isinstance(message, Recipients) and not release.is_set() else 1

    broker.faults = hold_back
    async with AsyncClient(broker.endpoint) as client:
        client._timing = Timing(retry_s=0.5)
        task = asyncio.get_running_loop().create_task(client.submit(campaign()))
        await until(lambda: broker.count(Type.RECIPIENTS) >= 3)
        await client.servers()  # a round trip on the same connection: a fourth would have come before it
        assert broker.count(Type.RECIPIENTS) == 3
        release.set()
        await task
    expect_all(broker)


@pytest.mark.parametrize("type_", [Type.OPEN_CAMPAIGN, Type.RECIPIENTS, Type.COMMIT])
async def test_lost_answers_are_asked_for_again(broker: FakeBroker, type_: Type) -> None:
    broker.faults = lambda message, count: 0 if type_ == message.TYPE and count % 3 == 1 else 1
    async with async_client(broker) as client:
        receipt = await client.submit(campaign())
    expect_all(broker)
    assert not receipt.again


async def test_doubled_answers_do_no_harm(broker: FakeBroker) -> None:
    broker.faults = lambda message, count: 2
    async with async_client(broker) as client:
        await client.submit(campaign())
        assert len(await client.servers()) == 1
    expect_all(broker)


@pytest.mark.parametrize("type_", [Type.OPEN_CAMPAIGN, Type.RECIPIENTS, Type.COMMIT])
async def test_a_restart_in_the_middle_is_survived(broker: FakeBroker, type_: Type) -> None:
    broker.restart_after = lambda message, count: type_ == message.TYPE and count in (1, 5)
    async with async_client(broker) as client:
        await client.submit(campaign())
    expect_all(broker)
    assert broker.restarts >= 1


async def test_a_busy_broker_is_asked_again(broker: FakeBroker) -> None:
    refused: list[Message] = []

    def busy(message: Message) -> Message | None:
        if isinstance(message, Recipients | Commit) and len(refused) < 5:
            refused.append(message)
            return Error(Code.BUSY, "the queue is full")
        return None

    broker.answer = busy
    async with async_client(broker) as client:
        await client.submit(campaign())
    expect_all(broker)


async def test_the_same_submission_counts_once(broker: FakeBroker) -> None:
    async with async_client(broker) as client:
        first = await client.submit(campaign(), submission_id="s1")
        before = broker.count(Type.RECIPIENTS)
        second = await client.submit(campaign(submission_id="s1"))
    assert broker.count(Type.RECIPIENTS) == before
    assert (first.again, second.again) == (False, True)
    assert second.campaign == first.campaign and second.recipients == 950


async def test_another_run_goes_on_where_the_first_was_cut_off(broker: FakeBroker) -> None:
    broker.answer = lambda message: (
        Error(Code.TOO_LARGE, "enough") if isinstance(message, Recipients) and message.chunk == 4 else None
    )
    async with async_client(broker) as client:
        with pytest.raises(ClientError, match="enough"):
            await client.submit(campaign(), submission_id="s1")
        broker.answer = lambda message: None
        chunks_before = len(broker.submissions["s1"].chunks)
        seen_before = len(broker.seen)
        assert chunks_before == 4
        receipt = await client.submit(campaign(), submission_id="s1")
    expect_all(broker)
    assert {m.chunk for m in broker.seen[seen_before:] if isinstance(m, Recipients)} == {4, 5, 6, 7, 8, 9}
    assert receipt.recipients == 950


async def test_another_list_under_the_same_id_is_refused(broker: FakeBroker) -> None:
    broker.answer = lambda message: Error(Code.TOO_LARGE, "enough") if isinstance(message, Commit) else None
    async with async_client(broker) as client:
        with pytest.raises(ClientError, match="enough"):
            await client.submit(campaign(950), submission_id="s1")
        broker.answer = lambda message: None
        with pytest.raises(ClientError) as caught:
            await client.submit(campaign(20), submission_id="s1")
    assert caught.value.code == Code.CONFLICT
    assert not broker.submissions["s1"].committed


async def test_what_opens_a_submission_says_which_list_it_is(broker: FakeBroker) -> None:
    async with async_client(broker) as client:
        await client.submit(campaign(20), submission_id="s1")
        await client.submit(campaign(20), submission_id="s2")
        await client.submit(campaign(21), submission_id="s3")
    first, same, other = [m.list_digest for m in broker.seen if isinstance(m, OpenCampaign)]
    assert first and first == same != other


async def test_a_list_that_would_be_cut_otherwise_is_refused_too(broker: FakeBroker) -> None:
    broker.answer = lambda message: Error(Code.TOO_LARGE, "enough") if isinstance(message, Commit) else None
    async with async_client(broker) as client:
        with pytest.raises(ClientError, match="enough"):
            await client.submit(campaign(950), submission_id="s1")
    broker.answer = lambda message: None
    broker.welcome = Welcome("fake", "test", chunk_rows_max=10, chunks_in_flight_max=3)
    async with async_client(broker) as client:
        with pytest.raises(ClientError) as caught:
            await client.submit(campaign(1_000), submission_id="s1")
    assert caught.value.code == Code.CONFLICT
    assert len(broker.submissions["s1"].rows) == 950


async def test_a_bad_list_is_refused_before_the_broker_hears_of_it(broker: FakeBroker) -> None:
    people = [
        {"email": "a@example.com", "name": "A"},
        {"email": "nonsense", "name": "B"},
        {"email": "c@x.example"},
    ]
    async with async_client(broker) as client:
        with pytest.raises(InputError) as caught:
            await client.submit(campaign(recipients=people))
        assert caught.value.total == 2
        assert {p.line for p in caught.value.problems} == {2, 3}
        receipt = await client.submit(campaign(recipients=people), skip_bad=True)
    assert (receipt.recipients, receipt.skipped) == (1, 2)
    assert len(broker.submissions) == 1


async def test_a_row_that_the_template_cannot_take_stops_all_before_the_commit(broker: FakeBroker) -> None:
    people: list[dict[str, object]] = [
        {"email": f"u{i}@example.com", "name": {"first": "A"} if i % 300 else {"last": "B"}}
        for i in range(950)
    ]
    async with async_client(broker) as client:
        with pytest.raises(InputError) as caught:
            await client.submit(campaign(recipients=people, subject="Hi {{ name.first }}", text="x"))
    assert caught.value.total == 4
    assert "u300@example.com" in str(caught.value.problems[1])
    assert not any(s.chunks or s.committed for s in broker.submissions.values())
    assert [m for m in broker.seen if isinstance(m, Cancel)] == [Cancel("c1")]


@pytest.mark.parametrize("from_file", [False, True])
async def test_simple_rows_are_tried_out_where_the_template_does_more_than_fill_them_in(
    broker: FakeBroker, tmp_path: Path, from_file: bool
) -> None:
    people = [{"email": f"u{i}@example.com", "n": "5" if i != 7 else "0"} for i in range(9)]
    path = tmp_path / "list.csv"
    path.write_text("".join(f"{email},{n}\n" for email, n in [("email", "n"), *(p.values() for p in people)]))
    async with async_client(broker) as client:
        with pytest.raises(InputError, match=r"recipient 8, u7@example\.com"):
            given = path if from_file else people
            await client.submit(campaign(recipients=given, subject="{{ 10 / n|int }}", text="x"))


async def test_a_template_that_cannot_be_is_refused_first(broker: FakeBroker) -> None:
    async with async_client(broker) as client:
        with pytest.raises(InputError, match="subject"):
            await client.submit(campaign(subject="Hello {{ name"))
    assert not broker.submissions


async def test_all_columns_that_the_list_lacks_are_named_with_what_was_meant(
    broker: FakeBroker, tmp_path: Path
) -> None:
    (tmp_path / "list.csv").write_text("email,First name,city\na@example.com,Anna,Rome\n")
    given = campaign(
        recipients=tmp_path / "list.csv", subject="{{ first_nam }}", text="a\n{{ citty }} {{ x|default('') }}"
    )
    async with async_client(broker) as client:
        with pytest.raises(InputError) as caught:
            await client.submit(given)
    texts = [str(problem) for problem in caught.value.problems]
    assert len(texts) == 2 == caught.value.total
    assert "first_nam" in texts[0] and "did you mean 'first_name'" in texts[0] and "subject" in texts[0]
    assert "citty" in texts[1] and "did you mean 'city'" in texts[1] and "line 2" in texts[1]


async def test_send_is_a_campaign_of_one_with_the_highest_priority(broker: FakeBroker) -> None:
    async with async_client(broker) as client:
        receipt = await client.send(
            to="anna@example.com",
            sender="a@b.example",
            subject="{{ x }}",
            text="hi",
            values={"x": "ü"},
            pool="p",
        )
    [opening] = [m for m in broker.seen if isinstance(m, OpenCampaign)]
    assert (opening.options.priority, opening.options.pool) == (9, "p")
    [stored] = broker.submissions.values()
    assert stored.rows == [("anna@example.com", codec.pack_values(["ü"]))]
    assert receipt.recipients == 1


async def test_looking_and_steering(broker: FakeBroker) -> None:
    broker.statuses = [status("c1", sent=3), status("c2", "finished", sent=10)]
    broker.report = [row(i, "bounced" if i % 4 == 3 else "sent") for i in range(10)]
    async with async_client(broker) as client:
        assert (await client.status("c2")).state == "finished"
        assert [s.campaign for s in await client.status()] == ["c1", "c2"]
        with pytest.raises(ClientError) as caught:
            await client.status("c9")
        assert caught.value.code == Code.NOT_FOUND
        assert await client.servers() == [WORKER]
        pages = [[r.index for r in page] async for page in client.report_pages("c1", rows=4)]
        assert pages == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
        assert [r.index async for r in client.report("c1", only=["bounced"])] == [3, 7]
        assert [r.index for r in await client.trace("u5@example.com")] == [5]
        await client.pause("c1")
        await client.resume("c1")
        assert await client.cancel("c1") == 7
        assert await client.retry_failed("c1", only=["held"]) == 7
        await client.drain("w1")
        await client.maint("w1")
        await client.ready("w1")
        await client.set_weight("w1", 50)
        await client.set_weight("w1", None)
        await client.set_max_connections("w1", 7)
        await client.set_max_connections("w1", None)
        await client.trace("Anna <jürgen@Bücher.example>")
    assert [m for m in broker.seen if isinstance(m, SetServer)] == [
        SetServer("w1", state="drain"), SetServer("w1", state="maint"), SetServer("w1", state="ready"),
        SetServer("w1", weight=50), SetServer("w1", weight=0),
        SetServer("w1", max_connections=7), SetServer("w1", max_connections=0),
    ]  # fmt: skip
    assert Trace("jürgen@xn--bcher-kva.example", 1000) in broker.seen  # as a list's address is stored
    assert RetryFailed("c1", ["held"]) in broker.seen and Trace("u5@example.com", 1000) in broker.seen


async def test_an_operators_numbers_have_bounds(broker: FakeBroker) -> None:
    async with async_client(broker) as client:
        for call in (
            client.set_weight("w1", 0), client.set_weight("w1", 1_001),
            client.set_max_connections("w1", 10_001),
        ):  # fmt: skip
            with pytest.raises(ClientError, match="whole number from 1 to") as caught:
                await call
            assert caught.value.code == "bad_input"
    assert not broker.count(Type.SET_SERVER), "0 would have taken the operator's word back"


async def test_an_explanation_is_found_by_index_and_by_address(broker: FakeBroker) -> None:
    broker.report = [row(0, campaign="c0", address="a@example.com"), row(7, address="a@example.com"), row(8)]
    broker.statuses = [status("c1")]
    async with async_client(broker) as client:
        assert (await client.explain("c1")).reasons[0].until == 1_700_000_060_000
        assert (await client.explain("c1", 8)).row == row(8)
        assert (await client.explain("c1", address="a@EXAMPLE.com")).index == 7
        with pytest.raises(ClientError, match=r"c1 has no message to b@example\.com") as caught:
            await client.explain("c1", address="b@example.com")
        assert caught.value.code == Code.NOT_FOUND
        with pytest.raises(ClientError, match="no campaign 'c9'"):
            await client.explain("c9", address="a@example.com")
        for wrong in ({"index": -1}, {"index": 2**32}, {"index": 1, "address": "a@example.com"}):
            with pytest.raises(ClientError) as caught:
                await client.explain("c1", **wrong)  # type: ignore[arg-type]  # loose on purpose
            assert caught.value.code == "bad_input"
    assert [m for m in broker.seen if isinstance(m, Explain)] == [
        Explain("c1"), Explain("c1", 8), Explain("c1", 7),
    ]  # fmt: skip


async def test_a_refusal_has_code_and_message(broker: FakeBroker) -> None:
    broker.answer = lambda message: (
        Error(Code.WRONG_STATE, "it has ended") if isinstance(message, Cancel) else None
    )
    async with async_client(broker) as client:
        with pytest.raises(ClientError, match="it has ended") as caught:
            await client.cancel("c1")
    assert caught.value.code == "wrong_state"


async def test_a_watch_ends_with_its_campaign_and_survives_a_restart(broker: FakeBroker) -> None:
    running, finished = status(sent=3), status(state="finished", sent=10)
    broker.updates = [
        WatchUpdate([running], [WORKER]),
        WatchUpdate([], []),
        WatchUpdate([finished], [WORKER]),
    ]
    broker.statuses = [finished]
    broker.restart_after = lambda message, count: isinstance(message, Watch) and count == 2
    async with async_client(broker) as client:
        # The fake answers each WATCH once: the client has to say it again, as after any silence.
        seen = [update async for update in client.watch("c1", interval=0.05)]
        assert (await client.wait("c1")).state == "finished"
    assert seen == [WatchUpdate([running], [WORKER]), WatchUpdate([finished], [WORKER])]
    assert broker.restarts == 1


async def test_wait_waits_until_the_end(broker: FakeBroker) -> None:
    finished = status(state="finished", sent=10)
    broker.statuses = [status(sent=3)]
    broker.updates = [WatchUpdate([status(sent=3)], []), WatchUpdate([finished], [])]

    def end(message: Message) -> None:
        if isinstance(message, Watch):
            broker.statuses = [finished]

    broker.answer = end
    async with async_client(broker) as client:
        receipt = await client.submit(campaign(), wait=True)
    assert receipt.status == finished


def closed_endpoint() -> str:
    return f"tcp://127.0.0.1:{free_port()}"


async def test_without_a_broker_it_says_so_with_the_address() -> None:
    endpoint = closed_endpoint()
    with pytest.raises(ClientError, match=endpoint) as caught:
        async with AsyncClient(endpoint, connect_timeout=0.1):
            pass
    assert caught.value.code == Code.UNAVAILABLE


async def test_a_broker_that_falls_silent_is_given_up(broker: FakeBroker) -> None:
    client = AsyncClient(broker.endpoint)
    client._timing = Timing(timeout_s=0.3, retry_s=0.05)
    async with client:
        broker.faults = lambda message, count: 0
        with pytest.raises(ClientError) as caught:
            await client.submit(campaign())
        with pytest.raises(ClientError):
            await client.servers()
    assert caught.value.code == Code.UNAVAILABLE


async def test_another_version_is_told_at_once(broker: FakeBroker) -> None:
    broker.version = 9
    with pytest.raises(ClientError, match="version 9") as caught:
        async with async_client(broker):
            pass
    assert caught.value.code == Code.BAD_VERSION


async def test_a_broker_that_comes_back_in_another_version_ends_a_submission(broker: FakeBroker) -> None:
    def upgrade(message: Message) -> None:
        if isinstance(message, Recipients):
            broker.version = 9

    broker.answer = upgrade
    async with async_client(broker) as client:
        with pytest.raises(ClientError, match="version 9") as caught:
            await client.submit(campaign())
    assert caught.value.code == Code.BAD_VERSION


async def test_no_endpoint_is_bad_input() -> None:
    with pytest.raises(ClientError, match="tcp://HOST:PORT") as caught:
        async with AsyncClient("localhost:5550"):
            pass
    assert caught.value.code == "bad_input"


async def test_who_still_waits_when_it_is_closed_is_told(broker: FakeBroker) -> None:
    client = async_client(broker)
    async with client:
        broker.faults = lambda message, count: 0
        waiting = [
            asyncio.get_running_loop().create_task(c) for c in (client.servers(), client.submit(campaign()))
        ]
        await until(lambda: broker.count(Type.SERVERS) > 0 and broker.count(Type.OPEN_CAMPAIGN) > 0)
    for task in waiting:
        with pytest.raises(ClientError) as caught:
            await task
        assert caught.value.code == "closed"
    with pytest.raises(ClientError, match="closed"):
        await client.servers()


def sync_client(broker: FakeBroker) -> Client:
    client = Client(broker.endpoint)
    client._client._timing = FAST
    return client


def test_the_synchronous_client_does_the_same(broker: FakeBroker) -> None:
    threads = set()

    def people() -> Iterator[dict[str, str]]:
        for i in range(950):
            threads.add(threading.current_thread())
            yield {"email": f"u{i}@example.com", "name": f"N{i}"}

    finished = status(state="finished", sent=10)
    broker.statuses = [finished]
    broker.updates = [WatchUpdate([status(sent=1)], []), WatchUpdate([finished], [])]
    broker.report = [row(i) for i in range(10)]
    broker.restart_after = lambda message, count: isinstance(message, Recipients) and count == 4
    with sync_client(broker) as client:
        receipt = client.submit(campaign(recipients=people()), wait=True)
        assert receipt.status == finished
        assert [u.campaigns[0].state for u in client.watch("c1", interval=0.05)] == ["running", "finished"]
        assert len(list(client.report("c1"))) == 10
        rows = client.report("c1")
        assert next(rows).index == 0
        rows.close()  # type: ignore[attr-defined]  # a generator: an iterator left early closes cleanly
        assert client.status("c1") == finished and client.status() == [finished]
        assert client.servers() == [WORKER] and client.cancel("c1") == 7 and client.retry_failed("c1") == 7
        assert client.trace("u1@example.com")[0].index == 1
        client.pause("c1"), client.resume("c1"), client.drain("w1"), client.ready("w1"), client.maint("w1")
        client.set_weight("w1", 5), client.set_max_connections("w1", None)
        assert client.explain("c1", address="u1@example.com").index == 1
        assert client.send(to="a@example.com", sender="b@example.com", subject="s", text="t").recipients == 1
    assert threads == {threading.current_thread()}, "a database cursor belongs to its thread"
    client.close()
    with pytest.raises(ClientError, match="closed"):
        client.servers()
    assert not [t for t in threading.enumerate() if t.name == "evenpost-client"]


def test_a_watch_that_is_interrupted_at_any_moment_ends_cleanly(broker: FakeBroker) -> None:
    broker.updates = [WatchUpdate([status(sent=1)], [WORKER])]
    with sync_client(broker) as client:
        for number in range(40):
            timer = threading.Timer(number / 4_000, os.kill, (os.getpid(), signal.SIGINT))
            with pytest.raises(KeyboardInterrupt):
                timer.start()
                for _ in client.watch("c1", interval=0.05):
                    pass
            timer.join()
        assert client.servers() == [WORKER]


async def test_an_iterator_whose_step_is_still_being_cancelled_is_closed_after_it() -> None:
    async def forever() -> AsyncIterator[int]:
        await asyncio.Event().wait()
        yield 1

    iterator = forever()
    step = asyncio.get_running_loop().create_task(_next(iterator))
    await asyncio.sleep(0)
    step.cancel()
    await _close(iterator)
    with pytest.raises(asyncio.CancelledError):
        await step


async def test_the_synchronous_client_works_inside_a_running_loop(broker: FakeBroker) -> None:
    client = sync_client(broker)  # as in a notebook: no `with`, connected by the first call
    assert client.servers() == [WORKER]
    client.close()


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), 0, -1])
def test_a_timeout_is_a_number_of_seconds(seconds: float) -> None:
    for name in ("timeout", "connect_timeout"):
        with pytest.raises(ClientError, match=f"{name} is a number of seconds above 0, not ") as caught:
            AsyncClient("tcp://127.0.0.1:1", **{name: seconds})
        assert caught.value.code == "bad_input"
