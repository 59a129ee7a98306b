from collections.abc import Iterator
from pathlib import Path

import pytest

from evenpost.wire import codec
from evenpost.wire.messages import BatchItem, CampaignTemplate, Template
from worker.batch_run import AHEAD_BYTES_MAX, BatchRun
from worker.outcome_log import OutcomeLog, OutcomeLogError
from worker.outcome_rows import OutcomeRow
from worker.smtp.connection import WithheldError
from worker.smtp.outcome import Result, Stage
from worker.templates import CampaignComposer
from worker.vocabulary import Held

SENT = Result("sent", Stage.DOT, 250, "2.0.0", "Ok: queued as 1", "recipient")
GIVEN_UP = Result("not_sent", Stage.CONTENT, 0, None, "given up", "recipient")


class Owner:
    def __init__(self, log: OutcomeLog) -> None:
        self.log = log
        self.hears_sent = False
        self.lease = True
        self.heard: list[tuple[str, int]] = []
        self.failures: list[str] = []
        self.notes = 0

    def may_begin(self, mono: float) -> bool:
        return self.lease

    def has_lease(self, mono: float) -> bool:
        return self.lease

    def outcome(self, held: Held, item: BatchItem, kind: str, code: int, reply: str) -> None:
        self.heard.append((kind, item.index))

    def noted(self) -> None:
        self.notes += 1

    def log_failed(self, error: OutcomeLogError) -> None:
        self.failures.append(str(error))

    def composing_failed(self, held: Held, error: Exception) -> None:
        self.failures.append(repr(error))

    def rows(self) -> list[OutcomeRow]:
        return [row for _, rows in self.log.rows.runs() for row in rows]


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[Owner]:
    log = OutcomeLog.open(tmp_path / "log", now_ms=1)
    yield Owner(log)
    log.close()


def template(text: str = "Dear {{ name }}", subject: str = "Hi") -> CampaignComposer:
    message = CampaignTemplate(
        7, "c7", 1, Template(sender="News <news@example.com>", subject=subject, text=text, fields=["name"])
    )
    return CampaignComposer(message, 100)


def held(*names: str | None) -> Held:
    packed = [codec.pack_values([] if name is None else [name]) for name in names]
    return Held(5, 7, [BatchItem(n, 1, f"r{n}@example.org", values) for n, values in enumerate(packed)])


def test_a_message_is_logged_as_begun_before_its_content_is_written(owner: Owner, tmp_path: Path) -> None:
    batch = held("Ann")
    run = BatchRun(owner, batch, template())
    envelope = run.next()
    assert envelope is not None
    assert (envelope.mail_from, envelope.rcpt_to, envelope.key) == ("news@example.com", "r0@example.org", 0)
    before = (tmp_path / "log").stat().st_size
    content = run.content(envelope)
    assert content is not None
    assert b"Ann" in bytes(content)
    assert envelope.size_bytes == len(content)
    run.before_write()
    assert (tmp_path / "log").stat().st_size > before
    assert owner.notes == 0
    run.result(envelope, SENT)
    assert owner.notes == 1  # the answer shall be in the file at once, whatever else happens
    ((*row, began, ended),) = owner.rows()
    assert row == [5, 7, 0, 1, "sent", "recipient", 250, "2.0.0 Ok: queued as 1"]
    assert 0 < began <= ended
    assert run.next() is None
    assert batch.on_wire == {}


def test_without_a_lease_no_content_is_given(owner: Owner) -> None:
    run = BatchRun(owner, held("Ann"), template())
    envelope = run.next()
    assert envelope is not None
    owner.lease = False
    assert run.content(envelope) is None
    run.result(envelope, GIVEN_UP)
    assert [(row[4], row[7]) for row in owner.rows()] == [("not_sent", "given up")]


def test_a_revoked_message_gets_no_content_and_no_row(owner: Owner) -> None:
    batch = held("Ann", "Bea")
    run = BatchRun(owner, batch, template())
    first, second = run.next(), run.next()
    assert first is not None
    assert second is not None
    run.content(first)
    batch.revoked = True
    assert run.content(second) is None
    run.result(second, GIVEN_UP)
    run.result(first, GIVEN_UP)  # this one was begun: the log says so, and needs its end
    assert [row[2] for row in owner.rows()] == [0]


def test_messages_that_cannot_be_composed_bounce_and_the_others_go_on(owner: Owner) -> None:
    run = BatchRun(owner, held("Ann", None, "Cid"), template())
    first, third = run.next(), run.next()
    assert first is not None
    assert third is not None
    assert third.key == 2
    assert owner.heard == [("bounced", 1)]
    (row,) = owner.rows()
    assert row[4:7] == ("bounced", "recipient", 0)
    assert row[7].startswith("message not composed: values: 0 values for the 1 fields")


def test_a_template_that_does_not_compile_bounces_all(owner: Owner) -> None:
    run = BatchRun(owner, held("Ann", "Bea"), template(text="{{ name"))
    assert run.next() is None
    assert [row[4] for row in owner.rows()] == ["bounced", "bounced"]
    assert owner.failures == []


def test_without_a_template_all_go_back(owner: Owner) -> None:
    run = BatchRun(owner, held("Ann", "Bea"), None)
    assert run.next() is None
    assert [(row[4], row[7]) for row in owner.rows()] == [("not_sent", "no template for this campaign")] * 2


def test_large_messages_are_composed_only_when_they_are_wanted(owner: Owner) -> None:
    composer = template(text="x\n" * AHEAD_BYTES_MAX + "{{ name }}")
    run = BatchRun(owner, held("Ann", "Bea", None), composer)
    first, second, third = run.next(), run.next(), run.next()
    assert first is not None
    assert second is not None
    assert third is not None  # nobody has looked into it yet
    assert set(run._contents) == {0}
    assert second.size_bytes == first.size_bytes  # what SIZE says, as near as can be known
    content = run.content(second)
    assert content is not None
    assert b"Bea" in bytes(content)
    assert run.content(third) is None
    run.result(third, GIVEN_UP)
    assert [row[4:6] for row in owner.rows()] == [("bounced", "recipient")]


def test_a_message_whose_connection_broke_is_composed_again(owner: Owner) -> None:
    run = BatchRun(owner, held("Ann"), template())
    envelope = run.next()
    assert envelope is not None
    first = run.content(envelope)
    assert run.content(envelope) == first
    run.result(envelope, SENT)
    assert len(owner.rows()) == 1


def test_a_bug_in_composing_is_one_message_s_misfortune(
    owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    composer = template()

    def fails(*_: object) -> bytes:
        raise RecursionError("too deep")

    monkeypatch.setattr(composer.composer, "compose", fails)
    assert BatchRun(owner, held("Ann"), composer).next() is None
    (row,) = owner.rows()
    assert row[4] == "bounced"
    assert "a bug in Evenpost: RecursionError" in row[7]
    assert owner.failures == ["RecursionError('too deep')"]


def test_when_the_log_fails_nothing_is_begun(owner: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    run = BatchRun(owner, held("Ann"), template())
    envelope = run.next()
    assert envelope is not None
    with monkeypatch.context() as patched:

        def fails() -> None:
            raise OutcomeLogError("disk full")

        patched.setattr(owner.log, "flush", fails)
        assert run.content(envelope) is not None
        with pytest.raises(WithheldError):
            run.before_write()
    assert owner.failures == ["disk full"]


def test_long_replies_are_cut_and_odd_ones_survive(owner: Owner) -> None:
    run = BatchRun(owner, held("Ann"), template())
    envelope = run.next()
    assert envelope is not None
    run.result(envelope, Result("deferred", Stage.RCPT, 450, "4.2.0", "\ufffd" * 900, "recipient"))
    owner.log.flush()
    assert owner.rows()[0][7] == ("4.2.0 " + "\ufffd" * 900)[:500]
    assert owner.heard == [("deferred", 0)]


def test_a_final_dot_needs_the_lease_and_the_batch(owner: Owner) -> None:
    batch = held("A")
    run = BatchRun(owner, batch, template())
    assert run.may_end()
    owner.lease = False
    assert not run.may_end()
    owner.lease, batch.revoked = True, True  # given to another worker meanwhile, and there is a new lease
    assert not run.may_end()
