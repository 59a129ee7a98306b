"""The recording server's side of an SMTP connection: fast, pipelined, and as rude as it is told.

Runs as a program of its own (`python -m tests.servers.recording_protocol OPTIONS-AS-JSON`): it
prints the port, takes new rules as lines on its standard input, and ends when that closes.
"""

import asyncio
import contextlib
import json
import os
import re
import ssl
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.servers.rules import Rule, Rules, Stage, loads

ADDRESS = re.compile(rb"<([^>]*)>")
MESSAGE_ID = re.compile(rb"^message-id:\s*(\S+)", re.IGNORECASE | re.MULTILINE)

EXTENSIONS = ("PIPELINING", "SIZE 52428800", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES")
WITH_CHUNKING = (*EXTENSIONS, "CHUNKING")
OK = "250 2.0.0 Ok"
LINE_BYTES_MAX = 4_096  # a command line longer than this ends the connection


@dataclass(slots=True)
class Options:
    folder: str
    host: str = "127.0.0.1"
    port: int = 0
    rules: str = "[]"
    delay_s: float = 0.0
    max_sessions: int | None = None
    session_messages: int | None = None
    keep: bool = True
    extensions: Sequence[str] = EXTENSIONS
    certificate: tuple[str, str] | None = None  # chain and key: TLS from the first byte


class Recorder:
    """What all connections share: the rules, the counters and the two files."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.rules = Rules(loads(options.rules))
        self.sessions = 0
        self.sessions_total = 0
        self.sessions_peak = 0
        self.dots = 0
        folder = Path(options.folder)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        self._index = os.open(folder / "index", flags)
        self._bodies = os.open(folder / "bodies", flags)

    def store(self, session: int, sender: str, recipients: list[str], raw: bytes) -> None:
        # The body first: whoever sees the line in the index finds the bytes.
        if self.options.keep:
            view = memoryview(raw)
            while view:
                view = view[os.write(self._bodies, view) :]
        found = MESSAGE_ID.search(raw)
        record = {
            "id": found[1].decode("utf-8", "replace") if found else "",
            "from": sender,
            "to": recipients,
            "bytes": len(raw),
            "session": session,
        }
        os.write(self._index, json.dumps(record).encode() + b"\n")

    def store_auth(self, line: bytes) -> None:
        with Path(self.options.folder, "auth").open("ab") as file:
            file.write(line + b"\n")


class Connection(asyncio.Protocol):
    """One client. While an answer is delayed nothing further is read from the buffer, so that
    answers stay in order."""

    transport: asyncio.Transport

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._rules = recorder.rules
        self._buffer = bytearray()
        self._output: list[bytes] = []
        self._in_data = False
        self._chunk: int | None = None  # bytes of a BDAT that is to be read
        self._scanned = 0
        self._waiting = False  # an answer is delayed or will never come
        self._closing = False
        self._timer: asyncio.TimerHandle | None = None
        self._messages = 0
        self._reset()

    def _reset(self) -> None:
        self._sender: str | None = None
        self._recipients: list[str] = []

    # -- asyncio.Protocol ---------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        recorder = self._recorder
        recorder.sessions += 1
        recorder.sessions_total += 1
        recorder.sessions_peak = max(recorder.sessions_peak, recorder.sessions)
        self._session = recorder.sessions_total
        limit = recorder.options.max_sessions
        if limit is not None and recorder.sessions > limit:
            self._answer("421 4.7.0 Too many connections")
        else:
            self._decide("connect", "", "220 recorder.test ESMTP")
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self._recorder.sessions -= 1
        self._closing = True
        if self._timer:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._advance()

    # -- the conversation ---------------------------------------------------------------------

    def _advance(self) -> None:
        while not self._waiting and not self._closing:
            if not self._take():
                break
        self._flush()

    def _take(self) -> bool:
        if self._chunk is not None:
            return self._take_chunk(self._chunk)
        return self._take_message() if self._in_data else self._take_command()

    def _take_chunk(self, size: int) -> bool:
        if len(self._buffer) < size:
            return False
        raw = bytes(self._buffer[:size])
        del self._buffer[:size]
        self._chunk = None
        if self._recipients:
            self._message(raw)
        else:
            # As with Exim, the transaction goes on until RSET.
            self._answer("503 5.5.1 No valid recipients")
        return True

    def _take_command(self) -> bool:
        end = self._buffer.find(b"\r\n")
        if end < 0:
            if len(self._buffer) > LINE_BYTES_MAX:
                self._answer("421 5.5.2 Line too long")
            return False
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        self._command(line)
        return True

    def _take_message(self) -> bool:
        # The data began after a CRLF, so a message may also be nothing but the final dot.
        if self._buffer.startswith(b".\r\n"):
            end, after = 0, 3
        else:
            dot = self._buffer.find(b"\r\n.\r\n", max(0, self._scanned - 4))
            if dot < 0:
                self._scanned = len(self._buffer)
                return False
            end, after = dot + 2, dot + 5
        raw = bytes(self._buffer[:end])
        del self._buffer[:after]
        self._in_data, self._scanned = False, 0
        if raw.startswith(b"."):
            raw = raw[1:]
        self._message(raw.replace(b"\r\n.", b"\r\n"))
        return True

    def _command(self, line: bytes) -> None:
        verb = line[:4].upper()
        if verb == b"MAIL":
            self._mail(line)
        elif verb == b"RCPT":
            self._rcpt(line)
        elif verb == b"DATA":
            self._data()
        elif verb == b"BDAT":
            self._chunk = int(line.split()[1])
        elif verb == b"EHLO":
            self._reset()
            lines = ["recorder.test", *self._recorder.options.extensions]
            marked = [f"250-{text}" for text in lines[:-1]] + [f"250 {lines[-1]}"]
            greeting = "\r\n".join(marked)
            self._decide("ehlo", line[5:].decode("latin-1"), greeting)
        elif verb == b"HELO":
            self._reset()
            self._decide("ehlo", line[5:].decode("latin-1"), "250 recorder.test")
        elif verb == b"AUTH":
            self._recorder.store_auth(line)
            self._decide("auth", line[5:].decode("latin-1"), "235 2.7.0 Welcome")
        elif verb == b"RSET":
            self._reset()
            self._answer(OK)
        elif verb == b"NOOP":
            self._answer(OK)
        elif verb == b"QUIT":
            self._answer("221 2.0.0 Bye")
            self._closing = True
        else:
            self._answer("500 5.5.2 Unknown command")

    def _mail(self, line: bytes) -> None:
        limit = self._recorder.options.session_messages
        address = _address(line)
        if address is None or self._sender is not None:
            self._answer("503 5.5.1 Bad MAIL")
        elif limit is not None and self._messages >= limit:
            self._answer("421 4.7.0 Too many messages on this connection")
        elif self._decide("mail", address, OK):
            self._sender = address

    def _rcpt(self, line: bytes) -> None:
        address = _address(line)
        if not address or self._sender is None:
            self._answer("503 5.5.1 Bad RCPT")
        elif self._decide("rcpt", address, OK):
            self._recipients.append(address)

    def _data(self) -> None:
        if not self._recipients:
            self._answer("554 5.5.1 No valid recipients")
        elif self._decide("data", self._recipients[-1], "354 Go on"):
            self._in_data = True

    def _message(self, raw: bytes) -> None:
        sender, recipients = self._sender or "", self._recipients
        self._messages += 1
        self._recorder.dots += 1
        self._reset()
        rule = self._rules.find("message", recipients[-1])
        delay_s = self._recorder.options.delay_s + (rule.delay_s if rule else 0.0)
        reply = (rule.reply if rule else "") or OK
        action = rule.action if rule else "reply"
        accept = (action == "reply" and reply.startswith("2")) or bool(rule and rule.accept)
        if delay_s:
            self._flush()
            self._waiting = True
            self._timer = asyncio.get_running_loop().call_later(
                delay_s, self._resume, sender, recipients, raw, accept, action, reply
            )
            return
        self._finish(sender, recipients, raw, accept, action, reply)

    def _finish(
        self, sender: str, recipients: list[str], raw: bytes, accept: bool, action: str, reply: str
    ) -> None:
        if accept:
            self._recorder.store(self._session, sender, recipients, raw)
        self._act(action, reply)

    def _resume(
        self, sender: str, recipients: list[str], raw: bytes, accept: bool, action: str, reply: str
    ) -> None:
        self._waiting = False
        self._finish(sender, recipients, raw, accept, action, reply)
        self._advance()

    # -- answers ------------------------------------------------------------------------------

    def _decide(self, stage: Stage, address: str, usual: str) -> bool:
        """Answer as the rules say, or as usual. True when the client may go on as usual."""
        rule = self._rules.find(stage, address)
        if rule is None:
            self._answer(usual)
            return True
        reply = rule.reply or usual
        if rule.delay_s:
            self._flush()
            self._waiting = True
            self._timer = asyncio.get_running_loop().call_later(rule.delay_s, self._answer_late, rule, reply)
        else:
            self._act(rule.action, reply)
        return rule.action == "reply" and reply[:1] in "23"

    def _answer_late(self, rule: Rule, reply: str) -> None:
        self._waiting = False
        self._act(rule.action, reply)
        self._advance()

    def _act(self, action: str, reply: str) -> None:
        if action == "hang":
            self._waiting = True
        elif action == "drop":
            self._closing = True
        else:
            self._answer(reply)

    def _answer(self, reply: str) -> None:
        self._output.append(reply.encode() + b"\r\n")
        if reply.startswith("421"):
            self._closing = True

    def _flush(self) -> None:
        if self._output:
            self.transport.write(b"".join(self._output))
            self._output.clear()
        if self._closing and not self.transport.is_closing():
            self.transport.close()


def _address(line: bytes) -> str | None:
    found = ADDRESS.search(line)
    return found[1].decode("utf-8", "replace") if found else None


async def serve(recorder: Recorder) -> tuple[asyncio.Server, int]:
    """Listen; the number is the port."""
    options = recorder.options
    context = None
    if options.certificate:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*options.certificate)
    server = await asyncio.get_running_loop().create_server(
        lambda: Connection(recorder), options.host, options.port, ssl=context, backlog=1024
    )
    return server, int(server.sockets[0].getsockname()[1])


async def _main(options: Options) -> None:
    recorder = Recorder(options)
    server, port = await serve(recorder)
    print(port, flush=True)
    commands = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(commands), sys.stdin
    )
    # Each line: new rules, or nothing. Each is answered with the session counters once it holds.
    while line := await commands.readline():
        if line.strip():
            recorder.rules.replace(loads(line.decode()))
        counters = (recorder.sessions, recorder.sessions_peak, recorder.sessions_total, recorder.dots)
        print(*counters, flush=True)
    server.close()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_main(Options(**json.loads(sys.argv[1]))))
