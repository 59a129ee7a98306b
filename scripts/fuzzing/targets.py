"""What is fuzzed: one function for each decoder. It takes any bytes and raises only where there is a bug.

Each lets the errors through that its decoder documents, for those are the right answer to wrong input, and
asserts what must hold of the rest. `TARGETS` is all of them, by name.
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from zmq.utils import z85

from broker.ring import DOMAINS, FOLDERS, Ring, read_ring
from broker.zap import answer
from client import InputError
from client.addresses import AddressError, clean_address
from client.campaign_file import load_values
from client.recipients import RecipientList
from evenpost.compose import ComposeError, TemplateError, compile_template
from evenpost.runtime.curve import KeyFileError, PublicKey, Role, is_key
from evenpost.runtime.curve_files import read_public_key, read_secret_key
from evenpost.schedule.rate import RateError, parse_rate
from evenpost.schedule.window import WindowError, parse_window
from evenpost.wire import codec, limits
from evenpost.wire import messages as wire
from evenpost.wire.errors import WireError
from worker.agent import AgentState
from worker.outcome_log_file import Block, header, records
from worker.smtp.config import ServerConfig
from worker.smtp.content import checked
from worker.smtp.events import Closed, Completed, ContentWanted, Envelope, Event, StartTls
from worker.smtp.protocol import SmtpClient
from worker.smtp.reply import LINES_MAX, ProtocolError, ReplyParser

Target = Callable[[bytes], None]

_ACCEPTED = {"client": wire.FROM_CLIENT, "worker": wire.FROM_WORKER}
_ACCEPTED |= {"to_client": wire.TO_CLIENT, "to_worker": wire.TO_WORKER}
_MESSAGES_A_SESSION = 5


def wire_body(data: bytes) -> None:
    """A well-formed header and any body. What is understood can be said again."""
    types = sorted(wire.BY_TYPE)
    type_ = types[data[0] % len(types)] if data else types[0]
    with suppress(WireError):
        message = codec.decode_body(type_, data[1:])
        again = codec.encode(message)
        assert codec.decode(again, frozenset(types)).message == message


def wire_frames(data: bytes) -> None:
    """Any frames: cut at each NUL NUL."""
    frames = data.split(b"\0\0")
    codec.request_of(frames)
    for accepted in _ACCEPTED.values():
        with suppress(WireError):
            codec.decode(frames, accepted)


def merge_values(data: bytes) -> None:
    with suppress(WireError):
        codec.unpack_values(data)


def journal_structs(data: bytes) -> None:
    for struct in (wire.Template, wire.Options):
        with suppress(WireError):
            codec.unpack_struct(data, struct)


def smtp_reply(data: bytes) -> None:
    """Replies that arrive in two pieces. What comes out may be shown on a terminal."""
    parser = ReplyParser()
    cut = data[0] if data else 0
    with suppress(ProtocolError):
        for piece in (data[1 : 1 + cut], data[1 + cut :]):
            parser.feed(piece)
            while (reply := parser.next_reply()) is not None:
                assert 200 <= reply.code <= 599
                assert len(reply.lines) <= LINES_MAX
                assert all(line.isprintable() for line in reply.lines)


def smtp_session(data: bytes) -> None:
    """A server that says these bytes, a line at a time: each message has at most one result, and none is
    `sent` before its last byte is out."""
    _session(data, b"")


def smtp_session_chunking(data: bytes) -> None:
    """The same with several whole messages in the pipeline."""
    _session(data, b"220 hi\r\n250-mx\r\n250-PIPELINING\r\n250 CHUNKING\r\n")


def _session(data: bytes, before: bytes) -> None:
    client = SmtpClient(ServerConfig("h", tls="opportunistic"))
    client.start("me")
    begun = 0
    out: set[object] = set()
    results: dict[object, str] = {}

    def interpret(events: list[Event]) -> None:
        for event in events:
            match event:
                case Completed(envelope, result):
                    assert envelope.key not in results
                    results[envelope.key] = result.kind
                    assert result.kind != "sent" or envelope.key in out
                case Closed(_, unsent):
                    assert all(envelope.key not in results for envelope in unsent)
                case ContentWanted(envelope) if not client.is_closed:
                    client.send_content(checked(b"Subject: x\r\n\r\ny\r\n"))
                    out.add(envelope.key)
                case StartTls() if not client.is_closed:
                    client.tls_established()
                case _:
                    pass

    for line in (before + data).splitlines(keepends=True):
        interpret(client.receive_data(line))
        while client.room and begun < _MESSAGES_A_SESSION:
            begun += 1
            envelope = Envelope("from@example.com", "to@example.org", 10, begun)
            assert client.send_message(envelope, checked(b"Subject: x\r\n")) is None
            out.add(begun)
        while client.ready_for_envelope and begun < _MESSAGES_A_SESSION:
            begun += 1
            refused = client.send_envelope(Envelope("from@example.com", "to@example.org", 10, begun))
            if refused is not None:
                results[begun] = refused.kind
        while client.has_data_to_send:
            client.data_to_send()
        if client.is_closed:
            return
    interpret(client.receive_eof())


def outcome_log(data: bytes) -> None:
    """Any bytes behind a good header. Records are read up to the first that isn't one."""
    content = header("00" * 16) + data
    for entry, end in records(content):
        assert end <= len(content)
        if isinstance(entry, Block):
            assert len(entry.outcomes) <= limits.FRAME_BYTES_MAX


def agent(data: bytes) -> None:
    state, _ = AgentState().after(data.decode("latin-1"))
    assert state.state in ("ready", "drain", "maint")
    assert state.reason.isprintable()


def rate(data: bytes) -> None:
    with suppress(RateError):
        parse_rate(data.decode("utf-8", "replace"))


def window(data: bytes) -> None:
    with suppress(WindowError):
        if (found := parse_window(data.decode("utf-8", "replace"))) is not None:
            assert found.opens_at(0) >= 0


def address(data: bytes) -> None:
    """An address that is taken for good fits into one SMTP command."""
    with suppress(AddressError):
        clean = clean_address(data.decode("utf-8", "replace"))
        assert not set("\r\n\0<>") & set(clean)


@contextmanager
def _file(data: bytes, suffix: str) -> Iterator[Path]:
    with tempfile.NamedTemporaryFile(suffix=suffix) as file:
        file.write(data)
        file.flush()
        yield Path(file.name)


def recipients(data: bytes) -> None:
    with (
        _file(data, ".csv") as path,
        suppress(InputError),
        RecipientList.open(path, fields=("name",)) as found,
    ):
        found.check()


def campaign_file(data: bytes) -> None:
    with _file(data, ".toml") as path, suppress(InputError):
        load_values(path, {})


def template(data: bytes) -> None:
    """A template and a value: what is composed is lines of ASCII that end in CRLF."""
    source, _, value = data.decode("utf-8", "replace").partition("\0")
    with suppress(TemplateError, ComposeError):
        made = wire.Template("a@example.com", "x", html=source, fields=["name"])
        composer = compile_template(made, campaign_id="c", created_at_ms=0)
        message = composer.compose(0, "b@example.org", [value], 0.0)
        assert message.endswith(b"\r\n")
        assert not set(message.replace(b"\r\n", b"")) & {0, 10, 13}


_CLIENT, _WORKER = b"\x01" * 32, b"\x02" * 32
_RING = Ring(
    by_key={
        z85.encode(raw).decode(): PublicKey(role, "n", z85.encode(raw).decode())
        for raw, role in ((_CLIENT, Role.CLIENT), (_WORKER, Role.WORKER))
    }
)
_ALLOWED = {b"clients": _CLIENT, b"workers": _WORKER}
_ZAP_FRAMES = (b"1.0", b"1", b"clients", b"127.0.0.1", b"", b"CURVE", _CLIENT)


def zap_request(data: bytes) -> None:
    """Frames cut at each NUL NUL: all of a request, or one of a good one. Who gets in is exactly right."""
    place = data[0] if data else 0
    frames = data[1:].split(b"\0\0")
    if place < len(_ZAP_FRAMES):
        frames = [*_ZAP_FRAMES[:place], data[1:], *_ZAP_FRAMES[place + 1 :]]
    reply = answer(frames, _RING)
    assert len(reply) == 6
    assert reply[2] in (b"200", b"400")
    if reply[2] == b"200":
        version, number, domain, _, _, mechanism, key = frames
        assert (version, mechanism, key, reply[1]) == (b"1.0", b"CURVE", _ALLOWED[domain], number)
    else:
        assert reply[4:] == [b"", b""]


def key_file(data: bytes) -> None:
    """As the broker's own key, as an allowed one, and in its folder."""
    with tempfile.TemporaryDirectory(prefix="evenpost-fuzz-") as name:
        for folder in FOLDERS:
            Path(name, folder).mkdir()
            Path(name, folder, "x.pub").write_bytes(data)
        path = Path(name, "admins", "x.pub")
        path.chmod(0o600)
        with suppress(KeyFileError):
            assert is_key(read_secret_key(path).public)
        ring, wrong = read_ring(Path(name), Ring())
        good = None
        with suppress(KeyFileError):
            good = read_public_key(path)
        assert len(ring.by_key) == (good is not None and good.role in FOLDERS.values())
        assert len(wrong) == len(FOLDERS) - len(ring.by_key)
        for domain, roles in DOMAINS.items():
            for key, who in ring.by_key.items():
                assert (ring.holder(key, domain) is not None) == (who.role in roles)
                assert who.user_id.isprintable()
                assert len(who.user_id) < 256


TARGETS: dict[str, Target] = {
    target.__name__: target
    for target in (
        wire_body, wire_frames, merge_values, journal_structs, smtp_reply, smtp_session,
        smtp_session_chunking, outcome_log, agent, rate, window, address, recipients, campaign_file, template,
        zap_request, key_file,
    )
}  # fmt: skip
