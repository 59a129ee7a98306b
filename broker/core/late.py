"""Outcomes that come late: again after a lost answer, after a restart of the broker, or from a worker that
was taken for dead. The journal's row decides what is news."""

from collections.abc import Iterable

from broker.core import campaigns, ready
from broker.core.batches import leave
from broker.core.commands import Command, LookUp, Persist, SetCampaign, SetHistory, SetMessages, ToWorker
from broker.core.events import LookedUp, StoredRow
from broker.core.message_state import Message, News, PlainAttempt, Stored, message_id
from broker.core.outcomes import LOST, Row, end, news_of, remember, row_of, verdict
from broker.core.state import Campaign, State
from broker.core.worker_state import Worker
from evenpost.runtime.clock import Now
from evenpost.wire import codec, limits
from evenpost.wire.messages import Outcome, OutcomesCommitted


def looked_up(state: State, event: LookedUp, now: Now) -> list[Command]:
    """Writes what is news in a report and then confirms it."""
    if state.reopening and any(_is_reopening(state, event, o.campaign) for o in event.outcomes):
        # What its rows and counts are is being changed piece by piece: ask again behind that.
        return [LookUp(event.worker, event.outcomes, event.peer, event.upto)]
    worker = state.workers[event.worker]
    worker.looking_up -= 1
    for id_, news in state.news.items():
        if id_ in event.rows:
            event.rows[id_] = _with_news(event.rows[id_], news)
    rows: list[Row] = []
    histories: dict[int, bytes] = {}
    touched: dict[int, Campaign] = {}
    for outcome in event.outcomes:
        id_ = message_id(outcome.campaign, outcome.index)
        stored = event.rows.get(id_)
        campaign = _campaign(state, event, outcome.campaign)
        if stored is None or campaign is None or not _tried(outcome):
            continue
        row = _late(state, campaign, worker, outcome, stored, histories, now)
        touched[campaign.number] = campaign
        if id_ in histories:
            event.rows[id_] = stored._replace(history=histories[id_])
        if row is not None:
            rows.append(row)
            histories.pop(id_, None)  # the row has it all
            # Two outcomes of one message in a report: the second sees what the first made of it.
            event.rows[id_] = _with_news(stored, news_of(row, worker))
            # Before its COMMIT is on disk: what came in is at hand, and would be sent as if nobody had tried.
            if campaign.reading or not campaign.stored:
                campaign.settled_while_reading.add(id_)
    remember(state, worker, rows)
    _remember_histories(state, event, histories)
    changes: list[SetMessages | SetHistory | SetCampaign] = [SetMessages(rows)] if rows else []
    if histories:
        changes.append(SetHistory(list(histories.items())))
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


def _is_reopening(state: State, event: LookedUp, number: int) -> bool:
    """Whether a campaign that isn't in memory is being retried."""
    campaign = event.campaigns.get(number)
    return campaign is not None and campaign.id in state.reopening and number not in state.campaigns


def _campaign(state: State, event: LookedUp, number: int) -> Campaign | None:
    campaign = state.campaigns.get(number) or state.ended.get(number)
    if campaign is None and number in event.campaigns:
        campaign = state.ended[number] = event.campaigns[number]
    return campaign


def _with_news(stored: StoredRow, news: News) -> StoredRow:
    state, attempts, code, reply, worker, ended_at, history = news
    return stored._replace(
        state=state, attempts=attempts, code=code, reply=reply, worker=worker, ended_at=ended_at,
        history=stored.history if history is None else history,
    )  # fmt: skip


def _remember_histories(state: State, event: LookedUp, histories: Iterable[int]) -> None:
    """As `remember`: `event.rows` is up to date with them."""
    if state.looking_up > 1:
        for id_ in histories:
            row = event.rows[id_]
            told = (row.state, row.attempts, row.code, row.reply, row.worker, row.ended_at)
            state.news[id_] = (*told, row.history)


def _tried(outcome: Outcome) -> bool:
    return outcome.kind != "not_sent" and not (outcome.kind == "deferred" and outcome.scope != "recipient")


def _late(
    state: State,
    campaign: Campaign,
    worker: Worker,
    outcome: Outcome,
    stored: StoredRow,
    histories: dict[int, bytes],
    now: Now,
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
        earlier = history(stored)
        known = with_late(campaign, worker, outcome, earlier)
        if known != earlier:
            histories[stored.id] = codec.pack(known)
        return None
    id_ = message_id(outcome.campaign, outcome.index)
    message = Message(id_, "", b"", stored.attempts, earlier=history(stored))
    after, due_at = verdict(state, campaign, message, outcome, now)
    if after is Stored.DEFERRED and campaign.finished_at:
        return None  # held, and nobody would ever try it again
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
        stored = Stored.HELD
        counted_before = campaign.unknown
        known = with_late(campaign, worker, outcome, message.earlier)
        is_news = campaign.unknown > counted_before
        if not is_news or message.batch or campaign.options.on_unknown != "hold":
            message.earlier = known
            return None
    elif outcome.kind != "sent":
        return None
    if message.batch:
        del state.batches[message.batch].messages[message.id]
        leave(campaign, message)
    else:
        ready.remove(campaign, message)
    end(state, campaign, message, stored)
    return row_of(message, stored, worker, outcome, None)


def with_late(
    campaign: Campaign, worker: Worker, outcome: Outcome, earlier: tuple[PlainAttempt, ...]
) -> tuple[PlainAttempt, ...]:
    """The attempts of a message, as they were and as they are with one that is told of when another one has
    decided what the message is. Counts what nobody counted: a broker that died while the worker was away
    could not know that the attempt was unknown when it gave the message to others. Told again, it changes
    nothing."""
    attempt = (outcome.ended_at, worker.name, outcome.kind, outcome.code, outcome.reply)
    if attempt in earlier or outcome.kind not in ("sent", "unknown"):
        return earlier
    if outcome.kind == "sent":
        campaign.duplicates += 1
        copies = 1 + sum(kind == "sent" for _, _, kind, _, _ in earlier)
        campaign.unknown += copies > sum(kind == "unknown" for _, _, kind, _, _ in earlier)
        return _kept((attempt, *earlier))
    for place, (_, name, kind, _, reply) in enumerate(earlier):
        if (name, kind, reply) == (worker.name, "unknown", LOST):  # it counts since its lease ended
            return (*earlier[:place], attempt, *earlier[place + 1 :])
    campaign.unknown += 1
    return _kept((attempt, *earlier))


def _kept(attempts: tuple[PlainAttempt, ...]) -> tuple[PlainAttempt, ...]:
    """The last one stays the last: it is what the message's row says."""
    return attempts[: limits.ATTEMPTS_KEPT_MAX - 1] + attempts[limits.ATTEMPTS_KEPT_MAX - 1 :][-1:]


def history(stored: StoredRow) -> tuple[PlainAttempt, ...]:
    """All attempts that the journal has of a message, oldest first."""
    return tuple(map(tuple, codec.unpack_values(stored.history))) if stored.history else ()
