"""RETRY_FAILED in the journal, piece by piece, so that a campaign of millions holds nothing up."""

from collections.abc import Callable

from broker.core.commands import Reopen
from broker.core.events import Event, NotReopened, Reopened
from broker.core.message_state import Stored
from broker.core.state import Campaign, Phase
from broker.journal.group_commit import GroupCommit
from broker.journal.store import Journal
from broker.retention import compacted_error
from evenpost.wire import messages as wire
from evenpost.wire.errors import Code

PIECE_ROWS = 50_000


class Reopening:
    """One RETRY_FAILED on its way through the journal; ends in Reopened or NotReopened."""

    def __init__(
        self,
        command: Reopen,
        journal: Journal,
        queue: GroupCommit,
        raise_event: Callable[[Event], None],
        wall: Callable[[], int],
    ) -> None:
        """`wall`: the time (ms since the epoch)."""
        self._command = command
        self._journal = journal
        self._queue = queue
        self._raise = raise_event
        self._wall = wall
        self._changed: dict[Stored, int] = {}

    def start(self) -> None:
        id_ = self._command.campaign
        self._queue.read(lambda: self._journal.campaign(id_), self._found)

    def _found(self, campaign: Campaign | None) -> None:
        id_ = self._command.campaign
        if campaign is None:
            self._refuse(wire.Error(Code.NOT_FOUND, f"no campaign {id_!r}"))
        elif campaign.phase in (Phase.OPEN, Phase.CANCELLED):
            text = f"campaign {id_} is {campaign.phase.name.lower()}: there is nothing to retry"
            self._refuse(wire.Error(Code.WRONG_STATE, text))
        elif campaign.compacted_at:
            self._refuse(compacted_error(campaign))
        else:
            number = campaign.number
            # From here on the campaign's row says that its counts may be wrong, should we be cut short.
            self._queue.write_call(lambda: self._journal.reopen(number), lambda _: None, 1)
            self._piece(campaign, 0)

    def _refuse(self, error: wire.Error) -> None:
        command = self._command
        self._raise(NotReopened(command.peer, command.request, command.campaign, error))

    def _piece(self, campaign: Campaign, index: int) -> None:
        upto = min(index + PIECE_ROWS, campaign.total)

        def run() -> dict[Stored, int]:
            if campaign.closed_as is not None:
                self._journal.end_open_rows(campaign.number, index, upto, campaign.closed_as)
            return self._journal.restate(campaign.number, index, upto, self._command.states, self._wall())

        def done(changed: dict[Stored, int]) -> None:
            for stored, count in changed.items():
                self._changed[stored] = self._changed.get(stored, 0) + count
            if upto < campaign.total:
                self._piece(campaign, upto)
            else:
                # As it is now: outcomes may have come late while the pieces were being written.
                self._queue.read(lambda: self._journal.campaign(campaign.id), self._ended)

        self._queue.write_call(run, done, PIECE_ROWS // 10)

    def _ended(self, campaign: Campaign | None) -> None:
        assert campaign is not None
        if campaign.compacted_at:  # retention was faster: it began before our first piece
            self._refuse(compacted_error(campaign))
            return
        self._raise(Reopened(self._command.peer, self._command.request, campaign, self._changed))
