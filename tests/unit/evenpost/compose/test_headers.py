import pytest

from evenpost.compose.errors import HeaderError
from evenpost.compose.headers import mailbox, structured, unstructured, wire_address


def test_short_headers_are_left_alone():
    assert unstructured("Subject", "Hello") == "Subject: Hello\r\n"
    assert mailbox("To", "", "a@b.c") == "To: a@b.c\r\n"
    assert mailbox("To", "Ada Lovelace", "a@b.c") == "To: Ada Lovelace <a@b.c>\r\n"
    assert mailbox("To", "Dr. Ada", "a@b.c") == 'To: "Dr. Ada" <a@b.c>\r\n'


def test_words_that_are_not_ascii():
    assert unstructured("Subject", "Grüße") == "Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\n"
    assert unstructured("Subject", "Привет") == "Subject: =?utf-8?b?0J/RgNC40LLQtdGC?=\r\n"
    assert mailbox("To", "Zoë", "a@b.c") == "To: =?utf-8?q?Zo=C3=AB?= <a@b.c>\r\n"


def test_text_that_looks_encoded_is_encoded():
    assert unstructured("Subject", "=?utf-8?q?x?=") == "Subject: =?utf-8?q?=3D=3Futf-8=3Fq=3Fx=3F=3D?=\r\n"


def test_folding():
    line = unstructured("Subject", "word " * 40)
    assert line.replace("\r\n ", " ") == f"Subject: {('word ' * 40).strip()}\r\n"
    assert max(map(len, line.split("\r\n"))) <= 78
    assert max(map(len, unstructured("Subject", "ü🎉 " * 100).split("\r\n"))) <= 78


def test_urls_are_never_broken():
    url = f"<https://example.com/{'x' * 500}>"
    line = structured("List-Unsubscribe", f"{url}, <mailto:a@b.c>")
    assert url in line and "\r\n <mailto:a@b.c>\r\n" in line


@pytest.mark.parametrize("address", ["a@b.c", "a+b@xn--x.c", '"a b"@c.d', "ü@b.c", "a@[192.0.2.1]"])
def test_addresses(address):
    assert wire_address(address) == address


@pytest.mark.parametrize(
    "address", ["", "a", "a@b c", "a,b@c.d", "a@b>", "a@\u2028", "a@..ü", "a\u0085@b", '"\u2028"@b.c']
)
def test_what_is_no_address(address):
    with pytest.raises(HeaderError):
        wire_address(address)
