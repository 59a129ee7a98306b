"""Batches whose messages are signed by threads, ahead of the connection that asks for them."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from evenpost.dkim import Signer, SigningKey
from evenpost.dkim.keys import new_pem
from evenpost.wire import codec
from evenpost.wire.messages import BatchItem, CampaignTemplate, Template
from tests.servers.verifiers import dkimpy
from worker import signing
from worker.batch_run import AHEAD_BYTES_MAX, BatchRun
from worker.dkim_keys import DkimKeys
from worker.outcome_log import OutcomeLog
from worker.signing import AHEAD_PER_BATCH, Dkim, SigningBatch, SigningThreads
from worker.smtp.connection import Batch, Later
from worker.smtp.events import Envelope
from worker.smtp.outcome import Cause, Result, Stage, failure
from worker.smtp.progress import Progress
from worker.templates import CampaignComposer
from worker.vocabulary import Held

RSA = SigningKey("example.com", "r", new_pem("rsa"))
ED25519 = SigningKey("example.com", "e", new_pem("ed25519"))
RECORDS = {key.record_name: key.record for key in (RSA, ED25519)}
SENT = Result("sent", Stage.DOT, 250, "2.0.0", "Ok", "recipient")
BOTH = {"r": "pass", "e": "pass"}


class Logger:
    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def info(self, event: str, **fields: Any) -> None:
        self.events.append((event, fields))


class Owner:
    """What a run needs of the worker."""

    hears_sent = False

    def __init__(self, log: OutcomeLog) -> None:
        self.log = log
        self.heard: list[tuple[int, str, str]] = []

    def may_begin(self, mono: float) -> bool:
        return True

    has_lease = may_begin

    def outcome(self, held: Held, item: BatchItem, kind: str, code: int, reply: str) -> None:
        self.heard.append((item.index, kind, reply))

    def noted(self) -> None: ...

    def log_failed(self, error: Exception) -> None: ...

    def composing_failed(self, held: Held, error: Exception) -> None:
        raise AssertionError(error)


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[Owner]:
    log = OutcomeLog.open(tmp_path / "log", now_ms=1)
    yield Owner(log)
    log.close()


@contextmanager
def dkim(*keys: SigningKey, require: bool = False, cores: int = 2) -> Iterator[Dkim]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.sched_getaffinity", lambda pid: set(range(cores)))
        made = Dkim(DkimKeys({"example.com": keys}, require=require), Logger())  # type: ignore[arg-type]  # enough of one
    yield made
    made.close()


def template(**parts: Any) -> CampaignComposer:
    whole: dict[str, Any] = {"sender": "News <news@example.com>", "subject": "Hi", "text": "Dear {{ name }}"}
    message = CampaignTemplate(7, "c7", 1, Template(**(whole | {"fields": ["name"]} | parts)))
    return CampaignComposer(message, 100)


def held(*names: str | None) -> Held:
    packed = [codec.pack_values([] if name is None else [name]) for name in names]
    return Held(5, 7, [BatchItem(n, 1, f"r{n}@example.org", values) for n, values in enumerate(packed)])


def batch_of(made: Dkim, owner: Owner, batch: Held, campaign: CampaignComposer) -> Batch:
    return made.signed(lambda held, template: BatchRun(owner, held, template))(batch, campaign)


async def envelope_of(batch: Batch) -> Envelope | None:
    """What a connection does."""
    while isinstance(envelope := batch.next(), Later):
        signed = asyncio.Event()
        envelope.wake = signed.set
        await asyncio.wait_for(signed.wait(), 20)
    return envelope


async def contents(batch: Batch) -> dict[int, bytes]:
    found = {}
    while (envelope := await envelope_of(batch)) is not None:
        content = batch.content(envelope)
        assert content is not None
        assert abs(envelope.size_bytes - len(content)) <= 750  # an estimate
        found[envelope.key] = bytes(content)
        batch.result(envelope, SENT)
    return found


@pytest.mark.parametrize(
    ("keys", "cores", "type_"),
    [((RSA, ED25519), 2, SigningBatch), ((RSA, ED25519), 1, BatchRun), ((ED25519,), 2, BatchRun)],
)
async def test_each_message_is_signed(
    owner: Owner, keys: tuple[SigningKey, ...], cores: int, type_: type
) -> None:
    names = [f"n{n}" for n in range(3 * AHEAD_PER_BATCH)]
    with dkim(*keys, cores=cores) as made:
        batch = batch_of(made, owner, held(*names), template())
        assert type(batch) is type_
        found = await contents(batch)
    assert list(found) == list(range(len(names)))
    for index, content in found.items():
        assert f"Dear =\r\nn{index}=".encode() in content
        assert dkimpy(content, RECORDS) == {key.selector: "pass" for key in keys}


async def test_the_connection_is_woken_when_the_next_message_is_signed_and_not_before(
    owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("threading.Thread.start", lambda thread: None)
    monkeypatch.setattr("threading.Thread.join", lambda thread: None)
    with dkim(RSA) as made:
        threads = made._threads
        assert threads is not None
        batch = batch_of(made, owner, held("Ann", "Bea"), template())
        woken: list[str] = []
        later = batch.next()
        assert isinstance(later, Later)
        later.wake = lambda: woken.append("woken")
        first, second = threads._wanted.get_nowait(), threads._wanted.get_nowait()
        assert first is not None
        assert second is not None
        for done in (second, first):
            assert batch.next() is later
            assert woken == []
            done.signed, done.is_done = done.batch.template.sign(done.content, done.now_s), True
            threads._done.append(done)
            threads._collect()
        threads._collect()
        assert woken == ["woken"]
        assert threads._unsigned == 0
        assert isinstance(batch.next(), Envelope)


async def test_only_so_much_is_composed_ahead(owner: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("threading.Thread.start", lambda thread: None)
    monkeypatch.setattr("threading.Thread.join", lambda thread: None)
    names = ["x"] * 100
    with dkim(RSA, cores=2) as made:
        threads = made._threads
        assert threads is not None
        batches = [batch_of(made, owner, held(*names), template()) for _ in range(8)]
        ahead = [len(batch.template.signings) for batch in batches if isinstance(batch, SigningBatch)]
        assert ahead == [8, 8, 8, 8, 8, 8, 1, 1]
        large = template(text="x" * (AHEAD_BYTES_MAX // 3) + "{{ name }}")
        threads._unsigned = 0
        batch = batch_of(made, owner, held(*names), large)
        assert isinstance(batch, SigningBatch)
        assert len(batch.template.signings) == 3


async def test_what_the_session_takes_back_is_not_asked_for(owner: Owner) -> None:
    with dkim(RSA) as made:
        names = held(*["x"] * 20)
        batch = batch_of(made, owner, names, template())
        assert await envelope_of(batch) is not None
        assert len(names.take_rest()) == 19  # a drain: what was composed ahead is no message that was begun
        assert batch.next() is None
        assert set(names.on_wire) == {0}


async def test_the_rest_of_a_batch_goes_back_unsigned(owner: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    with dkim(RSA) as made:
        progress = Progress(batch_of(made, owner, held(*["x"] * 30), template()), lambda result: result)
        monkeypatch.setattr(signing.SigningTemplate, "compose", None)
        progress.give_back(failure(Cause.CANCELLED, Stage.CONNECT, "no server"))
    assert [kind for _, kind, _ in owner.heard] == ["not_sent"] * 30
    assert [index for index, _, _ in owner.heard] == list(range(30))


async def test_a_connection_that_broke_gets_the_message_signed_anew(owner: Owner) -> None:
    with dkim(RSA, ED25519) as made:
        batch = batch_of(made, owner, held("Ann"), template())
        envelope = await envelope_of(batch)
        assert envelope is not None
        for _ in range(2):
            content = batch.content(envelope)
            assert content is not None
            assert dkimpy(bytes(content), RECORDS) == BOTH


async def test_large_messages_are_signed_when_they_are_wanted(owner: Owner) -> None:
    large = template(text="x\n" * AHEAD_BYTES_MAX + "{{ name }}")
    with dkim(RSA, ED25519) as made:
        found = await contents(batch_of(made, owner, held("Ann", "Bea", "Cid"), large))
    assert [dkimpy(content, RECORDS) for content in found.values()] == [BOTH] * 3


async def test_what_cannot_be_composed_bounces_and_the_others_go_on(owner: Owner) -> None:
    with dkim(RSA) as made:
        found = await contents(batch_of(made, owner, held("Ann", None, "Cid"), template()))
    assert list(found) == [0, 2]
    assert [(index, kind) for index, kind, _ in owner.heard] == [(1, "bounced")]


@pytest.mark.parametrize("size", [1, AHEAD_BYTES_MAX])
async def test_without_a_key_it_goes_unsigned_or_bounces_where_one_is_required(
    owner: Owner, size: int
) -> None:
    foreign = template(sender="{{ name }}", text="x\n" * size)
    names = ("a@example.com", "b@example.net")
    with dkim(RSA) as made:
        found = await contents(batch_of(made, owner, held(*names), foreign))
    assert [content.startswith(b"DKIM-Signature") for content in found.values()] == [True, False]
    with dkim(RSA, require=True) as made:
        batch = batch_of(made, owner, held(*names), foreign)
        first = await envelope_of(batch)
        assert first is not None
        assert batch.content(first) is not None
        batch.result(first, SENT)
        assert owner.heard == []
        second = await envelope_of(batch)
        if second is not None:  # a large one is looked at when the server waits for it
            assert batch.content(second) is None
            batch.result(second, failure(Cause.GIVEN_UP, Stage.CONTENT, "given up"))
        assert await envelope_of(batch) is None
    ((index, kind, reply),) = owner.heard
    assert (index, kind) == (1, "bounced")
    assert (
        reply == "message not composed: sender: no DKIM key is for its domain, and this worker requires one"
    )


async def test_a_thread_that_fails_leaves_it_to_who_composes(
    owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    sign, failed = Signer.sign, []

    def fails_in_threads(signer: Signer, content: bytes, now_s: int) -> bytes | None:
        if threading.current_thread() is threading.main_thread():
            return sign(signer, content, now_s)
        failed.append(content)
        raise ZeroDivisionError

    monkeypatch.setattr(Signer, "sign", fails_in_threads)
    with dkim(RSA, ED25519) as made:
        (content,) = (await contents(batch_of(made, owner, held("Ann"), template()))).values()
    assert dkimpy(content, RECORDS) == BOTH
    assert len(failed) == 1


async def test_threads_end_with_the_worker() -> None:
    threads = SigningThreads(2)
    threads.close()
    assert not any(thread.is_alive() for thread in threads._threads)


async def test_the_log_says_what_signs() -> None:
    logger = Logger()
    made = Dkim(DkimKeys({"example.com": (RSA, ED25519)}), logger)  # type: ignore[arg-type]  # enough of one
    made.close()
    labels = ["example.com/r rsa-2048", "example.com/e ed25519"]
    assert logger.events == [("worker.signs", {"keys": labels, "require": False})]
