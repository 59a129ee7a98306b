import pytest

from worker.smtp.content import ContentError, checked


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"a\r\nb\r\n",
        b"a.\r\nQUIT\r\nMAIL FROM:<a@b.example>\r\n",
        b" .\r\n",
        b"x" * 998 + b"\r\n" + b"y" * 998 + b"\r\n",
    ],
)
def test_what_can_be_sent_stays_as_it_is(raw: bytes) -> None:
    assert checked(raw) is raw


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"a\r\nb", "last line"),
        (b"a\nb\r\n", "CR or LF"),
        (b"a\rb\r\n", "CR or LF"),
        (b"a\n\rb\r\n", "CR or LF"),
        (b"a\r\r\nb\r\n", "CR or LF"),
        (b"a\r\n\nb\r\n", "CR or LF"),
        (b"\n\r\n", "CR or LF"),
        (b"a\0b\r\n", "NUL"),
        ("ü\r\n".encode(), "above 127"),
        (b".\r\n", "begins with a dot"),
        (b"..\r\n", "begins with a dot"),
        (b"a\r\n.\r\nQUIT\r\n", "begins with a dot"),
        (b"x" * 999 + b"\r\n", "998"),
        (b"ok\r\n" * 300 + b"x" * 999 + b"\r\nok\r\n" * 300, "998"),
        (b"x" * 5000 + b"\r\n", "998"),
    ],
)
def test_refused(raw: bytes, message: str) -> None:
    with pytest.raises(ContentError, match=message):
        checked(raw)


def test_utf8_only_when_asked() -> None:
    assert checked("To: jörg\r\n".encode(), utf8=True) == "To: jörg\r\n".encode()
