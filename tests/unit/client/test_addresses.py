import pytest

from client.addresses import AddressError, clean_address, is_plain

LONG_LOCAL = "a" * 64


@pytest.mark.parametrize(
    ("given", "clean"),
    [
        ("anna@example.com", "anna@example.com"),
        ("  anna@example.com\u00a0", "anna@example.com"),
        ("Anna.B+news@Example.COM", "Anna.B+news@example.com"),
        ("Anna B <anna@example.com>", "anna@example.com"),
        ("Müller, Anna <anna@example.com>", "anna@example.com"),
        ("<anna@example.com>", "anna@example.com"),
        ("o'hara_1/x=y@sub.example.co.uk", "o'hara_1/x=y@sub.example.co.uk"),
        ("anna@bücher.example", "anna@xn--bcher-kva.example"),
        ("jörg@example.com", "jörg@example.com"),
        ("jörg@corp.local", "jörg@corp.local"),
        ("jörg@bücher.test", "jörg@xn--bcher-kva.test"),
        ("anna@corp.local", "anna@corp.local"),
        ("anna@mail.test", "anna@mail.test"),
        ("root@localhost", "root@localhost"),
        ("anna@[192.0.2.1]", "anna@[192.0.2.1]"),
        ('"a b"@example.com', '"a b"@example.com'),
        (f"{LONG_LOCAL}@example.com", f"{LONG_LOCAL}@example.com"),
        ("a@b.cd", "a@b.cd"),
    ],
)
def test_addresses_are_cleaned(given: str, clean: str) -> None:
    assert clean_address(given) == clean
    assert clean_address(clean) == clean


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("", "there is no address"),
        (" <> ", "there is no address"),
        ("anna", "has no @"),
        ("mailto:anna@example.com", "is a link"),
        ("anna@example.com, bo@example.com", "more than one address"),
        ("anna@example.com;bo@example.com", "more than one address"),
        ("anna@@example.com", "more than one @"),
        ("anna b@example.com", "has a space"),
        ("anna@exam ple.com", "has a space"),
        ("anna@gmail", "no dot"),
        ("anna@example.com.", "ends in a dot"),
        ("anna@192.0.2.1", "needs brackets"),
        (f"{LONG_LOCAL}a@example.com", "more than 64 bytes"),
        ("ä" * 33 + "@example.com", "more than 64 bytes"),
        (f"a@{'b' * 64}.com", "periods"),
        (f"a@{'.'.join(['b' * 60] * 5)}.com", "too long"),
        ("a" * 60 + f"@{'.'.join(['b' * 60] * 3)}.{'c' * 30}.com", "too long"),
        ("a..b@example.com", "two periods"),
        (".a@example.com", "start with a period"),
        ("anna@-example.com", "hyphen"),
        ("anna@example-.com", "hyphen"),
        ("@example.com", "something before the @"),
        ("anna@", "something after the @"),
        ("an\r\nna@example.com", "has a space"),
        ("anna\0@example.com", "invalid characters"),
        ("anna@exam_ple.com", "invalid characters"),
        ("anna@\udce9xample.com", "invalid|unsafe"),
        ("\udce9@example.com", "invalid|unsafe"),
        ("ａnna＠example.com", "no @"),
    ],
)
def test_reasons_are_in_words(given: str, reason: str) -> None:
    assert not is_plain(given)
    with pytest.raises(AddressError, match=reason) as caught:
        clean_address(given)
    assert caught.value.code == "bad_address"
    assert not caught.value.reason.endswith(".")


def test_longest_address() -> None:
    domain = ".".join(["b" * 61] * 3) + ".co"
    assert len(domain) == 188
    assert is_plain(f"{LONG_LOCAL}@{domain}")
    assert not is_plain(f"{LONG_LOCAL}@b{domain}b")
    assert clean_address(f"{'a' * 30}@{'c' * 30}.{domain}") == f"{'a' * 30}@{'c' * 30}.{domain}"
