"""The SMTP core joined back to back with a server that may say anything, or stop, at any point."""

import re
from collections import Counter
from dataclasses import dataclass, field

from hypothesis import example, given, settings
from hypothesis import strategies as st

from worker.smtp.config import ServerConfig
from worker.smtp.content import ContentError, encode
from worker.smtp.events import Closed, Completed, ContentWanted, Envelope, Event
from worker.smtp.outcome import Cause, Result
from worker.smtp.protocol import SmtpClient
from worker.smtp.reply import ProtocolError, Reply, ReplyParser

OK = b"250 2.0.0 Ok\r\n"
ANSWERS = st.one_of(
    st.sampled_from([200, 250, 251, 354, 334, 421, 450, 451, 452, 454, 500, 503, 530, 550, 552, 554]).map(
        lambda code: b"%d said so\r\n" % code
    ),
    st.sampled_from(
        [b"nonsense\r\n", b"250-half\r\n250 done\r\n", b"250 a\r\n250 extra\r\n", b"\r\n", b"250 bare\n"]
    ),
)
COMMAND = re.compile(
    rb"(RSET|DATA|QUIT|EHLO me|HELO me|MAIL FROM:<[^<>\r\n]*>[^<>\r\n]*|RCPT TO:<([^<>\r\n]+)>)\r\n"
)


@dataclass
class Server:
    """Takes commands as RFC 5321 has them, and answers as it should but for `answers`, by the number
    of the command. After `replies_max` replies it says nothing and hears nothing."""

    pipelining: bool
    answers: dict[int, bytes]
    replies_max: int
    accepted: Counter[bytes] = field(default_factory=Counter)
    dots_seen: Counter[bytes] = field(default_factory=Counter)
    _buffer: bytes = b""
    _commands: int = 0
    _replies: int = 0
    _mail: bool = False
    _rcpt: bytes = b""
    _in_data: bool = False

    def receive(self, data: bytes) -> bytes:
        self._buffer += data
        said = b""
        while b"\r\n" in self._buffer:
            if self._in_data:
                end = 0 if self._buffer.startswith(b".\r\n") else self._buffer.find(b"\r\n.\r\n") + 2
                if end == 1:
                    break
                content, self._buffer = self._buffer[:end], self._buffer[end + 3 :]
                check_content(content)
                said += self._answer(b".")
            else:
                line, _, self._buffer = self._buffer.partition(b"\r\n")
                said += self._answer(line)
        return said

    def _answer(self, line: bytes) -> bytes:
        if not self._in_data:
            match = COMMAND.fullmatch(line + b"\r\n")
            # Content may end up here: after a 354 that we took back by a lie the client can't see.
            assert match or self.answers, line
        answer = self.answers.get(self._commands, self._honest(line))
        self._commands += 1
        is_good = answer.startswith(b"2")
        verb = line[:4]
        if self._in_data:
            self._in_data = False
            self.dots_seen[self._rcpt] += 1
            self.accepted[self._rcpt] += is_good
            self._mail, self._rcpt = False, b""
        elif verb == b"MAIL":
            self._mail = is_good
        elif verb == b"RCPT" and is_good and self._mail:
            self._rcpt = line[9:-1]
        elif verb == b"RSET":
            self._mail, self._rcpt = False, b""
        elif verb == b"DATA":
            self._in_data = answer.startswith(b"3")
        self._replies += 1
        return answer if self._replies <= self.replies_max else b""

    def _honest(self, line: bytes) -> bytes:
        verb = line[:4]
        if verb == b"EHLO":
            return b"250-mx\r\n250-PIPELINING\r\n250 SIZE 1000\r\n" if self.pipelining else b"250 mx\r\n"
        if verb == b"RCPT" and not self._mail:
            return b"503 5.5.1 MAIL first\r\n"
        if verb == b"DATA":
            return b"354 go\r\n" if self._rcpt else b"554 5.5.1 no valid recipients\r\n"
        return b"221 bye\r\n" if verb == b"QUIT" else OK

    @property
    def is_silent(self) -> bool:
        return self._replies >= self.replies_max


def check_content(content: bytes) -> None:
    assert b"\n" not in content.replace(b"\r\n", b"")
    assert b"\r" not in content.replace(b"\r\n", b"")
    for line in content.split(b"\r\n"):
        assert len(line) <= 999
        assert not line.startswith(b".") or line.startswith(b"..")


@dataclass
class Run:
    begun: list[Envelope] = field(default_factory=list)
    results: list[tuple[int, Result]] = field(default_factory=list)
    unsent: list[int] = field(default_factory=list)
    closed: bool = False


def run(server: Server, messages: int, contents: list[bytes], cuts: list[int], give_up: int | None) -> Run:
    """A whole session. `cuts` are the sizes in which the server's bytes arrive, over and over."""
    client = SmtpClient(ServerConfig("h", tls="none"))
    client.start("me")
    done = Run()
    waiting = b"220 hi\r\n"
    cut = 0

    def interpret(events: list[Event]) -> None:
        for event in events:
            match event:
                case Completed():
                    done.results.append((event.envelope.key, event.result))
                case Closed():
                    done.closed = True
                    done.unsent += [envelope.key for envelope in event.unsent]
                case ContentWanted() if event.envelope.key == give_up:
                    interpret(client.give_up_content())
                case ContentWanted() if not client.is_closed:
                    client.send_content(encode(contents[event.envelope.key % len(contents)]))
                case _:
                    pass

    while True:
        while client.ready_for_envelope and len(done.begun) < messages:
            key = len(done.begun)
            done.begun.append(Envelope("from@example.com", f"{key}@example.org", 10, key))
            if (refusal := client.send_envelope(done.begun[-1])) is not None:
                done.results.append((key, refusal))
        if client.is_idle and len(done.begun) == messages:
            client.quit()
        while client.has_data_to_send:
            waiting += server.receive(client.data_to_send())
        if done.closed:
            return done
        if not waiting:
            interpret(
                client.receive_eof() if server.is_silent else client.connection_failed(Cause.TIMEOUT, "?")
            )
            assert done.closed
            continue
        size = cuts[cut % len(cuts)]
        cut += 1
        arrived, waiting = waiting[:size], waiting[size:]
        interpret(client.receive_data(arrived))


CUTS = st.lists(st.integers(1, 40), min_size=1, max_size=8)
CONTENTS = st.lists(
    st.lists(st.sampled_from([b"", b".", b"..", b"x", b".x", b"QUIT", b"x" * 998]), max_size=6).map(
        b"\r\n".join
    ),
    min_size=1,
    max_size=3,
)
SCRIPTS = st.dictionaries(st.integers(0, 24), ANSWERS, max_size=4)


@settings(max_examples=600, deadline=None)
@given(
    pipelining=st.booleans(),
    answers=SCRIPTS,
    replies_max=st.one_of(st.just(10_000), st.integers(0, 30)),
    messages=st.integers(0, 6),
    contents=CONTENTS,
    cuts=CUTS,
    give_up=st.one_of(st.none(), st.integers(0, 5)),
)
@example(True, {4: b"550 no\r\n", 5: b"354 go\r\n"}, 10_000, 3, [b"x"], [1], None)
def test_each_message_has_one_end_and_it_is_the_true_one(
    pipelining: bool,
    answers: dict[int, bytes],
    replies_max: int,
    messages: int,
    contents: list[bytes],
    cuts: list[int],
    give_up: int | None,
) -> None:
    server = Server(pipelining, answers, replies_max)
    done = run(server, messages, contents, cuts, give_up)
    ends = [key for key, _ in done.results] + done.unsent
    assert sorted(ends) == [envelope.key for envelope in done.begun]
    extra = any(b"extra" in answer for answer in answers.values())
    for key, result in done.results:
        rcpt = b"%d@example.org" % key
        if result.kind == "unknown":
            assert server.dots_seen[rcpt] == 1
        elif not extra:  # with a reply too many, what the server says and what it does differ
            assert server.accepted[rcpt] == (result.kind == "sent")
    if not extra:
        assert not any(server.accepted[b"%d@example.org" % key] for key in done.unsent)
    assert max(server.accepted.values(), default=0) <= 1
    if not answers and replies_max == 10_000 and give_up is None:
        assert [result.kind for _, result in done.results] == ["sent"] * messages


@settings(max_examples=300, deadline=None)
@given(
    pipelining=st.booleans(),
    answers=SCRIPTS,
    replies_max=st.one_of(st.just(10_000), st.integers(0, 30)),
    messages=st.integers(0, 5),
    cuts=CUTS,
)
def test_any_split_of_the_bytes_gives_the_same(
    pipelining: bool, answers: dict[int, bytes], replies_max: int, messages: int, cuts: list[int]
) -> None:
    # A reply too many is seen as such only when it comes with the one before it.
    answers = {at: answer for at, answer in answers.items() if b"extra" not in answer}
    whole = run(Server(pipelining, answers, replies_max), messages, [b"x"], [100_000], None)
    split = run(Server(pipelining, answers, replies_max), messages, [b"x"], cuts, None)
    assert split == whole


@settings(max_examples=300, deadline=None)
@given(
    before=st.sampled_from([b"", b"220 hi\r\n", b"220 hi\r\n250-mx\r\n250 PIPELINING\r\n"]),
    envelope=st.builds(Envelope, st.text(max_size=20), st.text(max_size=20), st.integers(0, 2000)),
    noise=st.lists(
        st.one_of(st.binary(max_size=60), ANSWERS, st.just(OK), st.just(b"354 go\r\n")), max_size=8
    ),
)
def test_no_bytes_and_no_address_do_harm(before: bytes, envelope: Envelope, noise: list[bytes]) -> None:
    client = SmtpClient(ServerConfig("h", tls="none"))
    client.start("me")
    events = client.receive_data(before)
    begun = client.ready_for_envelope
    if begun and (refusal := client.send_envelope(envelope)) is not None:
        events.append(Completed(envelope, refusal))
    for chunk in noise:
        out = client.data_to_send()
        for line in out.split(b"\r\n")[:-1]:
            assert b"\r" not in line
            assert b"\n" not in line
        for event in client.receive_data(chunk):
            events.append(event)
            if isinstance(event, ContentWanted) and not client.is_closed:
                client.send_content(encode(b"x"))
    events += client.receive_eof()
    ends = [event for event in events if isinstance(event, Completed)]
    [closed] = [event for event in events if isinstance(event, Closed)]
    assert len(ends) + len(closed.unsent) == begun


def parsed(chunks: list[bytes]) -> list[Reply | str]:
    parser = ReplyParser()
    found: list[Reply | str] = []
    for chunk in chunks:
        parser.feed(chunk)
        try:
            while (reply := parser.next_reply()) is not None:
                found.append(reply)
        except ProtocolError as error:
            return [*found, str(error)]
    return found


@settings(max_examples=300, deadline=None)
@given(
    lines=st.lists(
        st.tuples(
            st.sampled_from([b"250", b"354", b"550", b"42", b"999"]),
            st.sampled_from([b"-", b" ", b"", b"x"]),
            st.one_of(st.binary(max_size=20), st.just(b"5.1.1 x" * 700), st.just(b"\r" * 5000)),
            st.sampled_from([b"\r\n", b"\n"]),
        ).map(b"".join),
        max_size=6,
    ),
    cuts=st.lists(st.integers(1, 6000), min_size=1, max_size=5),
)
def test_replies_are_the_same_however_they_arrive(lines: list[bytes], cuts: list[int]) -> None:
    data = b"".join(lines)
    chunks = []
    at = step = 0
    while at < len(data):
        size = cuts[step % len(cuts)]
        chunks.append(data[at : at + size])
        at += size
        step += 1
    assert parsed(chunks) == parsed([data])


@settings(max_examples=500, deadline=None)
@given(
    st.lists(
        st.sampled_from([b"\r\n", b"\r", b"\n", b".", b"x", b"x" * 499, b"\0", b"\xc3"]), max_size=12
    ).map(b"".join)
)
def test_content_is_refused_or_safe_and_complete(raw: bytes) -> None:
    try:
        wire = encode(raw)
    except ContentError:
        lines = raw.split(b"\r\n")
        bad = any(b"\r" in line or b"\n" in line or b"\0" in line or len(line) > 998 for line in lines)
        assert bad or not raw.isascii()
        return
    check_content(wire)
    assert not wire or wire.endswith(b"\r\n")
    back = b"\r\n".join(line[1:] if line.startswith(b".") else line for line in wire.split(b"\r\n"))
    assert back in (raw, raw + b"\r\n")
