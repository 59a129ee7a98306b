"""Register, heartbeat, lease, drain: everything a worker decides. Pure: events in, commands out.

                    HELLO ->           <- WELCOME                 DrainAsked
    calling  -------------------->  welcomed  ------------------------------------>  GOODBYE, Stop
       ^                                |          all batches ended and confirmed
       +--------------------------------+
         not_found, nothing heard, no connection

A message may be begun only inside the lease. What the end of the lease, a drain or a failure takes from us
goes back as `not_sent`; what is on the wire is finished and reported in any case.
"""

from collections import deque
from typing import Any, Literal, assert_never

from evenpost.runtime.clock import Now
from evenpost.wire import limits, messages
from evenpost.wire.errors import Code
from evenpost.wire.messages import HeldBatch, Message, ServerWord, Type
from worker.lease import Lease
from worker.outcome_rows import Rows
from worker.reporting import Reporter
from worker.vocabulary import (
    CUT_OFF,
    ENDINGS,
    EXIT_UNFINISHED,
    AgentSaid,
    BatchBegun,
    BatchEnded,
    Command,
    DrainAsked,
    Ending,
    Event,
    Flushed,
    FlushLog,
    GiveBack,
    Held,
    LimitChanged,
    Log,
    LogFailed,
    Received,
    SendGoodbye,
    SendHeartbeat,
    SendHello,
    SendOutcomes,
    StartBatch,
    Stop,
    Tick,
    Unsent,
)

HEARTBEAT_S = 1.0
"""Until a WELCOME says otherwise."""
HEARTBEAT_S_MIN = 0.01
"""What a broker asks for below this is not meant."""
NEWS_HEARTBEATS = 0.1
"""A heartbeat that has news goes out this much of the usual pause after the one before."""
MISSED_MAX = 3
"""Heartbeats without a word from the broker: it is lost, or has forgotten us."""
NO_CONNECTION_RETRY_S = 0.1
"""HELLO is tried this often while there is no connection to send it on."""
HELLO_HEARTBEATS_MAX = 5
"""The longest pause between two hellos, in heartbeats."""

BATCHES_REMEMBERED_MAX = 100_000
"""Numbers of ended batches, so that one which comes twice isn't sent twice."""
ERRORS_LOGGED_EVERY_S = 10.0

_NEVER = float("inf")
_LONG_AGO = float("-inf")


class Session:
    """One worker's dealings with its broker."""

    def __init__(self, rows: Rows, *, max_connections: int, drain_timeout_s: float) -> None:
        self.batches: dict[int, Held] = {}
        """All that are here, in the order in which they came."""
        self._rows = rows
        self._reporter = Reporter(rows)
        self._limit = max_connections
        """Batches that run at once: what the server takes just now."""
        self._agent = AgentSaid("ready", None)
        self._drain_timeout_s = drain_timeout_s
        self._waiting: deque[Held] = deque()
        self._running = 0
        """Of those that were started, the ones that aren't `all_begun`."""
        self._all_begun = self._all_begun_most = 0
        """Now, and at most since the last heartbeat."""
        self._ended: dict[int, None] = {}
        self._last_batch = 0

        self._welcomed = False
        self._hello = 0
        """The number of the last hello."""
        self._hellos = 0
        """Hellos since the last welcome."""
        self._broker = ""
        self._heartbeat_s = HEARTBEAT_S
        self._lease = Lease()
        self._lease_lapsed = False
        self._heard_at = _LONG_AGO
        self._speak_at = _LONG_AGO
        """When the next HELLO or HEARTBEAT is due."""
        self._spoke_at = _LONG_AGO
        self._number = 0
        self._error_logged_at = _LONG_AGO
        self._silent_since: float | None = None
        """When the first HELLO of all was due, until a broker answers or that was logged."""

        self._ending: Ending | None = None
        self._reason = ""
        self._give_up_at = _NEVER
        self._goodbye_at = _NEVER
        self._flush = False
        """Whether the log is to be flushed at the end of this turn."""
        self._stopped = False

    # --- what the shell asks ------------------------------------------------------------------------

    def may_begin(self, mono: float) -> bool:
        """Whether a message's content may be written now."""
        return mono < self._lease.end and self._ending is None

    def has_lease(self, mono: float) -> bool:
        """Whether the final dot of a message that has begun may be written now."""
        return mono < self._lease.end

    def wake_at(self) -> float:
        """When a Tick is due, on the monotonic clock."""
        if self._stopped:
            return _NEVER
        times = [self._speak_at, self._give_up_at]
        if self._reporter.settled and not self.batches:
            times.append(self._goodbye_at)
        if self._welcomed:
            times.append(self._heard_at + MISSED_MAX * self._heartbeat_s)
        if self._reporting:
            times.append(self._reporter.due_at())
        if self.batches and not self._lease_lapsed:
            times.append(self._lease.end)
        return min(times)

    @property
    def _reporting(self) -> bool:
        return self._welcomed and self._ending not in CUT_OFF

    # --- events -------------------------------------------------------------------------------------

    def handle(self, event: Event, now: Now) -> list[Command]:
        """What is to be done about `event`, in this order."""
        out: list[Command] = []
        if self._stopped:
            return out
        match event:
            case Received():
                self._receive(event, now, out)
            case BatchEnded():
                self._batch_ended(event.batch)
            case BatchBegun():
                self._batch_begun(event.batch)
            case Flushed():
                if self._reporting:
                    out += [SendOutcomes(report) for report in self._reporter.take(now.mono)]
            case Tick():
                pass  # what is due is seen below
            case Unsent():
                self._unsent(event.type, now)
            case DrainAsked():
                if not self._ending:
                    self._end("drain", event.reason, now, out)
            case LogFailed():
                if self._ending in (None, "drain"):
                    out.append(Log("error", "worker.log_failed", {"reason": event.reason}))
                    self._end("log", event.reason, now, out)
            case LimitChanged(limit):
                self._limit = limit
                self._hurry()
            case AgentSaid():
                self._agent = event
                self._hurry()
            case _:
                assert_never(event)
        self._advance(now, out)
        if self._flush and not self._stopped:
            self._flush = False
            out.append(FlushLog())
        return out

    def _receive(self, event: Received, now: Now, out: list[Command]) -> None:
        self._heard_at = now.mono
        match event.message:
            case messages.WorkerWelcome() as welcome:
                self._welcome(welcome, event.request, now, out)
            case messages.HeartbeatAck(number):
                self._lease.acknowledged(number)
                self._lease_lapsed &= now.mono >= self._lease.end
            case messages.Batch() as batch:
                self._take_batch(batch, now, out)
            case messages.OutcomesCommitted(upto):
                self._reporter.committed(upto, now.mono)
            case messages.CampaignTemplate():
                pass  # the shell keeps it
            case messages.Revoke(batches):
                self._revoke(batches, out)
            case messages.GoodbyeOk():
                if self._goodbye_at < _NEVER and self._reporter.settled and not self.batches:
                    self._stop(out)
            case messages.Error() as error:
                self._refused(error, now, out)
            case other:
                _unexpected(other, out)

    # --- the broker's word --------------------------------------------------------------------------

    def _welcome(self, welcome: messages.WorkerWelcome, request: int, now: Now, out: list[Command]) -> None:
        if request != self._hello:
            return  # of an earlier hello: what the broker knows of us is older than what we said last
        self._hellos = 0
        self._heartbeat_s = max(welcome.heartbeat_s, HEARTBEAT_S_MIN)
        sent = self._lease.welcomed(welcome.lease_s)
        if sent is not None:
            self._lease_lapsed = False
            self._speak_at = sent + self._heartbeat_s
        fields = {"broker": welcome.broker, "lease_s": welcome.lease_s, "outcomes_to_come": len(self._rows)}
        if not self._welcomed or welcome.broker != self._broker:
            out.append(Log("info", "worker.welcomed", fields))
        self._welcomed, self._broker, self._silent_since = True, welcome.broker, _NEVER
        self._revoke(welcome.revoke, out)
        self._reporter.restart(now.mono)
        self._flush = True

    def _refused(self, error: messages.Error, now: Now, out: list[Command]) -> None:
        if error.code == Code.NOT_FOUND:
            if self._welcomed:
                # After a goodbye that is how it should be, unless there is still something to tell.
                known = self._goodbye_at == _NEVER or not self._reporter.settled
                self._lose(
                    "the broker doesn't know this connection", now, out, "warning" if known else "debug"
                )
                self._speak_at = now.mono
        elif error.code == Code.CONFLICT:
            if self._ending != "conflict":
                out.append(Log("error", "worker.taken_over", {"reason": error.message}))
                self._end("conflict", error.message, now, out)
        elif error.code == Code.FORBIDDEN:
            if self._ending != "forbidden":
                out.append(Log("error", "worker.forbidden", {"reason": error.message}))
                self._end("forbidden", error.message, now, out)
        elif error.code == Code.BAD_VERSION:
            if self._ending != "protocol":
                out.append(Log("error", "worker.wrong_version", {"reason": error.message}))
                self._end("protocol", error.message, now, out)
        elif now.mono >= self._error_logged_at + ERRORS_LOGGED_EVERY_S:
            self._error_logged_at = now.mono
            out.append(Log("warning", "worker.refused", {"code": error.code, "reason": error.message}))

    def _lose(
        self, reason: str, now: Now, out: list[Command], level: Literal["debug", "warning"] = "warning"
    ) -> None:
        """HELLO again, until WELCOME."""
        out.append(Log(level, "worker.lost_broker", {"reason": reason}))
        self._welcomed = False
        self._lease.forget_sent()
        self._speak_at = min(self._speak_at, now.mono)

    def _unsent(self, type_: Type, now: Now) -> None:
        if type_ is Type.WORKER_HELLO:
            self._lease.hello_unsent()
            self._hellos -= 1  # nobody is slow to answer what didn't leave
            self._speak_at = now.mono + NO_CONNECTION_RETRY_S
        elif type_ is Type.HEARTBEAT and self._welcomed:
            self._lease.heartbeat_unsent(self._number)
            self._heard_at = _LONG_AGO

    # --- batches ------------------------------------------------------------------------------------

    def _take_batch(self, batch: messages.Batch, now: Now, out: list[Command]) -> None:
        number = batch.batch
        if not self._welcomed:
            return  # sent before the broker read our hello, which doesn't name it: it gives it out again
        if number in self.batches or number in self._ended:
            return
        if len({item.index for item in batch.items}) < len(batch.items):
            out.append(Log("error", "worker.bad_batch", {"batch": number, "reason": "an index comes twice"}))
            return
        self._last_batch = number
        held = Held(number, batch.campaign, batch.items)
        self.batches[number] = held
        self._waiting.append(held)
        if self._ending is not None:
            self._give_back_all(ENDINGS[self._ending][1], out)
        elif now.mono >= self._lease.end:
            self._give_back_all("the lease has ended", out)

    def _batch_ended(self, number: int) -> None:
        held = self.batches[number]
        assert held.running, number
        assert not held.on_wire, held.on_wire
        if held.all_begun:
            self._all_begun -= 1
        else:
            self._running -= 1
        self._forget(held)

    def _batch_begun(self, number: int) -> None:
        held = self.batches[number]
        if not held.all_begun:
            held.all_begun = True
            self._all_begun += 1
            self._all_begun_most = max(self._all_begun_most, self._all_begun)
            self._running -= 1

    def _forget(self, held: Held) -> None:
        del self.batches[held.number]
        self._ended[held.number] = None
        if len(self._ended) > BATCHES_REMEMBERED_MAX:
            del self._ended[next(iter(self._ended))]
        self._reporter.ended(held.number)
        self._flush = True

    def _revoke(self, numbers: list[int], out: list[Command]) -> None:
        revoked = [held for number in numbers if (held := self.batches.get(number)) and not held.revoked]
        for held in revoked:
            held.revoked = True
            held.take_rest()
            if not held.running:
                self._waiting.remove(held)
                self._forget(held)
        if revoked:
            fields = {"batches": [held.number for held in revoked]}
            out.append(Log("info", "worker.batches_revoked", fields))

    def _give_back_all(self, reason: str, out: list[Command]) -> None:
        """Nothing more of any batch is begun."""
        for held in list(self.batches.values()):
            if rest := held.take_rest():
                out.append(GiveBack(held, rest, reason))
            if not held.running:
                self._forget(held)
        self._waiting.clear()
        self._reporter.hurry()
        self._flush = True

    # --- what is due --------------------------------------------------------------------------------

    def _advance(self, now: Now, out: list[Command]) -> None:
        """Whatever time or the last event has made due."""
        mono = now.mono
        while self._waiting and self._running < self._limit:
            held = self._waiting.popleft()
            held.running = True
            self._running += 1
            out.append(StartBatch(held))
        if self.batches and mono >= self._lease.end and not self._lease_lapsed:
            self._lease_lapsed = True
            out.append(Log("warning", "worker.lease_ended", {"batches": len(self.batches)}))
            self._give_back_all("the lease has ended", out)
        if self._welcomed and mono >= self._heard_at + MISSED_MAX * self._heartbeat_s:
            missing = "no connection" if self._heard_at == _LONG_AGO else "nothing heard"
            self._lose(missing, now, out)
        if self._ending:
            self._advance_ending(now, out)
        if mono >= self._speak_at and not self._stopped:
            self._speak(mono, out)
        if self._reporting and mono >= self._reporter.due_at():
            self._flush = True

    @property
    def _state(self) -> ServerWord:
        return "drain" if self._ending else self._agent.state

    def _hurry(self) -> None:
        """The next heartbeat has news."""
        if self._welcomed:
            self._speak_at = min(self._speak_at, self._spoke_at + NEWS_HEARTBEATS * self._heartbeat_s)

    def _speak(self, mono: float, out: list[Command]) -> None:
        self._number += 1
        self._spoke_at = mono
        self._speak_at = mono + self._heartbeat_s
        if self._ending in CUT_OFF:
            return
        if self._welcomed:
            self._flush = True  # for what was confirmed, which nothing else is in a hurry to write down
            self._lease.heartbeat_sent(self._number, mono)
            begun, self._all_begun_most = self._all_begun_most, self._all_begun
            out.append(SendHeartbeat(self._number, self._last_batch, self._state, self._agent.weight, begun))
            return
        self._hello = self._number
        self._hellos += 1
        # Only the last hello's welcome counts: a broker slower than our heartbeat must get the time for it.
        self._speak_at = mono + self._heartbeat_s * min(self._hellos, HELLO_HEARTBEATS_MAX)
        self._lease.hello_sent(mono)
        if self._silent_since is None:
            self._silent_since = mono
        elif mono >= self._silent_since + MISSED_MAX * self._heartbeat_s:
            self._silent_since = _NEVER
            out.append(Log("warning", "worker.no_broker", {"reason": "no answer yet: is --broker right?"}))
        holding = [
            HeldBatch(held.number, held.campaign, indices)
            for held in self.batches.values()
            if (indices := held.open_indices())
        ]
        holding = holding[: limits.HOLDING_BATCHES_MAX]
        span, weight = self._rows.span, self._agent.weight
        out.append(SendHello(self._number, holding, span, self._state, weight))

    # --- the end ------------------------------------------------------------------------------------

    def _end(self, why: Ending, reason: str, now: Now, out: list[Command]) -> None:
        self._ending, self._reason = why, reason
        self._give_up_at = min(self._give_up_at, now.mono + self._drain_timeout_s)
        self._speak_at = min(self._speak_at, now.mono)  # the broker shall know at once
        fields: dict[str, Any] = {"reason": reason, "batches": len(self.batches)}
        fields["on_wire"] = sum(len(held.on_wire) for held in self.batches.values())
        out.append(Log("info", "worker.draining", fields))
        self._give_back_all(ENDINGS[why][1], out)

    def _advance_ending(self, now: Now, out: list[Command]) -> None:
        if now.mono >= self._give_up_at:
            self._stop(out)
            return
        if self.batches:
            return
        if self._ending in CUT_OFF:
            self._stop(out)
        elif self._reporter.settled:
            if not self._welcomed:
                self._stop(out)  # nothing to tell, and nobody to tell it to
            elif now.mono >= self._goodbye_at or self._goodbye_at == _NEVER:
                self._goodbye_at = now.mono + self._heartbeat_s
                out.append(SendGoodbye(self._reason))

    def _stop(self, out: list[Command]) -> None:
        self._stopped = True
        status = ENDINGS[self._ending][0] if self._ending else 0
        if self.batches:
            status = status or EXIT_UNFINISHED
            on_wire = sum(len(held.on_wire) for held in self.batches.values())
            out.append(Log("error", "worker.unfinished", {"on_wire": on_wire}))
        if unconfirmed := len(self._rows):
            fields = {"outcomes": unconfirmed, "hint": "they stay in the outcome log for the next start"}
            out.append(Log("warning", "worker.unconfirmed", fields))
        out.append(Stop(status))


def _unexpected(message: Message, out: list[Command]) -> None:
    out.append(Log("warning", "worker.unexpected", {"type": type(message).__name__}))
