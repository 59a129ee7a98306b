"""OPEN_CAMPAIGN: the journal is asked whether the submission is known before the core decides."""

import hashlib
import secrets
from collections.abc import Callable

from broker.core.events import SubmissionOpened
from broker.core.state import Campaign
from broker.journal.group_commit import GroupCommit
from broker.journal.store import Journal
from evenpost.wire import codec
from evenpost.wire import messages as wire

_ID_LETTERS = "23456789abcdefghjkmnpqrstuvwxyz"
"""Of campaign ids: none that is taken for another when read aloud or copied by hand."""
_ID_CHARS = 10


def fingerprint_of(message: wire.OpenCampaign, packed_template: bytes) -> bytes:
    """What has to be the same for a submission id to be the same submission. Not `start_at` and `expire_at`:
    "+2h" is another time at each try."""
    options = message.options
    hasher = hashlib.blake2b(packed_template, digest_size=16)
    rest = (
        message.list_digest, options.name, options.priority, options.pool, options.on_unknown,
        options.overflow, options.weight, options.rate, options.window,
    )  # fmt: skip
    hasher.update(codec.pack(rest))
    return hasher.digest()


class Opening:
    def __init__(
        self, journal: Journal, queue: GroupCommit, raise_event: Callable[[SubmissionOpened], None]
    ) -> None:
        self._journal = journal
        self._queue = queue
        self._raise = raise_event
        self._next_number = journal.next_campaign_number()

    def open(self, peer: bytes, request: int, message: wire.OpenCampaign) -> None:
        packed = codec.pack_struct(message.template)
        fingerprint = fingerprint_of(message, packed)

        def found(known: Campaign | None) -> None:
            new_id = "".join(secrets.choice(_ID_LETTERS) for _ in range(_ID_CHARS))
            number = self._next_number
            self._next_number += 1
            self._raise(SubmissionOpened(peer, request, message, packed, fingerprint, known, new_id, number))

        self._queue.read(lambda: self._journal.campaign_by_submission(message.submission), found)
