"""Logging in: what to say for each mechanism (RFC 4954). Whether it may be said is for the caller."""

import base64
from dataclasses import dataclass, field

MECHANISMS = ("PLAIN", "LOGIN", "XOAUTH2")


@dataclass(slots=True)
class AuthExchange:
    """One AUTH command and the answers to the server's 334 challenges, in their order."""

    command: bytes = field(repr=False)
    answers: list[bytes] = field(repr=False)

    def answer(self) -> bytes:
        """The next answer; `*` gives up when the server asks for more than the mechanism has."""
        return (self.answers.pop(0) if self.answers else b"*") + b"\r\n"


def begin(mechanism: str, username: str, password: str) -> AuthExchange:
    if mechanism == "PLAIN":  # RFC 4616
        response = _base64(f"\0{username}\0{password}")
        # Some servers overlook the initial response and ask for it.
        return AuthExchange(b"AUTH PLAIN " + response + b"\r\n", [response])
    if mechanism == "LOGIN":
        return AuthExchange(b"AUTH LOGIN\r\n", [_base64(username), _base64(password)])
    if mechanism == "XOAUTH2":  # the password is the access token
        response = _base64(f"user={username}\x01auth=Bearer {password}\x01\x01")
        # A challenge holds the error; the empty answer to it brings the code.
        return AuthExchange(b"AUTH XOAUTH2 " + response + b"\r\n", [b""])
    raise ValueError(f"unknown AUTH mechanism {mechanism!r}")


def _base64(text: str) -> bytes:
    return base64.b64encode(text.encode())
