"""Signed batches: composed a little ahead, signed by threads, given to a connection when they are.

An RSA signature takes 250 us, several times as long as all else that a message costs, and OpenSSL computes
it without the GIL: so on another core. Ed25519's takes 25 us, which a thread wouldn't make shorter: where a
worker has no RSA key, or one core, messages are signed where they are composed.

    BatchRun asks its template to compose -> SigningTemplate gives what is signed already, or signs now
    the connection asks for an envelope -> SigningBatch looks whether that message is signed: Later, if not

So whatever happens to a batch, BatchRun gets signed messages and nothing else; threads only save it time.
"""

import asyncio
import contextlib
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Self

from structlog.typing import FilteringBoundLogger

from evenpost.compose import ComposeError, Envelope
from evenpost.dkim import Signer
from evenpost.runtime import clock
from evenpost.wire import codec
from worker.batch_run import AHEAD_BYTES_MAX, BatchRun
from worker.dkim_keys import DkimKeys
from worker.smtp import events
from worker.smtp.connection import Batch, Later
from worker.templates import CampaignComposer, Composing
from worker.vocabulary import Held

CORES_MAX = 4
"""That one worker signs on: its loop needs the GIL for 100 us a message, so it can't feed more."""
THREADS_PER_CORE = 3
"""One that has signed waits for the GIL while the loop works: others sign meanwhile. (One a core leaves a
seventh of the cores' time unused, and has more switches.)"""
SIGNATURE_BYTES = 750
"""Of one by RSA-2048, about: for what SIZE announces of a message that is composed later."""
AHEAD_PER_BATCH = 8
"""Messages of one batch that are composed before the connection asks for them."""
AHEAD_PER_CORE = 24
"""Messages of all batches that wait for a thread, above which a batch has only its next one composed. They
are done in 8 ms, longer than a busy turn of the loop takes: so threads don't run dry, and what is urgent
doesn't wait for long behind them."""
TOLD_TOGETHER = 8
"""Signatures that the loop hears of at once while there are more to make: it takes them up in one turn, whose
messages share a write to the log and a poll. Alone, each would cost the worker 100 us more."""


class Signing:
    """A message that a thread signs."""

    __slots__ = ("batch", "content", "is_done", "now_s", "signed")

    def __init__(self, batch: "SigningBatch", content: bytes, now_s: int) -> None:
        self.batch = batch
        self.content = content
        self.now_s = now_s
        self.signed = b""
        """Empty where that failed."""
        self.is_done = False


class SigningThreads:
    """Threads of one worker, which sign. Used from its event loop."""

    def __init__(self, cores: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._wanted: SimpleQueue[Signing | None] = SimpleQueue()
        self._done: deque[Signing] = deque()
        self._is_told = False
        """Whether the loop has been told that something is done."""
        self._unsigned = 0
        self._room = cores * AHEAD_PER_CORE
        self._threads = [
            threading.Thread(target=self._sign, name=f"dkim-{number}", daemon=True)
            for number in range(cores * THREADS_PER_CORE)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def has_room(self) -> bool:
        return self._unsigned < self._room

    def put(self, signing: Signing) -> None:
        """It is signed soon; then its batch hears `signed`."""
        self._unsigned += 1
        self._wanted.put(signing)

    def close(self) -> None:
        """What isn't signed yet stays so."""
        with contextlib.suppress(Empty):
            while True:
                self._wanted.get_nowait()
        for _ in self._threads:
            self._wanted.put(None)
        for thread in self._threads:
            thread.join()

    def _sign(self) -> None:
        with contextlib.suppress(OSError):  # for `top -H`; Python tells the system no names before 3.14
            Path("/proc/thread-self/comm").write_text(threading.current_thread().name)
        while (signing := self._wanted.get()) is not None:
            with contextlib.suppress(Exception):  # BatchRun tries it again, and tells what is wrong
                signing.signed = signing.batch.template.sign(signing.content, signing.now_s)
            signing.is_done = True
            self._done.append(signing)
            # One word for all that is done until the loop looks.
            is_time = len(self._done) >= TOLD_TOGETHER or self._wanted.empty()
            if is_time and not self._is_told:
                self._is_told = True
                try:
                    self._loop.call_soon_threadsafe(self._collect)
                except RuntimeError:  # the loop has ended
                    return

    def _collect(self) -> None:
        self._is_told = False
        batches: dict[SigningBatch, None] = {}
        while self._done:
            self._unsigned -= 1
            batches[self._done.popleft().batch] = None
        for batch in batches:
            batch.signed()


class SigningTemplate:
    """Stands between a campaign's template and one BatchRun: what it composes is signed."""

    def __init__(self, template: CampaignComposer, signer: Signer, *, require: bool) -> None:
        self._template = template
        self._signer = signer
        self._require = require
        self.signings: dict[int, Signing] = {}
        """What a thread has signed, or signs, by index."""
        self.only_addresses = False
        """No message will be asked for: none is composed ahead."""

    @property
    def composer(self) -> Self:
        """Raises TemplateError."""
        self._template.composer  # noqa: B018  # it compiles
        return self

    @property
    def usual_bytes(self) -> int:
        return AHEAD_BYTES_MAX + 1 if self.only_addresses else self._template.usual_bytes

    @usual_bytes.setter
    def usual_bytes(self, size: int) -> None:
        self._template.usual_bytes = size

    @property
    def envelope_from(self) -> str | None:
        """As Composer, which these four are about."""
        return self._template.composer.envelope_from

    def recipient(self, address: str) -> str:
        return self._template.composer.recipient(address)

    def envelope(self, address: str, values: Sequence[object]) -> Envelope:
        return self._template.composer.envelope(address, values)

    def compose(self, index: int, address: str, values: Sequence[object], date: float) -> bytes:
        """With its signatures."""
        signing = self.signings.pop(index, None)
        if signing is not None and signing.signed:
            return signing.signed
        return self.sign(self.compose_unsigned(index, address, values, date), int(date))

    def compose_unsigned(self, index: int, address: str, values: Sequence[object], date: float) -> bytes:
        return self._template.composer.compose(index, address, values, date)

    def sign(self, content: bytes, now_s: int) -> bytes:
        """Any thread may do this. Raises ComposeError where no key is for its sender and one has to be."""
        signed = self._signer.sign(content, now_s)
        if signed is None and self._require:
            raise ComposeError("sender", "no DKIM key is for its domain, and this worker requires one")
        return signed or content


class SigningBatch:
    """A worker.smtp Batch around a BatchRun, whose next messages are signed by threads."""

    def __init__(self, run: BatchRun, held: Held, template: SigningTemplate, threads: SigningThreads) -> None:
        self._run = run
        self._held = held
        self.template = template
        self._threads = threads
        self._later = Later(self._hurry)
        self._composed = 0
        """Up to here the batch's messages have been composed, or couldn't be."""
        self.content = run.content
        self.before_write = run.before_write
        self.may_end = run.may_end
        self.result = run.result
        self._compose_ahead()

    def next(self) -> events.Envelope | Later | None:
        if not self.template.only_addresses:
            self._compose_ahead()
            if not self._is_signed():
                return self._later
        return self._run.next()

    def signed(self) -> None:
        """A thread has signed one of its messages."""
        if (wake := self._later.wake) is not None and self._is_signed():
            self._later.wake = None
            wake()

    def _hurry(self) -> None:
        """Whoever has been told Later doesn't want messages any more, only to know which are left."""
        self.template.only_addresses = True

    def _is_signed(self) -> bool:
        """Whether the next message is; also where no thread has anything to do with it."""
        held = self._held
        if held.taken == len(held.items):
            return True
        signing = self.template.signings.get(held.items[held.taken].index)
        return signing is None or signing.is_done

    def _compose_ahead(self) -> None:
        held, template, threads = self._held, self.template, self._threads
        self._composed = max(self._composed, held.taken)
        date = clock.now().wall / 1_000
        while self._composed < len(held.items):
            ahead, usual_bytes = self._composed - held.taken, template.usual_bytes
            if usual_bytes > AHEAD_BYTES_MAX:
                return  # BatchRun composes it when the server waits for it: it is signed then
            if ahead and (
                ahead >= AHEAD_PER_BATCH or ahead * usual_bytes > AHEAD_BYTES_MAX or not threads.has_room
            ):
                return
            item = held.items[self._composed]
            self._composed += 1
            try:
                values = codec.unpack_values(item.values)
                content = template.composer.compose_unsigned(item.index, item.address, values, date)
            except Exception:  # noqa: BLE001, S112  # BatchRun composes it again, and tells what is wrong
                continue
            template.usual_bytes = len(content) + SIGNATURE_BYTES
            signing = template.signings[item.index] = Signing(self, content, int(date))
            threads.put(signing)


class Dkim:
    """How a worker signs its batches."""

    def __init__(self, keys: DkimKeys, logger: FilteringBoundLogger) -> None:
        self._keys = keys
        logger.info("worker.signs", keys=[key.label for key in keys.keys], require=keys.require)
        cores = min(len(os.sched_getaffinity(0)), CORES_MAX)
        self._threads = SigningThreads(cores) if keys.is_slow and cores > 1 else None

    def signed(
        self, run: Callable[[Held, Composing | None], BatchRun]
    ) -> Callable[[Held, CampaignComposer | None], Batch]:
        """What makes batches as `run` makes them, but signed."""

        def batch(held: Held, template: CampaignComposer | None) -> Batch:
            if template is None:
                return run(held, None)
            if template.signer is None:
                template.signer = Signer(self._keys.of)
            signing = SigningTemplate(template, template.signer, require=self._keys.require)
            if self._threads is None:
                return run(held, signing)
            return SigningBatch(run(held, signing), held, signing, self._threads)

        return batch

    def close(self) -> None:
        if self._threads is not None:
            self._threads.close()
