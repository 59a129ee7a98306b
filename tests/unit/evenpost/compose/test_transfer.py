"""What is the same for everybody is encoded once, in the encoding that makes less of it."""

from collections.abc import Iterator
from email import message_from_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenpost.compose import template, transfer
from evenpost.compose.transfer import base64_text, encode_chunk, prefers_base64

CYRILLIC = "Съешь же ещё этих мягких французских булок, да выпей чаю. "
GERMAN = "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich. "


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What has been encoded."""
    seen: list[str] = []

    def watched(encode):
        def encode_(text: str) -> str:
            seen.append(text)
            return encode(text)

        return encode_

    for module in (template, transfer):
        monkeypatch.setattr(module, "encode_chunk", watched(encode_chunk))
    monkeypatch.setattr(template, "base64_text", watched(base64_text))
    yield seen


def test_text_that_is_constant_is_encoded_once_a_campaign(make, encoded):
    composer = make(
        html="<p>Grüße an unsere Leser, {{ name }}!\n  Guten Tag.</p>",
        text="Grüße an unsere Leser, {% if name %}{{ name }}{% endif %}\n",
        fields=["name"],
    )
    assert sum(text.startswith(("Grüße", "<p>Grüße")) for text in encoded) == 2
    encoded.clear()
    for name in ("Ann", "Žofie", "Ann"):
        composer.compose(1, "ada@example.org", [name], 0.0)
    assert set(encoded) == {"Žofie"}, "only the values that need it"


@pytest.mark.parametrize("text", [CYRILLIC * 9, GERMAN * 9])
def test_a_part_without_merge_fields_is_never_encoded_again(make, encoded, text):
    composer = make(html=f"<p>{text}</p>", text=text)
    assert len(encoded) == 2
    encoded.clear()
    messages = [composer.compose(n, "ada@example.org", [], 0.0) for n in range(3)]
    assert encoded == []
    parts = [part for part in message_from_bytes(messages[2]).walk() if not part.is_multipart()]
    assert [part.get_payload(decode=True).decode().strip() for part in parts] == [
        text.strip(),
        f"<p>{text}</p>",
    ]


@pytest.mark.parametrize(
    ("text", "is_base64"),
    [
        (CYRILLIC, True),
        ("敏捷的棕色狐狸跳过懒狗。", True),
        (GERMAN, False),
        ("plain", False),
        ("a=b&c=d&" * 9, True),
    ],
)
def test_the_encoding_is_the_shorter_one(text: str, is_base64: bool) -> None:
    assert prefers_base64(text * 20) is is_base64
    assert (len(base64_text(text * 20)) < len(encode_chunk(text * 20))) is is_base64


@given(st.text(alphabet="abcdefghij =éЖ中", min_size=400, max_size=900))
def test_it_is_never_longer_than_the_other_by_more_than_its_line_ends(text: str) -> None:
    sizes = {True: len(base64_text(text)), False: len(encode_chunk(text))}
    is_base64 = prefers_base64(text)
    assert sizes[is_base64] <= 1.06 * sizes[not is_base64] + 4
