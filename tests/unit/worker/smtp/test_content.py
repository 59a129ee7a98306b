import pytest

from worker.smtp.content import ContentError, encode


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"", b""),
        (b"a\r\nb\r\n", b"a\r\nb\r\n"),
        (b"a\r\nb", b"a\r\nb\r\n"),
        (b".", b"..\r\n"),
        (b".\r\n.\r\n..\r\n", b"..\r\n..\r\n...\r\n"),
        (b"a\r\n.\r\nQUIT\r\n", b"a\r\n..\r\nQUIT\r\n"),
        (b"a.\r\n", b"a.\r\n"),
        (b"x" * 998 + b"\r\n" + b"y" * 998, b"x" * 998 + b"\r\n" + b"y" * 998 + b"\r\n"),
    ],
)
def test_encoded(raw: bytes, expected: bytes) -> None:
    assert encode(raw) == expected


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"a\nb", "CR or LF"),
        (b"a\rb", "CR or LF"),
        (b"a\n\rb", "CR or LF"),
        (b"a\r\r\nb", "CR or LF"),
        (b"a\r\n\nb", "CR or LF"),
        (b"\n", "CR or LF"),
        (b"a\r", "CR or LF"),
        (b"a\0b", "NUL"),
        ("ü".encode(), "above 127"),
        (b"x" * 999, "998"),
        (b"ok\r\n" * 300 + b"x" * 999 + b"\r\nok\r\n" * 300, "998"),
        (b"x" * 5000, "998"),
    ],
)
def test_refused(raw: bytes, message: str) -> None:
    with pytest.raises(ContentError, match=message):
        encode(raw)


def test_utf8_only_when_asked() -> None:
    assert encode("To: jörg\r\n".encode(), utf8=True) == "To: jörg\r\n".encode()
