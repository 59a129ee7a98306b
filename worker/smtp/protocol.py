"""The SMTP client without I/O: bytes in, events out.

The owner moves bytes and time; this class knows what they mean. The calls, in their order:

    client = SmtpClient(config)
    client.start(helo_name)             # the connection is there
    client.receive_data(data)           # -> events; StartTls asks for tls_established()
    client.send_envelope(envelope)      # while client.ready_for_envelope
    client.send_content(content)        # for ContentWanted
    client.quit()                       # while client.is_idle
    client.data_to_send()               # after each of them: write it

With PIPELINING (RFC 2920) an envelope is one write: MAIL, RCPT, DATA. The next envelope may follow
right behind a message's content, so a message costs one round trip. Without it each command waits
for its reply. Two messages at most are under way: one whose final dot waits for its answer, and one
whose content hasn't left.

For every envelope taken there is exactly one Completed, or it is in Closed's `unsent`.
"""

import re
from collections import deque

from worker.smtp.capabilities import Capabilities
from worker.smtp.config import ServerConfig
from worker.smtp.content import WireContent
from worker.smtp.events import Closed, Completed, ContentWanted, Envelope, Event, Ready, StartTls
from worker.smtp.handshake import Handshake, Next
from worker.smtp.outcome import Cause, Result, Stage, classify, failure
from worker.smtp.reply import ProtocolError, Reply, ReplyParser

WRITE_BYTES_MAX = 256 * 1024
"""What is handed out at once. Only bytes handed out count as gone, so a connection that breaks in
the middle of a large message leaves it unsent and not unknown."""

_ADDRESS = re.compile(r"[^\x00-\x20\x7f<>\ud800-\udfff]{1,254}").fullmatch
"""Nothing that could end the path or the line (RFC 5321 4.5.3.1.3 has the length)."""

# A member of an enumeration costs ten times a global, four times a message.
_RSET, _MAIL, _RCPT, _DATA = Stage.RSET, Stage.MAIL, Stage.RCPT, Stage.DATA
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
        self.progress = 0
        """Changes with each reply and each write: what a time-out is measured from."""

        self._waiting: deque[Stage] = deque()  # commands that went out, in order
        self._commands: deque[tuple[Stage, bytes]] = deque()  # still to go, without PIPELINING
        self._open: Envelope | None = None  # begun, its content hasn't been queued
        self._refused = False  # _open has its result, its remaining replies haven't come
        self._content_wanted = False
        self._dotted: Envelope | None = None  # its content is queued, its answer hasn't come
        self._reset_needed = False  # the server still holds a MAIL we don't go on with
        self._good_sender = ""  # the last that was checked; the null sender <> is how notifications are sent

        self._out: list[bytes] = []
        self._rest = memoryview(b"")  # of a write larger than WRITE_BYTES_MAX
        self._queued_bytes = 0
        self._handed_bytes = 0
        self._unwritten_bytes = 0  # handed out, and not with the operating system when data last came
        self._dot_end_bytes = 0  # _queued_bytes when the last final dot was queued

    # -- what the owner asks ------------------------------------------------------------------

    @property
    def ready_for_envelope(self) -> bool:
        if self._open is not None or not self.is_ready:
            return False
        return self.capabilities.pipelining or not self._waiting

    @property
    def is_idle(self) -> bool:
        """Ready, and nothing is under way."""
        return self.is_ready and not self._waiting and self._open is None

    @property
    def has_data_to_send(self) -> bool:
        return self._handed_bytes < self._queued_bytes

    @property
    def ends_content_next(self) -> bool:
        """What `data_to_send` gives next holds the final dot of a content whose beginning has gone before."""
        end = self._dot_end_bytes
        return bool(self._rest) and self._handed_bytes < end <= self._handed_bytes + WRITE_BYTES_MAX

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
            return Stage.CONTENT if waited is _DOT and not self._dot_is_out else waited
        return Stage.CONTENT if self._open is not None else Stage.IDLE

    # -- what the owner does ------------------------------------------------------------------

    def start(self, helo_name: str, *, tls_active: bool = False) -> None:
        """The connection is made. `tls_active`: with TLS from the start."""
        self._handshake = Handshake(self._config, helo_name, tls_active=tls_active)

    def tls_established(self) -> None:
        """The TLS handshake that StartTls asked for is done, and the certificate is good."""
        if self._handshake is not None and not self.is_closed:
            self._queue(self._handshake.tls_established())

    def send_envelope(self, envelope: Envelope) -> Result | None:
        """Begins a message. A result means that it was refused here, and nothing goes out."""
        if not self.ready_for_envelope:
            raise RuntimeError("send_envelope while not ready_for_envelope")
        capabilities = self.capabilities
        mail_from, rcpt_to = envelope.mail_from, envelope.rcpt_to
        ascii_only = mail_from.isascii() and rcpt_to.isascii()
        if (refusal := self._unsendable(envelope, ascii_only)) is not None:
            return refusal
        size = f" SIZE={envelope.size_bytes}" if capabilities.size_offered else ""
        utf8 = "" if ascii_only else " SMTPUTF8"
        self._open = envelope
        self._refused = False
        if capabilities.pipelining:
            text = f"MAIL FROM:<{mail_from}>{size}{utf8}\r\nRCPT TO:<{rcpt_to}>\r\nDATA\r\n"
            if self._reset_needed:
                text = "RSET\r\n" + text
                self._waiting.append(_RSET)
            self._waiting.extend((_MAIL, _RCPT, _DATA))
            self._queue(text.encode())
        else:
            if self._reset_needed:
                self._commands.append((_RSET, b"RSET\r\n"))
            self._commands.append((_MAIL, f"MAIL FROM:<{mail_from}>{size}{utf8}\r\n".encode()))
            self._commands.append((_RCPT, f"RCPT TO:<{rcpt_to}>\r\n".encode()))
            self._commands.append((_DATA, b"DATA\r\n"))
            self._send_command()
        self._reset_needed = False
        return None

    def send_content(self, content: WireContent) -> None:
        """Sends the content and the final dot of the message that ContentWanted named."""
        if not self._content_wanted:
            raise RuntimeError("send_content without ContentWanted")
        if content and content[-2:] != b"\r\n":
            raise ValueError("content doesn't end in CRLF: the final dot would be part of its last line")
        self._content_wanted = False
        self._dotted, self._open = self._open, None
        self._waiting.append(_DOT)
        self._queue(content)
        self._queue(b".\r\n")
        self._dot_end_bytes = self._queued_bytes

    def give_up_content(self) -> list[Event]:
        """Ends the message that ContentWanted named. SMTP has no way back from DATA but a final dot,
        which would send it; so the session ends."""
        if not self._content_wanted:
            raise RuntimeError("give_up_content without ContentWanted")
        envelope, self._open = self._open, None
        assert envelope is not None
        result = failure(Cause.GIVEN_UP, Stage.CONTENT, "given up before its content was sent")
        self._events = [Completed(envelope, result)]
        self._end(result)
        return self._events

    def break_off_content(self) -> list[Event]:
        """Ends the message of which `ends_content_next` spoke, without its final dot."""
        envelope, self._dotted = self._dotted, None
        assert envelope is not None
        result = failure(Cause.GIVEN_UP, Stage.CONTENT, "given up before its final dot")
        self._events = [Completed(envelope, result)]
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
        self._queue(b"QUIT\r\n")

    def data_to_send(self) -> bytes:
        """Bytes to write now. Large messages come in pieces: ask again when the last one is gone."""
        if self._rest:
            data = bytes(self._rest[:WRITE_BYTES_MAX])
            self._rest = self._rest[WRITE_BYTES_MAX:]
        else:
            data = b"".join(self._out)
            self._out.clear()
            if len(data) > WRITE_BYTES_MAX:
                self._rest = memoryview(data)[WRITE_BYTES_MAX:]
                data = data[:WRITE_BYTES_MAX]
        self._handed_bytes += len(data)
        self.progress += 1
        return data

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
            while (reply := self._parser.next_reply()) is not None:
                self.progress += 1
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
            # It may come at any time. In answer to a final dot it is a refusal as good as any.
            self._end(classify(self.stage, reply), dot_refused=True)
            return
        stage = self._waiting.popleft()
        if stage is _DOT:
            self._receive_dot(reply)
        elif stage is _MAIL or stage is _RCPT:
            self._receive_mail_or_rcpt(stage, reply)
        elif stage is _DATA:
            self._receive_data_reply(reply)
        elif stage is _QUIT:
            self._end(None)
        elif stage is _RSET and not 200 <= reply.code < 300:
            self._end(classify(_RSET, reply))
        if not self._waiting and self._commands:
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
                self._queue(step)
            case Result():
                self._end(step, say_quit=reply.code != 421 and self._parser.is_empty)
            case Next.START_TLS:
                self._events.append(StartTls())
            case Next.READY:
                self.is_ready = True
                self.capabilities = self._handshake.capabilities
                self._events.append(Ready())

    def _receive_mail_or_rcpt(self, stage: Stage, reply: Reply) -> None:
        if 200 <= reply.code < 300:
            if stage is _MAIL:
                self._reset_needed = True
        elif reply.code < 400:
            self._end(_nonsense(stage, reply))
        elif not self._refused:
            self._refuse(classify(stage, reply))
            if not self.capabilities.pipelining:
                self._commands.clear()
                self._open = None

    def _receive_data_reply(self, reply: Reply) -> None:
        if 300 <= reply.code < 400:
            if self._refused:
                # RFC 2920 3.1: the server took DATA although it took no recipient.
                self._open = None
                self._waiting.append(_EMPTY_DOT)
                self._queue(b".\r\n")
            else:
                assert self._open is not None
                self._content_wanted = True
                self._events.append(ContentWanted(self._open))
            self._reset_needed = False
        elif reply.code < 400:
            self._end(_nonsense(_DATA, reply))
        else:
            if not self._refused:
                self._refuse(classify(_DATA, reply))
            self._open = None

    def _receive_dot(self, reply: Reply) -> None:
        envelope = self._dotted
        assert envelope is not None
        if self._handed_bytes - self._unwritten_bytes >= self._dot_end_bytes:
            if 300 <= reply.code < 400:
                self._end(_nonsense(_DOT, reply))
                return
            self._dotted = None
            self._events.append(Completed(envelope, classify(_DOT, reply)))
        elif reply.code >= 400:
            # It doesn't want the rest, which can't be held back but by hanging up.
            self._dotted = None
            self._events.append(Completed(envelope, classify(Stage.CONTENT, reply)))
            self._end(failure(Cause.PROTOCOL, Stage.CONTENT, "answered before the content was sent"))
        else:
            self._end(_nonsense(Stage.CONTENT, reply))

    # -- inside -------------------------------------------------------------------------------

    @property
    def _dot_is_out(self) -> bool:
        return self._handed_bytes >= self._dot_end_bytes

    def _unsendable(self, envelope: Envelope, ascii_only: bool) -> Result | None:
        limit = self.capabilities.size_bytes_max
        if limit and envelope.size_bytes > limit:
            text = f"{envelope.size_bytes} bytes are more than the {limit} this server takes"
            return failure(Cause.TOO_BIG, _MAIL, text)
        if envelope.mail_from != self._good_sender:
            if envelope.mail_from and not _ADDRESS(envelope.mail_from):
                return failure(Cause.BAD_SENDER, _MAIL, "not an address that SMTP can carry")
            self._good_sender = envelope.mail_from
        if not _ADDRESS(envelope.rcpt_to):
            return failure(Cause.BAD_RECIPIENT, _RCPT, "not an address that SMTP can carry")
        if not ascii_only and not self.capabilities.smtputf8:
            return failure(Cause.SMTPUTF8, _MAIL, "a non-ASCII address, and the server has no SMTPUTF8")
        return None

    def _queue(self, data: bytes) -> None:
        self._out.append(data)
        self._queued_bytes += len(data)

    def _send_command(self) -> None:
        stage, data = self._commands.popleft()
        self._waiting.append(stage)
        self._queue(data)

    def _refuse(self, result: Result) -> None:
        assert self._open is not None
        self._refused = True
        self._events.append(Completed(self._open, result))

    def _end(self, reason: Result | None, *, dot_refused: bool = False, say_quit: bool = False) -> None:
        if self._waiting and self._waiting[0] is _QUIT:
            reason = None  # however it ends, it is what we asked for
        unsent: list[Envelope] = []
        if self._dotted is not None:
            if dot_refused or not self._dot_is_out:
                unsent.append(self._dotted)
            else:
                text = reason.text if reason is not None else ""
                unknown = Result("unknown", _DOT, 0, None, text, "server")
                self._events.append(Completed(self._dotted, unknown))
        if self._open is not None and not self._refused:
            unsent.append(self._open)
        self._parser = ReplyParser()  # what else it says doesn't matter
        self._out.clear()
        self._rest = memoryview(b"")
        self._queued_bytes = self._handed_bytes
        if say_quit:
            self._queue(b"QUIT\r\n")
        self._waiting.clear()
        self._commands.clear()
        self._open = self._dotted = None
        self._content_wanted = False
        self.is_ready = False
        self.is_closed = True
        self._events.append(Closed(reason, tuple(unsent)))


def _nonsense(stage: Stage, reply: Reply) -> Result:
    return failure(Cause.PROTOCOL, stage, f"a reply that makes no sense here: {reply.code} {reply.text}")
