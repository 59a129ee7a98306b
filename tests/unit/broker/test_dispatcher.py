"""Playbooks: events to the core, and the commands that must follow."""

import msgspec
import pytest

from broker.core import commands as c
from broker.core import events as e
from broker.core.message_state import Stored
from broker.core.settings import Settings
from evenpost.wire import codec
from evenpost.wire import messages as wire
from tests.unit.broker.playbook import WALL, Playbook, answers, only, rows


def stored_row(index: int = 0, **fields: object) -> e.StoredRow:
    given: dict[str, object] = {
        "id": (1 << 32) + index, "address": f"u{index}@example.com", "values": b"", "state": Stored.DEFERRED,
        "attempts": 1, "history": None, "code": 0, "reply": "", "worker": "a", "ended_at": WALL,
    }  # fmt: skip
    return e.StoredRow(**(given | fields))  # type: ignore[arg-type]  # a test's own


def test_nothing_is_sent_before_the_campaign_is_on_disk() -> None:
    book = Playbook()
    book.hello("w")
    template = wire.Template("a@example.com", "s", text="t")
    opened = wire.OpenCampaign("sub", template)
    book.say(e.SubmissionOpened(b"client", 1, opened, b"T", b"F", None, "c1", 1))
    book.say(e.FromClient(b"client", 2, wire.Recipients("c1", 0, [wire.Recipient("u@example.com")])))
    commands = book.core.handle(e.FromClient(b"client", 3, wire.Commit("c1", 1, 1)), book.now)
    (persist,) = only(commands, c.Persist)
    assert persist.then == (
        c.Reply(b"client", 3, wire.SubmitOk("c1", 1)),
        c.Raise(e.CampaignStored(1)),
    )
    assert not only(commands + book.core.dispatch(book.now), c.SendBatch | c.ReadFresh)  # type: ignore[arg-type]  # isinstance takes a union
    assert only(book.say(e.CampaignStored(1)), c.SendBatch)


def test_a_submission_id_counts_once() -> None:
    book = Playbook()
    book.submit(3)
    template = wire.Template("a@example.com", "s", text="t")
    again = wire.OpenCampaign("sub-c1", template)
    out = book.say(e.SubmissionOpened(b"client", 9, again, b"T" * 10, b"F", None, "c2", 2))
    assert answers(out) == [wire.CampaignOpen("c1", 1, 3, True)]
    other = book.say(e.SubmissionOpened(b"client", 10, again, b"X", b"other", None, "c2", 2))
    (error,) = answers(other)
    assert isinstance(error, wire.Error) and error.code == "conflict" and "c1" in error.message
    assert "another list, template or options" in error.message


def test_chunks_come_in_order_and_again() -> None:
    book = Playbook()
    template = wire.Template("a@example.com", "s", text="t")
    book.say(e.SubmissionOpened(b"k", 1, wire.OpenCampaign("s", template), b"T", b"F", None, "c1", 1))
    chunk = [wire.Recipient("u@example.com")]

    def send(number: int) -> wire.Message:
        return answers(book.say(e.FromClient(b"k", 2, wire.Recipients("c1", number, chunk))))[0]

    assert send(0) == wire.RecipientsStored("c1", 0)
    assert send(0) == wire.RecipientsStored("c1", 0)
    ahead = send(5)
    assert isinstance(ahead, wire.Error) and ahead.code == "out_of_order"
    assert send(1) == wire.RecipientsStored("c1", 1)
    short = answers(book.say(e.FromClient(b"k", 3, wire.Commit("c1", 1, 1))))[0]
    assert isinstance(short, wire.Error) and short.code == "out_of_order"
    assert answers(book.say(e.FromClient(b"k", 3, wire.Commit("c1", 2, 2)))) == [wire.SubmitOk("c1", 2)]
    late = send(2)
    assert isinstance(late, wire.Error) and late.code == "wrong_state"


def test_batches_spread_over_workers_and_stop_at_their_limits() -> None:
    book = Playbook()
    book.hello("a")
    book.hello("b", max_connections=1)
    batches = only(book.submit(1000), c.SendBatch)
    assert [b.peer for b in batches] == [b"a", b"b", b"a"]
    assert all(len(b.items) == 10 for b in batches)  # nothing is known of their pace yet
    templates = only(book.seen, c.SendTemplate)
    assert [t.peer for t in templates] == [b"a", b"b"]  # once a worker and campaign


def test_outcomes_are_confirmed_after_the_flush_and_free_the_connection() -> None:
    book = Playbook()
    book.hello("a", max_connections=1)
    (batch,) = only(book.submit(100), c.SendBatch)
    out = book.outcomes(batch, "sent", first=40)
    persists = [p for p in only(out, c.Persist) if p.then]
    assert persists[0].then == (c.ToWorker(b"a", wire.OutcomesCommitted(50)),)
    assert {row[1] for row in rows(out)} == {Stored.SENT}
    assert len(only(out, c.SendBatch)) == 1


def test_a_campaign_ends_when_its_last_message_does() -> None:
    book = Playbook()
    book.hello("a")
    batches = only(book.submit(2), c.SendBatch)
    assert len(batches) == 2
    book.outcomes(batches[0], "sent")
    out = book.outcomes(batches[1], "bounced", code=550, reply="no such user")
    (log,) = [entry for entry in only(out, c.Log) if entry.event == "campaign.finished"]
    assert log.fields == {"campaign": "c1", "total": 2, "sent": 1, "bounced": 1}
    assert not book.core.state.campaigns and not book.core.state.live


def test_deferred_mail_waits_then_goes_to_another_server_first() -> None:
    book = Playbook(Settings(retry_initial_s=60))
    book.hello("a", max_connections=1)
    (batch,) = only(book.submit(1), c.SendBatch)
    book.hello("b", max_connections=1, weight=1)  # by its key alone it would never be picked
    out = book.outcomes(batch, "deferred", code=450, reply="try later")
    ((id_, state, attempts, code, reply, worker, _, _, due_at, history),) = rows(out)
    assert (state, attempts, code, reply, worker) == (Stored.DEFERRED, 1, 450, "try later", 1)
    assert due_at == book.now.wall + 60_000
    (kept,) = codec.unpack_values(history)  # type: ignore[arg-type]  # from the row above
    assert kept == [WALL + 10, "a", "deferred", 450, "try later"]
    assert not only(book.pass_time(59.5), c.ReadRetries)
    book.hello("a", max_connections=1)
    book.hello("b", max_connections=1, weight=1)
    (read,) = only(book.pass_time(0.6), c.ReadRetries)
    row = stored_row(history=history, code=450, reply="try later")
    (retry,) = only(book.say(e.RetriesRead(1, [row], (read.due_upto, id_), None)), c.SendBatch)  # type: ignore[arg-type]
    assert retry.peer == b"b"
    assert retry.items[0][:2] == (0, 2)  # the second attempt
    (last,) = rows(book.outcomes(retry, "sent"))
    assert last[2] == 2 and last[9] == history  # the first attempt is kept


def test_only_one_server_and_it_has_tried_already_is_tried_again() -> None:
    book = Playbook(Settings(retry_initial_s=1))
    book.hello("a", max_connections=1)
    (batch,) = only(book.submit(1), c.SendBatch)
    book.outcomes(batch, "deferred", code=450, reply="later")
    book.pass_time(1.1)
    row = stored_row(code=450, reply="later")
    (retry,) = only(book.say(e.RetriesRead(1, [row], (0, 0), None)), c.SendBatch)
    assert retry.peer == b"a"


def test_a_server_failure_burns_no_attempt_and_goes_elsewhere() -> None:
    book = Playbook()
    book.hello("a", max_connections=1)
    (batch,) = only(book.submit(1), c.SendBatch)
    book.hello("b", max_connections=1)
    out = book.outcomes(batch, "deferred", scope="server", code=421, reply="421 too busy")
    assert not rows(out)
    (again,) = only(out, c.SendBatch)
    assert again.peer == b"b" and again.items[0][1] == 1


def test_what_one_server_refuses_for_good_is_final_only_when_all_do() -> None:
    book = Playbook()
    book.hello("a", max_connections=1)
    (batch,) = only(book.submit(1), c.SendBatch)
    book.hello("b", max_connections=1)
    refused = {"scope": "server", "code": 554, "reply": "554 5.7.1 relay access denied"}
    out = book.outcomes(batch, "bounced", **refused)
    assert not rows(out)
    (elsewhere,) = only(out, c.SendBatch)
    assert elsewhere.peer == b"b"
    ((_, state, *_),) = rows(book.outcomes(elsewhere, "bounced", **refused))
    assert state == Stored.BOUNCED


def test_a_server_that_fails_again_and_again_is_left_alone_then_probed() -> None:
    book = Playbook()
    book.hello("a", max_connections=1)
    (batch,) = only(book.submit(50), c.SendBatch)
    refused = {"scope": "server", "code": 0, "reply": "connection refused"}
    (second,) = only(book.outcomes(batch, "not_sent", **refused), c.SendBatch)
    out = book.outcomes(second, "not_sent", **refused)
    assert not only(out, c.SendBatch)
    assert only(out, c.Log)[0].event == "server.failed"
    assert not only(book.pass_time(0.5), c.SendBatch)
    (probe,) = only(book.pass_time(0.6), c.SendBatch)
    assert len(probe.items) == 1
    (next_probe,) = only(book.outcomes(probe, "sent"), c.SendBatch)
    assert book.core.state.workers["a"].breaker.failures == 0
    again = book.outcomes(next_probe, "not_sent", **refused)
    (third,) = only(again, c.SendBatch)
    assert not only(book.outcomes(third, "not_sent", **refused), c.SendBatch)
    # A process that starts anew may have been given what it needs.
    assert only(book.hello("a", max_connections=1, incarnation=2), c.SendBatch)


def test_a_lost_workers_mail_waits_for_the_end_of_its_lease() -> None:
    book = Playbook(Settings(heartbeat_s=1, lease_s=10))
    book.hello("a", max_connections=1)
    (batch,) = only(book.submit(1), c.SendBatch)
    out = book.pass_time(3.5)
    assert [log.event for log in only(out, c.Log)] == ["worker.lost"]
    assert not rows(book.pass_time(6.0))
    ((_, state, attempts, _, reply, *_),) = rows(book.pass_time(1.0))
    assert (state, attempts) == (Stored.DEFERRED, 1) and "lease" in str(reply)
    assert book.core.state.campaigns[1].unknown == 1
    # It comes back after all, and tells what really happened.
    book.hello("a", max_connections=1)
    report = book.outcomes(batch, "sent")
    (look_up,) = only(report, c.LookUp)
    row = e.StoredRow(1 << 32, "u0@example.com", b"", 1, 1, None, 0, "", "a", WALL)
    news = book.say(e.LookedUp("a", look_up.outcomes, {1 << 32: row}, {}, look_up.peer, look_up.upto))
    assert [r[1] for r in rows(news)] == [Stored.SENT]
    confirm = c.ToWorker(b"a", wire.OutcomesCommitted(1))
    assert confirm in [then for p in only(news, c.Persist) for then in p.then]


def test_a_worker_that_reconnects_keeps_what_it_holds() -> None:
    book = Playbook()
    book.hello("a", max_connections=2)
    first, second = only(book.submit(40), c.SendBatch)
    held = wire.HeldBatch(first.batch, 1, [item[0] for item in first.items])
    out = book.hello("a", peer="a2", max_connections=2, holding=[held])
    # What it doesn't hold never arrived: it goes out again, and nothing was burnt.
    again = only(out, c.SendBatch)
    assert [b.peer for b in again] == [b"a2"]
    assert sorted(i[0] for i in again[0].items) == sorted(i[0] for i in second.items)
    assert {i[1] for i in again[0].items} == {1}


def test_what_a_replay_will_tell_is_not_given_out_before() -> None:
    book = Playbook()
    book.hello("a", max_connections=1)
    (batch,) = only(book.submit(10), c.SendBatch)
    out = book.hello("a", peer="a2", incarnation=2, max_connections=1, outcomes_upto=len(batch.items))
    assert not only(out, c.SendBatch)
    moved = c.SendBatch(b"a2", batch.batch, 1, batch.items)
    out = book.outcomes(moved, "sent", done=False)
    assert len(rows(out)) == len(batch.items)
    assert not book.core.state.batches or only(out, c.SendBatch)


def test_no_batch_overtakes_the_welcome() -> None:
    """The worker throws away what comes between its hello and the welcome: it can't be this session's."""
    book = Playbook()
    book.submit(5)
    message = wire.WorkerHello(worker="a", incarnation=1, server="a:25", log="l", max_connections=1)
    commands = book.core.handle(e.FromWorker(b"a", 7, message), book.now)
    assert not only(commands + book.core.dispatch(book.now), c.SendBatch)
    (persist,) = only(commands, c.Persist)
    assert isinstance(persist.then[0], c.ToWorker) and persist.then[1] == c.Raise(
        e.WorkerStored("a", b"a", 7)
    )
    book.core.handle(e.FromWorker(b"a", 8, message), book.now)  # again, before that was flushed
    assert not only(book.say(e.WorkerStored("a", b"a", 7)), c.SendBatch)
    assert only(book.say(e.WorkerStored("a", b"a", 8)), c.SendBatch)


def test_an_older_process_of_the_same_name_is_told_and_stops() -> None:
    book = Playbook()
    book.hello("a", incarnation=5)
    out = book.hello("a", peer="imposter", incarnation=4)
    (told,) = only(out, c.ToWorker)
    assert told.peer == b"imposter" and isinstance(told.message, wire.Error)
    assert told.message.code == "conflict"
    out = book.hello("a", peer="newer", incarnation=6)
    told_old = [m for m in only(out, c.ToWorker) if m.peer == b"a"]
    assert isinstance(told_old[0].message, wire.Error) and told_old[0].message.code == "conflict"


def test_a_stranger_is_asked_to_say_hello() -> None:
    book = Playbook()
    out = book.say(e.FromWorker(b"?", 0, wire.Heartbeat(1, 0, 0, 0, 1, 0)))
    (told,) = only(out, c.ToWorker)
    assert isinstance(told.message, wire.Error) and told.message.code == "not_found"


def test_goodbye_gives_everything_back_at_once() -> None:
    book = Playbook()
    book.hello("a", max_connections=1)
    (batch,) = only(book.submit(1), c.SendBatch)
    book.hello("b", max_connections=1)
    out = book.say(e.FromWorker(b"a", 0, wire.Goodbye("drained")))
    (again,) = only(out, c.SendBatch)
    assert again.peer == b"b" and again.items == batch.items
    assert [m.message for m in only(out, c.ToWorker)] == [wire.GoodbyeOk()]


def test_pause_and_resume() -> None:
    book = Playbook()
    book.submit(5)
    assert answers(book.say(e.FromClient(b"k", 1, wire.Pause("c1")))) == [wire.Done()]
    assert not only(book.hello("a"), c.SendBatch)
    assert only(book.say(e.FromClient(b"k", 2, wire.Resume("c1"))), c.SendBatch)


def test_cancel_ends_what_has_not_begun() -> None:
    book = Playbook()
    book.hello("a", max_connections=1)
    (batch,) = only(book.submit(100), c.SendBatch)
    n = len(batch.items)
    assert answers(book.say(e.FromClient(b"k", 1, wire.Cancel("c1")))) == [wire.Done(100 - n)]
    out = book.outcomes(batch, "sent")
    assert not only(out, c.SendBatch)
    (log,) = [entry for entry in only(out, c.Log) if entry.event == "campaign.finished"]
    assert log.fields["sent"] == n and log.fields["cancelled"] == 100 - n


def test_expiry_ends_a_campaign() -> None:
    book = Playbook()
    book.submit(5, wire.Options(expire_at=book.now.wall + 5_000))
    book.pass_time(4.0)
    assert book.core.state.campaigns
    out = book.pass_time(1.5)
    assert {log.event for log in only(out, c.Log)} == {"campaign.expired", "campaign.finished"}


def test_start_at_and_pool_and_priority() -> None:
    book = Playbook()
    book.submit(5, wire.Options(start_at=book.now.wall + 5_000), "later", 1)
    book.submit(5, wire.Options(pool="bulk"), "pooled", 2)
    book.submit(5, wire.Options(priority=1), "low", 3)
    book.submit(5, wire.Options(priority=8), "high", 4)
    out = book.hello("a", max_connections=1)
    (batch,) = only(out, c.SendBatch)
    assert batch.campaign == 4
    while batch.campaign == 4:
        (batch,) = only(book.outcomes(batch, "sent"), c.SendBatch)
    assert batch.campaign == 3
    out = book.hello("b", max_connections=1, pools=["bulk"])
    assert {b.campaign for b in only(out, c.SendBatch)} <= {2, 3}
    book.pass_time(5.5)
    assert "later" in book.core.state.by_id and book.core.state.by_id["later"].sendable


def test_on_unknown_hold_keeps_a_message_for_a_person() -> None:
    book = Playbook()
    book.hello("a", max_connections=1)
    (batch,) = only(book.submit(1, wire.Options(on_unknown="hold")), c.SendBatch)
    out = book.outcomes(batch, "unknown", code=0, reply="no answer to the final dot")
    assert rows(out)[0][1] == Stored.HELD
    (log,) = [entry for entry in only(out, c.Log) if entry.event == "campaign.finished"]
    assert log.fields["held"] == 1


def test_a_batch_that_could_not_be_handed_over_goes_elsewhere() -> None:
    book = Playbook()
    book.hello("a", max_connections=1)
    (batch,) = only(book.submit(1), c.SendBatch)
    book.hello("b", max_connections=1)
    (again,) = only(book.say(e.SendFailed(b"a", batch.batch)), c.SendBatch)
    assert again.peer == b"b" and again.items[0][1] == 1


def test_an_operators_drain_outlives_the_workers_return() -> None:
    book = Playbook()
    book.hello("a")
    assert answers(book.say(e.FromClient(b"k", 1, wire.SetServer("a", "drain")))) == [wire.Done()]
    assert not only(book.submit(5), c.SendBatch)
    assert not only(book.hello("a", peer="a2"), c.SendBatch)
    assert only(book.say(e.FromClient(b"k", 2, wire.SetServer("a", "ready"))), c.SendBatch)
    (unknown,) = answers(book.say(e.FromClient(b"k", 3, wire.SetServer("zz", "drain"))))
    assert isinstance(unknown, wire.Error) and "known: a" in unknown.message


@pytest.mark.parametrize("rounds", [1, 5])
def test_templates_are_sent_again_after_a_new_hello(rounds: int) -> None:
    book = Playbook()
    for n in range(rounds):
        book.hello("a", peer=f"a{n}")
    out = book.submit(2)
    assert len(only(out, c.SendTemplate)) == 1
    out = book.hello("a", peer="new")
    assert len(only(out, c.SendTemplate)) == 1


def test_events_cannot_be_changed() -> None:
    with pytest.raises((AttributeError, TypeError)):
        e.CampaignStored(1).campaign = 2  # type: ignore[misc]
    with pytest.raises((AttributeError, TypeError, msgspec.ValidationError)):
        wire.Done(1).changed = 2  # type: ignore[misc]


def test_what_is_told_twice_counts_once() -> None:
    """The confirmation got lost, and the broker has restarted: the journal knows the outcome already."""
    book = Playbook()
    book.submit(5)
    book.hello("a", max_connections=1)
    outcome = wire.Outcome(99, 1, 0, 1, "sent", "recipient", 250, "ok", WALL, WALL + 10)
    (look_up,) = only(book.say(e.FromWorker(b"a", 0, wire.Outcomes(0, [outcome]))), c.LookUp)
    book.core.state.live.clear()
    campaign = book.core.state.campaigns[1]
    for waiting in (campaign.ready, *campaign.lanes.values()):
        waiting.clear()
    row = stored_row(state=Stored.SENT, ended_at=WALL + 10)
    commands = book.core.handle(
        e.LookedUp("a", look_up.outcomes, {row.id: row}, {}, look_up.peer, look_up.upto), book.now
    )
    assert not rows(commands) and campaign.duplicates == 0
    # The same attempt number from a time of its own is another copy.
    book.core.state.looking_up = book.core.state.workers["a"].looking_up = 1
    other = msgspec.structs.replace(outcome, ended_at=WALL + 99)
    book.core.handle(e.LookedUp("a", [other], {row.id: row}, {}, b"a", 1), book.now)
    assert campaign.duplicates == 1


def test_no_confirmation_overtakes_one_that_is_being_looked_up() -> None:
    """OUTCOMES_COMMITTED confirms all below its number: those before it must be on disk too."""
    book = Playbook()
    book.hello("a", max_connections=1)
    (batch,) = only(book.submit(40), c.SendBatch)
    stranger = wire.Outcome(99, 1, 39, 1, "sent", "recipient", 250, "ok", WALL, WALL + 10)
    first = book.say(e.FromWorker(b"a", 0, wire.Outcomes(0, [stranger])))
    second = book.outcomes(batch, "sent", first=1)
    confirmed = [
        then.message.upto
        for persist in only(first + second, c.Persist)
        for then in persist.then
        if isinstance(then, c.ToWorker) and isinstance(then.message, wire.OutcomesCommitted)
    ]
    assert confirmed == []
    assert [look_up.upto for look_up in only(first + second, c.LookUp)] == [1, 1 + len(batch.items)]


def test_a_clock_that_is_set_back_hides_no_retry() -> None:
    book = Playbook(Settings(retry_initial_s=1))
    book.hello("a", max_connections=1)
    (batch,) = only(book.submit(2), c.SendBatch)
    campaign = book.core.state.campaigns[1]
    ahead = book.now.wall + 3_600_000
    campaign.retries_read = (ahead, 1 << 33)  # read when the clock was an hour ahead
    ((*_, due_at, _),) = rows(book.outcomes(batch, "deferred", code=450, reply="later"))
    assert due_at == ahead + 1


def test_an_older_process_whose_log_is_lost_is_waited_for() -> None:
    """A new log can't vouch for what the old one began: the lease decides, and it counts as unknown."""
    book = Playbook(Settings(heartbeat_s=1, lease_s=10))
    book.hello("a", max_connections=1)
    (batch,) = only(book.submit(1), c.SendBatch)
    out = book.hello("a", peer="a2", log="another", incarnation=2, max_connections=5)
    assert not only(out, c.SendBatch)
    for _ in range(3):
        book.mono += 3
        book.say(e.FromWorker(b"a2", 0, wire.Heartbeat(1, 0, 0, 0, 5, 0)))
        assert not rows(book.pass_time(0))
    book.mono += 1.5
    ((id_, state, *_),) = rows(book.say(e.Tick()))
    assert (id_, state) == ((1 << 32) + batch.items[0][0], Stored.DEFERRED)


def test_cancel_counts_deferred_mail_as_cancelled() -> None:
    book = Playbook()
    book.hello("a", max_connections=1)
    (batch,) = only(book.submit(1), c.SendBatch)
    book.outcomes(batch, "deferred", code=450, reply="later")
    out = book.say(e.FromClient(b"k", 1, wire.Cancel("c1")))
    changes = [change for p in only(out, c.Persist) for change in p.changes]
    last = [change for change in changes if isinstance(change, c.SetCampaign)][-1]
    assert {Stored(s): n for s, n in last.counts.items() if n} == {Stored.CANCELLED: 1}


@pytest.mark.parametrize("away", ["drained", "backing off", "lost"])
def test_what_a_server_refused_for_good_never_goes_back_to_it(away: str) -> None:
    """The only other worker can't take it either just now: it is final, and no hot loop."""
    book = Playbook()
    book.hello("a", max_connections=1)
    (batch,) = only(book.submit(1), c.SendBatch)
    book.hello("b", max_connections=1)
    other = book.core.state.workers["b"]
    match away:
        case "drained":
            other.operator_state = "drain"
        case "backing off":
            other.breaker.failures, other.breaker.open_until = 2, 1e9
        case "lost":
            other.connected = other.welcomed = False
    out = book.outcomes(batch, "bounced", scope="server", code=554, reply="relay access denied")
    ((_, state, *_),) = rows(out)
    assert state == Stored.BOUNCED and not only(out, c.SendBatch)


def test_an_unknown_outcome_is_tried_again_at_once_then_later_then_by_a_person() -> None:
    """A server that takes each copy and never says so must not fill somebody's mailbox."""
    book = Playbook(Settings(retry_initial_s=60))
    book.hello("a", max_connections=1)
    (batch,) = only(book.submit(1), c.SendBatch)
    waits, states = [], []
    for attempt in (1, 2, 3):
        out = book.outcomes(batch, "unknown", scope="server", code=0, reply="lost after the last byte")
        ((_, state, attempts, *_, due_at, history),) = rows(out)
        states.append(state)
        waits.append(None if due_at is None else due_at - book.now.wall)  # type: ignore[operator]
        assert attempts == attempt
        if state == Stored.DEFERRED:
            book.pass_time(100)
            book.hello("a", max_connections=1, incarnation=attempt + 1)
            row = stored_row(attempts=attempts, history=history)
            (batch,) = only(book.say(e.RetriesRead(1, [row], (0, 0), None)), c.SendBatch)
    assert states == [Stored.DEFERRED, Stored.DEFERRED, Stored.HELD]
    assert waits[0] is not None and waits[0] <= 1 and waits[1] == 300_000


def test_a_server_that_leaves_answers_out_is_left_alone() -> None:
    book = Playbook()
    book.hello("a", max_connections=1)
    (batch,) = only(book.submit(50), c.SendBatch)
    (second,) = only(book.outcomes(batch, "unknown", scope="server", code=0, reply=""), c.SendBatch)
    out = book.outcomes(second, "unknown", scope="server", code=0, reply="")
    assert not only(out, c.SendBatch) and book.core.state.workers["a"].reason


@pytest.mark.parametrize("what", ["cancel", "pause", "expire"])
def test_workers_are_told_to_begin_nothing_more(what: str) -> None:
    book = Playbook()
    book.hello("a", max_connections=1)
    expire_at = book.now.wall + 5_000
    (batch,) = only(book.submit(100, wire.Options(expire_at=expire_at)), c.SendBatch)
    match what:
        case "cancel":
            out = book.say(e.FromClient(b"k", 1, wire.Cancel("c1")))
        case "pause":
            out = book.say(e.FromClient(b"k", 1, wire.Pause("c1")))
        case _:
            for _ in range(6):
                book.mono += 1
                book.say(e.FromWorker(b"a", 0, wire.Heartbeat(1, 1, 1, 0, 1, batch.batch)))
            out = book.say(e.Tick())
    assert c.ToWorker(b"a", wire.Revoke([batch.batch])) in only(out, c.ToWorker)
    # One was on the wire; of the rest the worker says nothing but that it is done with the batch.
    wired = msgspec.structs.replace(wire.Outcomes(0, [], [batch.batch]))
    book.say(e.FromWorker(b"a", 0, wired))
    campaign = book.core.state.by_id.get("c1")
    assert campaign is None or (campaign.in_flight == 0 and campaign.queued == 100)


def test_retrying_keeps_an_expiry_that_has_not_come() -> None:
    book = Playbook()
    expire_at = book.now.wall + 50_000
    book.submit(5, wire.Options(expire_at=expire_at))
    campaign = book.core.state.campaigns[1]
    for moment in (expire_at, book.now.wall - 1):
        campaign.expire_at = moment
        campaign.total = 6
        campaign.counts = {Stored.BOUNCED: 1}
        book.core.handle(e.Reopened(b"k", 1, campaign, {Stored.BOUNCED: 1}), book.now)
        assert (campaign.expire_at == expire_at) == (moment == expire_at)


def test_held_mail_of_a_worker_that_wakes_up_stays_held() -> None:
    """It is for a person to decide; what the worker still has on the wire will be told in time."""
    book = Playbook()
    book.core.state.recovering_until = book.mono + 10
    book.submit(3)
    held = wire.HeldBatch(77, 1, [0, 1])
    (read,) = only(book.hello("a", holding=[held]), c.ReadHeld)
    out = book.say(
        e.HeldRead(
            "a",
            read.peer,
            read.hello,
            read.batches,
            {(1 << 32) + n: stored_row(n, state=Stored.HELD) for n in (0, 1)},
        )
    )
    assert not book.core.state.batches
    assert c.ToWorker(b"a", wire.Revoke([77])) in only(out, c.ToWorker)


def test_after_a_restart_a_worker_whose_log_is_lost_delays_sending_by_a_lease() -> None:
    book = Playbook(Settings(lease_s=10))
    book.hello("a")
    book.core.state.recovering_until = book.mono + 10
    book.core.state.workers["a"].connected = False
    book.hello("a", log="another", incarnation=2)
    book.submit(3)
    book.pass_time(1)
    assert book.core.state.recovering_until is not None
    for _ in range(10):
        book.mono += 1
        book.say(e.FromWorker(b"a", 0, wire.Heartbeat(1, 0, 0, 0, 2, 0)))
    assert only(book.say(e.Tick()), c.SendBatch)


def test_a_deferred_message_waits_for_a_busy_server_that_has_not_tried_it() -> None:
    book = Playbook(Settings(retry_initial_s=1))
    book.hello("a", max_connections=1)
    (batch,) = only(book.submit(1), c.SendBatch)
    book.hello("b", max_connections=1)
    other = only(book.submit(1, id_="c2", number=2), c.SendBatch)
    assert [b.peer for b in other] == [b"b"]
    ((*_, history),) = rows(book.outcomes(batch, "deferred", code=450, reply="later"))
    book.mono += 2
    for name in (b"a", b"b"):
        book.say(e.FromWorker(name, 0, wire.Heartbeat(1, 0, 0, 0, 1, 0)))
    read = e.RetriesRead(1, [stored_row(history=history)], (0, 0), None)
    assert not only(book.say(read), c.SendBatch)  # a is free, but it has tried; b is only busy
    (retry,) = only(book.outcomes(other[0], "sent"), c.SendBatch)
    assert retry.peer == b"b" and retry.campaign == 1


def test_a_second_hello_gives_nothing_back_that_a_lost_log_may_have_begun() -> None:
    book = Playbook(Settings(heartbeat_s=1, lease_s=10))
    book.hello("a", max_connections=1)
    assert only(book.submit(1), c.SendBatch)
    book.hello("a", peer="a2", log="another", incarnation=2, max_connections=5)
    out = book.hello("a", peer="a3", log="another", incarnation=2, max_connections=5)
    assert not only(out, c.SendBatch) and not rows(out)
