"""`Campaign`: what is to be sent, to whom and how. Built in Python or loaded from a campaign.toml."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, Self

from client.campaign_file import load_values
from client.input_check import checked, header_pairs
from client.input_times import to_ms
from client.problems import InputError, Problem
from client.recipients import RecipientList, RecipientSource
from evenpost.wire.messages import Attachment, Options, Template

Time = datetime | timedelta | str
"""With a zone; without one it is local time. A timedelta or "+2h" counts from now; for `expire_at` from
`start_at`, where there is one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Campaign:
    """One submission: a message, its recipients and how to send it.

        Campaign(
            sender="News <news@example.com>",
            subject="Hello {{ first_name }}",
            html="<p>Dear {{ first_name }}, ...",
            recipients=[{"email": "anna@example.com", "first_name": "Anna"}],
        )

    `sender`, `subject`, `html`, `text`, `to_name`, `reply_to` and header values are Jinja2 templates over the
    recipients' fields and `email`. Raises InputError that names everything that is wrong.
    """

    sender: str
    subject: str
    recipients: RecipientSource
    """A path, "-" for standard input, or an iterable of addresses or of mappings with `email` and fields."""
    html: str | None = None
    text: str | None = None
    """None: made from the HTML."""
    reply_to: str | None = None
    envelope_from: str | None = None
    """Where bounces go. None: the address of `sender`. "": nowhere (the null sender)."""
    to_name: str | None = None
    headers: Mapping[str, str | Sequence[str]] | Sequence[tuple[str, str]] = ()
    attachments: Sequence[Attachment | str | Path] = ()
    """Paths, or Attachments; one with a `content_id` is an inline image, `cid:NAME` in the HTML."""
    name: str = ""
    start_at: Time | None = None
    expire_at: Time | None = None
    priority: int = 4
    """0 (least) to 9."""
    pool: str | None = None
    """Only workers with this tag. None: the pool that the broker's settings name for the sender's domain,
    else all workers."""
    overflow: str | None = None
    """Workers with this tag too, while those of `pool` can't take more."""
    weight: int = 100
    """Its share beside other campaigns of the same priority, 1 to 1,000."""
    rate: str = ""
    """At most so many messages: "14/s, 50000/day". Empty: as many as the servers take."""
    window: str = ""
    """Only at these hours, in their zone: "08:00-20:00 Europe/Berlin". Empty: at any."""
    on_unknown: Literal["resend", "hold"] = "resend"
    submission_id: str | None = None
    """The same id again is the same submission: it counts once."""
    encoding: str | None = None
    delimiter: str | None = None
    email_column: str | None = None
    file: str = ""
    """The campaign.toml that this came from, for messages."""
    files: Mapping[str, str] | None = None
    """Which file `html` and `text` came from, for messages."""
    warnings: tuple[Problem, ...] = ()
    """What is odd but no error."""

    def __post_init__(self) -> None:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values, problems = checked(values, datetime.now(UTC))
        errors = [problem for problem in problems if problem.severity == "error"]
        if errors:
            raise InputError(errors)
        for name, value in values.items():
            object.__setattr__(self, name, value)
        # A file's keywords were checked already: what is odd with them is told once.
        object.__setattr__(self, "warnings", tuple(dict.fromkeys((*self.warnings, *problems))))

    @classmethod
    def load(cls, path: str | Path, **overrides: Any) -> Self:
        """Reads a campaign.toml. Keywords replace what the file says; None leaves it.

        Raises InputError that names everything that is wrong."""
        return cls(**load_values(Path(path), overrides))

    @property
    def reads_file(self) -> bool:
        """Whether the recipients come from a file or standard input, not from Python."""
        return isinstance(self.recipients, str | Path)

    def template(self, fields: Sequence[str] = ()) -> Template:
        """The message, for the wire. `fields`: the merge fields, in the order in which they are packed."""
        return Template(
            sender=self.sender, subject=self.subject, html=self.html, text=self.text, to_name=self.to_name,
            reply_to=self.reply_to, envelope_from=self.envelope_from,
            headers=list(header_pairs(self.headers)),
            attachments=[part for part in self.attachments if isinstance(part, Attachment)],
            fields=list(fields),
        )  # fmt: skip

    def options(self) -> Options:
        """How to send it, for the wire."""
        return Options(
            name=self.name, priority=self.priority, pool=self.pool, overflow=self.overflow,
            weight=self.weight, rate=self.rate, window=self.window, on_unknown=self.on_unknown,
            start_at=to_ms(self.start_at) if isinstance(self.start_at, datetime) else None,
            expire_at=to_ms(self.expire_at) if isinstance(self.expire_at, datetime) else None,
        )  # fmt: skip

    def open_recipients(self, fields: Sequence[str]) -> RecipientList:
        """The recipients, to be checked and streamed. `fields`: those that the template uses."""
        return RecipientList.open(
            self.recipients, fields=fields, encoding=self.encoding, delimiter=self.delimiter,
            email_column=self.email_column,
        )  # fmt: skip
