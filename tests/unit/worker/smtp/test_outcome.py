import pytest

from evenpost.wire.limits import REPLY_CHARS_MAX
from worker.smtp.outcome import (
    CAUSES,
    RULES,
    Cause,
    Result,
    Stage,
    beside_others,
    classify,
    failure,
    turned_away,
)
from worker.smtp.reply import Reply

MESSAGE_STAGES = (Stage.MAIL, Stage.RCPT, Stage.DATA, Stage.CONTENT, Stage.DOT)


@pytest.mark.parametrize(
    ("stage", "line", "kind", "scope"),
    [
        (Stage.DOT, "250 2.0.0 queued", "sent", "recipient"),
        # the server, whatever the stage
        (Stage.GREETING, "554 5.7.1 you are listed", "not_sent", "server"),
        (Stage.AUTH, "535 5.7.8 bad credentials", "not_sent", "server"),
        (Stage.RCPT, "421 4.3.2 shutting down", "not_sent", "server"),
        (Stage.DOT, "421 4.7.0 try later", "not_sent", "server"),
        (Stage.MAIL, "530 5.7.0 Must issue a STARTTLS command first", "not_sent", "server"),
        (Stage.RCPT, "454 4.7.1 Relay access denied", "not_sent", "server"),
        (Stage.RCPT, "503 5.5.1 need MAIL command", "not_sent", "server"),
        (Stage.RCPT, "550 5.7.1 Authentication required", "not_sent", "server"),
        # MAIL: before anybody knows the recipient
        (Stage.MAIL, "451 4.3.0 queue file write error", "not_sent", "server"),
        (Stage.MAIL, "452 4.3.1 Insufficient system storage", "not_sent", "server"),
        (Stage.MAIL, "450 4.1.8 Sender address rejected: Domain not found", "deferred", "recipient"),
        (Stage.MAIL, "550 5.7.1 not owned by user", "bounced", "server"),
        (Stage.MAIL, "552 5.3.4 Message size exceeds fixed limit", "bounced", "server"),
        (Stage.MAIL, "504 5.5.2 need fully-qualified address", "bounced", "server"),
        # the recipient
        (Stage.RCPT, "450 4.7.1 Greylisted, please try again", "deferred", "recipient"),
        (Stage.RCPT, "451 greylisted", "deferred", "recipient"),
        (Stage.RCPT, "450 4.2.1 is receiving mail at a rate that throttles it", "deferred", "recipient"),
        (Stage.RCPT, "450 4.1.1 too many messages for this address", "deferred", "recipient"),
        (Stage.RCPT, "452 4.2.2 over quota", "deferred", "recipient"),
        (Stage.RCPT, "550 5.1.1 no such user", "bounced", "recipient"),
        (Stage.RCPT, "550 no such user", "bounced", "recipient"),
        (Stage.RCPT, "552 mailbox full", "bounced", "recipient"),
        (Stage.RCPT, "501 5.1.3 bad syntax", "bounced", "recipient"),
        (Stage.RCPT, "504 5.5.2 recipient address rejected", "bounced", "recipient"),
        (Stage.DATA, "554 5.5.1 no valid recipients", "bounced", "recipient"),
        (Stage.DOT, "550 5.7.1 spam", "bounced", "recipient"),
        (Stage.DOT, "451 4.7.1 try again later", "deferred", "recipient"),
        # the server, said after MAIL
        (Stage.RCPT, "451 4.3.0 Temporary lookup failure", "not_sent", "server"),
        (Stage.DOT, "451 4.3.1 Insufficient system storage", "not_sent", "server"),
        (Stage.RCPT, "450 Insufficient disk space", "not_sent", "server"),
        # the server is well and wants less
        (Stage.GREETING, "421 4.7.0 mx Error: too many connections from 192.0.2.1", "not_sent", "throttled"),
        (
            Stage.GREETING,
            "421 Too many concurrent SMTP connections; please try again later.",
            "not_sent",
            "throttled",
        ),
        (Stage.GREETING, "450 4.7.1 too many sessions", "not_sent", "throttled"),
        (Stage.GREETING, "450 4.7.1 not now", "not_sent", "server"),
        (Stage.AUTH, "454 4.7.0 Temporary authentication failure", "not_sent", "server"),
        (Stage.STARTTLS, "454 4.7.0 TLS not available: too many connections", "not_sent", "server"),
        (Stage.MAIL, "454 4.7.0 Throttling failure: Maximum sending rate exceeded.", "not_sent", "throttled"),
        (Stage.RCPT, "454 4.7.0 no", "not_sent", "throttled"),
        (Stage.DATA, "454 Throttling failure: Daily message quota exceeded.", "not_sent", "throttled"),
        (Stage.DOT, "454 4.7.0 Throttling failure: Maximum sending rate exceeded.", "not_sent", "throttled"),
        (Stage.RCPT, "454 4.7.0 Authentication required", "not_sent", "server"),
        (Stage.MAIL, "450 4.7.1 Error: too much mail from 192.0.2.1", "not_sent", "throttled"),
        (Stage.MAIL, "451 4.7.500 Server busy. Please try again later", "not_sent", "throttled"),
        (Stage.DOT, "421 4.7.28 Our system has detected an unusual rate of mail", "not_sent", "throttled"),
        (Stage.RCPT, "450 4.7.1 too many messages from you", "not_sent", "throttled"),
        (Stage.RCPT, "450 rate limit exceeded", "not_sent", "throttled"),
        (Stage.RCPT, "452 4.5.0 too many messages", "not_sent", "throttled"),
        (Stage.DOT, "451 4.4.5 congested", "not_sent", "throttled"),
        (Stage.DOT, "451 4.3.0 too many connections to the content filter", "not_sent", "throttled"),
        (Stage.RCPT, "550 5.7.1 too many connections", "bounced", "recipient"),
        (Stage.DOT, "452 no room", "not_sent", "server"),
        (Stage.RCPT, "554 5.7.1 Relay access denied", "bounced", "server"),
        (Stage.RCPT, "550 relay not permitted", "bounced", "server"),
        (Stage.RCPT, "553 5.7.1 Sender address rejected: not owned", "bounced", "server"),
        (Stage.RCPT, "550 5.1.8 Domain not found", "bounced", "server"),
        (Stage.DOT, "552 5.3.4 too big", "bounced", "server"),
        (Stage.DOT, "552 too much", "bounced", "server"),
        (Stage.DOT, "552 5.2.2 over quota", "bounced", "recipient"),
    ],
)
def test_what_a_reply_means(stage: Stage, line: str, kind: str, scope: str) -> None:
    code, *rest = line.split(" ")
    enhanced = rest.pop(0) if rest[0].count(".") == 2 else None
    reply = Reply(int(code), enhanced, (" ".join(rest),))
    result = classify(stage, reply)
    assert (result.kind, result.scope) == (kind, scope)
    assert (result.stage, result.code, result.enhanced) == (stage, int(code), enhanced)


@pytest.mark.parametrize("stage", MESSAGE_STAGES)
def test_every_refusal_has_a_row(stage: Stage) -> None:
    for code in range(400, 600):
        assert classify(stage, Reply(code, None, ("",))).kind in ("deferred", "bounced", "not_sent")


def test_a_wordy_reply_is_cut() -> None:
    long = ("x" * 4000,) * 200
    assert classify(Stage.RCPT, Reply(550, None, long)).text == "x" * REPLY_CHARS_MAX
    assert failure(Cause.LOST, Stage.RCPT, long[0]).text == "x" * REPLY_CHARS_MAX


def test_only_the_final_dot_can_send() -> None:
    for stage in MESSAGE_STAGES[:-1]:
        with pytest.raises(ValueError, match="no outcome"):
            classify(stage, Reply(250, None, ("Ok",)))


def test_the_table_uses_only_pairs_with_a_meaning() -> None:
    pairs = {(rule.kind, rule.scope) for rule in RULES} | {row[:2] for row in CAUSES.values()}
    assert pairs == {
        ("sent", "recipient"),
        ("deferred", "recipient"),
        ("bounced", "recipient"),
        ("bounced", "server"),
        ("not_sent", "server"),
        ("not_sent", "throttled"),
        ("not_sent", "recipient"),
    }


def test_each_cause_has_a_row() -> None:
    for cause in Cause:
        assert failure(cause, Stage.MAIL, "why").text == "why"


@pytest.mark.parametrize(
    ("result", "is_one"),
    [
        (failure(Cause.REFUSED, Stage.CONNECT, "refused"), True),
        (failure(Cause.TIMEOUT, Stage.CONNECT, "no answer"), True),
        (failure(Cause.LOST, Stage.GREETING, "hung up"), True),
        (classify(Stage.GREETING, Reply(421, "4.3.2", ("closing",))), True),
        (classify(Stage.MAIL, Reply(421, None, ("closing",))), True),
        (classify(Stage.GREETING, Reply(554, "5.7.1", ("you are listed",))), False),
        (classify(Stage.AUTH, Reply(535, "5.7.8", ("bad credentials",))), False),
        (classify(Stage.MAIL, Reply(451, "4.3.0", ("queue file write error",))), False),
        (failure(Cause.LOST, Stage.MAIL, "hung up"), False),
        (failure(Cause.UNREACHABLE, Stage.CONNECT, "no such name"), False),
        (failure(Cause.TLS, Stage.TLS, "bad certificate"), False),
        (failure(Cause.CANCELLED, Stage.CONNECT, "the worker stops"), False),
        (classify(Stage.DOT, Reply(250, None, ("Ok",))), False),
        (Result("unknown", Stage.DOT, 421, None, "", "server"), False),
    ],
)
def test_what_one_connection_too_many_is_told(result: Result, is_one: bool) -> None:
    """While other connections work, that isn't the server's failure."""
    assert turned_away(result) is is_one
    seen = beside_others(result)
    assert (seen.kind, seen.scope) == (result.kind, "throttled" if is_one else result.scope)
