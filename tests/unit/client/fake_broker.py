"""A broker for the client's tests: a ROUTER in a thread, with a memory, that can lose, double and restart."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import zmq

from evenpost.wire import codec
from evenpost.wire.errors import Code
from evenpost.wire.messages import (
    FROM_CLIENT,
    CampaignOpen,
    CampaignStatus,
    Cancel,
    Candidate,
    Commit,
    Done,
    Error,
    Explain,
    Explanation,
    Hello,
    Message,
    OpenCampaign,
    Pause,
    Pick,
    Reason,
    Recipients,
    RecipientsStored,
    Report,
    ReportPage,
    ReportRow,
    Resume,
    RetryFailed,
    Servers,
    ServersReply,
    SetServer,
    Status,
    StatusReply,
    SubmitOk,
    Template,
    Trace,
    TracePage,
    Type,
    Watch,
    WatchUpdate,
    Welcome,
    WorkerStatus,
)

WORKER = WorkerStatus(
    worker="w1", server="127.0.0.1:25", state="ready", open=3, busy=2, in_flight=2, limit=5,
    max_connections=5,
    weight=100, pools=["a"], sent=30, deferred=1, bounced=2, rate=12.5, last_seen_at=1_700_000_000_000,
)  # fmt: skip

Faults = Callable[[Message, int], int]
"""(message, how many of its type came so far, from 1) -> copies of the answer that are sent: 1 is normal."""


@dataclass
class Stored:
    campaign: str
    template: Template
    chunks: list[list[tuple[str, bytes]]] = field(default_factory=list)
    committed: bool = False

    @property
    def rows(self) -> list[tuple[str, bytes]]:
        return [row for chunk in self.chunks for row in chunk]


class FakeBroker:
    """`with FakeBroker() as broker:`; what it got is in `seen` and `submissions`."""

    def __init__(self, *, chunk_rows_max: int = 100, in_flight_max: int = 3) -> None:
        self.welcome = Welcome(
            "fake", "test", chunk_rows_max=chunk_rows_max, chunks_in_flight_max=in_flight_max
        )
        self.seen: list[Message] = []
        self.submissions: dict[str, Stored] = {}
        self.statuses: list[CampaignStatus] = []
        self.report: list[ReportRow] = []
        self.workers = [WORKER]
        self.updates: list[WatchUpdate] = []
        """A WATCH is answered with the first of these that is left; the last one stays."""
        self.faults: Faults = lambda message, count: 1
        self.answer: Callable[[Message], Message | None] = lambda message: None
        """Answers instead of the broker, where it returns something."""
        self.restart_after: Callable[[Message, int], bool] = lambda message, count: False
        """The answer to such a message is never sent: the broker dies with it and comes back."""
        self.restarts = 0
        self.version = codec.VERSION
        self._counts: dict[Type, int] = {}
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.linger = 0
        port = self._socket.bind_to_random_port("tcp://127.0.0.1")
        self.endpoint = f"tcp://127.0.0.1:{port}"
        self._stop = self._context.socket(zmq.PAIR)
        self._stop.bind("inproc://stop")
        self._thread = threading.Thread(target=self._run, name="fake-broker")
        self.failure: BaseException | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        stopper = self._context.socket(zmq.PAIR)
        stopper.connect("inproc://stop")
        stopper.send(b"")
        self._thread.join()
        for socket in (self._socket, self._stop, stopper):
            socket.close(0)
        self._context.term()
        if self.failure is not None and error is None:
            raise self.failure

    def count(self, type_: Type) -> int:
        return self._counts.get(type_, 0)

    def _run(self) -> None:
        try:
            while True:
                poller = zmq.Poller()
                poller.register(self._socket, zmq.POLLIN)
                poller.register(self._stop, zmq.POLLIN)
                ready = dict(poller.poll())
                if self._stop in ready:
                    return
                peer, *frames = self._socket.recv_multipart()
                self._handle(peer, frames)
        except BaseException as error:  # noqa: BLE001  # told to the test when it ends
            self.failure = error

    def _handle(self, peer: bytes, frames: list[bytes]) -> None:
        envelope = codec.decode(frames, FROM_CLIENT)
        message = envelope.message
        self.seen.append(message)
        count = self._counts[message.TYPE] = self.count(message.TYPE) + 1
        answer = self.answer(message) or self._answer(message)
        if self.restart_after(message, count):
            self.restarts += 1
            self._socket.close(0)
            self._socket = self._context.socket(zmq.ROUTER)
            self._socket.linger = 0
            self._bind_again()
            return
        header, body = codec.encode(answer, envelope.request)
        header = header[:2] + bytes([self.version]) + header[3:]
        for _ in range(self.faults(message, count)):
            self._socket.send_multipart([peer, header, body])

    def _bind_again(self) -> None:
        """libzmq closes in the background: the port is free a moment later."""
        deadline = time.monotonic() + 10
        while True:
            try:
                self._socket.bind(self.endpoint)
                return
            except zmq.ZMQError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.005)

    def _answer(self, message: Message) -> Message:
        match message:
            case Hello():
                return self.welcome
            case OpenCampaign():
                new = Stored(f"c{len(self.submissions) + 1}", message.template)
                found = self.submissions.setdefault(message.submission, new)
                return CampaignOpen(found.campaign, len(found.chunks), len(found.rows), found.committed)
            case Recipients():
                found = self._stored(message.campaign)
                if message.chunk > len(found.chunks):
                    return Error(Code.OUT_OF_ORDER, f"expected chunk {len(found.chunks)}")
                if message.chunk == len(found.chunks):
                    found.chunks.append([(r.address, r.values) for r in message.rows])
                return RecipientsStored(message.campaign, message.chunk)
            case Commit():
                found = self._stored(message.campaign)
                if (message.chunks, message.recipients) != (len(found.chunks), len(found.rows)):
                    return Error(Code.CONFLICT, "not what was sent")
                found.committed = True
                return SubmitOk(message.campaign, message.recipients)
            case Status():
                return StatusReply([s for s in self.statuses if message.campaign in (None, s.campaign)])
            case Watch():
                return self.updates.pop(0) if len(self.updates) > 1 else self.updates[0]
            case Report():
                rows = [r for r in self.report if r.index > message.after]
                rows = [r for r in rows if not message.only or r.state in message.only][: message.limit]
                more = bool(rows) and rows[-1] is not self.report[-1]
                return ReportPage(rows, rows[-1].index if more else None)
            case Trace():
                return TracePage([r for r in self.report if r.address == message.address])
            case Servers():
                return ServersReply(self.workers)
            case Explain():
                return explanation(message, self.report)
            case Pause() | Resume() | SetServer():
                return Done()
            case Cancel() | RetryFailed():
                return Done(7)
        raise AssertionError(message)

    def _stored(self, campaign: str) -> Stored:
        return next(s for s in self.submissions.values() if s.campaign == campaign)


def explanation(asked: Explain, report: list[ReportRow]) -> Explanation:
    row = next((r for r in report if r.index == asked.index), None)
    return Explanation(
        campaign=asked.campaign, index=asked.index, summary="News waits for a token.",
        reasons=[Reason("no token for gmail.com", 1_700_000_060_000), Reason("relay-2's breaker is open")],
        candidates=[
            Candidate("w1", "127.0.0.1:25", 0.0123456, 3, 20, 100.0),
            Candidate("w2", "127.0.0.1:26", 0.0, 0, 5, 12.5, "its breaker is open"),
        ],
        pick=Pick(1_700_000_000_000, 81, "w1", 0.03, "w2", 0.05) if row else None, row=row,
    )  # fmt: skip


def status(campaign: str = "c1", state: str = "running", total: int = 10, **counts: int) -> CampaignStatus:
    return CampaignStatus(
        campaign=campaign, name="News", state=state, created_at=1_700_000_000_000, total=total, counts=counts,  # type: ignore[arg-type]  # loose on purpose
        finished_at=1_700_000_060_000 if state == "finished" else None,
    )  # fmt: skip


def row(index: int, state: str = "sent", **values: object) -> ReportRow:
    given = {
        "campaign": "c1", "index": index, "address": f"u{index}@example.com", "state": state, "code": 250,
        "reply": "2.0.0 Ok", "worker": "w1", "server": "127.0.0.1:25", "attempts": 1,
        "first_at": 1_700_000_000_000, "last_at": 1_700_000_000_100, "due_at": 0, **values,
    }  # fmt: skip
    return ReportRow(**given)  # type: ignore[arg-type]  # loose on purpose
