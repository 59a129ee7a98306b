"""One submission: open, stream numbered chunks, commit; go on where it stopped. Pure: times are arguments.

Whatever goes wrong on the way (an answer lost, a connection, the broker itself), the cure is the same: send
OPEN_CAMPAIGN once more with the same submission id. The answer says which chunks are stored, or that all of
it was accepted already; the rest is sent again from there. Only chunks without an acknowledgement are kept.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from client.errors import ClientError, unavailable
from client.session import BYTES_A_SECOND_MIN, TRY_LATER, Send, Timing
from evenpost.wire import codec
from evenpost.wire.errors import Code
from evenpost.wire.messages import (
    CampaignOpen,
    Commit,
    Error,
    Message,
    OpenCampaign,
    RecipientsStored,
    SubmitOk,
    Type,
)

OPEN_AGAIN = frozenset({Code.OUT_OF_ORDER, Code.NOT_FOUND, Code.WRONG_STATE})
"""Refusals of a chunk or a commit that OPEN_CAMPAIGN clears up: the broker has lost the thread."""

PackedRow = Sequence[Any]
"""[address, packed values]: what a Recipient looks like on the wire."""


class Phase(Enum):
    OPENING = "opening"
    STREAMING = "streaming"
    COMMITTING = "committing"
    DONE = "done"
    FAILED = "failed"


@dataclass(slots=True)
class _Chunk:
    number: int
    rows: Sequence[PackedRow]
    size_bytes: int = 0


class Submission:
    """Its state is open to reading: what has no underscore."""

    def __init__(self, opening: OpenCampaign, in_flight_max: int, timing: Timing, first_request: int) -> None:
        """`first_request`: the number of its first request; the following numbers are its own too."""
        self.phase = Phase.OPENING
        self.campaign = ""
        self.skip = 0
        """Recipients that an earlier run of the same submission has stored: don't add them again."""
        self.first_chunk = 0
        """The number of the first chunk that this run has to send."""
        self.stored = 0
        """Recipients that are on the broker's disk."""
        self.again = False
        """True: this submission id had been accepted before."""
        self.error: ClientError | None = None
        self._submission = opening.submission
        self._opening_body = codec.encode(opening)[1]
        """Encoded once: with attachments it may have many megabytes."""
        self._in_flight_max = in_flight_max
        self._timing = timing
        self._next_request = first_request
        self._requests: set[int] = set()
        """Those that still matter: answers to what was said before the last trouble tell of the past."""
        self._window: deque[_Chunk] = deque()
        self._next_chunk = 0
        self._recipients = 0
        self._ended = False
        self._reopening = False
        self._opened_before = False
        self._opens = 0
        self._refusal = ""
        self._deadline: float | None = None
        self._act_at: float | None = None
        self._pause_s = timing.retry_s
        self._busy_s = timing.busy_s

    @property
    def room(self) -> bool:
        """Another chunk may be added."""
        return self.phase is Phase.STREAMING and not self._ended and len(self._window) < self._in_flight_max

    @property
    def over(self) -> bool:
        return self.phase in (Phase.DONE, Phase.FAILED)

    @property
    def wake_at(self) -> float | None:
        """When `tick` has something to do next; None: never."""
        times = [t for t in (self._deadline, self._act_at) if t is not None]
        return None if self.over else min(times, default=None)

    def start(self, now: float) -> list[Send]:
        sends = self._open(now)
        self._deadline = now + self._timing.timeout_s + len(sends[0].frames[1]) / BYTES_A_SECOND_MIN
        return sends

    def add(self, rows: Sequence[PackedRow], now: float) -> list[Send]:
        """The next chunk. Only while there is room."""
        assert self.room, "a chunk was added without room for it"
        chunk = _Chunk(self._next_chunk, rows)
        self._next_chunk += 1
        self._recipients += len(rows)
        self._window.append(chunk)
        if self._reopening:
            return []
        sends = [self._send_chunk(chunk)]
        if self._deadline is None:  # until now nothing was being waited for
            self._expect(now)
        return sends

    def end(self, now: float) -> list[Send]:
        """All recipients are added. COMMIT follows the last chunk at once: one flush stores them both."""
        assert self.phase is Phase.STREAMING, "a submission that isn't streaming was ended"
        self._ended = True
        return [] if self._reopening else self._commit(now)

    def fail(self, error: ClientError) -> None:
        self.phase, self.error = Phase.FAILED, error

    def unsent(self, request: int, now: float) -> None:
        """The socket didn't take a request: there is no connection just now."""
        if request in self._requests and not self.over:
            self._pause_s = self._timing.retry_s
            self._open_again(now + self._timing.unsent_s)

    def receive(self, request: int, message: Message, now: float) -> list[Send]:
        """An answer came; duplicates and late ones do no harm."""
        if self.over:
            return []
        match message:
            case CampaignOpen() if self._reopening and request in self._requests:
                return self._opened(message, now)
            case RecipientsStored():
                self._chunk_stored(message, now)
            case SubmitOk() if self.phase is Phase.COMMITTING and message.campaign == self.campaign:
                self._done(message.recipients)
            case Error() if request in self._requests:
                self._refused(message, now)
            case _:
                pass
        return []

    def tick(self, now: float) -> list[Send]:
        if self.over:
            return []
        if self._deadline is not None and now >= self._deadline:
            self.fail(unavailable(self._refusal or "the broker doesn't answer"))
        elif self._act_at is not None and now >= self._act_at:
            if not self._reopening:
                self._open_again(now)
            return self._open(now)
        return []

    def _open_again(self, at: float) -> None:
        self._reopening = True
        self._requests.clear()
        self._act_at = at

    def _open(self, now: float) -> list[Send]:
        self._reopening = True
        number = self._number()
        header = codec.encode_raw(Type.OPEN_CAMPAIGN, {}, number)[0]
        self._act_at = now + self._pause_s + len(self._opening_body) / BYTES_A_SECOND_MIN
        self._pause_s = min(2 * self._pause_s, self._timing.retry_s_max)
        return [Send(number, [header, self._opening_body])]

    def _opened(self, message: CampaignOpen, now: float) -> list[Send]:
        if message.committed:
            self.campaign = message.campaign
            # Ours, if the answer to our own COMMIT was all that got lost.
            self.again = self.phase is not Phase.COMMITTING
            self._done(message.recipients)
            return []
        if not self._opened_before:
            self._opened_before = True
            self.skip = self.stored = self._recipients = message.recipients
            self.first_chunk = self._next_chunk = message.next_chunk
            self.phase = Phase.STREAMING
            self._pause_s = self._timing.retry_s
        elif not self._continues(message):
            return []
        self.campaign = message.campaign
        while self._window and self._window[0].number < message.next_chunk:
            self._took(self._window.popleft(), now)
        self._reopening = False
        self._requests.clear()
        sends = [self._send_chunk(chunk) for chunk in self._window]
        if self._ended:
            return [*sends, *self._commit(now)]
        self._expect(now)
        return sends

    def _continues(self, message: CampaignOpen) -> bool:
        """Whether what the broker has fits what this client still has."""
        first = self._window[0].number if self._window else self._next_chunk
        if message.next_chunk < first:
            self.fail(
                ClientError(
                    Code.CONFLICT,
                    f"the broker has lost chunks that it had acknowledged (it asks for {message.next_chunk}, "
                    f"this client has kept those from {first}): was its journal replaced? Submit again",
                )
            )
        elif message.next_chunk > self._next_chunk:
            self.fail(
                ClientError(
                    Code.CONFLICT,
                    f"someone else is sending submission {self._submission!r} at the same time: "
                    "let one of the two finish, then submit again to see that all is there",
                )
            )
        return self.error is None

    def _chunk_stored(self, message: RecipientsStored, now: float) -> None:
        if message.campaign != self.campaign:
            return
        for chunk in self._window:
            if chunk.number == message.chunk:
                self._window.remove(chunk)
                self._took(chunk, now)
                break

    def _took(self, chunk: _Chunk, now: float) -> None:
        self.stored += len(chunk.rows)
        self._opens = 0
        self._refusal = ""
        self._pause_s, self._busy_s = self._timing.retry_s, self._timing.busy_s
        if self._reopening:
            self._deadline = now + self._timing.timeout_s
        else:
            self._deadline = None
            self._expect(now)

    def _refused(self, error: Error, now: float) -> None:
        if error.code in TRY_LATER:
            self._refusal = error.message
            pause_s, self._busy_s = self._busy_s, min(2 * self._busy_s, self._timing.retry_s_max)
        elif error.code in OPEN_AGAIN and self._opened_before and not self._reopening:
            self._opens += 1
            self._refusal = error.message
            # At once; should that change nothing, then with pauses.
            pause_s = 0.0 if self._opens == 1 else self._busy_s
            self._busy_s = min(2 * self._busy_s, self._timing.retry_s_max)
        else:
            self.fail(ClientError(error.code, error.message))
            return
        self._open_again(now + pause_s)

    def _commit(self, now: float) -> list[Send]:
        self.phase = Phase.COMMITTING
        self._expect(now)
        number = self._number()
        commit = Commit(self.campaign, chunks=self._next_chunk, recipients=self._recipients)
        return [Send(number, codec.encode(commit, number))]

    def _done(self, recipients: int) -> None:
        self.phase = Phase.DONE
        self.stored = recipients
        self._window.clear()

    def _expect(self, now: float) -> None:
        """Sets when to ask again and when to give up. Only a stored chunk gives more time."""
        if not self._window and self.phase is Phase.STREAMING:
            self._act_at = self._deadline = None  # it is the caller's turn
            return
        allowance_s = sum(chunk.size_bytes for chunk in self._window) / BYTES_A_SECOND_MIN
        self._act_at = now + self._pause_s + allowance_s
        if self._deadline is None:
            self._deadline = now + self._timing.timeout_s + allowance_s

    def _send_chunk(self, chunk: _Chunk) -> Send:
        number = self._number()
        body = {"campaign": self.campaign, "chunk": chunk.number, "rows": chunk.rows}
        frames = codec.encode_raw(Type.RECIPIENTS, body, number)
        chunk.size_bytes = len(frames[1])
        return Send(number, frames)

    def _number(self) -> int:
        number = self._next_request
        self._next_request += 1
        self._requests.add(number)
        return number
