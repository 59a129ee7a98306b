"""Clients' questions: who may ask how much, so that mail goes out meanwhile.

A client has a few open at once, and while mail is going out its identity gets a share of the broker's time
for them: what one question takes is measured, whatever it is.
"""

import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

from broker.core.dispatcher import Dispatcher
from broker.guard import Guard
from broker.journal.group_commit import GroupCommit
from broker.journal.store import Journal
from broker.queries import Answer, Queries
from broker.watchers import WATCHES_MAX, Send, Watchers
from evenpost.runtime.clock import Now, now
from evenpost.wire import messages as wire
from evenpost.wire.errors import Code

PAGES_MAX = 4
"""Pages of reports and traces that one client may have open."""
STATUSES_MAX = 100
"""The same of everything else that it asks."""

Question = wire.Status | wire.Watch | wire.Report | wire.Trace | wire.Servers | wire.Explain
_PAGES = (wire.Report, wire.Trace, wire.Explain)


class Questions:
    def __init__(
        self, core: Dispatcher, journal: Journal, queue: GroupCommit, guard: Guard, send: Send
    ) -> None:
        self._state = core.state
        self._queue = queue
        self._guard = guard
        self._open: dict[tuple[bytes, bool], int] = {}
        """By client, and by whether they are pages."""
        self._asker = b""
        """Whose question is being worked on."""
        self._queries = Queries(core, journal, self)
        self._watchers = Watchers(core.state, self._queries, send, self.asking, self._may_ask)

    def ask(self, peer: bytes, request: int, question: Question, answer: Answer, key: str = "") -> None:
        """`key`: the asker's, whose watches end when it is revoked."""
        if self._is_refused(peer, request, isinstance(question, _PAGES), answer):
            return
        with self.asking(peer):
            match question:
                case wire.Watch():
                    if not self._watchers.watch(peer, request, question, now(), key):
                        text = f"{WATCHES_MAX} watches of this connection are open: let one of them lapse"
                        answer(wire.Error(Code.BUSY, text))
                case wire.Status():
                    self._queries.status(question, now(), self._counted(peer, False, answer))
                case wire.Report():
                    self._queries.report(question, self._counted(peer, True, answer))
                case wire.Trace():
                    self._queries.trace(question, self._counted(peer, True, answer))
                case wire.Explain():
                    self._queries.explain(question, now(), self._counted(peer, True, answer))
                case wire.Servers():
                    answer(wire.ServersReply(self._queries.workers(now())))

    def cancelled_before(
        self, peer: bytes, request: int, id_: str, answer: Answer, otherwise: Callable[[], None]
    ) -> None:
        """CANCEL of a campaign that isn't in memory. Where the broker died before its client had the answer,
        the client asks again: it is cancelled, as it wished. The journal is asked, so it is a question."""
        if not self._is_refused(peer, request, False, answer):
            with self.asking(peer):
                self._queries.cancelled(id_, answer, otherwise)

    def tick(self, now: Now) -> None:
        self._watchers.tick(now)

    def forget(self, peer: bytes) -> None:
        """A client that has gone or doesn't read watches no more."""
        self._watchers.forget(peer)

    def revoke(self, keys: Collection[str]) -> None:
        """Whoever came by one of these keys watches no more."""
        self._watchers.revoke(keys)

    def read(self, run: Callable[[], Any], done: Callable[[Any], None]) -> None:
        """As the journal's queue; the time that it takes is the asker's."""
        peer = self._asker

        def timed_run() -> Any:
            with self.asking(peer):
                return run()

        def timed_done(found: Any) -> None:
            with self.asking(peer):
                done(found)

        self._queue.read(timed_run, timed_done)

    @contextmanager
    def asking(self, peer: bytes) -> Iterator[None]:
        """What is done in here is done for this peer's question."""
        before, self._asker = self._asker, peer
        began = time.monotonic()
        try:
            yield
        finally:
            self._asker = before
            ended = time.monotonic()
            self._guard.asked(peer, ended - began, ended)

    def _may_ask(self, peer: bytes) -> bool:
        return self._guard.may_ask(peer, now().mono, contended=bool(self._state.batches))

    def _is_refused(self, peer: bytes, request: int, pages: bool, answer: Answer) -> bool:
        if not (refusal := self._refusal(peer, pages)):
            return False
        if self._guard.may_answer(peer, now().mono):
            answer(wire.Error(Code.BUSY, refusal))
        else:  # to tell a flooder would cost more than to hear it
            self._guard.answered(peer, request)
        return True

    def _refusal(self, peer: bytes, pages: bool) -> str:
        most = PAGES_MAX if pages else STATUSES_MAX
        if self._open.get((peer, pages), 0) >= most:
            return f"{most} of your questions are open: wait"
        if not self._may_ask(peer):
            return "mail is going out, and your questions took their share of the broker's time: wait"
        return ""

    def _counted(self, peer: bytes, pages: bool, answer: Answer) -> Answer:
        """One question of this peer is open until it is answered."""
        key = (peer, pages)
        self._open[key] = self._open.get(key, 0) + 1

        def counted(reply: wire.Message) -> None:
            self._open[key] -= 1
            if not self._open[key]:
                del self._open[key]
            answer(reply)

        return counted
