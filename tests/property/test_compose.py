"""Whatever people are called and write: it arrives as it was, in a message that is right to the letter."""

import re
from email import policy
from email.header import decode_header, make_header
from email.message import EmailMessage
from email.parser import BytesParser
from email.utils import parseaddr
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st
from markupsafe import escape

from evenpost.compose import ComposeError, Composer, compile_template
from evenpost.compose.sandbox import Sandbox
from evenpost.compose.template import compile_part
from evenpost.compose.transfer import base64_text, encode_chunk
from evenpost.wire.messages import Attachment, Template
from worker.smtp.content import checked

# fmt: off
TROUBLE = st.sampled_from([
    ".", "..", "From ", "=", "=?utf-8?q?x?=", " ", "  ", "\t", "\r\n", "\n", "\r", "\0", "🎉", "👩‍👩‍👧",
    "שלום", "é", "ß", "--", "--=_", "<", ">", '"', "\\", ",", ";", ":", "@", "&", "(", ")", "{{",
    "%}", "\u2028", "\u0085", "\u00a0", "\ufeff", "\x7f", "x" * 80, "ü" * 80, "Ж" * 40,
])
# fmt: on
TEXT = st.lists(TROUBLE | st.text(max_size=12), max_size=8).map("".join)
LINE = TEXT.map(lambda text: re.sub(r"[\x00-\x1f\x7f]", "", text))


def parse(raw: bytes) -> EmailMessage:
    message = BytesParser(policy=policy.SMTP).parsebytes(raw)
    assert isinstance(message, EmailMessage)
    assert not [defect for part in message.walk() for defect in part.defects]
    return message


def holds(raw: bytes) -> None:
    """What the SMTP engine relies on."""
    assert checked(raw) == raw
    assert raw.isascii() and b"\0" not in raw
    assert raw.endswith(b"\r\n")
    assert b"\r" not in raw.replace(b"\r\n", b"") and b"\n" not in raw.replace(b"\r\n", b"")
    for line in raw.split(b"\r\n"):
        assert len(line) <= 998 and not line.startswith((b".", b"From "))
    head, _, body = raw.partition(b"\r\n\r\n")
    assert all(line.strip() for line in head.split(b"\r\n"))
    assert all(len(line) <= 76 for line in body.split(b"\r\n"))


def lines(text: str) -> str:
    return re.sub("\r\n|\r|\n", "\r\n", text)


@given(st.lists(TEXT))
@example(["From ", "From ", ".", "\n.", " ", "\n"])
@example(["x" * 75 + ".", "." * 200, "a" * 74 + "ü" * 99])
def test_chunks_joined_are_the_text(chunks: list[str]) -> None:
    encoded = "".join(map(encode_chunk, chunks))
    part = parse(f"Content-Transfer-Encoding: quoted-printable\r\n\r\n{encoded}".encode())
    assert part.get_payload(decode=True) == "".join(map(lines, chunks)).encode()
    for line in encoded.split("\r\n"):
        assert len(line) <= 76 and not line.startswith((".", "From ")) and line == line.rstrip(" \t")


@given(TEXT)
def test_base64_is_the_text(text: str) -> None:
    part = parse(f"Content-Transfer-Encoding: base64\r\n\r\n{base64_text(text)}".encode())
    assert part.get_payload(decode=True) == lines(text).encode()


def quote(text: str) -> str:
    """Text as a template that renders to it."""
    return text.replace("{", "{{ '{' }}")


@given(TEXT, st.booleans(), st.booleans())
@example("a\r\nb\rc", False, True)
@example("<&>\n", True, True)
def test_a_text_without_tags_is_what_jinja_makes_of_it(text: str, html: bool, body: bool) -> None:
    text = text.replace("{", "")
    parts = [compile_part("text", source, Sandbox(html=html), body=body) for source in (text, "{##}" + text)]
    found = [(part.constant, part.encoding, part.uses, part.plain, part.encoded) for part in parts]
    assert found[0] == found[1]
    assert found[0][0] is not None


@given(
    name=LINE, subject=LINE, html=TEXT, text=TEXT, filename=LINE, content=st.binary(max_size=300), value=TEXT
)
def test_a_message_arrives_as_it_was(
    name: str, subject: str, html: str, text: str, filename: str, content: bytes, value: str
) -> None:
    filename = (
        "".join(c for c in filename if c.isprintable() and c not in '/\\"').replace("=?", "")[:60].strip()
        or "x"
    )
    template = Template(
        sender="{{ name }} <news@example.com>",
        subject=f"{quote(subject[:2000])}{{{{ name }}}}",
        to_name="{{ name }}",
        html=quote(html) + "{{ value }}" + quote(html),
        text=quote(text) + "{{ value }}{% if value %}{{ value }}{% endif %}" + quote(text),
        headers=[("X-Name", "{{ name }}")],
        attachments=[Attachment(filename=filename, content_type="application/pdf", content=content)],
        fields=["name", "value"],
    )
    composer = compile_template(template, campaign_id="c1", created_at_ms=0)
    raw = composer.compose(1, "ada@example.org", [name, value], 1_700_000_000)
    composer.check(1, "ada@example.org", [name, value])
    holds(raw)
    message = parse(raw)

    assert str(message["Subject"]) == (subject[:2000] + name).strip(" ")
    assert str(message["X-Name"]) == name.strip(" ")
    for header, address in (("From", "news@example.com"), ("To", "ada@example.org")):
        shown = re.sub(" +", " ", name).strip(" ")
        assert mailbox_of(raw, header) == (shown, address)
        if len(shown.encode()) <= 20 and shown.isprintable():  # one encoded word of either kind
            (mailbox,) = message[header].addresses
            assert (mailbox.display_name, mailbox.addr_spec) == (shown, address)
    bodies: dict[str, Any] = {
        kind: message.get_body((kind,)).get_payload(decode=True).decode() for kind in ("plain", "html")
    }
    repeated = value * (2 if value else 1)
    assert squeezed(bodies["plain"]) == squeezed(text + repeated + text + "\n")
    assert squeezed(bodies["html"]) == squeezed(html + str(escape(value)) + html + "\n")
    (file,) = message.iter_attachments()
    assert (file.get_filename(), file.get_payload(decode=True)) == (filename, content)


def squeezed(text: str) -> str:
    """Any run of line ends as one. Whether a CR at the end of a value and an LF after it are one line end or
    two depends on the encoding; the tests above hold each encoding to the letter."""
    return re.sub("[\r\n]+", "\n", text)


def mailbox_of(raw: bytes, header: str) -> tuple[str, str]:
    """Name and address, read with email's older interface: the newer one puts a space between the encoded
    words of a long name (RFC 2047 6.2 says none)."""
    value = BytesParser(policy=policy.compat32).parsebytes(raw)[header].replace("\r\n", "")
    display, address = parseaddr(value)
    return str(make_header(decode_header(display))), address


ANYTHING = st.one_of(TEXT, LINE, st.none(), st.integers(), st.floats(allow_nan=False), st.lists(st.text()))


@given(
    name=ANYTHING,
    value=ANYTHING,
    address=st.sampled_from(
        ["ada@example.org", "ada@bücher.example", "no address", f"a@{'b' * 990}.example"]
    ),
    sender=st.sampled_from(["News <news@example.com>", "{{ name }} <a@example.com>", "a@{{ value }}"]),
    to_name=st.sampled_from(["", "{{ name }}", "{{ name|upper }}"]),
    html=st.sampled_from(
        ["<p>{{ name }}</p>{{ name }}.\n{{ email }}", "{% if value %}{{ value }}{% endif %}"]
    ),
    text=st.sampled_from(["{{ value }} {{ campaign }}\n", "Ж" * 30 + "{{ value }}", "constant", None]),
)
@example("Ann", "x", "ada@example.org", "News <news@example.com>", "", "<p>{{ name }}</p>", "{{ value }}")
@example("\ud800", "x", "ada@example.org", "News <news@example.com>", "", "<p>{{ name }}</p>", "{{ value }}")
def test_filling_in_gives_what_the_parts_give(
    name: Any, value: Any, address: str, sender: str, to_name: str, html: str, text: str | None
) -> None:
    template = Template(
        sender=sender, subject="{{ name }}!", to_name=to_name or None, html=html, text=text,
        headers=[("X-A", "{{ value }}"), ("List-Id", "x")], fields=["name", "value"],
    )  # fmt: skip
    quick = compile_template(template, campaign_id="c1", created_at_ms=0)
    parts = compile_template(template, campaign_id="c1", created_at_ms=0)
    parts._filling.fill = lambda head, values, scope: None  # type: ignore[method-assign]

    def result(composer: Composer) -> bytes | str:
        try:
            return composer.compose(1, address, [name, value], 0)
        except ComposeError as error:
            return str(error)

    assert result(quick) == result(parts)


@given(value=TEXT)
def test_no_value_breaks_out_of_a_header(value: str) -> None:
    template = Template(
        sender="{{ v }} <a@example.com>",
        subject="{{ v }}",
        text="x",
        to_name="{{ v }}",
        reply_to="{{ v }} <r@example.com>",
        headers=[("X-A", "{{ v }}"), ("Sender", "{{ v }} <s@example.com>")],
        fields=["v"],
    )
    composer = compile_template(template, campaign_id="c1", created_at_ms=0)
    try:
        raw = composer.compose(1, "ada@example.org", [value], 0)
    except ComposeError:
        assert re.search(r"[\x00-\x08\x0a-\x1f\x7f]", value)
        return
    holds(raw)
    assert not re.search(r"[\x00-\x08\x0a-\x1f\x7f]", value)
    assert parse(raw).keys() == [
        "Message-ID", "Date", "From", "To", "Subject", "Reply-To", "X-A", "Sender", "MIME-Version",
        "Content-Type", "Content-Transfer-Encoding",
    ]  # fmt: skip
