"""Why it went where it went, or why it waits."""

from broker.core import commands as c
from broker.core import events as e
from broker.core.explain import candidates, explanation, reasons, waiting_for
from broker.core.settings import DomainGroup, Settings
from broker.core.state import Phase
from evenpost.wire import messages as wire
from tests.unit.broker.playbook import Playbook, only


def texts(book: Playbook) -> list[str]:
    campaign = book.core.state.by_id["c1"]
    return [reason.text for reason in reasons(book.core.state, book.core.balancer, campaign, book.now)]


def explain(book: Playbook, row: wire.ReportRow | None = None) -> wire.Explanation:
    return explanation(book.core.state, book.core.balancer, book.core.state.by_id["c1"], row, book.now)


def row(state: wire.MessageState, index: int = 0, **fields: object) -> wire.ReportRow:
    given: dict[str, object] = {
        "campaign": "c1", "address": "u@example.com", "code": 0, "reply": "", "worker": "", "server": "",
        "attempts": 0, "first_at": 0, "last_at": 0, "due_at": 0,
    } | fields  # fmt: skip
    return wire.ReportRow(index=index, state=state, **given)  # type: ignore[arg-type]  # a test's own


def test_nobody_is_there() -> None:
    book = Playbook(Settings())
    book.submit(1)
    assert texts(book) == ["no worker is connected"]
    assert explain(book).summary == "It waits: no worker is connected."


def test_the_pool_is_empty() -> None:
    book = Playbook(Settings())
    book.hello("a", pools=["y"])
    book.submit(1, wire.Options(pool="x", overflow="z"))
    assert texts(book) == ["no connected worker is in pool 'x' or 'z'"]


def test_each_worker_says_why_not() -> None:
    book = Playbook(Settings())
    for name in ("drained", "broken", "paused", "busy", "rated"):
        book.hello(name, max_connections=1, rate="1/h" if name == "rated" else "")
    workers = book.core.state.workers
    book.say(e.FromClient(b"k", 1, wire.SetServer("drained", "drain")))
    workers["broken"].breaker.failures, workers["broken"].breaker.open_until = 2, book.mono + 30
    workers["broken"].reason = "421 too busy"
    workers["paused"].breaker.paused_until = book.mono + 5
    workers["paused"].reason = "454 rate"
    for worker in workers.values():
        book.core.balancer.update(worker, book.mono)
    book.submit(30)
    rated = workers["rated"].bucket
    assert rated is not None
    book.outcomes(next(b for b in only(book.seen, c.SendBatch) if b.peer == b"rated"), "sent")
    told = texts(book)
    assert told == [
        "broken: its breaker is open: 421 too busy",
        "busy: its one connection is in use",
        "drained: drain, says an operator",
        "paused: its server wants less: 454 rate",
        "rated: no token: its server's rate is 1/h",
    ]
    untils = [
        reason.until
        for reason in reasons(book.core.state, book.core.balancer, book.core.state.by_id["c1"], book.now)
    ]
    assert untils[0] == book.now.wall + 30_000 and untils[3] == book.now.wall + 5_000
    assert untils[4] is not None and 3_599_000 < untils[4] - book.now.wall < 3_700_000
    rows = candidates(book.core.state, book.core.balancer, book.core.state.by_id["c1"], book.now)
    assert all(candidate.why_not for candidate in rows)


def test_a_domain_without_a_token() -> None:
    book = Playbook(Settings(domains=(DomainGroup("gmail.com", frozenset({"gmail.com"}), rate="1/h"),)))
    book.hello("a", max_connections=5)
    book.submit_to(["1@gmail.com", "2@gmail.com"])
    (batch,) = only(book.seen, c.SendBatch)
    book.outcomes(batch, "sent")
    (reason,) = reasons(book.core.state, book.core.balancer, book.core.state.by_id["c1"], book.now)
    assert reason.text == "no token for gmail.com (1/h): 1 message waits for it"
    assert reason.until is not None
    told = waiting_for(book.core.state, book.core.balancer, book.core.state.by_id["c1"], book.now)
    assert told.endswith("60 min to go")


def test_a_message_that_went_tells_its_pick_and_the_runner_up() -> None:
    book = Playbook(Settings())
    book.hello("a", max_connections=2)
    book.hello("b", max_connections=2)
    book.submit(2)
    found = explain(book, row("sending"))
    assert found.pick is not None
    assert (found.pick.worker, found.pick.runner_up) == ("a", "b")
    assert found.pick.key == found.pick.runner_up_key == 0.01
    assert found.summary == f"a has it in batch {found.pick.batch}."
    assert not found.candidates


def test_a_deferred_message_tells_when_it_is_due_and_what_the_server_said() -> None:
    book = Playbook(Settings())
    book.hello("a")
    book.submit(1)
    found = explain(book, row("deferred", reply="450 4.7.1 later", due_at=book.now.wall + 60_000))
    assert found.reasons[0] == wire.Reason("450 4.7.1 later", book.now.wall + 60_000)


def test_the_reserve_is_told() -> None:
    book = Playbook(Settings())
    book.hello("a", max_connections=20)
    book.submit(5_000)
    assert texts(book) == ["the last free connection is reserved for priority 7 and above"]
    for number in range(14):
        book.hello(f"b{number}", max_connections=20)
    assert texts(book) == ["the last 3 free connections are reserved for priority 7 and above"]


def test_a_domains_reason_is_told_once() -> None:
    book = Playbook(Settings(domains=(DomainGroup("gmail.com", frozenset({"gmail.com"}), rate="1/h"),)))
    book.hello("a", max_connections=5)
    book.submit_to([f"{number}@gmail.com" for number in range(4)])
    campaign = book.core.state.by_id["c1"]
    ((lane, waiting),) = campaign.lanes.items()
    campaign.lanes[lane._replace(tried=frozenset({"a"}))] = type(waiting)([waiting.pop()])
    assert texts(book) == ["no token for gmail.com (1/h): 3 messages wait for it"]
    found = [reason.text for reason in explain(book, row("queued", 2)).reasons]
    assert found == ["no token for gmail.com (1/h)"]


def test_paused_comes_before_all_else() -> None:
    book = Playbook(Settings(domains=(DomainGroup("gmail.com", frozenset({"gmail.com"}), rate="1/h"),)))
    book.hello("a", max_connections=5)
    book.submit_to(["1@gmail.com", "2@gmail.com"])
    book.core.state.by_id["c1"].phase = Phase.PAUSED
    paused = "it is paused: `evenpost resume` goes on"
    found = [reason.text for reason in explain(book, row("queued", 1)).reasons]
    assert found == [paused, "no token for gmail.com (1/h)"]
    found = [reason.text for reason in explain(book, row("deferred", 1, reply="450 later")).reasons]
    assert found == [paused, "450 later", "no token for gmail.com (1/h)"]


def test_dispatch_is_logged_now_and_then() -> None:
    book = Playbook(Settings(dispatch_log_s=10))
    book.hello("a", max_connections=3)
    book.submit(100)
    logs = [log for log in only(book.seen, c.Log) if log.event == "dispatch"]
    assert len(logs) == 1
    assert logs[0].fields["winner"] == "a" and logs[0].fields["winner_key"] == 0.01
    book = Playbook(Settings(dispatch_log_s=0))
    book.hello("a", max_connections=3)
    book.submit(100)
    assert len([log for log in only(book.seen, c.Log) if log.event == "dispatch"]) == 3
