"""Errors of the protocol. Each has a `code` for programs and a `message` for people."""

from enum import StrEnum


class Code(StrEnum):
    """Error codes on the wire; docs/protocol.md says what a peer should do about each."""

    BAD_FRAME = "bad_frame"
    BAD_VERSION = "bad_version"
    BAD_MESSAGE = "bad_message"
    NOT_FOUND = "not_found"
    WRONG_STATE = "wrong_state"
    CONFLICT = "conflict"
    OUT_OF_ORDER = "out_of_order"
    TOO_LARGE = "too_large"
    BUSY = "busy"
    FORBIDDEN = "forbidden"
    UNAVAILABLE = "unavailable"


class WireError(Exception):
    """A frame from a peer that can't be accepted. The peer is to blame: count it, answer, carry on."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
