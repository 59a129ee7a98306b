"""One batch on its way over one connection: composes, checks the lease, logs, notes outcomes.

The pool asks for envelopes and contents and tells results; all of it is plain calls, because this runs for
each message. A message is composed when its envelope is asked for, one ahead of the one being sent: while
the server thinks about that one, and early enough that one that can't be composed costs no connection.
"""

from typing import Protocol

from evenpost.compose import ComposeError, TemplateError
from evenpost.runtime import clock
from evenpost.wire import codec, limits
from evenpost.wire.errors import WireError
from evenpost.wire.messages import BatchItem
from worker.outcome_log import OutcomeLog, OutcomeLogError
from worker.outcome_rows import OutcomeRow
from worker.smtp.connection import WithheldError
from worker.smtp.content import WireContent
from worker.smtp.events import Envelope
from worker.smtp.outcome import Result
from worker.templates import Composing
from worker.vocabulary import Held

AHEAD_BYTES_MAX = 256 * 1024
"""Larger messages are composed only when the server waits for them: memory, one of them a connection."""


class Owner(Protocol):
    """What a run needs of the worker."""

    log: OutcomeLog
    hears_sent: bool

    def may_begin(self, mono: float) -> bool:
        """Whether a content may be written now."""

    def has_lease(self, mono: float) -> bool:
        """Whether what was begun may be ended."""

    def outcome(self, held: Held, item: BatchItem, kind: str, code: int, reply: str) -> None:
        """Hears of each outcome, of `sent` only where `hears_sent`."""

    def noted(self) -> None:
        """The log got the outcome of a message that was begun: it is to be in the file soon."""

    def log_failed(self, error: OutcomeLogError) -> None: ...

    def composing_failed(self, held: Held, error: Exception) -> None: ...


class BatchRun:
    """A worker.smtp Batch."""

    __slots__ = ("_began_at", "_contents", "_held", "_log", "_owner", "_template", "_uncomposed", "_wall")

    def __init__(self, owner: Owner, held: Held, template: Composing | None) -> None:
        self._owner = owner
        self._held = held
        self._template = template
        self._log = owner.log
        self._contents: dict[int, bytes] = {}
        self._began_at: dict[int, int] = {}
        self._uncomposed: dict[int, str] = {}
        self._wall = clock.now().wall
        """As of the last content or result: near enough for a Date."""

    def next(self) -> Envelope | None:
        held, template = self._held, self._template
        while (item := held.take()) is not None:
            if template is None:
                self._refuse(item, "not_sent", "no template for this campaign")
                continue
            try:
                composer = template.composer
                values = codec.unpack_values(item.values)
                sender = composer.envelope_from
                if sender is None:
                    sender, recipient = composer.envelope(item.address, values)
                else:
                    recipient = composer.recipient(item.address)
                size = template.usual_bytes
                if size <= AHEAD_BYTES_MAX:
                    # What a composer gives is what WireContent demands: 7-bit, CRLF, no line that begins
                    # with a dot. To check that again would cost as much as to compose it.
                    content = composer.compose(item.index, item.address, values, self._wall / 1_000)
                    self._contents[item.index] = content
                    size = template.usual_bytes = len(content)
            except Exception as error:  # noqa: BLE001  # see _why
                self._refuse(item, "bounced", self._why(error))
                continue
            return Envelope(sender, recipient, size, item.index)
        return None

    def content(self, envelope: Envelope) -> WireContent | None:
        index = envelope.key
        now = clock.now()
        held = self._held
        if held.revoked or not self._owner.may_begin(now.mono):
            return None
        self._wall = now.wall
        item = held.on_wire[index]
        content = self._contents.pop(index, None)
        if content is None:  # it is large, or a connection broke under it
            try:
                content = self._compose(item)
            except Exception as error:  # noqa: BLE001  # see _why
                self._uncomposed[index] = self._why(error)
                return None
        self._began_at[index] = now.wall
        self._log.begin(held.number, held.campaign, index, item.attempt, now.wall)
        return WireContent(content)

    def before_write(self) -> None:
        """What was begun goes into the file, and with it what other connections began in this turn."""
        try:
            self._log.flush()
        except OutcomeLogError as error:
            self._owner.log_failed(error)
            raise WithheldError from None

    def may_end(self) -> bool:
        """A large content takes a while: the lease may be over, or the batch may be another's meanwhile."""
        return not self._held.revoked and self._owner.has_lease(clock.now().mono)

    def result(self, envelope: Envelope, result: Result) -> None:
        held, index, kind = self._held, envelope.key, result.kind
        item = held.on_wire.pop(index)
        ended_at = self._wall = clock.now().wall
        began_at = self._began_at.pop(index, 0)
        if kind != "sent":
            self._contents.pop(index, None)
            if (why := self._uncomposed.pop(index, None)) is not None:
                self._note(item, "bounced", why)
                return
            if kind == "not_sent" and held.revoked and not began_at:
                return
        reply = f"{result.enhanced} {result.text}" if result.enhanced else result.text
        if len(reply) > limits.REPLY_CHARS_MAX:
            reply = reply[: limits.REPLY_CHARS_MAX]
        if not 0 < began_at < ended_at:
            began_at = ended_at
        row = (
            held.number, held.campaign, index, item.attempt,
            kind, result.scope, result.code, reply, began_at, ended_at,
        )  # fmt: skip
        self._log.add(row)
        self._owner.noted()
        if kind != "sent" or self._owner.hears_sent:
            self._owner.outcome(held, item, kind, result.code, reply)

    def _compose(self, item: BatchItem) -> bytes:
        assert self._template is not None
        values = codec.unpack_values(item.values)
        content = self._template.composer.compose(item.index, item.address, values, self._wall / 1_000)
        self._template.usual_bytes = len(content)
        return content

    def _why(self, error: Exception) -> str:
        """What the report says of a message that can't be composed. A fault of ours in composing ends here
        too: it is this message's misfortune; a worker that died of it would hand it on to the next one."""
        if isinstance(error, ComposeError | TemplateError | WireError):
            return f"message not composed: {error}"
        self._owner.composing_failed(self._held, error)
        return f"message not composed, by a bug in Evenpost: {error!r}"

    def _refuse(self, item: BatchItem, kind: str, reply: str) -> None:
        """An outcome before anything was sent."""
        del self._held.on_wire[item.index]
        self._note(item, kind, reply)

    def _note(self, item: BatchItem, kind: str, reply: str) -> None:
        self._log.add(plain_row(self._held, item, kind, reply, clock.now().wall))
        self._owner.outcome(self._held, item, kind, 0, reply)


def plain_row(held: Held, item: BatchItem, kind: str, reply: str, wall: int) -> OutcomeRow:
    """The outcome of a message that never saw a server."""
    reply = reply.encode(errors="replace").decode()[: limits.REPLY_CHARS_MAX]
    return (held.number, held.campaign, item.index, item.attempt, kind, "recipient", 0, reply, wall, wall)
