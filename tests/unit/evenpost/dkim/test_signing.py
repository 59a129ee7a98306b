import re
from collections.abc import Sequence

import pytest

from evenpost.compose import compile_template
from evenpost.dkim import Signer, SigningKey
from evenpost.dkim.keys import new_pem
from evenpost.dkim.signing import OVERSIGNED, author_domain
from evenpost.wire.messages import Template
from tests.servers.verifiers import dkimpy

RSA = SigningKey("example.com", "r", new_pem("rsa"))
ED25519 = SigningKey("example.com", "e", new_pem("ed25519"))
RECORDS = {key.record_name: key.record for key in (RSA, ED25519)}
NOW = 1_764_025_200
MESSAGE = b"""From: News <news@example.com>\r
To: ada@example.org\r
Subject: Hi\r
 there\r
X-Own: x\r
List-Unsubscribe-Post: List-Unsubscribe=One-Click\r
\r
Dear  Ada\r
"""


def signed(message: bytes = MESSAGE, keys: Sequence[SigningKey] = (RSA, ED25519), now_s: int = NOW) -> bytes:
    whole = Signer(lambda domain: keys).sign(message, now_s)
    assert whole is not None
    return whole


def tags(message: bytes) -> list[dict[str, str]]:
    """Of each signature, its tags without white space."""
    headers = re.findall(rb"DKIM-Signature: ((?:.*\r\n[ \t])*.*)\r\n", message)
    flat = [re.sub(r"\s", "", header.decode()) for header in headers]
    return [dict(tag.split("=", 1) for tag in each.split(";")) for each in flat]


def test_a_message_has_a_signature_of_each_key_before_it() -> None:
    message = signed()
    assert message.endswith(MESSAGE)
    one, two = tags(message)
    assert {k: one[k] for k in "vacdst"} == {
        "v": "1", "a": "rsa-sha256", "c": "relaxed/relaxed", "d": "example.com", "s": "r", "t": str(NOW),
    }  # fmt: skip
    assert (two["a"], two["s"], two["bh"]) == ("ed25519-sha256", "e", one["bh"])
    assert one.keys() == set("vacdsth") | {"bh", "b"}  # no l=, no x=
    for line in message.split(b"\r\n"):
        assert len(line) <= 78 and line.isascii()
    assert dkimpy(message, RECORDS) == {"r": "pass", "e": "pass"}


def test_what_is_signed_and_what_may_not_be_added() -> None:
    listed = tags(signed())[0]["h"].split(":")
    assert listed[:2] == ["From", "From"]
    for name in OVERSIGNED:
        assert listed.count(name) == 1 + (f"\r\n{name}:".encode() in b"\r\n" + MESSAGE), name
    assert listed.count("List-Unsubscribe-Post") == 1
    assert "X-Own" not in listed and "List-Unsubscribe" not in listed


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"Dear", b"dear"),
        (b"Subject: Hi", b"Subject: Ho"),
        (b"From: News", b"From: Olds"),
        (b"To: ada", b"Subject: A second one\r\nTo: ada"),
        (b"To: ada", b"From: A second one <x@example.com>\r\nTo: ada"),
        (b"To: ada", b"Reply-To: x@example.net\r\nTo: ada"),
        (b"One-Click", b"Two-Click"),
    ],
)
def test_whoever_changes_it_breaks_it(old: bytes, new: bytes) -> None:
    message = signed()
    assert old in message
    assert dkimpy(message.replace(old, new), RECORDS) == {"r": "fail", "e": "fail"}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"Dear  Ada\r\n", b"Dear \t Ada \r\n\r\n\r\n"),
        (b"Subject: Hi\r\n there", b"SUBJECT:   Hi there  "),
        (b"X-Own: x", b"X-Own: y\r\nReceived: from somewhere"),
        (b"DKIM-Signature", b"Received: from somewhere\r\nDKIM-Signature"),
    ],
)
def test_what_servers_do_on_the_way_does_not(old: bytes, new: bytes) -> None:
    message = signed()
    assert old in message
    assert dkimpy(message.replace(old, new), RECORDS) == {"r": "pass", "e": "pass"}


def test_headers_of_one_name_are_signed_from_the_last_one_up() -> None:
    message = MESSAGE.replace(b"X-Own: x", b"List-Id: one\r\nList-Id: two")
    signature = signed(message)
    assert tags(signature)[0]["h"].split(":").count("List-Id") == 2
    assert dkimpy(signature, RECORDS) == {"r": "pass", "e": "pass"}


def test_the_same_message_later_differs_in_t_and_what_follows_from_it() -> None:
    first, again, later = signed(), signed(), signed(now_s=NOW + 1)
    assert first == again
    one, two = tags(first)[0], tags(later)[0]
    assert {key for key in one if one[key] != two[key]} == {"t", "b"}


def test_without_a_key_for_the_authors_domain_nothing_is_signed() -> None:
    asked: list[str] = []
    assert Signer(lambda domain: asked.append(domain) or ()).sign(MESSAGE, NOW) is None
    assert asked == ["example.com"]


@pytest.mark.parametrize(
    ("header", "domain"),
    [
        (b"from:a@example.com\r\n", "example.com"),
        (b"from:News <a@Example.COM>\r\n", "example.com"),
        (b'from:"x <b@evil.example>" <a@example.com>\r\n', "example.com"),
        (b'from:"a@evil.example"@example.com\r\n', "example.com"),
        (b"from:=?utf-8?q?x?= <a@xn--bcher-kva.example>\r\n", "xn--bcher-kva.example"),
        (b"from:nobody\r\n", ""),
    ],
)
def test_whose_message_it_is(header: bytes, domain: str) -> None:
    assert author_domain(header) == domain


def test_a_campaigns_messages_are_signed_each_for_itself() -> None:
    template = Template(
        sender="{{ name }} <news@example.com>", subject="Hello {{ name }}, " * 9, to_name="{{ name }}",
        html="<p>\n  Hello {{ name }}  </p>" * 9, text="Hello\t{{ name }}\n\n\n", fields=["name"],
        headers=[("List-Unsubscribe", "<https://a.example/{{ name | urlencode }}>"), ("X-Own", "{{ name }}")],
    )  # fmt: skip
    composer = compile_template(template, campaign_id="c1", created_at_ms=0)
    signer = Signer(lambda domain: (RSA, ED25519))
    for index, name in enumerate(["Ann", "Žofie", "Bea  \t C", "x" * 200, "Ann"]):
        whole = signer.sign(composer.compose(index, "ada@example.org", [name], NOW), NOW)
        assert whole is not None
        assert dkimpy(whole, RECORDS) == {"r": "pass", "e": "pass"}
