"""What goes into the protocol core and what comes out of it."""

import msgspec

from worker.smtp.outcome import Result


class Envelope(msgspec.Struct, frozen=True, gc=False):
    """One message's addresses. SMTPUTF8 is asked for exactly when one of them isn't ASCII.

    `size_bytes` is what SIZE announces: an estimate is enough. `key` belongs to the owner: the core
    only hands it back.
    """

    mail_from: str
    rcpt_to: str
    size_bytes: int = 0
    key: int = 0


class StartTls(msgspec.Struct, frozen=True):
    """Do the TLS handshake now; then call `tls_established`. Bytes that arrive before it has begun go
    to `receive_data`, which takes them for the attack that they are."""


class Ready(msgspec.Struct, frozen=True):
    """The session takes envelopes."""


class ContentWanted(msgspec.Struct, frozen=True):
    """The server waits for this message's content: call `send_content` or `give_up_content`."""

    envelope: Envelope


class Completed(msgspec.Struct, frozen=True):
    """The one and only result of this message."""

    envelope: Envelope
    result: Result


class Closed(msgspec.Struct, frozen=True):
    """The session is over: write what `data_to_send` still has and close the connection.

    `unsent` are the messages that were begun and certainly not taken: they may be sent again at
    once, on another connection. `reason` is None after a QUIT that we wanted.
    """

    reason: Result | None
    unsent: tuple[Envelope, ...]


Event = StartTls | Ready | ContentWanted | Completed | Closed
