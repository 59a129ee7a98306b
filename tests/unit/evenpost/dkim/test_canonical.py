"""Relaxed canonicalization by the letter of RFC 6376, and a hash that remembers what didn't change."""

import base64
import hashlib

import pytest

from evenpost.dkim.canonical import PREFIX_BYTES_MIN, BodyHash, relaxed_body, relaxed_field

EMPTY = b"47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="
"""RFC 6376 3.4.4: of an empty body."""


def bh(canonical: bytes) -> bytes:
    return base64.b64encode(hashlib.sha256(canonical).digest())


def test_the_example_of_the_rfc() -> None:
    """3.4.5."""
    assert relaxed_field(b"A: X") == b"a:X\r\n"
    assert relaxed_field(b"B : Y\t\r\n\tZ  ") == b"b:Y Z\r\n"
    assert relaxed_body(b" C \r\nD \t E\r\n\r\n\r\n") == b" C\r\nD E\r\n"


@pytest.mark.parametrize(
    ("body", "canonical"),
    [
        (b"", b""),
        (b"\r\n\r\n", b""),
        (b" \t\r\n \r\n", b""),
        (b" ", b""),
        (b"a", b"a\r\n"),
        (b"a \t", b"a\r\n"),
        (b"a\r\n ", b"a\r\n"),
        (b"\r\na\r\n", b"\r\na\r\n"),
        (b"a" + b" " * 1000 + b"b\r\n", b"a b\r\n"),
        (b"a\r\n \r\nb \t \r\n\t\r\n", b"a\r\n\r\nb\r\n"),
    ],
)
def test_bodies(body: bytes, canonical: bytes) -> None:
    assert relaxed_body(body) == canonical


def test_what_python_takes_for_white_space_is_none() -> None:
    assert relaxed_field(b"Subject: a\v \fb ") == b"subject:a\v \fb\r\n"


def test_the_hash_of_an_empty_body() -> None:
    assert BodyHash().digest(b"\r\n") == EMPTY


SHARED = b"what  everybody\tgets \r\n" * 40


def test_what_all_begin_with_is_hashed_once() -> None:
    body_hash = BodyHash()
    for name in (b"Ann", b"Bea  C", b"Cid", b"Bea  C"):
        body = SHARED + b"Dear  " + name + b"\r\nBye\r\n\r\n"
        assert body_hash.digest(body) == bh(relaxed_body(body))
    assert body_hash._begins is not None
    assert body_hash._begins[0] == SHARED


def test_a_shared_beginning_that_turns_out_to_be_shorter() -> None:
    body_hash = BodyHash()
    bodies = [SHARED + SHARED + b"a\r\n", SHARED + SHARED + b"b\r\n", SHARED + b"c\r\n" + SHARED, SHARED[:50]]
    for body in [*bodies, *bodies]:
        assert body_hash.digest(body) == bh(relaxed_body(body))
    assert body_hash._begins is not None
    assert body_hash._begins[0] == b""
    assert len(SHARED[:50]) < PREFIX_BYTES_MIN


@pytest.mark.parametrize("ending", [b"", b"\r\n", b" \r\n\r\n", b"\t"])
def test_empty_lines_at_the_end_may_begin_in_what_is_shared(ending: bytes) -> None:
    body_hash = BodyHash()
    shared = SHARED + b"\r\n \r\n"
    for body in (shared + b"a\r\n", shared + b"b\r\n", shared + ending):
        assert body_hash.digest(body) == bh(relaxed_body(body))


def test_a_body_that_is_the_same_for_everybody_is_hashed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    body_hash = BodyHash()
    first = body_hash.digest(SHARED)
    monkeypatch.setattr("evenpost.dkim.canonical.relaxed_body", None)
    assert body_hash.digest(bytes(bytearray(SHARED))) == first == bh(relaxed_body(SHARED))
