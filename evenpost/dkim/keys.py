"""Signing keys: RSA (RFC 6376) and Ed25519 (RFC 8463), their PEM files, and what DNS has to say of them."""

import base64
import hashlib
import re
from collections.abc import Callable
from typing import Literal

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, padding, rsa

Algorithm = Literal["rsa", "ed25519"]

RSA_BITS = 2048
"""What a new key has: RFC 8301 asks for it, and its record fits into what DNS carries by UDP."""
RSA_BITS_MIN = 1024
"""Verifiers take no shorter key (RFC 8301 3.2)."""
_RSA_EXPONENT = 65_537
_TXT_STRING_MAX = 255
"""Octets of one string of a TXT record; a longer text is several of them (RFC 6376 3.6.2.2)."""

_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9])?"
_NAME = re.compile(rf"(?:{_LABEL}\.)*{_LABEL}").fullmatch
_NAME_CHARS_MAX = 253


class DkimKeyError(ValueError):
    """A key, or a name of one, that can't sign; the message says why, and quotes nothing secret."""


class SigningKey:
    """A private key and whose it is. It isn't shown by `repr`."""

    __slots__ = ("algorithm", "bits", "domain", "public", "selector", "sign")

    def __init__(self, domain: str, selector: str, pem: bytes) -> None:
        """`domain` is d=, in ASCII; `pem` is unencrypted, PKCS #8 or PKCS #1. Raises DkimKeyError."""
        check_names(domain, selector)
        self.domain = domain.lower()
        self.selector = selector.lower()
        self.algorithm: Algorithm
        self.bits = 256
        self.public: str
        """p= of its record."""
        self.sign: Callable[[bytes], bytes]
        """The signature of canonical headers. RSA takes 250 us and lets other threads run meanwhile."""
        key = _load(pem)
        public = key.public_key()
        if isinstance(key, rsa.RSAPrivateKey):
            self.algorithm, self.bits = "rsa", key.key_size
            if self.bits < RSA_BITS_MIN:
                raise DkimKeyError(
                    f"an RSA key of {self.bits} bits: verifiers take no less than {RSA_BITS_MIN}"
                )
            pkcs1, sha256 = padding.PKCS1v15(), hashes.SHA256()
            self.sign = lambda data: key.sign(data, pkcs1, sha256)
            spki = public.public_bytes(
                serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
            )
            self.public = base64.b64encode(spki).decode("ascii")
        else:
            self.algorithm = "ed25519"
            # RFC 8463 3: what is signed is the hash.
            self.sign = lambda data: key.sign(hashlib.sha256(data).digest())
            raw = public.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
            self.public = base64.b64encode(raw).decode("ascii")

    def __repr__(self) -> str:
        return f"<SigningKey {self.selector}._domainkey.{self.domain}, {self.algorithm} {self.bits}>"

    @property
    def label(self) -> str:
        """For logs: `example.com/s2026 rsa-2048`."""
        kind = f"rsa-{self.bits}" if self.algorithm == "rsa" else self.algorithm
        return f"{self.domain}/{self.selector} {kind}"

    @property
    def record_name(self) -> str:
        """Where in DNS the public key has to stand."""
        return f"{self.selector}._domainkey.{self.domain}"

    @property
    def record(self) -> str:
        """The text of its TXT record."""
        return f"v=DKIM1; k={self.algorithm}; p={self.public}"

    @property
    def zone_line(self) -> str:
        """The record as a zone file has it."""
        text = self.record
        parts = [text[i : i + _TXT_STRING_MAX] for i in range(0, len(text), _TXT_STRING_MAX)]
        strings = " ".join(f'"{part}"' for part in parts)
        return f"{self.record_name}. IN TXT " + (f"( {strings} )" if len(parts) > 1 else strings)


def is_name(name: str) -> bool:
    """Whether it can be a domain or a selector: labels of DNS, in ASCII, no dot at the end."""
    return len(name) <= _NAME_CHARS_MAX and _NAME(name) is not None


def check_names(domain: str, selector: str) -> None:
    """Raises DkimKeyError where they can't be d= and s=."""
    for what, name in (("domain", domain), ("selector", selector)):
        if not is_name(name):
            raise DkimKeyError(f"{name!r} can't be a {what}: it has letters, digits, hyphens and dots")
    if len(f"{selector}._domainkey.{domain}") > _NAME_CHARS_MAX:
        raise DkimKeyError("selector and domain are too long together for a name in DNS")


def new_pem(algorithm: Algorithm, bits: int = RSA_BITS) -> bytes:
    """A new private key, as PKCS #8 in PEM. 2048 bits of RSA take some 0.1 s."""
    key = (
        rsa.generate_private_key(_RSA_EXPONENT, bits)
        if algorithm == "rsa"
        else ed25519.Ed25519PrivateKey.generate()
    )
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _load(pem: bytes) -> rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey:
    try:
        key = serialization.load_pem_private_key(pem, None)
    except TypeError:
        raise DkimKeyError("the key is encrypted: a worker has nobody to ask for its passphrase") from None
    except (ValueError, UnsupportedAlgorithm):  # what it says may quote the file
        hint = "PEM: `evenpost dkim-key` or `openssl genpkey` make one"
        if b"PUBLIC KEY" in pem:
            hint = "it holds the public half"
        elif b"CERTIFICATE" in pem:
            hint = "it holds a certificate"
        raise DkimKeyError(f"no private key can be read: {hint}") from None
    if isinstance(key, rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey):
        return key
    raise DkimKeyError("DKIM knows RSA and Ed25519 keys; this one is neither")
