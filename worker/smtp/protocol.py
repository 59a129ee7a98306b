"""The SMTP client without I/O: bytes in, events out.

The owner moves bytes and time; this class knows what they mean. The calls, in their order:

    client = SmtpClient(config)
    client.start(helo_name)                     # the connection is there
    client.receive_data(data)                   # -> events; StartTls asks for tls_established()
    client.send_message(envelope, content)      # while client.room, or else:
    client.send_envelope(envelope)              # while client.ready_for_envelope
    client.send_content(content)                # for ContentWanted
    client.quit()                               # while client.is_idle
    client.data_to_send()                       # after each of them: write it

With CHUNKING (RFC 3030) and PIPELINING (RFC 2920) a message needs no round trip of its own: MAIL, RCPT,
BDAT and the content are one write, and further messages follow while up to `depth` wait for their
answers. With PIPELINING alone, and for a content too large for that, MAIL, RCPT and DATA are one write, and
the next envelope may follow right behind the content: a message costs one round trip. Without it each
command waits for its reply.

A server that took no recipient of a transaction may keep the transaction (Exim does), and would then put
the next recipient into it. So RSET stands before each MAIL that leaves before that is known.

For every envelope taken there is exactly one Completed, or it is in Closed's `unsent`.
"""

from collections import deque

from worker.smtp.capabilities import Capabilities
from worker.smtp.config import PIPELINE_DEPTH, ServerConfig
from worker.smtp.content import WireContent
from worker.smtp.events import Closed, Completed, ContentWanted, Envelope, Event, Ready, StartTls
from worker.smtp.handshake import Handshake, Next
from worker.smtp.outbox import WRITE_BYTES_MAX, Outbox
from worker.smtp.outcome import Cause, Result, Stage, classify, failure
from worker.smtp.reply import ProtocolError, Reply, ReplyParser
from worker.smtp.transactions import Commands, Transaction

CHUNK_BYTES_MAX = WRITE_BYTES_MAX // 2
"""A larger content goes by DATA: nothing of it leaves for a recipient that is refused, and before its end
the lease is looked at again."""
REFUSALS_MAX = 9
"""Messages refused before their content, on one connection with CHUNKING. Each costs a RSET that isn't the
first one since a message, and Exim ends a connection with more than ten of those (smtp_accept_max_nonmail):
what is in the pipeline then would be unknown."""

# A member of an enumeration costs ten times a global, four times a message.
_RSET, _MAIL, _RCPT, _DATA, _BDAT = Stage.RSET, Stage.MAIL, Stage.RCPT, Stage.DATA, Stage.BDAT
_DOT, _EMPTY_DOT, _QUIT = Stage.DOT, Stage.EMPTY_DOT, Stage.QUIT


class SmtpClient:
    """One SMTP session. After Closed nothing more comes out of it."""

    def __init__(self, config: ServerConfig) -> None:
        self._config = config
        self._parser = ReplyParser()
        self._handshake: Handshake | None = None
        self._events: list[Event] = []
        self.capabilities = Capabilities()
        self.is_ready = False
        """Envelopes are taken, now or after some reply."""
        self.is_closed = False
        self.depth = config.pipeline_depth or PIPELINE_DEPTH
        """Messages that `send_message` takes before the first is answered. The owner may lower it."""
        self.chunks = False
        """Messages may go whole, by `send_message`."""
        self.is_worn = False
        """It takes no more of those: too many were refused."""
        self.progress = 0
        """Changes with each reply and each write: what a time-out is measured from."""

        self._waiting: deque[Stage] = deque()  # commands that went out, in order
        self._later: deque[tuple[Stage, bytes]] = deque()  # commands still to go, without PIPELINING
        self._open: deque[Transaction] = deque()  # in the order of their answers
        self._is_headed = False  # the last of them has begun, and its content hasn't been queued
        self._content_wanted = False
        self._reset_needed = False  # the server still holds a MAIL we don't go on with
        self._refusals = 0
        self._commands = Commands(self.capabilities)
        self._outbox = Outbox()
        self._unwritten_bytes = 0  # handed out, and not with the operating system when data last came

    # -- what the owner asks ------------------------------------------------------------------

    @property
    def room(self) -> int:
        """How many messages `send_message` takes now."""
        if not self.chunks or not self.is_ready or self._is_headed or self._outbox.in_pieces:
            return 0
        return max(0, min(self.depth, REFUSALS_MAX - self._refusals) - len(self._open))

    @property
    def ready_for_envelope(self) -> bool:
        if self._is_headed or not self.is_ready:
            return False
        return self.capabilities.pipelining or not self._waiting

    @property
    def is_idle(self) -> bool:
        """Ready, and nothing is under way."""
        return self.is_ready and not self._waiting and not self._open

    @property
    def has_data_to_send(self) -> bool:
        outbox = self._outbox
        return outbox.handed < outbox.queued

    @property
    def ends_content_next(self) -> bool:
        """What `data_to_send` gives next holds the end of a content whose beginning has gone before."""
        if not self._outbox.in_pieces:
            return False
        handed = self._outbox.handed
        return bool(self._open) and handed < self._open[0].end <= handed + WRITE_BYTES_MAX

    @property
    def timeout(self) -> float | None:
        """Seconds that the current wait may last without `progress`; None: nothing is waited for."""
        timeouts = self._config.timeouts
        if self.is_closed:
            return None
        if self.has_data_to_send:
            return timeouts.data_block
        stage = self.stage
        if stage is Stage.IDLE or stage is Stage.CONTENT:
            return None
        if stage is Stage.GREETING or stage is Stage.CONNECT:
            return timeouts.greeting
        named = {
            Stage.TLS: timeouts.tls,
            Stage.MAIL: timeouts.mail,
            Stage.RCPT: timeouts.rcpt,
            Stage.DATA: timeouts.data,
            Stage.DOT: timeouts.final_dot,
            Stage.BDAT: timeouts.final_dot,
            Stage.QUIT: timeouts.quit,
        }
        return named.get(stage, timeouts.command)

    @property
    def stage(self) -> Stage:
        """What is being waited for."""
        if self._handshake is None:
            return Stage.CONNECT
        if not self.is_ready and not self._waiting:
            return self._handshake.stage
        if self._waiting:
            waited = self._waiting[0]
            is_content = waited is _DOT or waited is _BDAT
            return Stage.CONTENT if is_content and not self._is_out(self._open[0]) else waited
        return Stage.CONTENT if self._open else Stage.IDLE

    # -- what the owner does ------------------------------------------------------------------

    def start(self, helo_name: str, *, tls_active: bool = False) -> None:
        """The connection is made. `tls_active`: with TLS from the start."""
        self._handshake = Handshake(self._config, helo_name, tls_active=tls_active)

    def tls_established(self) -> None:
        """The TLS handshake that StartTls asked for is done, and the certificate is good."""
        if self._handshake is not None and not self.is_closed:
            self._outbox.put(self._handshake.tls_established())

    def refusal(self, envelope: Envelope) -> Result | None:
        """Why this server can't be asked to take it; `send_message` and `send_envelope` say the same."""
        said = self._commands.begin(envelope)
        return said if isinstance(said, Result) else None

    def send_message(self, envelope: Envelope, content: WireContent) -> Result | None:
        """Sends a whole message. A result means that it was refused here, and nothing goes out."""
        if not self.room:
            raise RuntimeError("send_message without room")
        _check_end(content)
        said = self._commands.begin(envelope)
        if isinstance(said, Result):
            return said
        mail, rcpt = said
        waiting, outbox = self._waiting, self._outbox
        if self._takes_reset():
            mail = "RSET\r\n" + mail
            waiting.append(_RSET)
        waiting.extend((_MAIL, _RCPT, _BDAT))
        outbox.put(f"{mail}{rcpt}BDAT {len(content)} LAST\r\n".encode(), content)
        self._open.append(Transaction(envelope, True, outbox.queued))
        return None

    def send_envelope(self, envelope: Envelope) -> Result | None:
        """Begins a message. A result means that it was refused here, and nothing goes out."""
        if not self.ready_for_envelope:
            raise RuntimeError("send_envelope while not ready_for_envelope")
        said = self._commands.begin(envelope)
        if isinstance(said, Result):
            return said
        mail, rcpt = said
        is_reset = self._takes_reset()
        self._open.append(Transaction(envelope))
        self._is_headed = True
        if self.capabilities.pipelining:
            if is_reset:
                mail = "RSET\r\n" + mail
                self._waiting.append(_RSET)
            self._waiting.extend((_MAIL, _RCPT, _DATA))
            self._outbox.put(f"{mail}{rcpt}DATA\r\n".encode())
        else:
            if is_reset:
                self._later.append((_RSET, b"RSET\r\n"))
            self._later.append((_MAIL, mail.encode()))
            self._later.append((_RCPT, rcpt.encode()))
            self._later.append((_DATA, b"DATA\r\n"))
            self._send_command()
        return None

    def send_content(self, content: WireContent) -> None:
        """Sends the content and the final dot of the message that ContentWanted named."""
        if not self._content_wanted:
            raise RuntimeError("send_content without ContentWanted")
        _check_end(content)
        self._content_wanted = self._is_headed = False
        self._waiting.append(_DOT)
        outbox = self._outbox
        outbox.put(content, b".\r\n")
        self._open[0].end = outbox.queued

    def give_up_content(self) -> list[Event]:
        """Ends the message that ContentWanted named. SMTP has no way back from DATA but a final dot,
        which would send it; so the session ends."""
        if not self._content_wanted:
            raise RuntimeError("give_up_content without ContentWanted")
        return self._give_up("given up before its content was sent")

    def break_off_content(self) -> list[Event]:
        """Ends the message of which `ends_content_next` spoke, without its final dot."""
        return self._give_up("given up before its final dot")

    def _give_up(self, text: str) -> list[Event]:
        result = failure(Cause.GIVEN_UP, Stage.CONTENT, text)
        self._events = [Completed(self._open.popleft().envelope, result)]
        self._end(result)
        return self._events

    def quit(self) -> None:
        """Says goodbye; the answer, or its absence, brings Closed(None)."""
        if self.is_closed:
            return
        if not self.is_idle:
            raise RuntimeError("quit while not is_idle")
        self.is_ready = False
        self._waiting.append(_QUIT)
        self._outbox.put(b"QUIT\r\n")

    def data_to_send(self) -> bytes:
        """Bytes to write now. Large messages come in pieces: ask again when the last one is gone."""
        self.progress += 1
        return self._outbox.take()

    def receive_data(self, data: bytes, unwritten_bytes: int = 0) -> list[Event]:
        """`unwritten_bytes` of what was handed out hadn't left this process when `data` came: no reply in it
        can be the answer to them."""
        self._events = []
        self._unwritten_bytes = unwritten_bytes
        if self.is_closed:
            return self._events
        if not self.is_ready and self.stage is Stage.TLS:
            text = "plain text was injected after the answer to STARTTLS"
            self._end(failure(Cause.TLS, Stage.STARTTLS, text))
            return self._events
        try:
            self._parser.feed(data)
            waiting, later = self._waiting, self._later
            while (reply := self._parser.next_reply()) is not None:
                self.progress += 1
                # MAIL and RCPT that are taken: half of all replies.
                if waiting and 200 <= reply.code < 300 and not later:
                    stage = waiting[0]
                    if stage is _RCPT:
                        waiting.popleft()
                        continue
                    if stage is _MAIL:
                        waiting.popleft()
                        self._reset_needed = True
                        continue
                self._receive_reply(reply)
            if self._content_wanted and not self._parser.is_empty:
                text = "more than the answer to DATA came: what follows it would be taken for the final dot's"
                self._end(failure(Cause.PROTOCOL, _DATA, text))
        except ProtocolError as error:
            text = str(error)
            if not self.is_ready and self._handshake is not None:
                text = self._handshake.conceal(text)
            self._end(failure(Cause.PROTOCOL, self.stage, text))
        return self._events

    def receive_eof(self) -> list[Event]:
        return self.connection_failed(Cause.LOST, "the server closed the connection")

    def connection_failed(self, cause: Cause, text: str) -> list[Event]:
        """The connection is gone, or the owner is about to close it: time-out, TLS failure..."""
        self._events = []
        if not self.is_closed:
            self._end(failure(cause, self.stage, f"{text} ({self.stage})"))
        return self._events

    # -- replies ------------------------------------------------------------------------------

    def _receive_reply(self, reply: Reply) -> None:
        if not self._waiting:
            self._receive_without_command(reply)
            return
        if reply.code == 421:
            # It may come at any time. In answer to a content it is a refusal as good as any, and what stands
            # behind it in the pipeline isn't looked at any more (RFC 5321 4.2.2, 3.8).
            self._end(classify(self.stage, reply), hung_up=True)
            return
        stage = self._waiting.popleft()
        if stage is _MAIL or stage is _RCPT:
            if not 200 <= reply.code < 300:
                self._refused(stage, reply)
            elif stage is _MAIL:
                self._reset_needed = True
        elif stage is _DOT:
            self._receive_dot(reply)
        elif stage is _BDAT:
            self._receive_bdat(reply)
        elif stage is _DATA:
            self._receive_data_reply(reply)
        elif stage is _QUIT:
            self._end(None)
        elif stage is _RSET:
            self._reset_needed = False
            if not 200 <= reply.code < 300:
                self._end(classify(_RSET, reply))
        if not self._waiting and self._later:
            self._send_command()

    def _receive_without_command(self, reply: Reply) -> None:
        if self.is_ready or self._handshake is None:
            if reply.code == 421:
                self._end(classify(self.stage, reply))
            else:
                text = f"a reply that nothing asked for: {reply.code} {reply.text}"
                self._end(failure(Cause.PROTOCOL, self.stage, text))
            return
        step = self._handshake.receive(reply, more_arrived=not self._parser.is_empty)
        match step:
            case bytes():
                self._outbox.put(step)
            case Result():
                self._end(step, say_quit=reply.code != 421 and self._parser.is_empty)
            case Next.START_TLS:
                self._events.append(StartTls())
            case Next.READY:
                self.is_ready = True
                self.capabilities = offered = self._handshake.capabilities
                self._commands = Commands(offered)
                self.chunks = offered.chunking and offered.pipelining
                self._events.append(Ready())

    def _refused(self, stage: Stage, reply: Reply) -> None:
        """MAIL or RCPT wasn't taken."""
        if reply.code < 400:
            self._end(_nonsense(stage, reply))
        elif not self._open[0].refused:
            self._refuse(classify(stage, reply))
            self._refusals += 1
            self.is_worn = self.chunks and self._refusals >= REFUSALS_MAX
            if not self.capabilities.pipelining:
                self._later.clear()
                self._open.popleft()
                self._is_headed = False

    def _receive_data_reply(self, reply: Reply) -> None:
        message = self._open[0]
        if 300 <= reply.code < 400:
            if message.refused:
                # RFC 2920 3.1: the server took DATA although it took no recipient. One that keeps the
                # transaction would send an empty message to the next recipient.
                self._open.popleft()
                self._is_headed = False
                self._waiting.append(_EMPTY_DOT)
                self._outbox.put(b".\r\n")
                self._reset_needed = True
            else:
                self._content_wanted = True
                self._events.append(ContentWanted(message.envelope))
                self._reset_needed = False
        elif reply.code < 400:
            self._end(_nonsense(_DATA, reply))
        else:
            if not message.refused:
                self._refuse(classify(_DATA, reply))
            self._open.popleft()
            self._is_headed = False

    def _receive_dot(self, reply: Reply) -> None:
        message, outbox = self._open[0], self._outbox
        if message.end <= outbox.handed - self._unwritten_bytes:
            if 300 <= reply.code < 400:
                self._end(_nonsense(_DOT, reply))
                return
            self._open.popleft()
            self._events.append(Completed(message.envelope, classify(_DOT, reply)))
        elif reply.code >= 400:
            # It doesn't want the rest, which can't be held back but by hanging up.
            self._open.popleft()
            self._events.append(Completed(message.envelope, classify(Stage.CONTENT, reply)))
            self._end(failure(Cause.PROTOCOL, Stage.CONTENT, "answered before the content was sent"))
        else:
            self._end(_nonsense(Stage.CONTENT, reply))

    def _receive_bdat(self, reply: Reply) -> None:
        """A refusal may come before the content has left: the server swallows what was announced."""
        message = self._open[0]
        accepted = 200 <= reply.code < 300
        if not message.refused:
            if accepted and message.end > self._outbox.handed - self._unwritten_bytes:
                self._end(_nonsense(Stage.CONTENT, reply))
                return
            if 300 <= reply.code < 400 or (reply.enhanced or "").startswith("2.1."):
                # 2.1.x speaks of an address (RFC 3463): the answer to another command, one reply too many
                # has come before it.
                self._end(_nonsense(_BDAT, reply))
                return
            self._reset_needed = not accepted
            self._events.append(Completed(message.envelope, classify(_BDAT, reply)))
        self._open.popleft()

    # -- inside -------------------------------------------------------------------------------

    def _is_out(self, message: Transaction) -> bool:
        """Its last byte was handed out."""
        return 0 <= message.end <= self._outbox.handed

    def _takes_reset(self) -> bool:
        """Whether the next MAIL needs a RSET before it. From now on it has one."""
        if self._reset_needed:
            self._reset_needed = False
            return True
        return self.chunks and bool(self._open) and self._open[-1].chunked

    def _send_command(self) -> None:
        stage, data = self._later.popleft()
        self._waiting.append(stage)
        self._outbox.put(data)

    def _refuse(self, result: Result) -> None:
        message = self._open[0]
        message.refused = True
        self._events.append(Completed(message.envelope, result))

    def _end(self, reason: Result | None, *, hung_up: bool = False, say_quit: bool = False) -> None:
        """`hung_up`: the server has closed the session, and says so in place of an answer."""
        if self._waiting and self._waiting[0] is _QUIT:
            reason = None  # however it ends, it is what we asked for
        unsent: list[Envelope] = []
        for message in self._open:
            if message.refused:
                continue
            if hung_up or not self._is_out(message):
                unsent.append(message.envelope)
            else:
                text = reason.text if reason is not None else ""
                stage = _BDAT if message.chunked else _DOT
                unknown = Result("unknown", stage, 0, None, text, "server")
                self._events.append(Completed(message.envelope, unknown))
        self._parser = ReplyParser()  # what else it says doesn't matter
        self._outbox.drop()
        if say_quit:
            self._outbox.put(b"QUIT\r\n")
        self._waiting.clear()
        self._later.clear()
        self._open.clear()
        self._content_wanted = self._is_headed = False
        self.is_ready = False
        self.is_closed = True
        self._events.append(Closed(reason, tuple(unsent)))


def _check_end(content: WireContent) -> None:
    if content and content[-2:] != b"\r\n":
        raise ValueError("content doesn't end in CRLF: a final dot would be part of its last line")


def _nonsense(stage: Stage, reply: Reply) -> Result:
    return failure(Cause.PROTOCOL, stage, f"a reply that makes no sense here: {reply.code} {reply.text}")
