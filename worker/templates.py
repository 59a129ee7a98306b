"""The campaigns' templates that the broker has sent, compiled when the first message needs them."""

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from evenpost.compose import Composer, Envelope, TemplateError, compile_template
from evenpost.wire import codec, limits
from evenpost.wire.messages import CampaignTemplate

if TYPE_CHECKING:
    from evenpost.dkim import Signer

TEMPLATES_KEPT_MAX = 2 * limits.TEMPLATES_SENT_MAX
TEMPLATES_KEPT_BYTES_MAX = 2 * limits.TEMPLATES_SENT_BYTES_MAX
"""Twice what the broker counts on, so that the two never disagree about which is the least recently used."""

RECENT_TEMPLATES_MAX = 64
RECENT_BYTES_MAX = 16_384
"""Of templates that are kept for the next campaign that has the same one."""


QUICK_BYTES_MAX = 2 * 1024
"""A template up to this is compiled at once: 1 ms, or 60 ms where it is nothing but tags. The largest take
2 s; a thread keeps the loop waiting for 50 ms of those (Python's own compiler doesn't let go of the GIL)."""


class Composes(Protocol):
    """A Composer, or what adds something to its messages."""

    @property
    def envelope_from(self) -> str | None: ...

    def recipient(self, address: str) -> str: ...

    def envelope(self, address: str, values: Sequence[object]) -> Envelope: ...

    def compose(self, index: int, address: str, values: Sequence[object], date: float) -> bytes: ...


class Composing(Protocol):
    """What a BatchRun needs of a template."""

    usual_bytes: int

    @property
    def composer(self) -> Composes: ...


class _Recent:
    """Small templates that were compiled lately. Who sends single messages, each a campaign of its own, sends
    the same few templates again and again; to compile one takes longer than all else that the worker does for
    a message."""

    def __init__(self) -> None:
        self._known: OrderedDict[bytes, Composer] = OrderedDict()

    def find(self, message: CampaignTemplate, size_bytes: int) -> Composer | None:
        known = self._known.get(key) if (key := _key(message, size_bytes)) else None
        if known is None:
            return None
        self._known.move_to_end(key)
        return known.again(message.campaign_id, message.created_at)

    def keep(self, message: CampaignTemplate, size_bytes: int, made: Composer) -> None:
        if key := _key(message, size_bytes):
            self._known[key] = made
            if len(self._known) > RECENT_TEMPLATES_MAX:
                self._known.popitem(last=False)


def _key(message: CampaignTemplate, size_bytes: int) -> bytes:
    """Empty where the template isn't small."""
    return codec.pack_struct(message.template) if size_bytes <= RECENT_BYTES_MAX else b""


class CampaignComposer:
    """One campaign's template, and what it has been compiled to."""

    __slots__ = (
        "_compiling", "_composer", "_error", "_recent", "message", "signer", "size_bytes", "usual_bytes",
    )  # fmt: skip

    def __init__(self, message: CampaignTemplate, size_bytes: int, recent: _Recent | None = None) -> None:
        self._recent = recent or _Recent()
        self.message = message
        self.size_bytes = size_bytes
        self.usual_bytes = 0
        """The size of the message that was composed last."""
        self.signer: Signer | None = None
        """What signs its messages, where the worker has DKIM keys."""
        self._compiling: asyncio.Future[Composer | None] | None = None
        self._composer: Composer | None = None
        self._error: TemplateError | None = None

    async def compiled(self) -> None:
        """Before the first batch: a template that may take long is compiled by a thread, so that what other
        connections do goes on."""
        if self._composer is not None or self._error is not None or self.size_bytes <= QUICK_BYTES_MAX:
            return
        self._composer = self._recent.find(self.message, self.size_bytes)
        if self._composer is not None:
            return
        if self._compiling is None:
            self._compiling = asyncio.get_running_loop().run_in_executor(None, self._compile_in_thread)
        made = await asyncio.shield(self._compiling)  # others may wait for it, too
        if made is not None:
            self._recent.keep(self.message, self.size_bytes, made)

    def _compile_in_thread(self) -> Composer | None:
        with contextlib.suppress(Exception):  # whoever composes runs into it, and tells of it
            return self._compile()
        return None

    @property
    def composer(self) -> Composer:
        """Compiled where it isn't yet. Raises TemplateError."""
        if self._composer is None:
            if self._error is not None:
                raise self._error
            self._composer = self._recent.find(self.message, self.size_bytes)
            if self._composer is None:
                self._recent.keep(self.message, self.size_bytes, made := self._compile())
                return made
        return self._composer

    def _compile(self) -> Composer:
        message = self.message
        try:
            made = self._composer = compile_template(
                message.template, campaign_id=message.campaign_id, created_at_ms=message.created_at
            )
        except TemplateError as error:
            self._error = error
            raise
        return made


class Templates:
    """The most recently used ones, by campaign."""

    def __init__(self, kept_max: int = TEMPLATES_KEPT_MAX, bytes_max: int = TEMPLATES_KEPT_BYTES_MAX) -> None:
        self._kept_max = kept_max
        self._bytes_max = bytes_max
        self._bytes = 0
        self._recent = _Recent()
        self._by_campaign: OrderedDict[int, CampaignComposer] = OrderedDict()

    def __len__(self) -> int:
        return len(self._by_campaign)

    def put(self, message: CampaignTemplate, size_bytes: int) -> None:
        known = self._by_campaign.get(message.campaign)
        if known is not None and known.message == message:
            self._by_campaign.move_to_end(message.campaign)
            return
        if known is not None:
            self._drop(message.campaign)
        self._by_campaign[message.campaign] = CampaignComposer(message, size_bytes, self._recent)
        self._bytes += size_bytes
        while len(self._by_campaign) > 1 and (
            len(self._by_campaign) > self._kept_max or self._bytes > self._bytes_max
        ):
            self._drop(next(iter(self._by_campaign)))

    def use(self, campaign: int) -> CampaignComposer | None:
        """A campaign's template, which counts as used now."""
        found = self._by_campaign.get(campaign)
        if found is not None:
            self._by_campaign.move_to_end(campaign)
        return found

    def _drop(self, campaign: int) -> None:
        self._bytes -= self._by_campaign.pop(campaign).size_bytes
