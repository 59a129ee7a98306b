"""Why a campaign or a message went where it went, or why it waits: in words, and until when."""

from broker.core.balancer import Balancer, load
from broker.core.groups import Group
from broker.core.message_state import Stored, message_id
from broker.core.sending import tail_s
from broker.core.state import Campaign, Phase, State
from broker.core.worker_state import Worker
from evenpost.runtime.clock import Now
from evenpost.schedule.rate import rate_text
from evenpost.wire import limits
from evenpost.wire import messages as wire

Reason = wire.Reason
_NEVER = float("inf")
_RESTORED = (
    "it is paused, since it came out of a backup: what was sent after that would be sent again, unless its "
    "worker still tells; `evenpost resume` goes on"
)
_DUE_AGAIN = "deferred messages are due again"


def waiting_for(state: State, balancer: Balancer, campaign: Campaign, now: Now) -> str:
    """Why nothing of a campaign is in flight, in words; empty where something is."""
    if campaign.in_flight or not campaign.unfinished or campaign.closed_as is not None:
        return ""
    if campaign.phase is Phase.PAUSED and not campaign.restored:
        return ""
    found = reasons(state, balancer, campaign, now)
    if not found:
        return ""
    first = found[0]
    more = f" (and {len(found) - 1} more: `evenpost explain`)" if len(found) > 1 else ""
    to_go = "" if first.until is None else f", {in_words(first.until - now.wall)} to go"
    return first.text + to_go + more


def in_words(ms: int) -> str:
    seconds = max(0, round(ms / 1000))
    if seconds < 120:
        return f"{seconds} s"
    return f"{seconds // 60} min" if seconds < 7_200 else f"{seconds / 3_600:.1f} h"


def reasons(state: State, balancer: Balancer, campaign: Campaign, now: Now) -> list[Reason]:
    """What holds a campaign up, the weightiest first. Empty where messages may go just now."""
    if campaign.phase is Phase.OPEN or not campaign.stored:
        return [Reason("its recipients are still coming in")]
    if campaign.closed_as is not None or not campaign.unfinished:
        return []
    if campaign.phase is Phase.PAUSED:
        if campaign.restored:
            return [Reason(_RESTORED)]
        return [Reason("it is paused: `evenpost resume` goes on")]
    if (campaign.options.start_at or 0) > now.wall:
        return [Reason("its start_at has not come", campaign.options.start_at)]
    if campaign.window is not None and not campaign.window.is_open(now.wall):
        text = f"its window {campaign.options.window} is closed"
        return [Reason(text, campaign.window.opens_at(now.wall))]
    if state.recovering_until is not None:
        text = "the broker has restarted and waits for its workers' reports"
        return [Reason(text, _wall(state.recovering_until, now))]
    if state.halted:
        return [Reason(state.halted)]
    found = _of_rates(campaign, now)
    found.extend(_of_workers(state, balancer, campaign, now))
    nothing_due = not campaign.waiting and not campaign.unresolved and not campaign.in_flight
    if nothing_due and campaign.fresh_done and campaign.counts.get(Stored.DEFERRED):
        found.insert(0, Reason(_DUE_AGAIN, campaign.next_due))
    elif campaign.unresolved and not campaign.waiting:
        found.append(Reason("the mail exchangers of its recipients' domains are being looked up"))
    return found


def _of_rates(campaign: Campaign, now: Now) -> list[Reason]:
    found = []
    if campaign.bucket is not None and not campaign.bucket.available(now.mono, 1):
        text = f"no token: its own rate is {campaign.options.rate}"
        found.append(Reason(text, _wall(campaign.bucket.next_at(now.mono), now)))
    waiting: dict[Group, int] = {}  # a group has a lane for each set of workers that failed its messages
    for lane, messages in campaign.lanes.items():
        if lane.group is not None:
            waiting[lane.group] = waiting.get(lane.group, 0) + len(messages)
    for group, count in waiting.items():
        why, until = _why_not_group(group, now)
        if why:
            wait = "1 message waits" if count == 1 else f"{count} messages wait"
            found.append(Reason(f"{why}: {wait} for it", until))
    return found


def _why_not_group(group: Group, now: Now) -> tuple[str, int | None]:
    if group.bucket is not None and not group.bucket.available(now.mono, 1):
        text = f"no token for {group.name} ({group.settings.rate})"
        return text, _wall(group.bucket.next_at(now.mono), now)
    if group.is_full:
        return f"all {group.settings.connections} connections for {group.name} are in use", None
    return "", None


def _of_workers(state: State, balancer: Balancer, campaign: Campaign, now: Now) -> list[Reason]:
    pool, overflow = campaign.options.pool, campaign.options.overflow
    here = [w for w in state.workers.values() if w.connected]
    if not here:
        return [Reason("no worker is connected")]
    here = [w for w in here if campaign.may_use(w)]
    if not here:
        text = f"no connected worker is in pool {pool!r}" + (f" or {overflow!r}" if overflow else "")
        return [Reason(text)]
    refusals = [(w, *why_not(balancer, w, now)) for w in here]
    able = [w for w, why, _ in refusals if not why]
    if able:
        urgent = campaign.urgent or balancer.has_room(pool, urgent=False)
        if not urgent:
            count = balancer.reserve(pool)
            last = "the last free connection is" if count == 1 else f"the last {count} free connections are"
            return [Reason(f"{last} reserved for priority 7 and above")]
        slowest_s = tail_s(balancer, campaign, now)
        if all(worker.seconds_a_message > slowest_s for worker in able):
            return [Reason("its last messages wait a moment for a faster server than those that are free")]
        return []
    shown = sorted(refusals, key=lambda r: r[0].name)[:10]
    return [Reason(f"{worker.name}: {why}", until) for worker, why, until in shown]


def why_not(balancer: Balancer, worker: Worker, now: Now) -> tuple[str, int | None]:
    """Why a worker gets nothing just now, and until when; ("", None) where it may get a batch."""
    breaker = worker.breaker
    if worker.gone:
        return "it said goodbye", None
    if not worker.connected:
        return "it is lost", None
    if not worker.welcomed:
        return "it is just saying hello", None
    if worker.state != "ready":
        return held_by(worker), None
    if breaker.is_open and not breaker.lets_probe(now.mono):
        return f"its breaker is open: {worker.reason}", _wall(breaker.open_until, now)
    if breaker.is_open and worker.batches:
        return f"its breaker is half-open, one message probes it: {worker.reason}", None
    if breaker.paused_until > now.mono:
        return f"its server wants less: {worker.reason}", _wall(breaker.paused_until, now)
    if worker.bucket is not None and not worker.bucket.available(now.mono, 1):
        text = f"no token: its server's rate is {rate_text(worker.bucket.quotas)}"
        return text, _wall(worker.bucket.next_at(now.mono), now)
    limit = balancer.limit(worker, now.mono)
    if worker.in_flight >= limit:
        slow = f" (slow start: {limit} of {worker.limit})" if limit < worker.limit else ""
        taken = f"all {limit} connections are" if limit > 1 else "its one connection is"
        return f"{taken} in use{slow}", None
    return "", None


def held_by(worker: Worker) -> str:
    """Whose words keep it from getting messages, the stricter first; empty where nobody's do. A worker only
    ever drains by itself; why its agent says so, heartbeats don't tell, but the worker's log does."""
    own = "its server's agent, or the worker, which is ending"
    if worker.own_state == "maint":
        own = "its server's agent (`agent.said` in the worker's log tells why)"
    words = [(worker.operator_state, "an operator"), (worker.own_state, own)]
    words.sort(key=lambda word: word[0] != worker.state)
    return "; ".join(f"{word}, says {who}" for word, who in words if word != "ready")


def candidates(state: State, balancer: Balancer, campaign: Campaign, now: Now) -> list[wire.Candidate]:
    """The workers of a campaign's pools, the best first."""
    rows = []
    for worker in state.workers.values():
        if worker.gone or not campaign.may_use(worker):
            continue
        why, until = why_not(balancer, worker, now)
        rows.append(
            wire.Candidate(
                worker=worker.name,
                server=worker.server,
                key=round(balancer.key(worker, now.mono), 6),
                load=load(worker),
                limit=balancer.limit(worker, now.mono),
                weight=round(balancer.weight(worker, now.mono), 2),
                why_not=why if until is None else f"{why} ({in_words(until - now.wall)} to go)",
            )
        )
    rows.sort(key=lambda row: (bool(row.why_not), row.key, row.worker))
    return rows[: limits.EXPLANATION_ROWS_MAX]


def explanation(
    state: State, balancer: Balancer, campaign: Campaign, row: wire.ReportRow | None, now: Now
) -> wire.Explanation:
    """EXPLANATION of a campaign, or of the message in `row`."""
    in_memory = campaign.number in state.campaigns
    found = reasons(state, balancer, campaign, now) if in_memory else []
    who = candidates(state, balancer, campaign, now) if in_memory else []
    if row is None:
        return wire.Explanation(campaign.id, None, _of_campaign(campaign, found), found, who)
    message = state.live.get(message_id(campaign.number, row.index))
    picked = state.picks.of(message_id(campaign.number, row.index))
    pick = None
    if picked is not None:
        choice = picked.choice
        pick = wire.Pick(
            picked.at, picked.batch, choice.worker, choice.key, choice.runner_up, choice.runner_up_key
        )
    if row.state in ("queued", "deferred"):
        own = [Reason(row.reply, row.due_at or None)] if row.state == "deferred" else []
        if message is not None and message.group is not None and not message.batch:
            why, until = _why_not_group(message.group, now)
            own += [Reason(why, until)] if why else []
        found = _merged(campaign, own, found)
    else:
        found = []
    if row.state in ("sending", "sent", "bounced", "held"):
        who = []
    return wire.Explanation(campaign.id, row.index, _of_message(row, pick), found, who, pick, row)


def _merged(campaign: Campaign, own: list[Reason], found: list[Reason]) -> list[Reason]:
    """A message's own reasons and its campaign's, without what says the same again; a pause comes first."""
    if campaign.phase is Phase.PAUSED:
        return [*found, *own]
    said = [f"{reason.text}: " for reason in own]
    if own and own[0].until is not None:
        said.append(_DUE_AGAIN)
    return [*own, *(reason for reason in found if not f"{reason.text}: ".startswith(tuple(said)))]


def _of_campaign(campaign: Campaign, found: list[Reason]) -> str:
    if campaign.finished_at:
        return "It has ended."
    if campaign.closed_as is not None:
        return f"It is {campaign.closed_as.name.lower()}; what is on the wire ends."
    if campaign.in_flight:
        count = campaign.in_flight
        return (
            f"It moves: {count} messages are with workers."
            if count > 1
            else "It moves: 1 message is with a worker."
        )
    return f"It waits: {found[0].text}." if found else "It may send; nothing holds it up."


def _of_message(row: wire.ReportRow, pick: wire.Pick | None) -> str:
    match row.state:
        case "sent":
            return f"{row.worker} sent it through {row.server}: {row.code} {row.reply}"
        case "sending":
            return f"{pick.worker} has it in batch {pick.batch}." if pick else "A worker has it."
        case "bounced":
            return f"{row.server} refused it for good: {row.code} {row.reply}"
        case "held":
            return f"Its outcome is unknown, and a person shall decide: {row.reply}"
        case "deferred":
            return "It is to be tried again."
        case "queued":
            return "It has not been tried yet."
    return f"It is {row.state}."


def _wall(mono: float, now: Now) -> int | None:
    """A monotonic time as milliseconds since the epoch; None for never."""
    return None if mono == _NEVER else now.wall + int((mono - now.mono) * 1000)
