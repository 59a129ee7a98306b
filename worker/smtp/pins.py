"""Pinned certificates: SHA-256 of the whole certificate, or of its public key (SPKI, RFC 7469 2.4).

A key's pin outlives renewals of the certificate that keep the key. The standard library gives a certificate
as DER and doesn't take it apart; its public key is found here by walking over the fields before it.
"""

import hashlib
import re
from collections.abc import Collection

PREFIX = "sha256:"
_HEX = re.compile(r"[0-9a-f]{64}").fullmatch

_SEQUENCE = 0x30
_VERSION = 0xA0
_FIELDS_BEFORE_KEY = 5
"""Serial number, signature algorithm, issuer, validity, subject (RFC 5280 4.1)."""


class CertificateError(ValueError):
    """These bytes are no X.509 certificate."""


def parse_pin(text: str) -> str:
    """`sha256:HEX` as it is compared: in small letters, without the colons that openssl prints. Raises
    ValueError that says what to do."""
    given = text.strip().lower()
    digest = given.removeprefix(PREFIX).replace(":", "")
    if not given.startswith(PREFIX) or _HEX(digest) is None:
        raise ValueError(
            f"tls_pin={text[:100]!r} should be sha256: and 64 hexadecimal digits, of a certificate or its key"
        )
    return PREFIX + digest


def pins_of(certificate: bytes) -> tuple[str, str]:
    """The two pins that fit a certificate in DER: its own, and its key's. Raises CertificateError."""
    return _pin(certificate), _pin(public_key_of(certificate))


def is_pinned(certificate: bytes, pins: Collection[str]) -> bool:
    """Whether one of the pins is that of the certificate or of its key."""
    if _pin(certificate) in pins:
        return True
    try:
        return _pin(public_key_of(certificate)) in pins
    except CertificateError:
        return False


def public_key_of(certificate: bytes) -> bytes:
    """SubjectPublicKeyInfo, with its tag and length. Raises CertificateError."""
    try:
        _, start, _ = _field(certificate, 0, _SEQUENCE)  # Certificate
        _, at, end = _field(certificate, start, _SEQUENCE)  # TBSCertificate
        if certificate[at] == _VERSION:
            _, _, at = _field(certificate, at)
        for _ in range(_FIELDS_BEFORE_KEY):
            _, _, at = _field(certificate, at)
        start, _, after = _field(certificate, at, _SEQUENCE)
        if after > end:
            raise CertificateError("the certificate's fields reach beyond it")
    except IndexError:
        raise CertificateError("the certificate ends too early") from None
    return certificate[start:after]


def _field(der: bytes, at: int, tag: int | None = None) -> tuple[int, int, int]:
    """Where a field begins, where its content begins, and where it ends (X.690 8.1)."""
    if tag is not None and der[at] != tag:
        raise CertificateError("not a certificate")
    size, start = der[at + 1], at + 2
    if size >= 0x80:
        count = size & 0x7F
        if not 1 <= count <= 4:
            raise CertificateError("a length that DER doesn't have")
        size, start = int.from_bytes(der[start : start + count]), start + count
    if start + size > len(der):
        raise CertificateError("a field reaches beyond the certificate")
    return at, start, start + size


def _pin(data: bytes) -> str:
    return PREFIX + hashlib.sha256(data).hexdigest()
