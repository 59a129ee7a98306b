"""A client: submits campaigns as docs/protocol.md says, and passes on operators' words. What isn't answered
is said again, over a new connection where the old one is gone."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from evenpost.wire import messages
from evenpost.wire.errors import Code
from evenpost.wire.messages import Message, Options, Recipient, Template
from scripts.simulation.clock import Clock, Host
from scripts.simulation.network import Dealer, Listener, Network

ANSWER_S = 2.0
"""Without an answer for so long, the last request is sent again."""
ORDER_TRIES_MAX = 5
TEMPLATE = Template("news@example.com", "News", text="Hello")


@dataclass(slots=True)
class Submission:
    """A campaign on its way in, and what became of it."""

    name: str
    recipients: Sequence[str]
    options: Options
    chunk_rows: int
    campaign: str = ""
    """Its id, once the broker has given one."""
    accepted_at: float | None = None
    """SUBMIT_OK came then: from now on nothing of it may be lost."""
    refused: str = ""

    @property
    def chunks(self) -> int:
        return -(-len(self.recipients) // self.chunk_rows)

    def request(self, next_chunk: int | None) -> Message:
        """What comes next; None: it has to be opened."""
        if next_chunk is None:
            return messages.OpenCampaign(self.name, TEMPLATE, self.options)
        if next_chunk < self.chunks:
            first = next_chunk * self.chunk_rows
            rows = [Recipient(address) for address in self.recipients[first : first + self.chunk_rows]]
            return messages.Recipients(self.campaign, next_chunk, rows)
        return messages.Commit(self.campaign, self.chunks, len(self.recipients))


class ClientHost:
    """One client process, that never dies."""

    def __init__(
        self, name: str, clock: Clock, network: Network, rng: random.Random, listener: Listener
    ) -> None:
        self.host = Host(clock)
        self.host.start()
        self.submissions: list[Submission] = []
        self.orders: list[tuple[Message, Message]] = []
        """Operators' words, and what the broker said to each."""
        self._rng = rng
        self._asked: dict[int, _Asked] = {}
        self._request = 0
        self.dealer = Dealer(network, self, listener, name)

    def submit(
        self, recipients: Sequence[str], options: Options | None = None, *, chunk_rows: int = 1_000
    ) -> Submission:
        name = f"s{len(self.submissions)}-{self._rng.getrandbits(32):x}"
        submission = Submission(name, recipients, options or Options(), chunk_rows)
        self.submissions.append(submission)
        self._ask(submission.request(None), submission)
        return submission

    def order(self, message: Message) -> None:
        """PAUSE, RESUME, CANCEL, RETRY_FAILED, SET_SERVER: said again until it is answered, a few times."""
        self._ask(message, None)

    def _ask(self, message: Message, submission: Submission | None, tries: int = 0) -> None:
        self._request += 1
        request = self._request
        self._asked[request] = _Asked(message, submission, tries + 1)
        self.dealer.send(request, message)
        self.host.after(ANSWER_S, lambda: self._unanswered(request))

    def _continue(self, submission: Submission, chunk: int) -> None:
        """From this chunk on. COMMIT follows the last one at once, as with client/submission.py: the broker
        lets a chunk that nobody waits for wait a little."""
        self._ask(submission.request(chunk), submission)
        if chunk == submission.chunks - 1:
            self._ask(submission.request(submission.chunks), submission)

    def _unanswered(self, request: int) -> None:
        asked = self._asked.pop(request, None)
        if asked is None:
            return
        if asked.submission is not None:
            self._ask(asked.submission.request(None), asked.submission)
        elif asked.tries < ORDER_TRIES_MAX:
            self._ask(asked.message, None, asked.tries)

    def receive(self, request: int, message: Message) -> None:
        asked = self._asked.pop(request, None)
        if asked is None:
            return  # it took too long, and was asked again
        submission = asked.submission
        if submission is None:
            self.orders.append((asked.message, message))
            return
        match message:
            case messages.CampaignOpen():
                submission.campaign = message.campaign
                if message.committed:
                    self._accepted(submission)
                else:
                    self._continue(submission, message.next_chunk)
            case messages.RecipientsStored(_, chunk):
                if chunk + 1 < submission.chunks:  # else COMMIT is on its way
                    self._continue(submission, chunk + 1)
            case messages.SubmitOk():
                self._accepted(submission)
            case messages.Error(code) if code in (Code.NOT_FOUND, Code.OUT_OF_ORDER):
                self._ask(submission.request(None), submission)
            case messages.Error():
                submission.refused = message.message
            case _:
                raise AssertionError(message)

    def _accepted(self, submission: Submission) -> None:
        if submission.accepted_at is None:
            submission.accepted_at = self.host.clock.time


@dataclass(slots=True)
class _Asked:
    message: Message
    submission: Submission | None
    tries: int
