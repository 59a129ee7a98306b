"""What one peer may take of the broker: so many messages, bytes and open requests, so much of its time.

Pure: times are arguments. Nothing here bothers an honest peer in its defaults; who goes beyond is answered
`busy` and obeys, or isn't read for a while. A peer is a connection (its routing id); an identity is who is
behind it: the name that its key has, or the connection itself where there are no keys.
"""

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from math import ceil
from typing import NamedTuple

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one endpoint. 0 stands for no limit where an operator sets one."""

    connections_max: int = 16_000
    messages_per_s: float = 10_000.0
    """Of one connection; a client in front of a web shop sends three a mail."""
    bytes_per_s: float = 128.0 * MIB
    """Of one connection, with BYTES_BURST_S seconds' worth at once. A fast import sends 25 MB a second."""
    in_flight_max: int = 4_000
    """Requests of one connection that aren't answered."""
    in_flight_bytes_max: int = 128 * MIB
    """Bytes of one connection's unanswered requests: a whole template and the chunks that a client has under
    way."""
    waiting_bytes_max: int = 512 * MIB
    """The same, of all connections."""
    open_submissions_max: int = 10_000
    """Of one identity: opened and not committed."""
    templates_bytes_max: int = 256 * MIB
    """Of one identity: its unfinished campaigns' templates, which are in memory."""
    recipients_max: int = 0
    """Of one identity: recipients that were taken and have no outcome yet."""
    bytes_per_min: int = 0
    """Of one identity."""
    questions_share: float = 0.04
    """Of the broker's time, while mail is going out: for one identity's questions."""
    questions_share_all: float = 0.08
    """The same, for all of them."""


CONNECTIONS_SHARE = 0.75
"""Of an endpoint's connections, for one identity: the rest is for the other keys."""
BYTES_BURST_S = 4.0
QUESTIONS_BURST_S = 0.3
GARBAGE_SHARE = 0.005
"""Of the broker's time, for what one connection sends and can't be accepted."""
GARBAGE_BURST_S = 0.01
SILENCE_S = 1.0
"""Who spent that isn't listened to for so long: what comes is thrown away unread."""
ANSWERS_PER_S = 20.0
"""Answers to what can't be accepted, for one connection; beyond them it is dropped in silence."""


class Verdict(Enum):
    TAKE = "take"
    REFUSE = "refuse"
    """Answer `busy`."""
    DROP = "drop"
    """Say nothing: it has been told often enough."""


class Bucket:
    """Tokens that come back at `rate` a second, up to `most`. What is taken may be more than there is: the
    next one waits for it; nobody owes more than `most`."""

    __slots__ = ("_at", "_left", "most", "rate")

    def __init__(self, rate: float, most: float) -> None:
        """A rate of 0: there is always enough."""
        self.rate, self.most = rate, most
        self._left = most
        self._at = 0.0

    def left(self, now: float) -> float:
        if now > self._at:
            self._left = min(self.most, self._left + (now - self._at) * self.rate)
            self._at = now
        return self._left

    def has(self, now: float) -> bool:
        return not self.rate or self.left(now) > 0

    def take(self, amount: float, now: float) -> None:
        if self.rate:
            self._left = max(self.left(now) - amount, -self.most)


class Campaigns(NamedTuple):
    """What one campaign that is in memory holds, for the identity that opened it."""

    recipients: int
    """Without an outcome."""
    open: bool
    template_bytes: int


class Account:
    """What one identity has."""

    __slots__ = (
        "bytes", "campaigns", "connections", "identity", "open", "questions", "recipients", "templates_bytes"
    )  # fmt: skip

    def __init__(self, identity: Hashable, limits: Limits) -> None:
        self.identity = identity
        self.connections = 0
        self.questions = Bucket(limits.questions_share, QUESTIONS_BURST_S)
        self.bytes = Bucket(limits.bytes_per_min / 60, float(limits.bytes_per_min))
        self.campaigns: set[str] = set()
        """Unfinished ones that it opened while this broker runs."""
        self.recipients = 0
        self.open = 0
        self.templates_bytes = 0


@dataclass(slots=True)
class Peer:
    """One connection."""

    account: Account
    messages: Bucket
    bytes: Bucket
    garbage: Bucket
    answers: Bucket
    silent_until: float = 0.0
    in_flight: dict[int, int] = field(default_factory=dict)
    """Unanswered requests by number, with their bytes."""
    in_flight_bytes: int = 0
    lost: bool = False
    """Something of it was thrown away."""
    gone: bool = False


class Guard:
    """The limits of one endpoint, and who has how much of them."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.waiting_bytes = 0
        self._peers: dict[bytes, Peer] = {}
        self._accounts: dict[Hashable, Account] = {}
        self._questions = Bucket(limits.questions_share_all, QUESTIONS_BURST_S)

    # --- connections --------------------------------------------------------------------------

    def __contains__(self, peer: bytes) -> bool:
        return peer in self._peers

    def __len__(self) -> int:
        return len(self._peers)

    def came(self, peer: bytes, identity: str, now: float) -> None:
        """The first message of a connection. `identity`: empty where only the connection is known."""
        limits = self.limits
        key: Hashable = identity or peer
        account = self._accounts.get(key)
        if account is None:
            account = self._accounts[key] = Account(key, limits)
        account.connections += 1
        self._peers[peer] = Peer(
            account,
            messages=Bucket(limits.messages_per_s, limits.messages_per_s),
            bytes=Bucket(limits.bytes_per_s, limits.bytes_per_s * BYTES_BURST_S),
            garbage=Bucket(GARBAGE_SHARE, GARBAGE_BURST_S),
            answers=Bucket(ANSWERS_PER_S, ANSWERS_PER_S),
        )

    def crowds(self, peer: bytes) -> bool:
        """Whether its identity has so many connections that others may soon find no place."""
        known = self._peers.get(peer)
        most = ceil(self.limits.connections_max * CONNECTIONS_SHARE)
        return known is not None and known.account.connections > most

    def left(self, peer: bytes) -> None:
        """A connection has ended. What it asked for is in memory, and counts, until it is answered."""
        known = self._peers.get(peer)
        if known is None or known.gone:
            return
        known.gone = True
        known.account.connections -= 1
        self._forget_idle(known.account)
        if not known.in_flight:
            del self._peers[peer]

    def _forget_idle(self, account: Account) -> None:
        if not account.connections and not account.campaigns:
            self._accounts.pop(account.identity, None)

    # --- each message -------------------------------------------------------------------------

    def admit(self, peer: bytes, size: int, now: float) -> Verdict:
        """Whether a message of `size` bytes is looked at."""
        known = self._peers[peer]
        messages, volume = known.messages, known.bytes
        if now < known.silent_until:
            known.lost = True
            return Verdict.DROP
        if messages.has(now) and volume.has(now) and known.account.bytes.has(now):
            messages.take(1, now)
            volume.take(size, now)
            known.account.bytes.take(size, now)
            return Verdict.TAKE
        known.lost = True
        return Verdict.REFUSE if self.may_answer(peer, now) else Verdict.DROP

    def has_lost(self, peer: bytes) -> bool:
        """Whether anything that this connection sent wasn't looked at."""
        return self._peers[peer].lost

    def rejected(self, peer: bytes, seconds: float, now: float) -> bool:
        """A message couldn't be accepted, and to find that out took `seconds`. Whether to say so."""
        known = self._peers[peer]
        known.garbage.take(seconds, now)
        if not known.garbage.has(now):
            known.silent_until = now + SILENCE_S
        return self.may_answer(peer, now)

    def may_answer(self, peer: bytes, now: float) -> bool:
        """Whether one more refusal may be sent."""
        known = self._peers.get(peer)
        if known is None:
            return True
        answers = known.answers
        if answers.left(now) >= 1:
            answers.take(1, now)
            return True
        return False

    # --- requests -----------------------------------------------------------------------------

    def begin(self, peer: bytes, request: int, size: int) -> str:
        """A request that will be answered. What it has to wait for, in words; empty: it was counted."""
        known = self._peers.get(peer)
        if known is None:
            return ""
        limits = self.limits
        if len(known.in_flight) >= limits.in_flight_max and request not in known.in_flight:
            return f"{limits.in_flight_max} requests of this connection are open: wait for their answers"
        if known.in_flight_bytes and known.in_flight_bytes + size > limits.in_flight_bytes_max:
            return f"{limits.in_flight_bytes_max // MIB} MB of this connection wait for the disk: wait"
        if self.waiting_bytes and self.waiting_bytes + size > limits.waiting_bytes_max:
            return f"{limits.waiting_bytes_max // MIB} MB of all clients wait for the disk: wait"
        self.answered(peer, request)  # the same request again counts once
        known.in_flight[request] = size
        known.in_flight_bytes += size
        self.waiting_bytes += size
        return ""

    def answered(self, peer: bytes, request: int) -> None:
        known = self._peers.get(peer)
        if known is not None:
            size = known.in_flight.pop(request, 0)
            known.in_flight_bytes -= size
            self.waiting_bytes -= size
            if known.gone and not known.in_flight:
                del self._peers[peer]

    # --- quotas -------------------------------------------------------------------------------

    def may_open(self, peer: bytes) -> str:
        """What a new submission has to wait for, in words; empty: nothing."""
        known, limits = self._peers.get(peer), self.limits
        if known is None:
            return ""
        account = known.account
        if account.open >= limits.open_submissions_max:
            return f"{account.open} submissions of yours are open: commit or cancel them first"
        if account.templates_bytes >= limits.templates_bytes_max:
            most = limits.templates_bytes_max // MIB
            return f"your unfinished campaigns' templates take {most} MB: wait until some have been sent"
        return ""

    def opened(self, peer: bytes, campaign: str, template_bytes: int) -> None:
        """A campaign was opened, or found to be open."""
        known = self._peers.get(peer)
        if known is not None and campaign not in known.account.campaigns:
            known.account.campaigns.add(campaign)
            known.account.open += 1
            known.account.templates_bytes += template_bytes

    def may_add(self, peer: bytes, recipients: int) -> str:
        """What more recipients have to wait for, in words; empty: nothing, and they were counted."""
        known, most = self._peers.get(peer), self.limits.recipients_max
        if known is None:
            return ""
        account = known.account
        if most and account.recipients and account.recipients + recipients > most:
            return f"{account.recipients} recipients of yours wait to be sent, at most {most} may: wait"
        account.recipients += recipients
        return ""

    def refresh(self, held: Mapping[str, Campaigns]) -> None:
        """What the campaigns in memory, by id, hold now: those that aren't there have ended."""
        for account in list(self._accounts.values()):
            if not account.campaigns and not account.recipients:
                continue  # idle: there may be ten thousand of them
            mine = [(id_, held[id_]) for id_ in account.campaigns if id_ in held]
            account.campaigns = {id_ for id_, _ in mine}
            account.recipients = sum(campaign.recipients for _, campaign in mine)
            account.open = sum(campaign.open for _, campaign in mine)
            account.templates_bytes = sum(campaign.template_bytes for _, campaign in mine)
            self._forget_idle(account)

    # --- questions ----------------------------------------------------------------------------

    def may_ask(self, peer: bytes, now: float, *, contended: bool) -> bool:
        """Whether another question of this peer is answered now. `contended`: mail is going out, and each
        question takes of its time."""
        known = self._peers.get(peer)
        if known is None or not contended:
            return True
        return known.account.questions.has(now) and self._questions.has(now)

    def asked(self, peer: bytes, seconds: float, now: float) -> None:
        """A question of this peer took so much of the broker's time."""
        known = self._peers.get(peer)
        if known is not None:
            known.account.questions.take(seconds, now)
            self._questions.take(seconds, now)


class Backlog(NamedTuple):
    """What a connection holds in memory that no code of ours has seen: bytes that came and weren't read
    (a message that isn't whole), and bytes that were sent to it and that it didn't take."""

    connection: int
    unread: int
    unsent: int


BACKLOG_BYTES_MIN = 1 * MIB
"""Less than this of one connection is never the reason for a shortage of memory."""
CUT_AT_ONCE_MAX = 10


def whom_to_cut(backlogs: Iterable[Backlog]) -> list[int]:
    """Memory is short: the connections to end now, those with the largest backlog. Ten at a time: then
    memory is looked at again."""
    large = [(b.unread + b.unsent, b.connection) for b in backlogs if b.unread + b.unsent > BACKLOG_BYTES_MIN]
    return [connection for _, connection in sorted(large, reverse=True)[:CUT_AT_ONCE_MAX]]
