"""The broker with its fail points: the same classes, which reach a named point on their way.

Only a process that was started with --failpoints makes objects of these. What each point means is in
evenpost.runtime.failpoints.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from broker.core.commands import AddCampaign, AddRecipients, Change, SetCampaign, SetMessages, SetSent
from broker.core.events import Event, FromClient, FromWorker, HeldRead, LookedUp, Reopened
from broker.core.message_state import Stored
from broker.gate import Gate
from broker.journal.sqlite import SqliteJournal
from broker.journal.store import JournalError
from broker.service import Broker
from broker.settings import Settings
from evenpost.runtime.failpoints import FailPoints
from evenpost.wire import codec
from evenpost.wire import messages as wire
from evenpost.wire.types import Type

_EVENTS: dict[type, str] = {
    HeldRead: "broker.held_read",
    LookedUp: "broker.looked_up",
    Reopened: "broker.reopened",
}
_RECEIVED: dict[type, str] = {
    wire.Outcomes: "broker.outcomes_received",
    wire.Goodbye: "broker.goodbye_received",
    wire.Pause: "broker.pause_received",
    wire.Cancel: "broker.cancel_received",
    wire.SetServer: "broker.set_server_received",
    wire.RetryFailed: "broker.retry_received",
}
_BEFORE_SENT: dict[int, str] = {
    Type.RECIPIENTS_STORED: "broker.before_recipients_stored",
    Type.SUBMIT_OK: "broker.before_submit_ok",
    Type.DONE: "broker.before_done",
    Type.WORKER_WELCOME: "broker.before_welcome",
    Type.BATCH: "broker.before_batch",
    Type.OUTCOMES_COMMITTED: "broker.before_outcomes_committed",
    Type.GOODBYE_OK: "broker.before_goodbye_ok",
}
_AFTER_SENT: dict[int, str] = {
    Type.RECIPIENTS_STORED: "broker.after_recipients_stored",
    Type.SUBMIT_OK: "broker.after_submit_ok",
    Type.DONE: "broker.after_done",
    Type.WORKER_WELCOME: "broker.after_welcome",
    Type.BATCH: "broker.after_batch",
    Type.OUTCOMES_COMMITTED: "broker.after_outcomes_committed",
}


class FailingJournal(SqliteJournal):
    def __init__(self, path: Path, points: FailPoints) -> None:
        self._points = points
        self._has_outcomes = False
        super().__init__(path)

    def _hit(self, name: str) -> None:
        try:
            self._points.hit(name)
        except OSError as error:
            raise JournalError(f"can't write the journal {self.path}: {error.strerror}") from None

    def _value(self, sql: str, bindings: Sequence[Any] = ()) -> Any:
        if bindings == ("boot",):  # what opening writes last, after every migration
            self._hit("broker.opening")
        return super()._value(sql, bindings)

    def _recount(self, number: int) -> None:
        super()._recount(number)
        self._hit("broker.opening_recount")

    def apply(self, changes: Iterable[Change]) -> None:
        changes = list(changes)
        kinds = {type(change) for change in changes}
        ends = any(isinstance(change, SetCampaign) and change.finished_at for change in changes)
        self._has_outcomes |= bool(kinds & {SetSent, SetMessages})
        if AddCampaign in kinds:
            self._hit("broker.before_submission_insert")
        if AddRecipients in kinds:
            self._hit("broker.before_recipients_insert")
        if ends:
            self._hit("broker.before_finish")
        super().apply(changes)
        if AddCampaign in kinds:
            self._hit("broker.after_submission_insert")
        if AddRecipients in kinds:
            self._hit("broker.after_recipients_insert")
        if ends:
            self._hit("broker.after_finish")

    def commit(self) -> None:
        has_outcomes, self._has_outcomes = self._has_outcomes, False
        if has_outcomes:
            self._hit("broker.before_outcomes_commit")
        self._hit("broker.before_commit")
        super().commit()
        if has_outcomes:
            self._hit("broker.after_outcomes_commit")
        self._hit("broker.after_commit")

    def reopen(self, campaign: int) -> None:
        super().reopen(campaign)
        self._hit("broker.reopen_marked")

    def restate(
        self, campaign: int, index_from: int, index_to: int, states: Sequence[Stored], due_at: int
    ) -> dict[Stored, int]:
        changed = super().restate(campaign, index_from, index_to, states, due_at)
        self._hit("broker.reopen_piece")
        return changed


class FailingBroker(Broker):
    def __init__(self, settings: Settings, points: FailPoints) -> None:
        self._points = points
        super().__init__(settings)

    def _open_journal(self, path: Path) -> SqliteJournal:
        return FailingJournal(path, self._points)

    def _handle(self, event: Event) -> None:
        told = event.message if isinstance(event, FromClient | FromWorker) else None
        name = _EVENTS.get(type(event)) if told is None else _RECEIVED.get(type(told))
        if name is not None:
            self._points.hit(name)
        super()._handle(event)

    def _open_gate(self, *given: Any, **options: Any) -> Gate:
        return FailingGate(self._points, *given, **options)


class FailingGate(Gate):
    def __init__(self, points: FailPoints, *given: Any, **options: Any) -> None:
        self._points = points
        super().__init__(*given, **options)

    def send(self, peer: bytes, frames: list[bytes]) -> bool:
        type_ = codec.type_of(frames)
        self._points.hit(_BEFORE_SENT.get(type_, ""))
        sent = super().send(peer, frames)
        self._points.hit(_AFTER_SENT.get(type_, ""))
        return sent


def failing(points: FailPoints) -> Callable[[Settings], Broker]:
    """What makes the broker of a process that is to fail at these points; says so in the log."""
    points.warn()
    return lambda settings: FailingBroker(settings, points)
