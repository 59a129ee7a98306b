"""One endpoint's gate: what comes in is measured before it is read, what goes out is never waited for.

Takes messages from a ROUTER in turns that end, keeps to the guard's limits, answers what can't be accepted,
and counts what nobody gets to hear.
"""

import time
from collections.abc import Callable

import zmq

from broker.connections import Connection, Connections
from broker.guard import Guard, Limits, Verdict, whom_to_cut
from broker.rejections import Rejections
from broker.rights import EVERYONE
from evenpost.runtime.curve import PublicKey
from evenpost.wire import codec
from evenpost.wire import messages as wire
from evenpost.wire.errors import Code, WireError

RECEIVED_PER_TURN_MAX = 200
"""Messages taken from one socket before the other, the core and the journal get their turn."""
TURN_S = 0.02
"""A turn ends after so long too: 200 chunks of a list would hold the others up for a second."""
FRAMES_MAX = 8
"""Two are right: a header and a body. A few more are a mistake, which is answered; what has more than these
is thrown away frame by frame, and its sender's connection ended."""
DROPPING_TURN_S = 0.005
"""Frames are thrown away for so long in a turn; each takes some 3 us, and there may be millions."""
FRAMES_DROPPED_AT_ONCE = 500
ASIDE_SHARE = 0.05
"""Of the broker's time, at one endpoint: for what is refused, and while mail is going out for all that moves
no mail. After a turn the endpoint rests for as long as what it spent so has to last, within the two bounds
below: the longer one holds the rest short, so that a turn that took long may go over its share."""
REST_S_MIN = 0.005
REST_S_MAX = 0.01
"""How long an endpoint isn't looked at after such a turn: to be woken for each of a flood's messages costs
more than they do. Others behind the same endpoint wait as long, and what came meanwhile is in memory."""
TOO_FAST = wire.Error(Code.BUSY, "more messages or bytes a second than one peer may send: wait")

Holder = Callable[[zmq.Frame], PublicKey | None]
"""Whose key a message came by; None: one that isn't allowed any more, so that its connection has to end."""
Handle = Callable[[bytes, list[bytes], PublicKey], bool]
"""Takes a message: routing id, frames, and who sent it. Whether its time is the broker's own work; else it
counts as spent aside. May raise WireError."""


class Gate:
    def __init__(
        self,
        name: str,
        context: zmq.Context[zmq.Socket[bytes]],
        router: zmq.Socket[bytes],
        limits: Limits,
        rejections: Rejections,
        *,
        may_wait: bool,
        holder: Holder | None = None,
        left: Callable[[bytes], None] = lambda _: None,
    ) -> None:
        """`may_wait`: these peers obey `busy` and send again. Of the others something was lost once they are
        refused: their connections are ended when they have calmed down, and they say all that is due anew.
        `holder`: with CURVE, asked for each message, since a peer may choose the routing id that another had.
        `left` is told of each peer whose connection has ended."""
        self.guard = Guard(limits)
        self.connections = Connections(context, router, limits.connections_max)
        self._name = name
        self._router = router
        self._rejections = rejections
        self._may_wait = may_wait
        self._holder = holder
        self._left = left
        self.rests_until = 0.0
        """Call `receive` only after this (monotonic)."""
        self._aside_s = 0.0
        """In this turn: time spent on what isn't the broker's work."""
        self._dropping = False
        """In the middle of a message with too many frames."""

    def close(self) -> None:
        self.connections.close()

    # --- what comes in ------------------------------------------------------------------------

    def events(self) -> None:
        """Connections that came and went."""
        for peer in self.connections.events():
            self.guard.left(peer)
            self._left(peer)
        if refused := self.connections.refused:
            most = self.guard.limits.connections_max
            self.connections.refused = 0
            self.note(
                "connections",
                f"more than {most} connections: of those that say nothing, the oldest were ended",
                refused,
            )

    def receive(self, handle: Handle, rest_s: float = 0.0) -> None:
        """Hands messages on until none is left or the turn is over, and rests then: for `rest_s`, or for as
        long as what it spent aside has to last. `handle` may raise WireError."""
        self._aside_s = 0.0
        if not self._dropping or self._drop_frames():
            self._receive(handle)
        if self._aside_s and not self._dropping:
            rest_s = max(rest_s, min(max(self._aside_s / ASIDE_SHARE, REST_S_MIN), REST_S_MAX))
        self.rests_until = time.monotonic() + rest_s if rest_s else 0.0

    def _receive(self, handle: Handle) -> None:
        now = time.monotonic()
        until = now + TURN_S
        for _ in range(RECEIVED_PER_TURN_MAX):
            try:
                peer, who = self._next()
            except zmq.Again:
                return
            known = peer in self.guard
            connection, frames = self._read(peer, known, who, now)
            worked = False
            if who is not None and frames is not None:
                worked = self._take(peer, frames, who, now, handle)
            if not known and connection is None:
                self.guard.left(peer)  # its connection has ended: this was its last word
            began, now = now, time.monotonic()
            if not worked:
                self._aside_s += now - began
            if self._dropping or now >= until:
                return

    def _next(self) -> tuple[bytes, PublicKey | None]:
        """The routing id of the next message, and whose it is; a revoked key's connection is ended. Raises
        zmq.Again where there is none."""
        if self._holder is None:
            return self._router.recv(zmq.NOBLOCK), EVERYONE
        first = self._router.recv(zmq.NOBLOCK, copy=False)
        who = self._holder(first)
        if who is None:
            self.note("revoked", "a key that was revoked: its connection was ended")
            self.events()  # that it was accepted comes before its first message
            self.connections.end_sender(first)
        return first.bytes, who

    def _read(
        self, peer: bytes, known: bool, who: PublicKey | None, now: float
    ) -> tuple[Connection | None, list[bytes] | None]:
        """The frames of a message; None where there were too many."""
        router = self._router
        frames: list[bytes] = []
        if known:
            connection = self.connections.knows(peer)
        else:
            first = router.recv(copy=False)
            connection = self._came(peer, first, who, now)
            frames.append(first.bytes)
        while (not frames or router.getsockopt(zmq.RCVMORE)) and len(frames) < FRAMES_MAX:
            # What is one too many isn't copied: it may have 40 MB.
            if len(frames) < 2:
                frames.append(router.recv())
            else:
                router.recv_into(bytearray())
                frames.append(b"")
        if connection is not None:
            connection.took(frames)
        if not router.getsockopt(zmq.RCVMORE):
            return connection, frames
        self.note("frames", f"a message of more than {FRAMES_MAX} frames: its connection was ended")
        self.connections.end(peer)
        self._dropping = True
        self._drop_frames()
        return connection, None

    def _came(self, peer: bytes, first: zmq.Frame, who: PublicKey | None, now: float) -> Connection | None:
        self.events()  # that it was accepted comes before its first message
        connection, mistaken = self.connections.first_message(peer, first)
        if mistaken:
            self.guard.left(mistaken)
        self.guard.came(peer, who.user_id if who is not None and self._holder is not None else "", now)
        if self.guard.crowds(peer):
            self.note("connections", "more connections than one key may have: the newest were ended")
            self.connections.end(peer)
        return connection

    def _drop_frames(self) -> bool:
        """Throws away the rest of a message, some of it; true when that was all."""
        until = time.monotonic() + DROPPING_TURN_S
        more, drop, nowhere = self._router.getsockopt, self._router.recv_into, bytearray()
        while time.monotonic() < until:
            for _ in range(FRAMES_DROPPED_AT_ONCE):
                if not more(zmq.RCVMORE):
                    self._dropping = False
                    return True
                drop(nowhere)  # copies as much as finds room: nothing
        return False

    def _take(self, peer: bytes, frames: list[bytes], who: PublicKey, now: float, handle: Handle) -> bool:
        """Whether that was the broker's work."""
        verdict = self.guard.admit(peer, sum(map(len, frames)), now)
        if verdict is not Verdict.TAKE:
            self.note("busy", TOO_FAST.message)
            if verdict is Verdict.REFUSE:
                self.send(peer, codec.encode(TOO_FAST, codec.request_of(frames)))
            return False
        if not self._may_wait and self.guard.has_lost(peer):
            self.note("lost", "a worker sent too much, or what can't be accepted: it has to say hello anew")
            self.connections.end(peer)
            return False
        try:
            return handle(peer, frames, who)
        except WireError as error:
            self.note(error.code, error.message)
            if self.guard.rejected(peer, time.monotonic() - now, now):
                answer = wire.Error(error.code, error.message)
                self.send(peer, codec.encode(answer, codec.request_of(frames)))
            return False

    # --- what goes out ------------------------------------------------------------------------

    def send(self, peer: bytes, frames: list[bytes]) -> bool:
        """False where the peer has gone or doesn't read: nothing was queued."""
        try:
            self._router.send_multipart([peer, *frames], zmq.NOBLOCK)
        except zmq.Again:
            self.note("not_read", "a peer doesn't read what it is sent: it was dropped")
            return False
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            return False
        if connection := self.connections.knows(peer):
            connection.gave(frames)
        return True

    # --- memory -------------------------------------------------------------------------------

    def shed(self) -> None:
        """Memory is short: ends the connections that hold most of it."""
        cut = whom_to_cut(self.connections.backlogs())
        for descriptor in cut:
            self.connections.end_descriptor(descriptor)
        if cut:
            text = "memory was short: the connections with most bytes unread or unsent were ended"
            self.note("memory", text, len(cut))

    def note(self, code: str, text: str, count: int = 1) -> None:
        """Something was refused: it is counted and told of."""
        self._rejections.add(self._name, code, text, count)
