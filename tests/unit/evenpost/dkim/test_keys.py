import base64
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from evenpost.dkim.keys import DkimKeyError, SigningKey, is_name, new_pem

SEED = base64.b64decode("nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A=")
"""RFC 8463 A.1: the private key of football.example.com."""


def pem_of(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey, passphrase: bytes | None = None) -> bytes:
    encryption = (
        serialization.NoEncryption()
        if passphrase is None
        else serialization.BestAvailableEncryption(passphrase)
    )
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, encryption
    )


def ed25519_pem(seed: bytes) -> bytes:
    der = bytes.fromhex("302e020100300506032b657004220420") + seed
    text = base64.b64encode(der).decode()
    return f"-----BEGIN PRIVATE KEY-----\n{text}\n-----END PRIVATE KEY-----\n".encode()


def test_a_record_of_ed25519_is_that_of_the_rfc() -> None:
    key = SigningKey("football.example.com", "brisbane", ed25519_pem(SEED))
    assert key.record_name == "brisbane._domainkey.football.example.com"
    assert key.record == "v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="
    assert key.zone_line == f'brisbane._domainkey.football.example.com. IN TXT "{key.record}"'


def test_a_record_of_rsa_is_cut_into_strings_that_dns_can_hold() -> None:
    key = SigningKey("Example.com", "s1", new_pem("rsa"))
    assert key.domain == "example.com"
    assert key.record.startswith("v=DKIM1; k=rsa; p=MII")
    strings = key.zone_line.split('"')[1::2]
    assert "".join(strings) == key.record
    assert [len(string) <= 255 for string in strings] == [True, True]


def test_a_key_of_pkcs_1_is_read() -> None:
    pem = pem_of(rsa.generate_private_key(65_537, 1024))
    assert b"BEGIN RSA PRIVATE KEY" in pem
    key = SigningKey("example.com", "s1", pem)
    assert (key.algorithm, key.bits, key.label) == ("rsa", 1024, "example.com/s1 rsa-1024")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: b"", "no private key can be read: PEM"),
        (lambda: b"\0" * 5_000, "no private key can be read"),
        (lambda: new_pem("ed25519").replace(b"MC4", b"MC5"), "no private key can be read"),
        (lambda: b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "the public half"),
        (lambda: pem_of(ec.generate_private_key(ec.SECP256R1())), "neither"),
        (
            lambda: pem_of(rsa.generate_private_key(65_537, 1024), b"pass"),
            "it is encrypted|the key is encrypted",
        ),
    ],
)
def test_what_is_no_key_is_refused_with_a_reason(make: Callable[[], bytes], reason: str) -> None:
    with pytest.raises(DkimKeyError, match=reason):
        SigningKey("example.com", "s1", make())


def test_a_key_that_is_too_short_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pem = pem_of(rsa.generate_private_key(65_537, 1024))
    monkeypatch.setattr("evenpost.dkim.keys.RSA_BITS_MIN", 1025)
    with pytest.raises(DkimKeyError, match="an RSA key of 1024 bits: verifiers take no less than 1025"):
        SigningKey("example.com", "s1", pem)


@pytest.mark.parametrize(
    "name", ["", ".", "a.", ".a", "a b", "a;b", "a\r\nb", "x" * 64, "é.example", "-a", "a" * 260]
)
def test_what_cannot_stand_in_dns_is_no_name(name: str) -> None:
    assert not is_name(name)
    for domain, selector in ((name, "s1"), ("example.com", name)):
        with pytest.raises(DkimKeyError, match="can't be a"):
            SigningKey(domain, selector, b"")


def test_a_key_shows_nothing_secret() -> None:
    pem = new_pem("ed25519")
    shown = repr(SigningKey("example.com", "s1", pem))
    assert shown == "<SigningKey s1._domainkey.example.com, ed25519 256>"
