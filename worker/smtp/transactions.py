"""What a client says for a message, and the messages that it has begun. Pure."""

import re

import msgspec

from worker.smtp.capabilities import Capabilities
from worker.smtp.events import Envelope
from worker.smtp.outcome import Cause, Result, Stage, failure

_ADDRESS = re.compile(r"[^\x00-\x20\x7f<>\ud800-\udfff]{1,254}").fullmatch
"""Nothing that could end the path or the line (RFC 5321 4.5.3.1.3 has the length)."""


class Transaction(msgspec.Struct, gc=False):
    """A message between its MAIL and the answer to its content. Answers come in order: whatever is said of
    messages is said of the first of those that are open."""

    envelope: Envelope
    chunked: bool = False
    """Its content goes by BDAT."""
    end: int = -1
    """Where its content ends among all bytes that are sent; -1 before it has been queued."""
    refused: bool = False
    """It has its result; what it still gets is the answers to commands that are out."""


class Commands:
    """MAIL and RCPT for one server."""

    def __init__(self, offered: Capabilities) -> None:
        self._offered = offered
        self._good_sender = ""  # the last that was checked; the null sender <> is how notifications are sent

    def begin(self, envelope: Envelope) -> tuple[str, str] | Result:
        """MAIL and RCPT, or why this can't be said to this server."""
        offered = self._offered
        size = ""
        if offered.size_offered:
            limit, announced = offered.size_bytes_max, envelope.size_bytes
            if limit and announced > limit:
                text = f"{announced} bytes are more than the {limit} this server takes"
                return failure(Cause.TOO_BIG, Stage.MAIL, text)
            size = f" SIZE={announced}"
        sender, recipient = envelope.mail_from, envelope.rcpt_to
        if sender != self._good_sender:
            if sender and not _ADDRESS(sender):
                return failure(Cause.BAD_SENDER, Stage.MAIL, "not an address that SMTP can carry")
            self._good_sender = sender
        if not _ADDRESS(recipient):
            return failure(Cause.BAD_RECIPIENT, Stage.RCPT, "not an address that SMTP can carry")
        if sender.isascii() and recipient.isascii():
            return f"MAIL FROM:<{sender}>{size}\r\n", f"RCPT TO:<{recipient}>\r\n"
        if not offered.smtputf8:
            text = "a non-ASCII address, and the server has no SMTPUTF8"
            return failure(Cause.SMTPUTF8, Stage.MAIL, text)
        return f"MAIL FROM:<{sender}>{size} SMTPUTF8\r\n", f"RCPT TO:<{recipient}>\r\n"
