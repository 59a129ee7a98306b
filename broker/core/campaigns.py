"""A campaign's life: opened, filled, committed; paused, resumed, cancelled, reopened; expired, finished."""

from msgspec.structs import replace

from broker.core import ready
from broker.core.commands import (
    AddCampaign,
    AddRecipients,
    Change,
    Command,
    Log,
    Persist,
    Raise,
    Reopen,
    Reply,
    SetCampaign,
    SetQuota,
    ToWorker,
)
from broker.core.events import CampaignStored, FromClient, NotReopened, Reopened, SubmissionOpened
from broker.core.groups import domain_of
from broker.core.message_state import Stored, Stripe, message_id
from broker.core.settings import Settings
from broker.core.state import Campaign, Phase, State
from evenpost.runtime.clock import Now
from evenpost.schedule.rate import RateError, parse_rate
from evenpost.schedule.window import WindowError, parse_window
from evenpost.wire import limits
from evenpost.wire import messages as wire
from evenpost.wire.errors import Code

SMALL_ROWS_MAX = 100
"""Recipients of a campaign that is sent from what came in, without a read of the journal."""
STRIPES_MAX = 16
"""Parts of a list that are read side by side."""

_RESTATED = {"bounced": Stored.BOUNCED, "expired": Stored.EXPIRED, "held": Stored.HELD}


def refuse(peer: bytes, request: int, code: Code, message: str) -> Reply:
    return Reply(peer, request, wire.Error(code, message))


def opened(state: State, event: SubmissionOpened, now: Now) -> list[Command]:
    """OPEN_CAMPAIGN: a new campaign, or the one that this submission id made before."""
    request = event.message
    campaign = state.by_submission.get(request.submission) or event.known
    if campaign is not None:
        if campaign.fingerprint != event.fingerprint:
            text = (
                f"submission id {request.submission!r} was used before, for campaign {campaign.id}, with "
                "another list, template or options: choose another id for this one"
            )
            return [refuse(event.peer, event.request, Code.CONFLICT, text)]
        if campaign.phase is Phase.CANCELLED and not campaign.marks:
            text = f"campaign {campaign.id} was cancelled before all its recipients came: choose another id"
            return [refuse(event.peer, event.request, Code.WRONG_STATE, text)]
        committed = campaign.phase is not Phase.OPEN
        known = wire.CampaignOpen(campaign.id, campaign.chunks, campaign.total, committed)
        # Behind everything that is being written: "stored" has to be true when the client reads it.
        return [Persist((), (Reply(event.peer, event.request, known),))]
    wrong = schedule_problem(request.options)
    if wrong:
        return [refuse(event.peer, event.request, Code.BAD_MESSAGE, wrong)]
    options = with_sender_pool(state.settings, request)
    expire_at = request.options.expire_at or now.wall + int(state.settings.lifetime_s * 1000)
    campaign = Campaign(
        number=event.new_number,
        id=event.new_id,
        submission=request.submission,
        template=event.packed_template,
        fingerprint=event.fingerprint,
        options=options,
        created_at=now.wall,
        expire_at=expire_at,
    )
    know(state, campaign, now)
    fields = {"campaign": campaign.id, "name": request.options.name, "submission": request.submission}
    return [
        Persist((AddCampaign(campaign),)),
        Reply(event.peer, event.request, wire.CampaignOpen(campaign.id, 0, 0, False)),
        Log("info", "campaign.opened", fields),
    ]


def recipients(state: State, event: FromClient, request: wire.Recipients) -> list[Command]:
    """RECIPIENTS: the next chunk; one that is stored already is acknowledged again."""
    campaign = state.by_id.get(request.campaign)
    if campaign is None:
        text = f"no open campaign {request.campaign!r}: open it again with the same submission id"
        return [refuse(event.peer, event.request, Code.NOT_FOUND, text)]
    stored = Reply(event.peer, event.request, wire.RecipientsStored(campaign.id, request.chunk))
    if request.chunk < campaign.chunks:
        return [Persist((), (stored,))]
    if campaign.phase is not Phase.OPEN:
        text = f"campaign {campaign.id} is committed: it takes no more recipients"
        return [refuse(event.peer, event.request, Code.WRONG_STATE, text)]
    if request.chunk > campaign.chunks:
        text = f"chunk {request.chunk} came where {campaign.chunks} was expected: send from there"
        return [refuse(event.peer, event.request, Code.OUT_OF_ORDER, text)]
    if campaign.total + len(request.rows) > limits.RECIPIENTS_MAX:
        text = f"a campaign has at most {limits.RECIPIENTS_MAX} recipients: split it"
        return [refuse(event.peer, event.request, Code.TOO_LARGE, text)]
    rows = AddRecipients(campaign.number, campaign.total, request.rows)
    if campaign.total + len(request.rows) > SMALL_ROWS_MAX:
        campaign.early.clear()
    elif len(campaign.early) == campaign.total:
        first = message_id(campaign.number, campaign.total)
        campaign.early.extend((first + n, row.address, row.values, 0) for n, row in enumerate(request.rows))
    campaign.chunks += 1
    campaign.total += len(request.rows)
    return [Persist((rows, SetCampaign.of(campaign)), (stored,))]


def committed(state: State, event: FromClient, request: wire.Commit) -> list[Command]:
    """COMMIT: the campaign is whole. SUBMIT_OK follows the flush, and so does the first message."""
    campaign = state.by_id.get(request.campaign)
    if campaign is None:
        text = f"no open campaign {request.campaign!r}: open it again with the same submission id"
        return [refuse(event.peer, event.request, Code.NOT_FOUND, text)]
    if (request.chunks, request.recipients) != (campaign.chunks, campaign.total):
        text = (
            f"{campaign.chunks} chunks with {campaign.total} recipients are stored, COMMIT says "
            f"{request.chunks} with {request.recipients}: send from chunk {campaign.chunks}"
        )
        return [refuse(event.peer, event.request, Code.OUT_OF_ORDER, text)]
    if campaign.total == 0:
        text = "a campaign needs at least one recipient"
        return [refuse(event.peer, event.request, Code.WRONG_STATE, text)]
    done = Reply(event.peer, event.request, wire.SubmitOk(campaign.id, campaign.total))
    if campaign.phase is not Phase.OPEN:
        return [Persist((), (done,))]
    # A backup had it without all its recipients: whether it was sent since, nobody here can know.
    campaign.phase = Phase.PAUSED if campaign.restored else Phase.ACTIVE
    open_stripes(campaign, state.settings.page_rows)
    return [
        Persist((SetCampaign.of(campaign),), (done, Raise(CampaignStored(campaign.number)))),
        Log("info", "campaign.accepted", {"campaign": campaign.id, "recipients": campaign.total}),
    ]


def pause(state: State, event: FromClient, request: wire.Pause) -> list[Command]:
    return _switch(state, event, request.campaign, Phase.ACTIVE, Phase.PAUSED, "campaign.paused")


def resume(state: State, event: FromClient, request: wire.Resume) -> list[Command]:
    return _switch(state, event, request.campaign, Phase.PAUSED, Phase.ACTIVE, "campaign.resumed")


def _switch(
    state: State, event: FromClient, id_: str, before: Phase, after: Phase, name: str
) -> list[Command]:
    campaign = state.by_id.get(id_)
    if campaign is None or campaign.closed_as is not None:
        return [_not_running(event, id_)]
    done = Reply(event.peer, event.request, wire.Done())
    if campaign.phase is after:
        return [done]
    if campaign.phase is not before:
        text = f"campaign {id_} is {campaign.phase.name.lower()}"
        return [refuse(event.peer, event.request, Code.WRONG_STATE, text)]
    campaign.phase = after
    campaign.restored = campaign.restored and after is Phase.PAUSED
    state.awake[campaign.number] = campaign
    out: list[Command] = [Persist((SetCampaign.of(campaign),), (done,)), Log("info", name, {"campaign": id_})]
    if after is Phase.PAUSED:
        out.extend(call_back(state, campaign))
    return out


def cancel(state: State, event: FromClient, request: wire.Cancel, now: Now) -> list[Command]:
    """CANCEL: what is on a wire ends as it ends; nothing else is begun."""
    campaign = state.by_id.get(request.campaign)
    if campaign is None or campaign.closed_as is Stored.EXPIRED:
        return [_not_running(event, request.campaign)]
    left = campaign.unfinished - campaign.in_flight
    if campaign.closed_as is Stored.CANCELLED:
        return [Reply(event.peer, event.request, wire.Done(max(0, left)))]
    campaign.phase = Phase.CANCELLED
    _close(state, campaign, Stored.CANCELLED)
    done = Reply(event.peer, event.request, wire.Done(max(0, left)))
    return [
        Persist((SetCampaign.of(campaign),), (done,)),
        Log("info", "campaign.cancelled", {"campaign": campaign.id, "messages": left}),
        *call_back(state, campaign),
        *finish_if_done(state, campaign, now),
    ]


def retry_failed(state: State, event: FromClient, request: wire.RetryFailed) -> list[Command]:
    """RETRY_FAILED: the journal makes the messages due again; `reopened` takes it from there."""
    campaign = state.by_id.get(request.campaign)
    if campaign is not None:
        if campaign.phase in (Phase.OPEN, Phase.CANCELLED) or campaign.closed_as or campaign.reopening:
            text = f"campaign {campaign.id} can't be retried just now: it is open, closing or being retried"
            return [refuse(event.peer, event.request, Code.WRONG_STATE, text)]
        campaign.reopening = True
    elif request.campaign in state.reopening:
        text = f"campaign {request.campaign} is being retried: wait"
        return [refuse(event.peer, event.request, Code.WRONG_STATE, text)]
    state.reopening.add(request.campaign)
    only = dict.fromkeys(request.only)  # each once: what is restated twice would be counted as nothing
    states = tuple(_RESTATED[name] for name in only) or tuple(_RESTATED.values())
    return [Reopen(event.peer, event.request, request.campaign, states)]


def not_reopened(state: State, event: NotReopened) -> list[Command]:
    state.reopening.discard(event.campaign)
    if (campaign := state.by_id.get(event.campaign)) is not None:
        campaign.reopening = False
    return [Reply(event.peer, event.request, event.error)]


def reopened(state: State, event: Reopened, now: Now) -> list[Command]:
    state.reopening.discard(event.campaign.id)
    campaign = state.campaigns.get(event.campaign.number)
    if campaign is None:
        campaign = event.campaign
        campaign.closed_as = None
        campaign.stored = True
        know(state, campaign, now)
        for stripe in campaign.stripes:
            stripe.low_water = stripe.read_upto = stripe.upto - 1
    campaign.reopening = False
    campaign.phase = Phase.PAUSED if campaign.phase is Phase.PAUSED else Phase.ACTIVE
    campaign.finished_at = 0
    changed = sum(event.changed.values())
    for stored, count in event.changed.items():
        campaign.count(stored, -count)
    campaign.count(Stored.DEFERRED, changed)
    campaign.retries_read = (0, 0)
    campaign.reading_upto = 0
    state.awake[campaign.number] = campaign
    if changed:
        campaign.next_due = now.wall
        if campaign.expire_at <= now.wall:
            campaign.expire_at = now.wall + int(state.settings.lifetime_s * 1000)
    done = Reply(event.peer, event.request, wire.Done(changed))
    return [
        Persist((SetCampaign.of(campaign),), (done,)),
        Log("info", "campaign.retried", {"campaign": campaign.id, "messages": changed}),
        *finish_if_done(state, campaign, now),
    ]


def expire(state: State, campaign: Campaign, now: Now) -> list[Command]:
    """`expire_at` has come: what wasn't sent by now isn't sent any more."""
    left = campaign.unfinished - campaign.in_flight
    _close(state, campaign, Stored.EXPIRED)
    return [
        Persist((SetCampaign.of(campaign),)),
        Log("warning", "campaign.expired", {"campaign": campaign.id, "messages": left}),
        *call_back(state, campaign),
        *finish_if_done(state, campaign, now),
    ]


def call_back(state: State, campaign: Campaign) -> list[Command]:
    """Tells workers to begin nothing more of a campaign. They say `done` of those batches when what is on
    the wire has ended; what has no outcome then was never begun."""
    batches: dict[bytes, list[int]] = {}
    for batch in state.batches.values():
        if batch.campaign is campaign and batch.worker.peer and not batch.leaving:
            batches.setdefault(batch.worker.peer, []).append(batch.number)
    return [ToWorker(peer, wire.Revoke(numbers)) for peer, numbers in batches.items()]


def _close(state: State, campaign: Campaign, stored: Stored) -> None:
    campaign.closed_as = stored
    ready.clear(state, campaign)


def finish_if_done(state: State, campaign: Campaign, now: Now) -> list[Command]:
    """The end of a campaign, if this is it: every message has its outcome."""
    if campaign.in_flight or campaign.reopening or campaign.phase is Phase.OPEN:
        return []
    if campaign.number not in state.campaigns:
        return []
    if campaign.closed_as is not None:
        campaign.count(campaign.closed_as, campaign.unfinished)
        campaign.counts.pop(Stored.DEFERRED, None)
    elif campaign.unfinished:
        return []
    campaign.phase = Phase.CANCELLED if campaign.closed_as is Stored.CANCELLED else Phase.FINISHED
    campaign.finished_at = now.wall
    state.forget(campaign)
    counts = {stored.name.lower(): count for stored, count in campaign.counts.items() if count}
    fields = {"campaign": campaign.id, "total": campaign.total, **counts}
    changes: list[Change] = [SetCampaign.of(campaign)]
    changes.extend(SetQuota(key, None) for key in state.quotas.retire(campaign, now))
    return [Persist(tuple(changes)), Log("info", "campaign.finished", fields)]


def know(state: State, campaign: Campaign, now: Now) -> None:
    """Takes a campaign into memory: with its limits, and with the parts of its list."""
    options = campaign.options
    campaign.bucket = state.quotas.of_campaign(campaign, now)
    campaign.window = parse_window(options.window)
    if campaign.phase is not Phase.OPEN:
        open_stripes(campaign, state.settings.page_rows)
    state.know(campaign)


def open_stripes(campaign: Campaign, page_rows: int) -> None:
    """Divides a campaign's list, or finds the division that the journal has."""
    first, total = message_id(campaign.number, 0), campaign.total
    if not campaign.marks:
        count = max(1, min(STRIPES_MAX, total // page_rows))
        campaign.marks = tuple(first + total * n // count - 1 for n in range(count))
    count = len(campaign.marks)
    campaign.stripes = [
        Stripe(upto=first + total * (n + 1) // count, low_water=mark, read_upto=mark)
        for n, mark in enumerate(campaign.marks)
    ]


def schedule_problem(options: wire.Options) -> str:
    """What is wrong with a rate or a window; empty where nothing is."""
    try:
        parse_rate(options.rate)
        parse_window(options.window)
    except (RateError, WindowError) as error:
        return str(error)
    return ""


def with_sender_pool(settings: Settings, request: wire.OpenCampaign) -> wire.Options:
    """The options with the pool that the settings name for the sender's domain, where they name none."""
    options = request.options
    if options.pool is not None:
        return options
    domain = sender_domain(request.template.sender)
    for rule in settings.senders:
        if rule.domain == domain:
            return replace(options, pool=rule.pool, overflow=options.overflow or rule.overflow)
    return options


def sender_domain(sender: str) -> str:
    """Of `Name <local@domain>` or `local@domain (Name)`; something that no rule names where it is neither.
    Without email.utils.parseaddr: it calls itself for each parenthesis, a thousand times if need be."""
    _, _, address = sender.rpartition("<")
    domain, _, _ = domain_of(address).partition("(")
    return domain.strip().removesuffix(">")


def _not_running(event: FromClient, id_: str) -> Reply:
    text = f"no campaign {id_!r} that could still change: it is unknown or has ended"
    return refuse(event.peer, event.request, Code.NOT_FOUND, text)
