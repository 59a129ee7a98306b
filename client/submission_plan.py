"""From a campaign to what is sent: the template compiled, the list checked, the chunks cut."""

import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self

import msgspec

from client.api_connection import Stream
from client.errors import ClientError
from client.input_campaign import Campaign
from client.input_rows import merge_name
from client.problems import PROBLEMS_KEPT_MAX, InputError, Problem, counted
from client.recipients import Checked, Row
from evenpost.compose import ComposeError, Composer, TemplateError, compile_template, fields_used
from evenpost.wire import codec
from evenpost.wire.errors import Code
from evenpost.wire.messages import CampaignStatus, OpenCampaign, Template, Welcome

ProgressCall = Callable[[str, int, int], None]
"""("check", bytes read, bytes in all), then ("send", recipients stored, recipients in all). A list from
Python has no bytes: ("check", recipients read, 0)."""

TELL_ROWS = 1_000
"""Progress isn't told more often."""
RECENT_TEMPLATES_MAX = 32
"""Compiled templates that a thread keeps."""
RECENT_BYTES_MAX = 65_536
"""Larger ones aren't kept."""


def new_submission_id() -> str:
    """An id that nobody else has: 128 random bits."""
    return secrets.token_urlsafe(16)


@dataclass(frozen=True, slots=True)
class Receipt:
    """A campaign that the broker has on its disk, with all of its recipients."""

    campaign: str
    """Its id: what all other verbs want."""
    recipients: int
    submission: str
    """The id to submit it with again, should there be a doubt."""
    again: bool
    """True: it had been accepted before, nothing was sent to the broker this time."""
    skipped: int = 0
    """Bad recipients that were left out."""
    status: CampaignStatus | None = None
    """How it ended, where the caller waited for that."""

    def ended(self, status: CampaignStatus) -> "Receipt":
        return replace(self, status=status)


class Plan:
    """One campaign on its way to the broker. `check` it, then open a stream and send its `chunks`."""

    def __init__(
        self, campaign: Campaign, *, skip_bad: bool = False, progress: ProgressCall | None = None
    ) -> None:
        """Compiles the template and opens the list. Raises InputError for either."""
        self.campaign = campaign
        self._skip_bad = skip_bad
        self._progress = progress
        self._options = campaign.options()
        try:
            # A list in a file is read by other threads than this one.
            compile_ = _compiled if campaign.reads_file else _recent.compiled
            self.template, self.composer = compile_(campaign.template())
        except TemplateError as error:
            raise InputError([template_problem(error, campaign)]) from None
        self.list = campaign.open_recipients(self.template.fields)
        self.checked: Checked | None = None
        self._submission = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.list.close()

    @property
    def total(self) -> int:
        """Recipients that will be sent to."""
        return self.checked.good if self.checked else 0

    @property
    def skipped(self) -> int:
        """Bad recipients that are left out."""
        return self.checked.problems_total if self.checked else 0

    def check(self) -> Checked:
        """Reads the whole list. Raises InputError with all that is wrong with it and with the template."""
        progress = self._progress
        found = self.list.check(
            progress=None if progress is None else lambda done, total: progress("check", done, total),
            check_row=self._check_row,
        )
        self.checked = found
        if any(p.kind == "missing_column" and p.field in self.template.fields for p in found.problems):
            raise self._with_unknown_names(found)
        found.raise_for_problems(skip_bad=self._skip_bad)
        return found

    @property
    def submission_id(self) -> str | None:
        """The one that the campaign brings along."""
        return self.campaign.submission_id

    def opening(self, submission_id: str) -> OpenCampaign:
        """For a list that was checked."""
        assert self.checked is not None, "a campaign was opened before its list was checked"
        self._submission = submission_id
        return OpenCampaign(submission_id, self.template, self._options, self.checked.digest)

    def follow(self, stream: Stream) -> None:
        """Tells `progress` what the broker has stored."""
        if self._progress is not None:
            progress = self._progress
            stream.stored = lambda stored: progress("send", stored, self.total)

    def rows(self, rows_max: int, bytes_max: int) -> Iterator[list[Row]]:
        """The recipients in chunks, each row tried out on the template, unless it can't fail there.

        Raises InputError when all are seen, if some fail; from the first of them on nothing more is given.
        With skip_bad they go along: each ends as bounced, with its reason in the report.
        """
        bad: list[Problem] = []
        bad_total = number = 0
        check, unpack = self.composer.check, codec.unpack_values
        for rows, simple in self.list.told_chunks(rows_max, bytes_max, skip_bad=self._skip_bad):
            if self._skip_bad or (simple and self.composer.takes_simple):
                number += len(rows)
                if not bad:
                    yield rows
                continue
            for address, packed in rows:
                try:
                    check(number, address, unpack(packed))
                except ComposeError as error:
                    bad_total += 1
                    if len(bad) < PROBLEMS_KEPT_MAX:
                        bad.append(self.row_problem(number, address, error))
                number += 1
            if not bad:
                yield rows
        if bad:
            raise InputError(bad, bad_total)

    def raw_rows(self, rows_max: int, bytes_max: int) -> Iterator[list[Row]]:
        """The same, without trying them out."""
        return self.list.chunks(rows_max, bytes_max, skip_bad=self._skip_bad)

    def tell(self, phase: str, done: int) -> None:
        if self._progress is not None and done % TELL_ROWS == 0:
            self._progress(phase, done, self.total)

    def row_problem(self, number: int, address: str, error: ComposeError) -> Problem:
        """A recipient, by its number from 0, whose message can't be made."""
        reason = f"recipient {number + 1:,}, {address}: {error}"
        return Problem("bad_recipient_data", reason, file=self.list.name, field=error.field or "")

    def chunks(self, stream: Stream, welcome: Welcome) -> Iterator[list[Row]]:
        """What is left to send. Raises ClientError (`conflict`) if the broker has the beginning of another
        list under this submission id."""
        submission = stream.submission
        if submission.over:
            return
        skip, skipped = submission.first_chunk, 0
        for number, rows in enumerate(self.rows(welcome.chunk_rows_max, welcome.chunk_bytes_max)):
            if number >= skip:
                if number == skip and skipped != submission.skip:
                    break
                yield rows
            else:
                skipped += len(rows)
        if skipped != submission.skip:
            raise ClientError(
                Code.CONFLICT,
                f"submission {self._submission!r} was begun with another list: its first "
                f"{counted(skip, 'chunk')} had {counted(submission.skip, 'recipient')}. "
                "Submit this list under another submission id",
            )

    def receipt(self, stream: Stream) -> Receipt:
        submission = stream.submission
        return Receipt(
            submission.campaign, submission.stored, self._submission, submission.again, self.skipped
        )

    def _check_row(self, line: int, address: str, values: Sequence[object]) -> str | None:
        try:
            self.composer.check(0, address, values)
        except ComposeError as error:
            return str(error)
        return None

    def _with_unknown_names(self, found: Checked) -> InputError:
        """The template uses names that the list has no column for: says where, and what was meant."""
        offered = {merge_name(column) for column in self.list.columns or ()}
        offered |= {column for column in self.list.columns or () if column.isidentifier()}
        composer = _compile(msgspec.structs.replace(self.template, fields=sorted(offered)))
        unknown = [template_problem(error, self.campaign) for error in composer.unknown]
        if not unknown:  # a default that doesn't help: the list's own words are the best there are
            return InputError(found.problems, found.problems_total)
        rest = [p for p in found.problems if p.kind not in ("missing_column", "empty")]
        hidden = len(found.problems) - len(rest)
        return InputError([*unknown, *rest], found.problems_total - hidden + len(unknown))


class _Recent(threading.local):
    """What this thread compiled lately: who sends one message at a time sends the same template again and
    again, and to compile it takes longer than all the rest of a call. A composer is for one thread."""

    def __init__(self) -> None:
        self._known: OrderedDict[bytes, tuple[Template, Composer]] = OrderedDict()

    def compiled(self, template: Template) -> tuple[Template, Composer]:
        """As `_compiled`."""
        key = b"" if template.attachments else codec.pack_struct(template)
        if key in self._known:
            self._known.move_to_end(key)
            return self._known[key]
        found = _compiled(template)
        if 0 < len(key) <= RECENT_BYTES_MAX:
            self._known[key] = found
            if len(self._known) > RECENT_TEMPLATES_MAX:
                self._known.popitem(last=False)
        return found


_recent = _Recent()


def _compiled(template: Template) -> tuple[Template, Composer]:
    """The template with the fields that it uses. Raises TemplateError."""
    whole = msgspec.structs.replace(template, fields=sorted(fields_used(template)))
    return whole, _compile(whole)


def _compile(template: Template) -> Composer:
    # Campaign id and time are the broker's to give; the check doesn't depend on them.
    return compile_template(template, campaign_id="preview", created_at_ms=time.time_ns() // 1_000_000)


def template_problem(error: TemplateError, campaign: Campaign) -> Problem:
    """Where in which file, if the part came from one."""
    part, line = error.part, error.line or 0
    file = (campaign.files or {}).get(part, "")
    if file:
        return Problem("bad_template", error.message, file=file, line=line)
    reason = f"line {line}: {error.message}" if line and part in ("html", "text") else error.message
    return Problem("bad_template", reason, file=campaign.file, field=part)
