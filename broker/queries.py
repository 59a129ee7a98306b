"""Clients' questions, answered from memory and journal: STATUS, REPORT, TRACE, EXPLAIN, SERVERS."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from broker.core import views
from broker.core.dispatcher import Dispatcher
from broker.core.explain import explanation
from broker.core.message_state import Stored, index_of
from broker.core.state import Campaign, Phase
from broker.journal.store import Journal, ReportLine
from broker.retention import compacted_error
from evenpost.runtime.clock import Now
from evenpost.wire import codec
from evenpost.wire import messages as wire
from evenpost.wire.errors import Code

SCAN_ROWS_MAX = 50_000
"""Rows that one page of a filtered report looks at: 20 ms or so; the next page goes on from there."""

Answer = Callable[[wire.Message], None]


class Reader(Protocol):
    """What runs a read of the journal when its turn comes: `done` gets what `run` gave."""

    def read(self, run: Callable[[], Any], done: Callable[[Any], None]) -> None: ...


class Queries:
    def __init__(self, core: Dispatcher, journal: Journal, queue: Reader) -> None:
        self._core = core
        self._state = core.state
        self._journal = journal
        self._queue = queue

    def status(self, request: wire.Status, now: Now, answer: Answer) -> None:
        if request.campaign is not None:
            self.one_status(request.campaign, now, answer)
            return

        def read() -> list[wire.CampaignStatus]:
            ids = self._journal.newest_campaigns(request.limit)
            found = (self._state.by_id.get(id_) or self._journal.campaign(id_) for id_ in ids)
            return [self.campaign(campaign, now) for campaign in found if campaign is not None]

        self._queue.read(read, lambda statuses: answer(wire.StatusReply(statuses)))

    def one_status(self, id_: str, now: Now, answer: Answer) -> None:
        def done(campaign: Campaign | None) -> None:
            if campaign is None:
                answer(_not_found(id_))
            else:
                answer(wire.StatusReply([self.campaign(campaign, now)]))

        self._find(id_, done)

    def campaign(self, campaign: Campaign, now: Now) -> wire.CampaignStatus:
        return views.campaign_status(campaign, self._state, self._core.balancer, now)

    def _find(self, id_: str, done: Callable[[Campaign | None], None]) -> None:
        campaign = self._state.by_id.get(id_)
        if campaign is not None:
            done(campaign)
        else:
            self._queue.read(lambda: self._journal.campaign(id_), done)

    def cancelled(self, id_: str, answer: Answer, otherwise: Callable[[], None]) -> None:
        """Answers DONE where the campaign has ended because it was cancelled."""

        def done(campaign: Campaign | None) -> None:
            if campaign is not None and campaign.phase is Phase.CANCELLED and campaign.finished_at:
                answer(wire.Done(campaign.counts.get(Stored.CANCELLED, 0)))
            else:
                otherwise()

        self._find(id_, done)

    def report(self, request: wire.Report, answer: Answer) -> None:
        def done(campaign: Campaign | None) -> None:
            if campaign is None:
                answer(_not_found(request.campaign))
            elif campaign.compacted_at:
                answer(compacted_error(campaign))
            else:
                self._queue.read(lambda: self._report_page(campaign, request), answer)

        self._find(request.campaign, done)

    def _report_page(self, campaign: Campaign, request: wire.Report) -> wire.ReportPage:
        states = views.stored_states(request.only, campaign)
        upto = min(request.after + SCAN_ROWS_MAX, campaign.total - 1) if states else campaign.total - 1
        lines: Sequence[ReportLine] = []
        if not request.only or states:
            lines = self._journal.report(campaign.number, request.after, upto, states, request.limit)
        rows = [self._row(line, campaign) for line in lines]
        if request.only:
            rows = [row for row in rows if row.state in request.only]
        last = index_of(lines[-1].id) if len(lines) == request.limit else upto
        return wire.ReportPage(rows, last if last < campaign.total - 1 else None)

    def trace(self, request: wire.Trace, answer: Answer) -> None:
        def read() -> wire.TracePage:
            rows = []
            campaigns: dict[int, Campaign | None] = {}
            for line in self._journal.trace(request.address, request.limit):
                number = line.id >> 32
                if number not in campaigns:
                    in_memory = self._state.campaigns.get(number)
                    campaigns[number] = in_memory or self._journal.campaign_by_number(number)
                campaign = campaigns[number]
                if campaign is not None:
                    rows.append(self._row(line, campaign))
            compacted = self._journal.meta("compacted")
            return wire.TracePage(rows, compacted, self._journal.meta("compacted_upto"))

        self._queue.read(read, answer)

    def _row(self, line: ReportLine, campaign: Campaign) -> wire.ReportRow:
        state = views.message_state(Stored(line.state), campaign)
        message = self._state.live.get(line.id)
        if message is not None and message.batch:
            state = "sending"
        history = codec.unpack_values(line.history) if line.history else []
        if line.state != Stored.SENT:
            history = history[:-1]  # the last one is the row itself
        return wire.ReportRow(
            campaign=campaign.id,
            index=index_of(line.id),
            address=line.address,
            state=state,
            code=line.code,
            reply=line.reply,
            worker=line.worker,
            server=line.server,
            attempts=line.attempts,
            first_at=line.first_at,
            last_at=line.last_at,
            due_at=line.due_at if state == "deferred" else 0,
            history=[wire.Attempt(*attempt) for attempt in history],
        )

    def explain(self, request: wire.Explain, now: Now, answer: Answer) -> None:
        def done(campaign: Campaign | None) -> None:
            if campaign is None:
                answer(_not_found(request.campaign))
            elif request.index is None:
                answer(self._explanation(campaign, None, now))
            elif request.index >= campaign.total:
                text = f"campaign {campaign.id} has messages 0 to {campaign.total - 1}"
                answer(wire.Error(Code.NOT_FOUND, text))
            elif campaign.compacted_at:
                answer(compacted_error(campaign))
            else:
                index = request.index
                page = wire.Report(campaign.id, index - 1, 1)
                self._queue.read(
                    lambda: self._report_page(campaign, page),
                    lambda found: answer(self._explanation(campaign, next(iter(found.rows), None), now)),
                )

        self._find(request.campaign, done)

    def _explanation(self, campaign: Campaign, row: wire.ReportRow | None, now: Now) -> wire.Explanation:
        return explanation(self._state, self._core.balancer, campaign, row, now)

    def workers(self, now: Now) -> list[wire.WorkerStatus]:
        by_name = sorted(self._state.workers.values(), key=lambda worker: worker.name)
        return [views.worker_status(worker, self._core.balancer, now) for worker in by_name]


def _not_found(id_: str) -> wire.Error:
    return wire.Error(Code.NOT_FOUND, f"no campaign {id_!r}: `evenpost status` lists the newest")
