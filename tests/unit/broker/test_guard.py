"""What one peer may take: buckets, open requests, quotas by identity, and whom a shortage of memory ends."""

from broker.guard import (
    ANSWERS_PER_S,
    GARBAGE_BURST_S,
    MIB,
    QUESTIONS_BURST_S,
    SILENCE_S,
    Backlog,
    Bucket,
    Campaigns,
    Guard,
    Limits,
    Verdict,
    whom_to_cut,
)

A, B = b"a", b"b"


def guard(*peers: bytes, identity: str = "", **limits: float) -> Guard:
    made = Guard(Limits(**limits))  # type: ignore[arg-type]  # a test's own
    for peer in peers or (A, B):
        made.came(peer, identity, 0.0)
    return made


def test_a_bucket_gives_its_rate_and_no_more() -> None:
    bucket = Bucket(10.0, 10.0)
    taken = 0
    for step in range(1_000):
        now = step / 100
        while bucket.has(now):
            bucket.take(1, now)
            taken += 1
    assert 10 * 10 <= taken <= 10 * 10 + 10


def test_nobody_owes_more_than_a_bucket_holds() -> None:
    bucket = Bucket(1.0, 2.0)
    bucket.take(1_000.0, 0.0)
    assert not bucket.has(1.9) and bucket.has(2.1)


def test_a_rate_of_nothing_is_no_limit() -> None:
    bucket = Bucket(0.0, 0.0)
    bucket.take(1e9, 0.0)
    assert bucket.has(0.0)


def test_the_defaults_bother_no_honest_client() -> None:
    """A web shop's 1,000 mails a second over one connection, and a list of 300,000 a second over another."""
    made = guard()
    request = 0
    for millisecond in range(10_000):
        now = millisecond / 1_000
        for size in (5_000, 200, 60):
            request += 1
            assert made.admit(A, size, now) is Verdict.TAKE
            assert made.begin(A, request, size) == ""
            made.answered(A, request - 100)
        if millisecond % 16 == 0:
            assert made.admit(B, 500_000, now) is Verdict.TAKE
            assert made.begin(B, millisecond, 500_000) == "" and made.may_add(B, 5_000) == ""
            made.answered(B, millisecond - 8 * 16)


def test_who_sends_too_fast_is_asked_to_wait_and_the_others_are_not() -> None:
    made = guard(messages_per_s=100.0)
    verdicts = [made.admit(A, 10, 0.0) for _ in range(200)]
    assert verdicts.count(Verdict.TAKE) == 100
    assert verdicts.count(Verdict.REFUSE) == ANSWERS_PER_S
    assert verdicts[-1] is Verdict.DROP
    assert made.admit(B, 10, 0.0) is Verdict.TAKE
    assert made.admit(A, 10, 0.1) is Verdict.TAKE


def test_who_goes_on_too_fast_gets_its_rate_all_the_same() -> None:
    made = guard(messages_per_s=100.0)
    taken = sum(made.admit(A, 10, step / 10_000) is Verdict.TAKE for step in range(100_000))
    assert 1_000 <= taken <= 1_100 + 1


def test_bytes_a_second_are_bounded() -> None:
    made = guard(bytes_per_s=1_000.0)
    for _ in range(5):
        assert made.admit(A, 1_000, 0.0) is Verdict.TAKE or _ == 4
    assert made.admit(A, 1, 0.0) is Verdict.REFUSE
    assert made.admit(A, 1, 1.5) is Verdict.TAKE


def test_garbage_is_answered_for_a_while_then_nobody_listens() -> None:
    made = guard()
    answers = [made.rejected(A, GARBAGE_BURST_S / 100, 1.0) for _ in range(101)]
    assert answers.count(True) == ANSWERS_PER_S
    assert made.admit(A, 10, 1.0 + SILENCE_S / 2) is Verdict.DROP
    assert made.has_lost(A) and not made.has_lost(B)
    assert made.admit(B, 10, 1.0) is Verdict.TAKE
    assert made.admit(A, 10, 1.0 + SILENCE_S) is Verdict.TAKE


def test_requests_that_are_not_answered_are_bounded_in_number_and_bytes() -> None:
    made = guard(in_flight_max=2, in_flight_bytes_max=10 * MIB)
    assert made.begin(A, 1, 100) == "" and made.begin(A, 2, 100) == ""
    assert "2 requests" in made.begin(A, 3, 100)
    assert made.begin(A, 2, 100) == "", "the same request again counts once"
    assert made.begin(B, 1, 9 * MIB) == ""
    assert "10 MB of this connection" in made.begin(B, 2, 2 * MIB)
    made.answered(B, 1)
    assert made.begin(B, 2, 11 * MIB) == "", "one is always taken, or it would wait for ever"


def test_bytes_in_all_are_bounded_and_those_of_who_left_count_until_they_are_stored() -> None:
    made = guard(waiting_bytes_max=10 * MIB)
    assert made.begin(A, 1, 9 * MIB) == ""
    made.left(A)
    assert "of all clients" in made.begin(B, 1, 2 * MIB)
    made.answered(A, 1)
    assert made.begin(B, 1, 2 * MIB) == ""
    assert A not in made and made.waiting_bytes == 2 * MIB


def test_what_is_gone_leaves_nothing_behind() -> None:
    made = Guard(Limits())
    for number in range(1_000):
        peer = str(number).encode()
        made.came(peer, "", 0.0)
        made.admit(peer, 10, 0.0)
        made.begin(peer, 1, 10)
        made.opened(peer, f"c{number}", 10)
        made.answered(peer, 1)
        made.left(peer)
    made.refresh({})
    assert len(made) == 0 and not made._accounts and made.waiting_bytes == 0


def test_open_submissions_are_counted_by_identity_until_they_are_committed() -> None:
    made = guard(identity="shop", open_submissions_max=2)
    made.opened(A, "one", 10)
    made.opened(A, "one", 10)
    assert made.may_open(B) == ""
    made.opened(B, "two", 10)
    assert "2 submissions" in made.may_open(A) and "2 submissions" in made.may_open(B)
    made.refresh({"one": Campaigns(5, False, 10), "two": Campaigns(5, True, 10)})
    assert made.may_open(A) == ""


def test_recipients_for_a_campaign_of_somebody_else_count_until_the_next_look() -> None:
    made = guard(identity="shop", recipients_max=100)
    assert made.may_add(A, 90) == ""
    assert "90 recipients of yours" in made.may_add(A, 20)
    made.refresh({})
    assert made.may_add(A, 20) == ""


def test_templates_in_memory_are_bounded_by_identity() -> None:
    made = guard(identity="shop", templates_bytes_max=100)
    made.opened(A, "one", 100)
    assert "templates" in made.may_open(A)
    made.refresh({})
    assert made.may_open(A) == ""


def test_queued_recipients_are_a_quota_of_the_identity() -> None:
    made = guard(identity="shop", recipients_max=100)
    made.opened(A, "one", 1)
    assert made.may_add(A, 90) == ""
    assert "90 recipients of yours" in made.may_add(B, 20)
    made.refresh({"one": Campaigns(50, False, 1)})
    assert made.may_add(B, 20) == ""
    made.refresh({})
    assert made.may_add(A, 500) == "", "a chunk larger than the quota goes through when nothing else waits"


def test_bytes_a_minute_are_a_quota_of_the_identity() -> None:
    made = guard(identity="shop", bytes_per_min=600)
    assert made.admit(A, 700, 0.0) is Verdict.TAKE
    assert made.admit(B, 1, 0.0) is Verdict.REFUSE
    assert made.admit(B, 1, 11.0) is Verdict.TAKE


def test_connections_without_keys_have_quotas_of_their_own() -> None:
    made = guard(recipients_max=100)
    assert made.may_add(A, 100) == "" and made.may_add(B, 100) == ""
    assert made.may_add(A, 1) != ""


def test_questions_get_their_share_of_time_while_mail_goes_out() -> None:
    made = guard(questions_share=0.1, questions_share_all=0.15)
    answered = {A: 0.0, B: 0.0}
    for step in range(100_000):
        now = step / 1_000
        for peer in (A, B):
            if made.may_ask(peer, now, contended=True):
                made.asked(peer, 0.01, now)
                answered[peer] += 0.01
    assert answered[A] <= 100 * 0.1 + QUESTIONS_BURST_S + 0.1
    assert 14 <= sum(answered.values()) <= 100 * 0.15 + QUESTIONS_BURST_S + 0.1


def test_questions_are_free_while_nothing_goes_out() -> None:
    made = guard(questions_share=0.1)
    for _ in range(100):
        assert made.may_ask(A, 0.0, contended=False)
        made.asked(A, 1.0, 0.0)
    assert not made.may_ask(A, 0.0, contended=True)
    # What was free then isn't owed for longer than a burst takes to come back.
    assert made.may_ask(A, 2 * QUESTIONS_BURST_S / 0.1 + 0.1, contended=True)


def test_memory_is_taken_from_those_who_hold_most() -> None:
    backlogs = [Backlog(n, n * MIB, 0) for n in range(20)] + [Backlog(99, 0, 50 * MIB)]
    assert whom_to_cut(backlogs) == [99, *range(19, 10, -1)]
    assert whom_to_cut([Backlog(1, MIB // 2, MIB // 4)]) == []
