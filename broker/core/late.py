"""Outcomes that come late: again after a lost answer, after a restart of the broker, or from a worker that
was taken for dead. The journal's row decides what is news."""

from broker.core import campaigns, ready
from broker.core.batches import leave
from broker.core.commands import Command, Persist, SetCampaign, SetMessages, ToWorker
from broker.core.events import LookedUp, StoredRow
from broker.core.outcomes import Row, end, news_of, remember, row_of, verdict
from broker.core.state import Campaign, Message, News, PlainAttempt, State, Stored, message_id
from broker.core.worker_state import Worker
from evenpost.runtime.clock import Now
from evenpost.wire import codec
from evenpost.wire.messages import Outcome, OutcomesCommitted


def looked_up(state: State, event: LookedUp, now: Now) -> list[Command]:
    """Writes what is news in a report and then confirms it."""
    worker = state.workers[event.worker]
    worker.looking_up -= 1
    for id_, news in state.news.items():
        if id_ in event.rows:
            event.rows[id_] = _with_news(event.rows[id_], news)
    rows: list[Row] = []
    touched: dict[int, Campaign] = {}
    for outcome in event.outcomes:
        id_ = message_id(outcome.campaign, outcome.index)
        stored = event.rows.get(id_)
        campaign = _campaign(state, event, outcome.campaign)
        if stored is None or campaign is None or not _tried(outcome):
            continue
        row = _late(state, campaign, worker, outcome, stored, now)
        touched[campaign.number] = campaign
        if row is not None:
            rows.append(row)
            # Two outcomes of one message in a report: the second sees what the first made of it.
            event.rows[id_] = _with_news(stored, news_of(row, worker))
            if campaign.reading:
                campaign.settled_while_reading.add(id_)
    remember(state, worker, rows)
    changes: list[SetMessages | SetCampaign] = [SetMessages(rows)] if rows else []
    changes.extend(SetCampaign.of(c) for c in touched.values())
    confirm = ToWorker(event.peer, OutcomesCommitted(event.upto))
    out: list[Command] = [Persist(tuple(changes), (confirm,))]
    for campaign in touched.values():
        out.extend(campaigns.finish_if_done(state, campaign, now))
    state.looking_up -= 1
    if not state.looking_up:
        state.news.clear()
        state.ended.clear()
    return out


def _campaign(state: State, event: LookedUp, number: int) -> Campaign | None:
    campaign = state.campaigns.get(number) or state.ended.get(number)
    if campaign is None and number in event.campaigns:
        campaign = state.ended[number] = event.campaigns[number]
    return campaign


def _with_news(stored: StoredRow, news: News) -> StoredRow:
    state, attempts, code, reply, worker, ended_at = news
    return stored._replace(
        state=state, attempts=attempts, code=code, reply=reply, worker=worker, ended_at=ended_at
    )


def _tried(outcome: Outcome) -> bool:
    return outcome.kind != "not_sent" and not (outcome.kind == "deferred" and outcome.scope != "recipient")


def _late(
    state: State, campaign: Campaign, worker: Worker, outcome: Outcome, stored: StoredRow, now: Now
) -> Row | None:
    message = state.live.get(message_id(outcome.campaign, outcome.index))
    if message is not None:
        return _in_memory(campaign, state, worker, outcome, message)
    before = Stored(stored.state)
    if before in (Stored.QUEUED, Stored.DEFERRED) and campaign.finished_at and campaign.closed_as is not None:
        before = campaign.closed_as
    told = (stored.attempts, stored.worker, stored.ended_at)
    if (outcome.attempt, worker.name, outcome.ended_at) == told:
        return None  # told again, because the first confirmation was lost
    news = outcome.attempt > stored.attempts
    # `sent` is true whenever it is told; everything else only if nobody has told of this attempt yet.
    if before is Stored.SENT or (outcome.kind != "sent" and (before.final or not news)):
        campaign.duplicates += outcome.kind == "sent"
        campaign.unknown += outcome.kind == "unknown"
        return None
    id_ = message_id(outcome.campaign, outcome.index)
    message = Message(id_, "", b"", stored.attempts, earlier=history(stored))
    after, due_at = verdict(state, campaign, message, outcome, now)
    campaign.attempts += news
    if before is not Stored.QUEUED:
        campaign.count(before, -1)
    campaign.count(after)
    return row_of(message, after, worker, outcome, due_at)


def _in_memory(
    campaign: Campaign, state: State, worker: Worker, outcome: Outcome, message: Message
) -> Row | None:
    """The message is ready or in flight elsewhere when its earlier attempt is told of. `sent` ends it; if
    another worker has it just now, its own outcome will say whether that made two."""
    stored = Stored.SENT
    if outcome.kind == "unknown":
        campaign.unknown += 1
        stored = Stored.HELD
    if outcome.kind not in ("sent", "unknown"):
        return None
    if stored is Stored.HELD and (message.batch or campaign.options.on_unknown != "hold"):
        return None
    if message.batch:
        del state.batches[message.batch].messages[message.id]
        leave(campaign, message)
    else:
        ready.remove(campaign, message)
    end(state, campaign, message, stored)
    return row_of(message, stored, worker, outcome, None)


def history(stored: StoredRow) -> tuple[PlainAttempt, ...]:
    """All attempts that the journal has of a message, oldest first."""
    return tuple(codec.unpack_values(stored.history)) if stored.history else ()
