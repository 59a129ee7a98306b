"""One batch over one connection at a time, as worker/batch_run.py and worker/smtp/progress.py take it."""

from collections import deque
from typing import TYPE_CHECKING

from evenpost.wire.messages import BatchItem
from worker.smtp.outcome import Cause, Result, Stage, failure
from worker.smtp.pool import RECONNECTS_MAX
from worker.vocabulary import Held

if TYPE_CHECKING:
    from scripts.simulation.pool import Connection, Pool

REFUSAL_S = 0.001
"""From an envelope to the reply that refuses it."""


class Run:
    """One batch on its way: a message at a time, the next one's envelope with the present one's content."""

    def __init__(self, pool: "Pool", held: Held) -> None:
        self._pool = pool
        self._held = held
        self._owner = pool.owner
        self._connection: Connection | None = None
        self._taken: deque[BatchItem] = deque()
        """Taken, and nothing of it has been begun."""
        self._begun: BatchItem | None = None
        self._began_at = 0
        self._results = 0
        self._results_before = 0
        self._was_answered = False
        """The server has said something of a recipient: it works."""
        self._unknown = False
        self._throttled: Result | None = None
        self._reused = False
        self._stalled = 0

    def _peek(self) -> BatchItem | None:
        """The next message, if there is one and the server hasn't asked for less."""
        return None if self._throttled is not None else self._first()

    def _first(self) -> BatchItem | None:
        if not self._taken and (item := self._held.take()) is not None:
            self._taken.append(item)
        return self._taken[0] if self._taken else None

    def go(self) -> None:
        """It has a slot."""
        if self._peek() is None:
            self._finish(self._throttled)
            return
        connection = self._pool.idle()
        self._reused = connection is not None
        if connection is None:
            self._pool.want(self)
        else:
            self.use(connection)

    def use(self, connection: "Connection") -> None:
        self._connection = connection
        self._results_before = self._results
        connection.take_up(self)
        self._next()

    def failed(self, reason: Result) -> None:
        """There is no connection to be had."""
        self._finish(reason)

    def _next(self) -> None:
        connection = self._connection
        assert connection is not None
        item = self._peek()
        if item is None:
            self._connection = None
            if self._was_answered:
                self._pool.batch_ended(throttled=self._throttled is not None)
            self._pool.give(connection)
            self._finish(self._throttled)
            return
        answer = self._pool.server.envelope(connection)
        if answer == "silence":
            connection.limit_time(self._pool.limits.envelope_s, Stage.RCPT)
        elif answer == "welcome":
            self._content(connection, item)
        else:
            result = answer
            self._owner.host.after(REFUSAL_S, lambda: self._refused(connection, item, result))

    def _refused(self, connection: "Connection", item: BatchItem, result: Result) -> None:
        if self._connection is not connection:
            return  # lost in the meantime: the message waits for another connection
        self._taken.popleft()
        connection.messages += 1
        self._note(item, result)
        self._next()

    def _content(self, connection: "Connection", item: BatchItem) -> None:
        self._taken.popleft()
        if self._held.revoked or not self._owner.may_begin():
            self._note(item, failure(Cause.GIVEN_UP, Stage.CONTENT, "given up before its content was sent"))
            self._owner.host.after(0.0, lambda: self._go_on(connection))
            return
        host, log, held = self._owner.host, self._owner.log, self._held
        self._owner.begins(held, item)
        self._begun, self._began_at = item, host.wall()
        log.begin(held.number, held.campaign, item.index, item.attempt, self._began_at)
        log.flush()
        self._peek()  # its envelope leaves with this content
        connection.limit_time(self._pool.limits.dot_s, Stage.DOT)
        process = host.process

        def answered(result: Result) -> None:
            if host.process == process:
                host.bound(lambda: self._answered(connection, result))()

        self._pool.server.content(connection, held.campaign << 32 | item.index, answered)

    def _go_on(self, connection: "Connection") -> None:
        if self._connection is connection:
            self._next()

    def _answered(self, connection: "Connection", result: Result) -> None:
        if self._connection is not connection or self._begun is None:
            return
        connection.heard()
        connection.messages += 1
        item, self._begun = self._begun, None
        self._note(item, result, self._began_at)
        self._next()

    def lost(self, why: Result) -> None:
        """The connection has ended under it."""
        is_new = self._connection is not None and self._connection.messages == 0
        self._connection = None
        if self._begun is not None:
            item, self._begun = self._begun, None
            self._unknown = True
            unknown = Result("unknown", Stage.DOT, 0, None, why.text, "server")
            self._note(item, unknown, self._began_at)
        if self._unknown:
            self._finish(why)
            return
        if self._results > self._results_before:
            self._stalled = 0
        elif not self._reused:
            self._stalled += 1
            if is_new and self._pool.is_too_many(why):
                self._finish(why)
                return
        if self._stalled > RECONNECTS_MAX:
            self._finish(why)
        else:
            self.go()

    def _finish(self, reason: Result | None) -> None:
        if reason is not None:
            while self._first() is not None:
                self._note(self._taken.popleft(), reason)
        self._pool.release()
        self._owner.ended(self._held)

    def _note(self, item: BatchItem, result: Result, began_at: int = 0) -> None:
        held, owner = self._held, self._owner
        self._results += 1
        del held.on_wire[item.index]
        if result.scope == "recipient":
            self._was_answered |= result.code > 0
        elif result.kind != "unknown":
            result = self._pool.seen(result)
            if result.scope == "throttled":
                self._throttled = result
        if result.kind == "not_sent" and held.revoked and not began_at:
            return
        ended_at = owner.host.wall()
        if not 0 < began_at < ended_at:
            began_at = ended_at
        owner.log.add(
            (held.number, held.campaign, item.index, item.attempt, result.kind, result.scope, result.code,
             result.text, began_at, ended_at)
        )  # fmt: skip
