"""Logging in: what to say for each mechanism (RFC 4954). Whether it may be said is for the caller."""

import base64
from dataclasses import dataclass, field

from evenpost.runtime.secret import HIDDEN

MECHANISMS = ("PLAIN", "LOGIN", "XOAUTH2")


@dataclass(slots=True)
class AuthExchange:
    """One AUTH command and the answers to the server's 334 challenges, in their order."""

    command: bytes = field(repr=False)
    answers: list[bytes] = field(repr=False)
    secrets: tuple[str, ...] = field(repr=False)
    """What goes out and must not come back in a log: the password, and what it is encoded to."""
    given_up: bool = False

    def answer(self) -> bytes:
        """The next answer; `*` gives up when the server asks for more than the mechanism has."""
        if self.answers:
            return self.answers.pop(0) + b"\r\n"
        self.given_up = True
        return b"*\r\n"

    def conceal(self, text: str) -> str:
        """A reply's text without the secrets."""
        for secret in self.secrets:
            text = text.replace(secret, HIDDEN)
        return text


def begin(mechanism: str, username: str, password: str) -> AuthExchange:
    if mechanism == "PLAIN":  # RFC 4616
        response = _base64(f"\0{username}\0{password}")
        # Some servers overlook the initial response and ask for it.
        return AuthExchange(b"AUTH PLAIN " + response + b"\r\n", [response], _secrets(password, response))
    if mechanism == "LOGIN":
        answers = [_base64(username), _base64(password)]
        return AuthExchange(b"AUTH LOGIN\r\n", answers, _secrets(password, answers[1]))
    if mechanism == "XOAUTH2":  # the password is the access token
        response = _base64(f"user={username}\x01auth=Bearer {password}\x01\x01")
        # A challenge holds the error; the empty answer to it brings the code.
        return AuthExchange(b"AUTH XOAUTH2 " + response + b"\r\n", [b""], _secrets(password, response))
    raise ValueError(f"unknown AUTH mechanism {mechanism!r}")


def _secrets(password: str, encoded: bytes) -> tuple[str, ...]:
    """The longest first: the one may be part of the other."""
    return tuple(sorted(filter(None, (password, encoded.decode())), key=len, reverse=True))


def _base64(text: str) -> bytes:
    return base64.b64encode(text.encode())
