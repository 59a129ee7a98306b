"""What goes wrong, as one exception: a `code` for programs, a `message` for people."""

from evenpost.wire.errors import Code

BAD_INPUT = "bad_input"
"""What was given can't be used as it is; nothing was sent."""
CLOSED = "closed"
"""The client was closed."""


class ClientError(Exception):
    """Something was refused, or nobody answered.

    `code` is `bad_input`, `closed`, or one of the protocol's (docs/protocol.md says what to do about each):
    `unavailable` (no broker answered in time), `not_found`, `wrong_state`, `conflict`, `too_large`, `busy`,
    `forbidden`, `out_of_order`, `bad_message`, `bad_version`, `bad_frame`.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = str(code)
        self.message = message


def unavailable(message: str) -> ClientError:
    return ClientError(Code.UNAVAILABLE, message)
