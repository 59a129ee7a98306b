"""Relaxed canonicalization by the letter of RFC 6376, and a hash that remembers what didn't change."""

import base64
import hashlib

import pytest

from evenpost.dkim.canonical import COMPARED_MAX, LEARNED_FROM, BodyHash, relaxed_body, relaxed_field

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


RUN = b"what  everybody\tgets \r\n" * 10


def newsletter(name: bytes, city: bytes = b"Rome") -> bytes:
    return RUN + b"Dear  " + name + b" \r\n" + RUN + b"in " + city + b"\r\n" + RUN + b"Bye\t" + name + b"\r\n"


def taught(*bodies: bytes) -> BodyHash:
    body_hash = BodyHash()
    for body in [*bodies, *(newsletter(b"%d" % n, b"City %d" % n) for n in range(LEARNED_FROM + 1))]:
        assert body_hash.digest(body) == bh(relaxed_body(body))
    return body_hash


def test_runs_of_lines_that_all_have_are_canonicalized_once(monkeypatch: pytest.MonkeyPatch) -> None:
    body_hash = taught()
    known = body_hash._known
    assert known is not None
    assert known.begins == RUN
    assert [run for _, run, _ in known.runs] == [RUN, RUN]
    body = newsletter(b"Bea  C", b"Paris\t\r\nFrance")
    expected = bh(relaxed_body(body))
    whole: list[bytes] = []
    monkeypatch.setattr("evenpost.dkim.canonical.relaxed_body", whole.append)
    assert body_hash.digest(body) == expected
    assert whole == []


@pytest.mark.parametrize(
    "body",
    [
        newsletter(b"Ann").replace(b"everybody", b"nobody", 1),
        newsletter(b"Ann").replace(b"everybody", b"nobody", 25)[300:],
        newsletter(b"Ann") + b"more\r\n",
        newsletter(b"Ann").replace(b"Dear", RUN + b"Dear"),
        newsletter(RUN),
        newsletter(b"Ann")[:-2],
        newsletter(b"Ann").replace(b"\r\n" + RUN, b"\n" + RUN),
        RUN,
        RUN + RUN + RUN,
        RUN + b"\r\n \r\n",
        b"",
        b"\r\n",
    ],
)
def test_whatever_comes_is_hashed_as_it_is(body: bytes) -> None:
    assert taught().digest(body) == bh(relaxed_body(body))


def test_lines_that_turn_out_to_differ_are_no_longer_in_a_run() -> None:
    body_hash = BodyHash()
    for n in range(2 * LEARNED_FROM):
        body = newsletter(b"%d" % n, b"Rome" if n <= LEARNED_FROM else b"City %d" % n)
        assert body_hash.digest(body) == bh(relaxed_body(body))
    assert body_hash._known is not None
    assert [run for _, run, _ in body_hash._known.runs] == [RUN, RUN]
    assert body_hash._compared == LEARNED_FROM + 1


def test_bodies_that_have_nothing_in_common_are_compared_only_so_often() -> None:
    body_hash = BodyHash()
    for n in range(COMPARED_MAX + 20):
        body = b"%d  \r\n" % n * (n + 1)
        assert body_hash.digest(body) == bh(relaxed_body(body))
    assert body_hash._compared <= COMPARED_MAX


@pytest.mark.parametrize("ending", [b"", b"\r\n", b" \r\n\r\n", b"\t"])
def test_empty_lines_at_the_end_may_begin_in_what_is_shared(ending: bytes) -> None:
    body_hash = BodyHash()
    shared = RUN + b"\r\n \r\n"
    for n in range(LEARNED_FROM + 2):
        body_hash.digest(shared + b"%d\r\n" % n)
    assert body_hash._known is not None
    assert body_hash._known.begins == shared
    for body in (shared + ending, shared + b"x\r\n" + ending):
        assert body_hash.digest(body) == bh(relaxed_body(body))


def test_a_body_that_is_the_same_for_everybody_is_hashed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    body_hash = BodyHash()
    first = body_hash.digest(RUN)
    monkeypatch.setattr("evenpost.dkim.canonical.relaxed_body", None)
    assert body_hash.digest(bytes(bytearray(RUN))) == first == bh(relaxed_body(RUN))
