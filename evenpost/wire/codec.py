"""Bytes to structs and back.

A message is two frames: a header of 12 bytes and a body in msgpack. Version, type and length are checked
before the body is looked at. msgspec packs plain values, in the very bytes of msgpack and four
times as fast; it unpacks what came straight into typed structs and says exactly what is wrong where it can't.
msgpack unpacks what has no type. In two steps (all of it to plain values, then to structs) 9 MB of empty
arrays held the broker up for three seconds and took 500 MB before they were refused.
"""

import struct
from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Any, TypeVar

import msgpack
import msgspec

from evenpost.wire.errors import Code, WireError
from evenpost.wire.messages import BODY_BYTES_MAX, BY_TYPE, Message, Type

VERSION = 3
MAGIC = b"EP"
_HEADER = struct.Struct("!2sBBQ")
"""Magic, version, type, request number."""
HEADER_BYTES = _HEADER.size
REASON_CHARS_MAX = 300
"""Of what is said about a peer's mistake: it may quote the peer, who may have sent megabytes."""

_UNREADABLE = (ValueError, TypeError, RecursionError, OverflowError, MemoryError)
"""What msgpack and msgspec raise on bytes that aren't what they should be: their own errors, and that text is
no UTF-8, are ValueErrors; a key that can't be hashed is a TypeError; nesting may be a RecursionError; a
timestamp out of range an OverflowError."""

_DECODERS: dict[Type, msgspec.msgpack.Decoder[Message]] = {
    type_: msgspec.msgpack.Decoder(struct_) for type_, struct_ in BY_TYPE.items()
}

_ENCODER = msgspec.msgpack.Encoder()

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Decoded:
    """A decoded message and the number of the request that it is, or answers. 0: no request."""

    request: int
    message: Message


def encode(message: Message, request: int = 0) -> list[bytes]:
    """The two frames of a message."""
    return [_HEADER.pack(MAGIC, VERSION, message.TYPE, request), pack(_plain(message))]


def encode_raw(type_: Type, body: dict[str, Any], request: int = 0) -> list[bytes]:
    """The two frames of a message whose body is at hand as plain values: the hot path of BATCH,
    RECIPIENTS and OUTCOMES, where building a struct a row would double the cost. The body must be what the
    struct of `type_` would have given; tests/property/test_codec.py holds that."""
    return [_HEADER.pack(MAGIC, VERSION, type_, request), pack(body)]


def decode(frames: Sequence[bytes], accepted: Set[Type]) -> Decoded:
    """The message in `frames`, if it is of an accepted type.

    Raises WireError: not ours, another version, a type that isn't accepted here, too long, or a body that
    isn't what its type says; the message names the field.
    """
    request, type_, body = split(frames, accepted)
    return Decoded(request, decode_body(type_, body))


def split(frames: Sequence[bytes], accepted: Set[Type]) -> tuple[int, Type, bytes]:
    """Checks the header: request number, type and the body as it came. Raises WireError."""
    if len(frames) != 2:
        raise WireError(Code.BAD_FRAME, f"expected a header and a body, got {len(frames)} frames")
    header, body = frames
    if len(header) != HEADER_BYTES:
        raise WireError(Code.BAD_FRAME, f"the header has {len(header)} bytes instead of {HEADER_BYTES}")
    magic, version, type_number, request = _HEADER.unpack(header)
    if magic != MAGIC:
        raise WireError(Code.BAD_FRAME, "this is not an Evenpost frame (no 'EP' at its start)")
    if version != VERSION:
        raise WireError(
            Code.BAD_VERSION,
            f"the peer speaks version {version} of the protocol, this side version {VERSION}: "
            "run the same release of Evenpost on both",
        )
    if type_number not in accepted:
        raise WireError(
            Code.BAD_MESSAGE,
            f"message type {type_number} is not accepted on this endpoint: clients and workers have one each",
        )
    type_ = Type(type_number)
    if len(body) > BODY_BYTES_MAX[type_]:
        text = f"{type_.name}: {len(body)} bytes; at most {BODY_BYTES_MAX[type_]} are accepted"
        raise WireError(Code.TOO_LARGE, text)
    return request, type_, body


def decode_body(type_: Type, body: bytes) -> Message:
    """A body to its struct. Raises WireError naming what is wrong and in which field, and nothing else
    whatever the bytes are."""
    try:
        return _DECODERS[type_].decode(body)
    except msgspec.ValidationError as error:
        raise WireError(Code.BAD_MESSAGE, f"{type_.name}: {_quotable(error)}") from None
    except _UNREADABLE as error:
        raise WireError(Code.BAD_MESSAGE, f"{type_.name}: not msgpack: {_quotable(error)}") from None


def request_of(frames: Sequence[bytes]) -> int:
    """The request number in a frame that may be broken otherwise; 0 if there is none to be had."""
    if frames and len(frames[0]) == HEADER_BYTES:
        return int(_HEADER.unpack(frames[0])[3])
    return 0


def type_of(frames: Sequence[bytes]) -> int:
    """The type number of frames that `encode` made."""
    return int(_HEADER.unpack(frames[0])[2])


def pack(plain: Any) -> bytes:
    """Plain values (None, bool, int, float, str, bytes, list, tuple, dict) in msgpack."""
    return _ENCODER.encode(plain)


def pack_values(values: Sequence[Any]) -> bytes:
    """A recipient's merge values, in the order of the template's fields. They are whatever a user gives:
    msgpack refuses what JSON doesn't know, such as dates; msgspec would make something of it."""
    packed: bytes = msgpack.packb(values)
    return packed


def unpack_values(packed: bytes) -> list[Any]:
    """The reverse of pack_values. Raises WireError if it is no msgpack array."""
    try:
        values = msgpack.unpackb(packed)
    except _UNREADABLE as error:
        raise WireError(Code.BAD_MESSAGE, f"merge values are not msgpack: {_quotable(error)}") from None
    if not isinstance(values, list):
        raise WireError(Code.BAD_MESSAGE, "merge values are not an array")
    return values


def unpack_counts(packed: bytes) -> dict[int, int]:
    """Counts by number, as the journal keeps them."""
    counts: dict[int, int] = msgpack.unpackb(packed, strict_map_key=False)
    return counts


def pack_struct(value: msgspec.Struct) -> bytes:
    """A struct on its own, for the journal."""
    return pack(_plain(value))


def unpack_struct(packed: bytes, type_: type[T]) -> T:
    """The reverse of pack_struct. Raises WireError naming what is wrong."""
    try:
        return msgspec.convert(msgpack.unpackb(packed), type_)
    except _UNREADABLE as error:
        raise WireError(Code.BAD_MESSAGE, f"{type_.__name__}: {_quotable(error)}") from None


def _plain(value: msgspec.Struct) -> Any:
    return msgspec.to_builtins(value, builtin_types=(bytes,))


def _quotable(error: BaseException) -> str:
    """What an error says, short and in one printable line: it goes into an answer and into a log."""
    text = str(error)[:REASON_CHARS_MAX]
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)
