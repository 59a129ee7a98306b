"""HAProxy's words: ready, drain, maint, weight:N, maxconn:N."""

from broker.core import commands as c
from broker.core import events as e
from broker.core.settings import Settings
from broker.core.views import worker_status
from evenpost.wire import messages as wire
from tests.unit.broker.playbook import Playbook, answers, only


def say(book: Playbook, *words: object, **more: object) -> list[c.Command]:
    return book.say(e.FromClient(b"k", 1, wire.SetServer("a", *words, **more)))  # type: ignore[arg-type]  # a test's own


def beat(book: Playbook, number: int = 1, limit: int = 4, **fields: object) -> list[c.Command]:
    message = wire.Heartbeat(number, 0, 0, 0, limit, 0, **fields)  # type: ignore[arg-type]  # a test's own
    return book.say(e.FromWorker(b"a", 0, message))


def start(recipients: int = 50) -> Playbook:
    book = Playbook(Settings())
    book.hello("a", max_connections=4)
    if recipients:
        book.submit(recipients)
    return book


def test_drain_gives_nothing_new_and_leaves_what_is_there() -> None:
    book = start()
    out = say(book, "drain")
    assert answers(out) == [wire.Done()]
    assert not only(out, c.ToWorker)
    batch = only(book.seen, c.SendBatch)[0]
    assert not only(book.outcomes(batch, "sent"), c.SendBatch)
    assert only(say(book, "ready"), c.SendBatch)


def test_maint_calls_everything_back_and_its_return_is_slow() -> None:
    book = start()
    held = list(book.core.state.workers["a"].batches)
    (revoke,) = [m.message for m in only(say(book, "maint"), c.ToWorker)]
    assert revoke == wire.Revoke(held)
    for number in held:
        book.say(e.FromWorker(b"a", 0, wire.Outcomes(0, [], [number])))
    assert len(only(say(book, "ready"), c.SendBatch)) == 1  # a quarter of a slow start's first moment


def test_the_stricter_word_counts_and_each_takes_back_its_own() -> None:
    book = start(0)
    worker = book.core.state.workers["a"]
    beat(book, state="drain")
    assert worker.state == "drain"
    say(book, "maint")
    beat(book, state="ready")
    assert worker.state == "maint"
    beat(book, state="maint")
    say(book, "ready")
    assert worker.state == "maint"
    beat(book, state="ready")
    assert worker.state == "ready"


def test_maint_of_the_servers_agent_calls_back_too() -> None:
    book = start()
    messages = [m.message for m in only(beat(book, state="maint"), c.ToWorker)]
    assert wire.Revoke(list(book.core.state.workers["a"].batches)) in messages


def test_weight_and_maxconn_stay_until_they_are_taken_back() -> None:
    book = start(0)
    worker = book.core.state.workers["a"]
    beat(book, weight=50)
    assert worker.weight == 50
    say(book, weight=10, max_connections=2)
    assert (worker.weight, worker.limit) == (10, 2)
    beat(book, limit=3, weight=50)
    assert (worker.weight, worker.limit) == (10, 2)
    book.submit(50)
    assert len(worker.batches) == 2
    say(book, weight=0, max_connections=0)
    assert (worker.weight, worker.limit) == (50, 3)


def test_words_are_on_disk_before_they_are_answered() -> None:
    book = start(0)
    (persist,) = [p for p in only(say(book, "drain", weight=7), c.Persist) if p.then]
    (change,) = persist.changes
    assert isinstance(change, c.SetWorker)
    assert (change.state, change.weight, change.limit) == ("drain", 7, 0)


AGENT = "its server's agent (`agent.said` in the worker's log tells why)"


def test_who_holds_a_worker_is_told_by_status() -> None:
    book = start(0)
    worker = book.core.state.workers["a"]

    def told() -> tuple[str, str]:
        status = worker_status(worker, book.core.balancer, book.now)
        return status.state, status.reason

    assert told() == ("ready", "")
    say(book, "drain")
    assert told() == ("draining", "drain, says an operator")
    beat(book, state="maint")
    assert told() == ("maint", f"maint, says {AGENT}; drain, says an operator")
    say(book, "ready")
    assert told() == ("maint", f"maint, says {AGENT}")
    beat(book, state="drain")
    assert told() == ("draining", "drain, says its server's agent, or the worker, which is ending")


def test_an_operators_word_is_told_by_status() -> None:
    book = start(0)
    say(book, "drain", weight=7, max_connections=3)
    status = worker_status(book.core.state.workers["a"], book.core.balancer, book.now)
    assert (status.state, status.operator) == ("draining", "drain weight:7 maxconn:3")
