"""CURVE keys (ZeroMQ RFC 25 and 26): who is who on the wire, and how a socket gets its keys.

A key is 32 bytes, written as 40 characters of Z85 (ZeroMQ RFC 32). A secret one lives in a `Secret`, which no
repr, log or trace back shows.
"""

import re
from dataclasses import dataclass
from enum import StrEnum

import zmq

from evenpost.runtime.processes import parted
from evenpost.runtime.secret import Secret
from evenpost.wire import limits

KEY_CHARS = 40
_Z85 = re.compile(r"[0-9a-zA-Z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}")
_Z85_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]*")
ANY_WORKER = "*"
"""In the list of worker names of a key: whatever the worker calls itself."""


class Role(StrEnum):
    """What the holder of a key is; docs/operations.md says what each may do."""

    BROKER = "broker"
    WORKER = "worker"
    CLIENT = "client"
    ADMIN = "admin"


class KeyFileError(ValueError):
    """A key, or a key file, that can't be used; the message says where, why and what to do."""


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A public key and whose it is."""

    role: Role
    name: str
    key: str
    """40 characters of Z85."""
    workers: tuple[str, ...] = ()
    """Of a worker's key: the worker names that its holder may register; ANY_WORKER stands for all."""

    @property
    def user_id(self) -> str:
        """The ZAP User-Id, `role:name`: for logs, and for what is counted a holder."""
        return f"{self.role}:{self.name}"

    def may_be(self, worker: str) -> bool:
        """That one itself, or one of its processes."""
        allowed = self.workers
        return worker in allowed or parted(worker)[0] in allowed or ANY_WORKER in allowed


@dataclass(frozen=True, slots=True)
class SecretKey:
    """A key pair of our own."""

    role: Role
    name: str
    public: str
    secret: Secret


@dataclass(frozen=True, slots=True)
class CurvePeer:
    """What a client or worker needs to talk to a broker that has CURVE."""

    own: SecretKey
    broker_key: str
    """The broker's public key, in Z85: the other side has to prove that it holds the secret one."""

    def secure(self, socket: "zmq.Socket[bytes]") -> None:
        """To be called before the socket connects."""
        socket.setsockopt(zmq.CURVE_PUBLICKEY, self.own.public.encode())
        socket.setsockopt(zmq.CURVE_SECRETKEY, self.own.secret.reveal().encode())
        socket.setsockopt(zmq.CURVE_SERVERKEY, self.broker_key.encode())


def is_key(text: str) -> bool:
    """Whether it is 32 bytes in Z85: 8 groups of 5 digits to the base 85, each below 2^32."""
    return _Z85.fullmatch(text) is not None and all(
        _number(text[at : at + 5]) < 2**32 for at in range(0, KEY_CHARS, 5)
    )


def _number(digits: str) -> int:
    number = 0
    for digit in digits:
        number = number * 85 + _Z85_DIGITS.index(digit)
    return number


def new_key(role: Role, name: str) -> SecretKey:
    """A new pair from the system's randomness. Raises KeyFileError where the name can't be one."""
    check_name(name)
    public, secret = zmq.curve_keypair()
    return SecretKey(role, name, public.decode(), Secret(secret.decode()))


def public_of(secret: Secret) -> str:
    """The public key that belongs to a secret one. It has to be Z85: `is_key`."""
    return zmq.curve_public(secret.reveal().encode()).decode()


def check_name(name: str) -> str:
    """A holder's name: it is part of file names and of the User-Id. Raises KeyFileError."""
    if not _NAME.fullmatch(name) or len(name) > limits.NAME_CHARS_MAX:
        raise KeyFileError(
            f"{name!r} can't be a key's name: write up to {limits.NAME_CHARS_MAX} of A-Z a-z 0-9 . _ @ + -, "
            "the first a letter or digit"
        )
    return name


def serve(socket: "zmq.Socket[bytes]", own: SecretKey, domain: str) -> None:
    """Makes a socket take only peers that the ZAP handler allows in `domain`. Before it binds."""
    socket.setsockopt(zmq.CURVE_SERVER, 1)
    socket.setsockopt(zmq.CURVE_SECRETKEY, own.secret.reveal().encode())
    socket.setsockopt(zmq.ZAP_DOMAIN, domain.encode())
    # Without this, libzmq lets everybody in while no ZAP handler is there.
    socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
