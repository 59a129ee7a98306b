"""What a client says for a message, and the messages that it has begun. Pure."""

import re
from dataclasses import dataclass

from worker.smtp.capabilities import Capabilities
from worker.smtp.events import Envelope
from worker.smtp.outcome import Cause, Result, Stage, failure

_ADDRESS = re.compile(r"[^\x00-\x20\x7f<>\ud800-\udfff]{1,254}").fullmatch
"""Nothing that could end the path or the line (RFC 5321 4.5.3.1.3 has the length)."""


@dataclass(slots=True)
class Transaction:
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

    def __init__(self, capabilities: Capabilities) -> None:
        self._capabilities = capabilities
        self._good_sender = ""  # the last that was checked; the null sender <> is how notifications are sent

    def refusal(self, envelope: Envelope) -> Result | None:
        """Why this can't be said to this server."""
        limit = self._capabilities.size_bytes_max
        if limit and envelope.size_bytes > limit:
            text = f"{envelope.size_bytes} bytes are more than the {limit} this server takes"
            return failure(Cause.TOO_BIG, Stage.MAIL, text)
        sender, recipient = envelope.mail_from, envelope.rcpt_to
        if sender != self._good_sender:
            if sender and not _ADDRESS(sender):
                return failure(Cause.BAD_SENDER, Stage.MAIL, "not an address that SMTP can carry")
            self._good_sender = sender
        if not _ADDRESS(recipient):
            return failure(Cause.BAD_RECIPIENT, Stage.RCPT, "not an address that SMTP can carry")
        if not self._capabilities.smtputf8 and not (sender.isascii() and recipient.isascii()):
            text = "a non-ASCII address, and the server has no SMTPUTF8"
            return failure(Cause.SMTPUTF8, Stage.MAIL, text)
        return None

    def mail(self, envelope: Envelope) -> str:
        sender, recipient = envelope.mail_from, envelope.rcpt_to
        size = f" SIZE={envelope.size_bytes}" if self._capabilities.size_offered else ""
        utf8 = "" if sender.isascii() and recipient.isascii() else " SMTPUTF8"
        return f"MAIL FROM:<{sender}>{size}{utf8}\r\n"

    @staticmethod
    def rcpt(envelope: Envelope) -> str:
        return f"RCPT TO:<{envelope.rcpt_to}>\r\n"
