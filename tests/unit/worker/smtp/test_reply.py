import pytest

from worker.smtp.reply import LINE_BYTES_MAX, LINES_MAX, REPLY_BYTES_MAX, ProtocolError, Reply, ReplyParser


def replies(*chunks: bytes) -> list[Reply]:
    parser = ReplyParser()
    found = []
    for chunk in chunks:
        parser.feed(chunk)
        while (reply := parser.next_reply()) is not None:
            found.append(reply)
    return found


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"250 Ok\r\n", Reply(250, None, ("Ok",))),
        (b"250 2.1.0 Ok\r\n", Reply(250, "2.1.0", ("Ok",))),
        (b"250 Ok\n", Reply(250, None, ("Ok",))),
        (b"354\r\n", Reply(354, None, ("",))),
        (b"250 \r\n", Reply(250, None, ("",))),
        (b"250-a\r\n250-b\r\n250 c\r\n", Reply(250, None, ("a", "b", "c"))),
        (b"550-5.1.1 no such\r\n550 5.1.1 user\r\n", Reply(550, "5.1.1", ("no such", "user"))),
        (b"550 5.1.1\r\n", Reply(550, "5.1.1", ("",))),
        # RFC 2034: the class has to be the code's, so this is text.
        (b"550 2.0.0 what\r\n", Reply(550, None, ("2.0.0 what",))),
        (b"250 2.0.0.1 is a version\r\n", Reply(250, None, ("2.0.0.1 is a version",))),
        (b"450-first\r\n451 last counts\r\n", Reply(451, None, ("first", "last counts"))),
        (b"250 caf\xe9 \x1b[31mred\x00\r\n", Reply(250, None, ("caf� �[31mred�",))),
        ("250 grüß\r\n".encode(), Reply(250, None, ("grüß",))),
    ],
)
def test_one_reply(data: bytes, expected: Reply) -> None:
    assert replies(data) == [expected]
    assert replies(*(bytes([byte]) for byte in data)) == [expected]


@pytest.mark.parametrize(
    "line",
    [b"", b"hello", b"25", b"25x no", b"2500 no", b"150 no", b"600 no", b"250=no", b" 250 no", b"\xff"],
)
def test_nonsense_is_named(line: bytes) -> None:
    with pytest.raises(ProtocolError, match="not an SMTP reply"):
        replies(line + b"\r\n")


def test_replies_before_nonsense_are_kept() -> None:
    parser = ReplyParser()
    parser.feed(b"250 a\r\nnonsense\r\n")
    assert parser.next_reply() == Reply(250, None, ("a",))
    with pytest.raises(ProtocolError, match="nonsense"):
        parser.next_reply()


def test_a_long_line_is_cut() -> None:
    [reply] = replies(b"250 " + b"x" * 100_000 + b"\r\n")
    assert reply.text == "x" * (LINE_BYTES_MAX - 4)


def test_a_long_reply_loses_its_end_but_not_its_code() -> None:
    [reply] = replies(b"450-line\r\n" * 10_000 + b"451 end\r\n")
    assert reply.code == 451
    assert len(reply.lines) == LINES_MAX


@pytest.mark.parametrize("data", [b"550-no\r\n250 yes\r\n", b"250-yes\r\n550 no\r\n", b"250-\r\n354 go\r\n"])
def test_a_reply_that_says_yes_and_no_is_none(data: bytes) -> None:
    with pytest.raises(ProtocolError, match="xx and then"):
        replies(data)


@pytest.mark.parametrize("line", [b"250-and so on\r\n", b"x"])
def test_an_endless_reply_ends(line: bytes) -> None:
    parser = ReplyParser()
    chunk = line * 5000
    with pytest.raises(ProtocolError, match=str(REPLY_BYTES_MAX)):
        for _ in range(REPLY_BYTES_MAX // len(chunk) + 2):
            parser.feed(b"250-" * (line == b"x") + chunk if parser.is_empty else chunk)
            parser.next_reply()


def test_a_line_seen_before_still_ends_a_reply_of_several() -> None:
    assert replies(b"250 ok\r\n250-a\r\n250 ok\r\n")[1] == Reply(250, None, ("a", "ok"))


def test_the_bound_is_for_one_reply() -> None:
    line = b"250 " + b"x" * 1000 + b"\r\n"
    assert len(replies(*[line] * 2000)) == 2000


def test_is_empty_knows_of_every_leftover() -> None:
    parser = ReplyParser()
    for chunk in (b"2", b"50-a\r\n", b"250 "):
        assert parser.next_reply() is None
        parser.feed(chunk)
        assert not parser.is_empty
    parser.feed(b"b\r\n250")
    assert parser.next_reply() is not None
    assert not parser.is_empty
    parser.feed(b"\r\n")
    assert parser.next_reply() is not None
    assert parser.is_empty
