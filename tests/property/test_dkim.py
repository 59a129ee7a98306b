"""Whatever is in a message: what we hash is what RFC 6376 says, and what we sign verifies."""

import base64
import hashlib
import re
from itertools import zip_longest

from hypothesis import given, settings
from hypothesis import strategies as st

from evenpost.compose import compile_template
from evenpost.dkim import Signer, SigningKey
from evenpost.dkim.canonical import LEARNED_FROM, RUN_BYTES_MIN, BodyHash, relaxed_body, relaxed_field
from evenpost.dkim.keys import new_pem
from evenpost.wire.messages import Attachment, Template
from tests.servers.verifiers import dkimpy

WHITE = st.sampled_from(
    [" ", "\t", "  ", " \t", "\r\n", "\r\n\r\n", " \r\n", "\r\n ", "x", ".", "=\r\n", "\v", "\f"]
)
BODY = st.lists(WHITE | st.text("ab c\t", max_size=5), max_size=30).map(
    lambda pieces: "".join(pieces).encode()
)
FOLD = st.sampled_from([" ", "\t", "\r\n ", "\r\n\t", " \r\n  ", "a", "B", ":", "\v"])
VALUE = st.lists(FOLD, max_size=12).map(lambda pieces: "".join(pieces).encode())
TEXT = st.lists(WHITE | st.text(max_size=8), max_size=12).map("".join)

KEYS = (
    SigningKey("example.com", "r", new_pem("rsa")),
    SigningKey("example.com", "e", new_pem("ed25519")),
)
RECORDS = {key.record_name: key.record for key in KEYS}


def plainly_relaxed(body: bytes) -> bytes:
    """RFC 6376 3.4.4, sentence by sentence."""
    lines = body.split(b"\r\n")
    if lines[-1] == b"":
        lines.pop()
    lines = [re.sub(rb"[ \t]+", b" ", re.sub(rb"[ \t]+$", b"", line)) for line in lines]
    lines = [line.removesuffix(b" ") for line in lines]  # $ also matches before a last LF
    while lines and lines[-1] == b"":
        lines.pop()
    return b"".join(line + b"\r\n" for line in lines)


@given(BODY)
def test_a_body_is_canonicalized_to_the_letter(body: bytes) -> None:
    assert relaxed_body(body) == plainly_relaxed(body)


@given(st.sampled_from([b"Subject", b"X-a ", b"TO\t"]), VALUE)
def test_a_header_is_canonicalized_to_the_letter(name: bytes, value: bytes) -> None:
    unfolded = re.sub(rb"[ \t]+", b" ", value.replace(b"\r\n", b"")).strip(b" ")
    assert relaxed_field(name + b":" + value) == name.strip().lower() + b":" + unfolded + b"\r\n"


@given(runs=st.lists(BODY, max_size=4), values=st.lists(st.lists(BODY, max_size=5), min_size=1, max_size=8))
def test_what_is_remembered_of_other_bodies_changes_no_hash(
    runs: list[bytes], values: list[list[bytes]]
) -> None:
    body_hash = BodyHash()
    long = b"white  \t space \r\n" * (RUN_BYTES_MIN // 16)
    lines = [long + run for run in runs]
    ends = [[b"x\r\n", b"y\r\n", b"z\r\n"], [b"1\r\n", b"\r\n", b"2\r\n"]] * LEARNED_FROM
    for each in [*ends, *values, *(v[::-1] for v in values)]:
        body = b"".join(part for pair in zip_longest(lines, each, fillvalue=b"") for part in pair)
        expected = base64.b64encode(hashlib.sha256(plainly_relaxed(body)).digest())
        assert body_hash.digest(body) == expected
    assert body_hash._known is not None


@settings(deadline=None)  # RSA, twice
@given(
    names=st.lists(TEXT, min_size=1, max_size=3), html=TEXT, text=TEXT,
    content=st.binary(max_size=200), subject=TEXT,
)  # fmt: skip
def test_what_is_composed_and_signed_verifies(
    names: list[str], html: str, text: str, content: bytes, subject: str
) -> None:
    def line(value: str) -> str:
        return re.sub(r"[\x00-\x1f\x7f]", "", value)

    def quote(value: str) -> str:
        return value.replace("{", "{{ '{' }}")

    template = Template(
        sender="{{ line }} <news@example.com>",
        subject=quote(line(subject)) + "{{ line }}",
        html=quote(html) + "{{ value }}" + quote(html),
        text=quote(text) + "{{ value }}" + quote(text),
        headers=[("List-Unsubscribe", "<https://example.com/{{ line | urlencode }}>")],
        attachments=[Attachment(filename="a", content_type="application/pdf", content=content)],
        fields=["line", "value"],
    )
    composer = compile_template(template, campaign_id="c1", created_at_ms=0)
    signer = Signer(lambda domain: KEYS if domain == "example.com" else ())
    for name in names:
        raw = composer.compose(1, "ada@example.org", [line(name), name], 1_700_000_000)
        signed = signer.sign(raw, 1_700_000_000)
        assert signed is not None
        assert dkimpy(signed, RECORDS) == {"r": "pass", "e": "pass"}
