"""What workers report of messages, and what follows from it."""

from collections.abc import Iterable, Iterator
from itertools import groupby
from operator import attrgetter

from broker.core import batches, campaigns
from broker.core.balancer import Balancer, in_service
from broker.core.commands import (
    Change,
    Command,
    Log,
    LookUp,
    Persist,
    SetCampaign,
    SetMessages,
    SetSent,
    ToWorker,
)
from broker.core.message_state import INDEX_BITS, Message, News, Stored, Stripe
from broker.core.retry import retry_class, wait_s
from broker.core.state import Batch, Campaign, State
from broker.core.worker_state import Worker
from evenpost.runtime.clock import Now
from evenpost.wire import codec, limits
from evenpost.wire import messages as wire
from evenpost.wire.messages import Outcome

Row = tuple[int, int, int, int, str, int, int, int, int | None, bytes | None]
"""What SetMessages takes."""
SentRow = tuple[int, int, int, str, int, int, int]
"""What SetSent takes."""

_TOOK_TIME = ("sent", "deferred", "bounced")
"""What the pace of a server is measured by: a refusal of everything is fast, and says nothing of it."""
LOST = "the worker was lost and its lease has ended"
"""The reply of an attempt that counts as unknown because its worker stays away: it may tell yet."""
UNKNOWN_MAX = 3
"""Attempts whose outcome stayed unknown after which a message is held: each may have been a copy."""


def reported(
    state: State, balancer: Balancer, worker: Worker, report: wire.Outcomes, now: Now
) -> list[Command]:
    """OUTCOMES: written, then confirmed. What isn't in memory is looked up first."""
    rows: list[Row] = []
    sent: list[SentRow] = []
    unknown_here: list[Outcome] = []
    out: list[Command] = []
    touched: dict[int, Campaign] = {}
    for number, outcomes in groupby(report.rows, attrgetter("batch")):
        batch = state.batches.get(number)
        if batch is None or batch.worker is not worker:
            unknown_here.extend(outcomes)
            continue
        touched[batch.campaign.number] = batch.campaign
        for outcome, message in _taken(state, batch, outcomes, sent, unknown_here):
            _note_times(batch, outcome)
            _settle(state, batch, message, outcome, now, rows, out)
    worker.seen_upto = max(worker.seen_upto, report.first + len(report.rows))
    for number in report.done:
        batch = state.batches.get(number)
        if batch is not None and batch.worker is worker:
            batches.done(state, batch)
            touched[batch.campaign.number] = batch.campaign
            out.extend(batches.give_back(state, batch, now))
    changes: list[Change] = []
    if rows:
        changes.append(SetMessages(rows))
    if sent:
        changes.append(SetSent(sent))
    if changes:
        changes.extend(current(state, touched.values()))
    remember(state, worker, rows)
    if state.looking_up:
        for id_, attempts, code, reply, _, _, ended_at in sent:
            state.news[id_] = (Stored.SENT, attempts, code, reply, worker.name, ended_at, None)
    upto = report.first + len(report.rows)
    if unknown_here or worker.looking_up:
        # It confirms all rows before it too: so it waits its turn behind those that are being looked up.
        worker.looking_up += 1
        state.looking_up += 1
        out.append(Persist(tuple(changes)))
        out.append(LookUp(worker.name, unknown_here, worker.peer, upto))
    else:
        confirm = ToWorker(worker.peer, wire.OutcomesCommitted(upto))
        out.append(Persist(tuple(changes), (confirm,)))
    for campaign in touched.values():
        out.extend(campaigns.finish_if_done(state, campaign, now))
    if worker.unheld and not worker.replaying:
        out.extend(batches.give_back_unheld(state, worker, now))
    balancer.update(worker, now.mono)
    return out


def current(state: State, touched: Iterable[Campaign]) -> Iterator[SetCampaign]:
    """What the journal has to know of campaigns. Of one that has ended it knows more by now: a late outcome
    may have been counted there, and a batch's end brings nothing new."""
    return (SetCampaign.of(c) for c in touched if state.campaigns.get(c.number) is c)


def _taken(
    state: State,
    batch: Batch,
    outcomes: Iterable[Outcome],
    sent: list[SentRow],
    unknown_here: list[Outcome],
) -> list[tuple[Outcome, Message]]:
    """Of a batch's outcomes those of messages that the server took at their first try: nearly all that comes,
    so in one go, and counted together. The others are for `_settle`."""
    others: list[tuple[Outcome, Message]] = []
    campaign, worker = batch.campaign, batch.worker.number
    messages, live = batch.messages, state.live
    settled = campaign.settled_while_reading if campaign.reading else None
    began, ended, answered, attempted, before = batch.began_at, batch.ended_at, 0, 0, len(sent)
    timed = 0
    for outcome in outcomes:
        id_ = outcome.campaign << INDEX_BITS | outcome.index
        message = messages.pop(id_, None)
        if message is None:
            unknown_here.append(outcome)
            continue
        page = message.page
        if outcome.kind != "sent" or page is None or message.retry:
            others.append((outcome, message))
            continue
        code, began_at, ended_at = outcome.code, outcome.began_at, outcome.ended_at
        if outcome.scope == "recipient":
            if code:
                answered += 1
            if ended_at:
                timed += 1
                if not began or began_at < began:
                    began = began_at
                if ended_at > ended:
                    ended = ended_at
        message.batch = 0
        attempts = message.attempts
        if outcome.attempt > attempts:  # else the journal has counted this very attempt, as lost
            attempts = outcome.attempt
            attempted += 1
        live.pop(id_, None)
        if settled is not None:
            settled.add(id_)
        page.outstanding -= 1
        if not page.outstanding:
            move_low_water(page.stripe)
        sent.append((id_, attempts, code, outcome.reply, worker, began_at, ended_at))
    batch.began_at, batch.ended_at = began, ended
    batch.outcomes += timed
    batch.answered += answered
    campaign.attempts += attempted
    if count := len(sent) - before:
        campaign.in_flight -= count
        batch.worker.sent += count
        campaign.count(Stored.SENT, count)
    return others


def _note_times(batch: Batch, outcome: Outcome) -> None:
    """What the pace of its server is measured by."""
    if outcome.ended_at and outcome.scope == "recipient" and outcome.kind in _TOOK_TIME:
        if not batch.began_at or outcome.began_at < batch.began_at:
            batch.began_at = outcome.began_at
        if outcome.ended_at > batch.ended_at:
            batch.ended_at = outcome.ended_at
        batch.outcomes += 1


def _settle(
    state: State,
    batch: Batch,
    message: Message,
    outcome: Outcome,
    now: Now,
    rows: list[Row],
    out: list[Command],
) -> None:
    """One outcome of a message that is in flight where it should be."""
    campaign, worker = batch.campaign, batch.worker
    batches.leave(campaign, message)
    kind = outcome.kind
    if outcome.scope != "recipient" and kind in ("deferred", "not_sent", "unknown"):
        if outcome.scope == "throttled":
            batch.throttled = True
        else:
            batch.failed = True
        worker.reason = outcome.reply or f"{outcome.code} without a text"
    if outcome.scope == "recipient" and kind in _TOOK_TIME and outcome.code:
        batch.answered += 1
    if kind == "sent":
        worker.sent += 1
        campaign.attempts += outcome.attempt > message.attempts
        rows.append(row_of(message, Stored.SENT, worker, outcome, None))
        end(state, campaign, message, Stored.SENT)
    elif kind == "not_sent" or (kind == "deferred" and outcome.scope != "recipient"):
        if not outcome.code:
            batches.refund(state, batch, 1, now)
        batches.put_back(state, campaign, message, worker if outcome.scope == "server" else None, now)
    elif (
        kind == "bounced"
        and outcome.scope == "server"
        and another(state, campaign, message.tried | {worker.name})
    ):
        # "Never here" (relaying denied, sender refused, too big): another server may think otherwise.
        batches.put_back(state, campaign, message, worker, now)
        out.append(log_outcome(campaign, worker, outcome, "message.refused", None, now))
    else:
        campaign.attempts += outcome.attempt > message.attempts
        rows.append(not_taken(state, campaign, message, worker, outcome, now))
        name = f"message.{kind}"
        out.append(log_outcome(campaign, worker, outcome, name, rows[-1][8], now))


def another(state: State, campaign: Campaign, tried: frozenset[str]) -> bool:
    """Whether a worker that hasn't tried is in service for this campaign, busy as it may be."""
    return any(in_service(w) and w.name not in tried for w in state.workers.values() if campaign.may_use(w))


def not_taken(
    state: State, campaign: Campaign, message: Message, worker: Worker, outcome: Outcome, now: Now
) -> Row:
    """A message that was tried and not taken: bounced, deferred or unknown."""
    if outcome.kind == "bounced":
        worker.bounced += 1
    elif outcome.kind == "deferred":
        worker.deferred += 1
    stored, due_at = verdict(state, campaign, message, outcome, now)
    end(state, campaign, message, stored)
    return row_of(message, stored, worker, outcome, due_at)


def verdict(
    state: State, campaign: Campaign, message: Message, outcome: Outcome, now: Now
) -> tuple[Stored, int | None]:
    """What a message becomes by an outcome, and when it is due again (ms)."""
    kind, tries = outcome.kind, attempts_after(message, outcome)
    if kind == "sent":
        return Stored.SENT, None
    if kind == "bounced":
        return Stored.BOUNCED, None
    wait = 0.0
    if kind == "unknown":
        campaign.unknown += 1
        before = sum(earlier[2] == "unknown" for earlier in message.earlier)
        if campaign.options.on_unknown == "hold" or before + 1 >= UNKNOWN_MAX:
            return Stored.HELD, None
        tries = before
    if tries:
        class_ = retry_class(outcome.code, outcome.reply, kind)
        settings = state.settings
        wait = wait_s(class_, tries, settings.retry_initial_s, settings.retry_max_s, state.uniform)
    if campaign.closed_as is not None:
        return Stored.DEFERRED, None
    # Never before what was read already, or a clock set back would hide it from the next read.
    due_at = max(now.wall + int(wait * 1000), campaign.reading_upto + 1, campaign.retries_read[0] + 1)
    campaign.next_due = due_at if campaign.next_due is None else min(campaign.next_due, due_at)
    return Stored.DEFERRED, due_at


def row_of(message: Message, stored: Stored, worker: Worker, outcome: Outcome, due_at: int | None) -> Row:
    earlier = message.earlier
    if stored is not Stored.SENT:  # the row's state will change, and what this attempt came to would be lost
        earlier = (*earlier, (outcome.ended_at, worker.name, outcome.kind, outcome.code, outcome.reply))
    return (
        message.id,
        stored,
        attempts_after(message, outcome),
        outcome.code,
        outcome.reply,
        worker.number,
        outcome.began_at,
        outcome.ended_at,
        due_at,
        codec.pack(earlier[-limits.ATTEMPTS_KEPT_MAX :]) if earlier else None,
    )


def attempts_after(message: Message, outcome: Outcome) -> int:
    """One more than before, unless the journal has counted this very attempt, as lost."""
    return max(message.attempts, outcome.attempt)


def remember(state: State, worker: Worker, rows: list[Row]) -> None:
    """What was decided, for look-ups whose answer is older than that."""
    if state.looking_up:
        for row in rows:
            state.news[row[0]] = news_of(row, worker)


def news_of(row: Row, worker: Worker) -> News:
    return row[1], row[2], row[3], row[4], worker.name, row[7], row[9]


def log_outcome(
    campaign: Campaign, worker: Worker, outcome: Outcome, event: str, due_at: int | None, now: Now
) -> Log:
    fields = {
        "campaign": campaign.id,
        "message": outcome.index,
        "batch": outcome.batch,
        "worker": worker.name,
        "server": worker.server,
        "attempt": outcome.attempt,
        "code": outcome.code,
        "reply": outcome.reply,
    }
    if due_at is not None:
        fields["retry_in_s"] = round((due_at - now.wall) / 1000, 1)
    return Log("info", event, fields)


def end(state: State, campaign: Campaign, message: Message, stored: Stored) -> None:
    """The journal is about to know the message in this state: it leaves memory."""
    state.live.pop(message.id, None)
    if campaign.reading:
        campaign.settled_while_reading.add(message.id)
    if message.retry:
        campaign.count(Stored.DEFERRED, -1)
    campaign.count(stored)
    if message.page is not None:
        message.page.outstanding -= 1
        move_low_water(message.page.stripe)


def move_low_water(stripe: Stripe) -> None:
    """Past every page of which the journal knows all."""
    pages = stripe.pages
    while pages and pages[0].outstanding == 0:
        stripe.low_water = pages.popleft().last
