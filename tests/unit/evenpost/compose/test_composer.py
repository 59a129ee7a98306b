"""What goes in comes out, as Python's own email package reads it."""

from typing import Any

import pytest

from evenpost.compose import ComposeError, TemplateError, compile_template, fields_used
from evenpost.wire.messages import Attachment, Template

PNG = Attachment(filename="logo.png", content_type="image/png", content=bytes(range(256)), content_id="logo")
PDF = Attachment(filename="Überblick.pdf", content_type="application/pdf", content=b"%PDF-1.4\n.\n" * 100)
DATE = 1_700_000_000.9


def attachment(filename: str, content_type: str) -> Attachment:
    return Attachment(filename=filename, content_type=content_type, content=b"")


def one(composer: Any, *values: Any, address: str = "ada@example.org") -> bytes:
    raw = composer.compose(7, address, values, DATE)
    assert raw.endswith(b"\r\n")
    assert b"\n" not in raw.replace(b"\r\n", b"") and b"\r" not in raw.replace(b"\r\n", b"")
    assert not any(line.startswith(b".") or len(line) > 998 for line in raw.split(b"\r\n"))
    assert raw == composer.compose(7, address, values, DATE)
    return bytes(raw)


def test_the_simplest_message(make, parse, text_of):
    message = parse(one(make()))
    assert message["From"] == "News <news@example.com>"
    assert message["To"] == "ada@example.org"
    assert message["Subject"] == "Hello"
    assert message["Message-ID"] == "<c1.7@example.com>"
    assert message["Date"] == "Tue, 14 Nov 2023 22:13:20 +0000"
    assert message["MIME-Version"] == "1.0"
    assert text_of(message) == "Hi\n"


def test_the_whole_structure(make, parse, text_of):
    composer = make(
        html="<p>Hi {{ name }}</p><img src='cid:logo'>",
        text="Hi {{ name }}",
        attachments=[PDF, PNG],
        fields=["name"],
    )
    raw = one(composer, "Zoë & Söhne")
    assert raw.isascii()
    message = parse(raw)
    assert [part.get_content_type() for part in message.walk()] == [
        "multipart/mixed",
        "multipart/related",
        "multipart/alternative",
        "text/plain",
        "text/html",
        "image/png",
        "application/pdf",
    ]
    assert text_of(message) == "Hi Zoë & Söhne\n"
    assert text_of(message, "html") == "<p>Hi Zoë &amp; Söhne</p><img src='cid:logo'>\n"
    (pdf,) = message.iter_attachments()
    assert (pdf.get_filename(), pdf.get_content()) == (PDF.filename, PDF.content)
    image = next(part for part in message.walk() if part.get_content_type() == "image/png")
    assert image["Content-ID"] == "<logo>" and image.get_content_disposition() == "inline"
    assert image.get_content() == PNG.content
    related = next(part for part in message.walk() if part.get_content_type() == "multipart/related")
    assert related.get_param("type") == "multipart/alternative"


def test_the_text_part_is_made_from_html(make, parse, text_of):
    composer = make(text=None, html="<h1>Hi {{ name|e }}</h1><a href='https://x/?a=1&amp;b={{ id }}'>Go</a>",
                    fields=["name", "id"])  # fmt: skip
    message = parse(one(composer, "<Ada>", "7"))
    assert text_of(message) == "Hi <Ada>\n\nGo (https://x/?a=1&b=7)\n"
    assert composer.uses == {"name", "id"}


@pytest.mark.parametrize(
    "source",
    [
        "{% for i in items %}.{{ i }}\n{% endfor %}.",
        "{% set x %}.{{ name }}={% endset %}{{ x }}{{ x }}",
        "{% macro m(a) %}<{{ a }}>={% endmacro %}{{ m(name) }}",
        "{% macro m() %}[{{ caller() }}]{% endmacro %}{% call m() %}={{ name }}{% endcall %}",
        "{% filter upper %}={{ name }}ü{% endfilter %}",
        "{% block b %}={{ name }}{% endblock %}{{ self.b() }}",
        "{% for i in [[1, [2]]] recursive %}={{ i if i is number else loop(i) }}{% endfor %}",
        "{% autoescape false %}={{ name }}{% endautoescape %}",
        "{% if name %}From {{ name }}{% endif %}  \n\n{{ '=.' }}{{ '<' ~ name }}",
        "{% with a = name %}={{ a }}{% endwith %}{{ name|safe }}{{ items|length * 2 }}",
        "{% set ns = namespace(n=0) %}{% for i in items %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}",
        "{# note #}{% raw %}{{ name }}{% endraw %} {{ name[:2] }}{{ name | replace('<', '.') }}",
        "{% for i in items %}{{ loop.index }}/{{ loop.length }}{{ ', ' if not loop.last }}{% endfor %}",
        "{{ 'Ж' * 500 }}{{ name }}",
        "Ж" * 500 + "{{ name }}",
    ],
)
@pytest.mark.parametrize("html", [False, True])
def test_encoding_early_changes_nothing(make, parse, source, html):
    """Each construct against plain Jinja2, rendered first and not encoded at all."""
    from jinja2 import Environment

    name, items = "<Zoë> =.\r\n.x ", [1, 2, 3]
    expected = Environment(autoescape=html, keep_trailing_newline=True).from_string(source + "\n").render(
        name=name, items=items
    )  # fmt: skip
    parts = {"html": source, "text": "x"} if html else {"text": source}
    message = parse(one(make(**parts, fields=["name", "items"]), name, items))
    body = message.get_body(("html" if html else "plain",)).get_payload(decode=True).decode()
    assert body == expected.replace("\r\n", "\n").replace("\n", "\r\n")


def test_null_is_undefined(make, parse, text_of):
    composer = make(text="{{ a | default('friend') }}{% if b is defined %}!{% endif %}", fields=["a", "b"])
    assert text_of(parse(one(composer, None, None))) == "friend\n"
    with pytest.raises(ComposeError) as caught:
        make(text="\n{{ a }}", fields=["a"]).compose(0, "a@b.c", [None], 0)
    assert (caught.value.part, caught.value.line, caught.value.field) == ("text", 2, "a")
    assert str(caught.value) == "text, line 2: the field 'a' has no value"
    with pytest.raises(ComposeError, match=r"text, line 3: the field 'a' has no value"):
        make(text="\n\n{{ a | upper }}", fields=["a"]).compose(0, "a@b.c", [None], 0)
    with pytest.raises(ComposeError, match="null"):
        make(text="{{ a.b }}", fields=["a"]).compose(0, "a@b.c", [{"b": None}], 0)
    with pytest.raises(ComposeError, match="null"):
        make(subject="{{ a.b }}", fields=["a"]).compose(0, "a@b.c", [{"b": None}], 0)


def test_nothing_is_left_behind_by_the_recipient_before(make, parse, text_of):
    composer = make(subject="{{ x | default('none') }}", text="{% set x = a %}{{ x }}", fields=["a"])
    for value in ("one", "two"):
        message = parse(one(composer, value))
        assert (message["Subject"], text_of(message)) == ("none", f"{value}\n")


@pytest.mark.parametrize("bad", ["a\r\nBcc: x@y.z", "a\nb", "a\rb", "a\0b", "a\x1bb", "\ud800"])
@pytest.mark.parametrize(
    ("part", "parts"),
    [
        ("subject", {"subject": "Hi {{ v }}"}),
        ("to_name", {"to_name": "{{ v }}"}),
        ("sender", {"sender": "{{ v }} <a@b.c>"}),
        ("sender", {"sender": "x <{{ v }}@b.c>"}),
        ("reply_to", {"reply_to": "{{ v }} <a@b.c>"}),
        ("header X-A", {"headers": [("X-A", "{{ v }}")]}),
        ("header List-Unsubscribe", {"headers": [("List-Unsubscribe", "<https://x/{{ v }}>")]}),
        ("envelope_from", {"envelope_from": "{{ v }}@b.c"}),
    ],
)
def test_header_injection_is_refused(make, part, parts, bad):
    composer = make(**parts, fields=["v"])
    with pytest.raises(ComposeError) as caught:
        composer.compose(0, "a@b.c", [bad], 0)
        composer.envelope("a@b.c", [bad])
    assert caught.value.part == part
    with pytest.raises(ComposeError):
        composer.check(0, "a@b.c", [bad])


def test_a_bad_address_is_refused(make):
    for address in (
        "a",
        "a@",
        "@b",
        "a b@c.d",
        "a@b.c\r\nX: y",
        "a@b.c, d@e.f",
        "<a@b.c>",
        "a@b@c",
        "a@\ud800.c",
    ):
        with pytest.raises(ComposeError):
            make().compose(0, address, [], 0)
        with pytest.raises(ComposeError):
            make().check(0, address, [])


def test_values_have_to_be_as_many_as_fields(make):
    with pytest.raises(ComposeError, match="1 values for the 0 fields"):
        make().compose(0, "a@b.c", ["x"], 0)


def test_names_cannot_become_addresses(make, parse):
    message = parse(one(make(to_name="{{ n }}", fields=["n"]), 'Eve" <eve@example.net>, \\x'))
    (address,) = message["To"].addresses
    assert (address.display_name, address.addr_spec) == ('Eve" <eve@example.net>, \\x', "ada@example.org")


def test_senders(make, parse):
    cases = {
        '"Smith, Inc." <a@b.c>': ("Smith, Inc.", "a@b.c"),
        "a@b.c": ("", "a@b.c"),
        "Zoë {{ v }} <{{ v }}@b.c>": ("Zoë x", "x@b.c"),
        "{% if v %}A <a@b.c>{% else %}B <b@b.c>{% endif %}": ("A", "a@b.c"),
        '"{{ v }}, Ltd." <a@{{ v }}.example>': ("x, Ltd.", "a@x.example"),
        "Ü <a@münchen.example>": ("Ü", "a@xn--mnchen-3ya.example"),
    }
    for source, (name, address) in cases.items():
        composer = make(sender=source, fields=["v"])
        message = parse(one(composer, "x"))
        (sender,) = message["From"].addresses
        assert (sender.display_name, sender.addr_spec) == (name, address)
        assert message["Message-ID"] == f"<c1.7@{address.split('@')[1]}>"
        assert composer.envelope("ä@bücher.example", ["x"]) == (address, "ä@xn--bcher-kva.example")


def test_several_reply_addresses(make, parse):
    message = parse(one(make(reply_to='"a, b" <a@b.c>, {{ "x,y" }} <d@e.f>,g@h.i')))
    assert [a.addr_spec for a in message["Reply-To"].addresses] == ["a@b.c", "d@e.f", "g@h.i"]
    assert message["Reply-To"].addresses[1].display_name == "x,y"


def test_envelopes(make):
    assert make().envelope_from == "news@example.com"
    assert make(envelope_from="").envelope("a@b.c", []) == ("", "a@b.c")
    verp = make(envelope_from="bounce+{{ email|replace('@', '=') }}@example.com")
    assert verp.envelope_from is None
    assert verp.envelope("ada@b.c", []).sender == "bounce+ada=b.c@example.com"
    assert verp.envelope("ädä@b.c", []) == ("bounce+ädä=b.c@example.com", "ädä@b.c")


def test_an_address_that_is_not_ascii_is_sent_as_it_is(make):
    assert "To: ädä@b.c\r\n".encode() in make().compose(0, "ädä@b.c", [], 0)


def test_own_headers(make, parse):
    url = "https://example.com/u?" + "x" * 300
    composer = make(
        headers=[
            ("List-Unsubscribe", f"<{url}&id={{{{ v }}}}>, <mailto:u@example.com>"),
            ("X-U", "ü {{ v }}"),
        ],
        fields=["v"],
    )  # fmt: skip
    raw = one(composer, "1")
    assert f"<{url}&id=1>,".encode() in raw
    assert parse(raw)["X-U"] == "ü 1"
    with pytest.raises(ComposeError, match="percent-encode"):
        composer.compose(0, "a@b.c", ["ü"], 0)
    with pytest.raises(ComposeError, match="998"):
        composer.compose(0, "a@b.c", ["x" * 1000], 0)


@pytest.mark.parametrize(
    ("parts", "part", "line", "words"),
    [
        ({"text": "a\n{{ b"}, "text", 2, "unexpected end"),
        ({"text": "{{ a | nosuch }}"}, "text", 1, "nosuch"),
        ({"html": "x\n{% include 'a' %}"}, "html", 2, "no files"),
        ({"subject": "{% for %}"}, "subject", 1, ""),
        ({"subject": "a\nb"}, "subject", None, "line break"),
        ({"sender": "nobody"}, "sender", None, "not an email address"),
        ({"sender": "a@b.c, d@e.f"}, "sender", None, "exactly one"),
        ({"text": None}, "html", None, "nothing to send"),
        ({"headers": [("Bcc", "x")]}, "header Bcc", None, "written by Evenpost"),
        ({"headers": [("Subject", "x")]}, "header Subject", None, "the subject"),
        ({"headers": [("Content-Type", "x")]}, "header Content-Type", None, "written by"),
        ({"headers": [("X Y", "x")]}, "header X Y", None, "printable"),
        ({"headers": [("X-A", "a\r\nb")]}, "header X-A", None, "line break"),
        ({"html": "a\n<img src='cid:gone'>"}, "html", 2, "'gone'"),
        ({"attachments": [attachment("a", "pdf")]}, "attachment a", None, "content type"),
        ({"attachments": [attachment("a/b", "a/b")]}, "attachment a/b", None, "slashes"),
        ({"text": "{{ " + "(" * 5000 + " }}"}, "text", None, ""),
        ({"text": "x" * 2_000_001}, "text", None, "at most"),
        ({"envelope_from": "x"}, "envelope_from", None, "not an email address"),
        ({"fields": ["a", "a"]}, "fields", None, "same name"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_template(make, parts, part, line, words):
    with pytest.raises(TemplateError) as caught:
        make(**parts)
    assert (caught.value.part, caught.value.line) == (part, line)
    assert words in caught.value.message


def test_unknown_fields_are_told_with_a_guess(make):
    composer = make(
        text="x\n{{ frist_name }}{{ email }}{{ c | default('') }}{% if d is defined %}{{ d }}{% endif %}",
        fields=["first_name"],
    )
    assert [str(error) for error in composer.unknown] == [
        "text, line 2: there is no field 'frist_name'; did you mean 'first_name'?"
    ]
    assert composer.uses == {"frist_name", "c", "d"}


def test_fields_used_does_not_need_fields():
    template = Template(
        sender="{{ a }} <x@y.z>", subject="{{ b }}", html="{{ c }}", headers=[("X", "{{ d }}")],
        envelope_from="{{ e }}@y.z", to_name="{{ f }}", reply_to="{{ g }}@y.z",
    )  # fmt: skip
    assert fields_used(template) == set("abcdefg")


def test_check_says_what_compose_says(make):
    composer = make(
        subject="{{ a }}",
        text="{{ a }} {{ b.c }}",
        to_name="{{ a }}",
        headers=[("References", "{{ a }}")],
        fields=["a", "b"],
    )
    good = ["x", {"c": 1}]
    composer.check(0, "a@b.c", good)
    for bad in ([None, {"c": 1}], ["x", {}], ["x", None], ["ü", {"c": 1}], ["a\n", {"c": 1}]):
        with pytest.raises(ComposeError) as composed:
            composer.compose(0, "a@b.c", bad, 0)
        with pytest.raises(ComposeError) as checked:
            composer.check(0, "a@b.c", bad)
        assert str(checked.value) == str(composed.value)
    risky = make(text="{{ 10 / a|int }}", fields=["a"])
    assert make(subject="{{ a }}", text="{{ a }}", fields=["a"]).takes_simple
    assert not risky.takes_simple and not make(text="{{ a.b }}", fields=["a"]).takes_simple
    assert not make(text="{{ a }} {{ b }}", fields=["a"]).takes_simple
    risky.check(0, "a@b.c", ["5"])
    with pytest.raises(ComposeError, match="ZeroDivisionError"):
        risky.check(0, "a@b.c", ["0"])


def test_an_email_file_goes_as_a_file(make, parse):
    eml = Attachment(filename="a.eml", content_type="message/rfc822", content=b"Subject: x\r\n\r\n.\r\n")
    (part,) = parse(one(make(attachments=[eml]))).iter_attachments()
    assert (part.get_content_type(), part.get_content()) == ("application/octet-stream", eml.content)


@pytest.mark.parametrize(
    "parts",
    [
        {"text": "Code {{ code }} of {{ campaign }} to {{ email }}.\n"},
        {
            "text": "{% if code %}Code {{ code | upper }}{% endif %} of {{ campaign }}.\n",
            "to_name": "{{ code }}",
        },
        {"text": "Code {{ code }}.\n", "html": "<p>Code {{ code }} of {{ campaign }}</p>\n"},
        {"text": "Code {{ code }}.\n", "attachments": [Attachment("a.txt", "text/plain", b"a")]},
        {"text": "Code {{ code }}.\n", "envelope_from": "bounce+{{ campaign }}@example.com"},
        {"text": "Code {{ code }}.\n", "sender": "{{ campaign }} <{{ code }}@example.com>"},
    ],
)
def test_again_is_as_if_compiled_anew(parts):
    template = Template(
        **(
            {"sender": "News <news@example.com>", "subject": "Hello {{ campaign }}", "fields": ["code"]}
            | parts
        )
    )
    first = compile_template(template, campaign_id="c1", created_at_ms=1)
    messages = []
    for other in (first.again("c2", 2), compile_template(template, campaign_id="c2", created_at_ms=2)):
        first.compose(1, "x@example.com", ["before"], 5.0)  # they share what is compiled, and nothing else
        first.envelope("x@example.com", ["before"])
        address, values = "a@example.com", ["k7"]
        messages.append((other.compose(3, address, values, 7.0), other.envelope(address, values)))
        assert (other.campaign_id, other.created_at_ms) == ("c2", 2)
        other.check(0, address, values)
    assert messages[0] == messages[1]
    assert first.campaign_id == "c1"
    with pytest.raises(ValueError, match="Message-ID"):
        first.again("no id", 1)
