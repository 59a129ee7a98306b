"""Whatever stands in a field that a user or a list can set: one message goes out as one, to one recipient."""

import re

from hypothesis import example, given, settings
from hypothesis import strategies as st

from evenpost.compose import ComposeError, TemplateError, compile_template
from evenpost.wire.messages import Attachment, Template
from worker.smtp.config import ServerConfig
from worker.smtp.content import WireContent
from worker.smtp.events import Completed, ContentWanted, Envelope
from worker.smtp.protocol import SmtpClient

BREAKS = [
    "\r\n", "\n", "\r", "\0", "\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\u2029", "\r\n.\r\n", "\n.\n",
    "\r.\r", "\r\n.\n", "\n.\r\n", "\r\n..\r\n", "%0d%0a", "=0D=0A", "=?utf-8?q?=0D=0A?=", "x" * 1_100,
]  # fmt: skip
COMMANDS = [
    "MAIL FROM:<evil@example.net>", "RCPT TO:<evil@example.net>", "DATA", "QUIT", "Bcc: evil@example.net",
    "> SIZE=1", "> NOTIFY=NEVER", "<", ">", ",", '"', "\\", "@", " ", "a@b.example", "ü",
]  # fmt: skip
HOSTILE = st.lists(st.sampled_from(BREAKS + COMMANDS) | st.text(max_size=4), max_size=6).map("".join)
ADDRESS = st.one_of(
    HOSTILE,
    HOSTILE.map(lambda text: f"a{text}@example.org"),
    HOSTILE.map(lambda text: f"a@example.org{text}"),
    HOSTILE.map(lambda text: f'"{text}"@example.org'),
)
COMMAND = re.compile(
    rb"EHLO me\r\n|MAIL FROM:<[^<>\s\x00-\x20\x7f]*> SIZE=\d+( SMTPUTF8)?\r\n"
    rb"|RCPT TO:<[^<>\s\x00-\x20\x7f]+>\r\n|DATA\r\n"
).fullmatch
OUR_HEADERS = {
    "message-id", "date", "from", "to", "subject", "reply-to", "x-a", "list-unsubscribe", "mime-version",
    "content-type", "content-transfer-encoding",
}  # fmt: skip


def whole(sender: str, recipient: str, content: bytes) -> bytes:
    """What a server with CHUNKING hears."""
    client = SmtpClient(ServerConfig("h", tls="none"))
    client.start("me")
    client.receive_data(b"220 hi\r\n")
    client.data_to_send()
    client.receive_data(b"250-mx\r\n250-PIPELINING\r\n250-CHUNKING\r\n250-SMTPUTF8\r\n250 SIZE 0\r\n")
    assert client.send_message(Envelope(sender, recipient, len(content)), WireContent(content)) is None
    return client.data_to_send()


def said(sender: str, recipient: str, content: bytes) -> tuple[list[bytes], bytes] | None:
    """The commands and the content that a server hears; None where nothing was said."""
    client = SmtpClient(ServerConfig("h", tls="none"))
    client.start("me")
    client.receive_data(b"220 hi\r\n")
    commands = client.data_to_send()
    client.receive_data(b"250-mx\r\n250-PIPELINING\r\n250-SMTPUTF8\r\n250 SIZE 0\r\n")
    if client.send_envelope(Envelope(sender, recipient, len(content))) is not None:
        assert not client.has_data_to_send
        return None
    commands += client.data_to_send()
    (wanted,) = client.receive_data(b"250 ok\r\n250 ok\r\n354 go\r\n")
    assert isinstance(wanted, ContentWanted)
    client.send_content(WireContent(content))
    heard = b""
    while client.has_data_to_send:
        heard += client.data_to_send()
    (done,) = client.receive_data(b"250 ok\r\n")
    assert isinstance(done, Completed) and done.result.kind == "sent"
    by_data = commands.removeprefix(b"EHLO me\r\n").removesuffix(b"DATA\r\n")
    assert whole(sender, recipient, content) == by_data + b"BDAT %d LAST\r\n" % len(content) + content
    return commands.splitlines(keepends=True) if b"\r" in commands else [commands], heard


FINE = {
    "recipient": "ann@example.org", "name": "Ann", "sender": "news@example.com", "subject": "Hi",
    "value": "x", "body": "Dear Ann", "url": "https://example.com/u", "envelope": "bounces@example.com",
    "filename": "a.txt", "content": "x",
}  # fmt: skip
FIELD = st.sampled_from([*FINE])


@settings(max_examples=1_000, deadline=None)
@given(hostile=st.dictionaries(FIELD, HOSTILE | ADDRESS, min_size=1, max_size=2))
@example(hostile={"name": "\r\nBcc: x@y.example"})
@example(hostile={"body": "\r\n.\r\nQUIT\r\n", "content": "\n.\n"})
@example(hostile={"recipient": 'a@b.example> SIZE=1"@x'})
@example(hostile={"envelope": "a@b.example\r\nRCPT TO:<e@x>"})
@example(hostile={"recipient": '"a b"@example.org', "envelope": "ü\x85@example.com"})
def test_one_message_goes_out_as_one(hostile: dict[str, str]) -> None:
    fields = FINE | hostile
    recipient, filename, attached = (fields.pop(name) for name in ("recipient", "filename", "content"))
    template = Template(
        sender="{{ name }} <{{ sender }}>", subject="{{ subject }}", to_name="{{ name }}",
        reply_to="{{ name }} <{{ sender }}>", envelope_from="{{ envelope }}",
        text="{{ body }}\n{{ body }}", html="<p>{{ body|safe }}</p>",
        headers=[("X-A", "{{ value }}"), ("List-Unsubscribe", "<{{ url }}>")],
        attachments=[Attachment(filename, "text/plain", attached.encode(errors="replace"))],
        fields=list(fields),
    )  # fmt: skip
    values = list(fields.values())
    try:
        composer = compile_template(template, campaign_id="c1", created_at_ms=0)
        content = composer.compose(0, recipient, values, 0)
        mail_from, rcpt_to = composer.envelope(recipient, values)
    except (ComposeError, TemplateError):
        assert not hostile.keys() <= {"body", "content"} or "\ud800" in repr(hostile), "a body holds anything"
        return
    if (heard := said(mail_from, rcpt_to, content)) is None:
        return
    commands, data = heard
    assert len(commands) == 4 and all(COMMAND(line) for line in commands), commands
    assert data.endswith(b"\r\n.\r\n") and data.count(b"\r\n.") == 1, "the dot at the end, and no other"
    assert b"\n" not in data.replace(b"\r\n", b"") and b"\r" not in data.replace(b"\r\n", b"")
    assert b"\0" not in data and all(len(line) <= 998 for line in data.split(b"\r\n"))
    head = data.partition(b"\r\n\r\n")[0].decode()
    names = [line.partition(":")[0].lower() for line in head.split("\r\n") if line[0] not in " \t"]
    assert set(names) <= OUR_HEADERS and len(names) == len(set(names)), names


@settings(max_examples=300, deadline=None)
@given(sender=ADDRESS, recipient=ADDRESS)
def test_an_envelope_that_nobody_checked_before_is_one_command_each(sender: str, recipient: str) -> None:
    """What a composer would refuse, straight to the engine."""
    if (heard := said(sender, recipient, b"x\r\n")) is not None:
        assert [line[:4] for line in heard[0]] == [b"EHLO", b"MAIL", b"RCPT", b"DATA"]
        assert all(line.endswith(b"\r\n") and line.count(b">") <= 1 for line in heard[0])
