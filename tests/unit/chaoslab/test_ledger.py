"""The ledger of scripts/chaos finds what it is there to find."""

from scripts.chaoslab.ledger import Balance, Entry, Journal, Told, balance, message_key

TOLD = [Told("s1", "c1", 3)]
SUBMITTED = {"s1": 3}
ADDRESSES = ["a@example.com", "b@example.com", "bounce-c@example.com"]
TAKEN = {("c1.0@example.com", "a@example.com"): 1, ("c1.1@example.com", "b@example.com"): 1}


def journal(*states: str, unknown: int = 0, in_row: int = 0) -> Journal:
    """Campaign c1 with a message in each state; `in_row` unknown attempts of the first are in its history."""
    entries = {
        ("c1", n): Entry(ADDRESSES[n], state, in_row if n == 0 else 0) for n, state in enumerate(states)
    }
    return Journal(entries, {"c1": unknown})


def test_books_that_agree() -> None:
    found = balance(TOLD, journal("sent", "sent", "bounced"), TAKEN, SUBMITTED)
    assert found == Balance(accepted=3, sent=2, bounced=1)
    assert found.wrong(bound=0) == []


def test_a_message_without_an_end_is_lost() -> None:
    found = balance(TOLD, journal("sent", "deferred", "bounced"), TAKEN, SUBMITTED)
    assert (found.lost, found.wrong(9)) == (1, ["lost 1"])


def test_a_message_that_the_journal_does_not_have_is_lost() -> None:
    taken = {("c1.0@example.com", "a@example.com"): 1, ("c1.1@example.com", "b@example.com"): 1}
    found = balance(TOLD, journal("sent", "sent"), taken, SUBMITTED)
    assert found.lost == 1


def test_a_submission_nobody_was_told_of_is_lost() -> None:
    found = balance([], Journal(), {}, SUBMITTED)
    assert (found.accepted, found.lost) == (0, 3)


def test_a_submission_told_twice_counts_once_and_as_two_campaigns_is_wrong() -> None:
    states = journal("sent", "sent", "bounced")
    assert balance([*TOLD, *TOLD], states, TAKEN, SUBMITTED).accepted == 3
    assert balance([*TOLD, Told("s1", "c2", 3)], states, TAKEN, SUBMITTED).lost == 3
    assert balance([Told("s1", "c1", 2)], states, TAKEN, SUBMITTED).lost > 0


def test_sent_without_a_sink_that_has_it_is_a_lie() -> None:
    taken = {("c1.0@example.com", "a@example.com"): 1}
    found = balance(TOLD, journal("sent", "sent", "bounced"), taken, SUBMITTED)
    assert (found.lies, found.wrong(9)) == (1, ["lies 1"])


def test_a_copy_that_nothing_counts() -> None:
    taken = TAKEN | {("c1.0@example.com", "a@example.com"): 2}
    found = balance(TOLD, journal("sent", "sent", "bounced"), taken, SUBMITTED)
    assert (found.duplicates, found.uncounted, found.wrong(1)) == (1, 1, ["uncounted 1"])


def test_a_copy_is_counted_by_its_own_history_or_a_late_unknown() -> None:
    taken = TAKEN | {("c1.0@example.com", "a@example.com"): 2}
    for counted in (
        journal("sent", "sent", "bounced", unknown=1, in_row=1),
        journal("sent", "sent", "bounced", unknown=1),
    ):
        found = balance(TOLD, counted, taken, SUBMITTED)
        assert (found.duplicates, found.uncounted, found.wrong(1)) == (1, 0, [])


def test_an_unknown_of_one_message_does_not_excuse_a_copy_of_another() -> None:
    taken = TAKEN | {("c1.1@example.com", "b@example.com"): 2}
    found = balance(TOLD, journal("sent", "sent", "bounced", unknown=1, in_row=1), taken, SUBMITTED)
    assert found.uncounted == 1


def test_more_duplicates_than_the_contract_allows() -> None:
    taken = TAKEN | {("c1.0@example.com", "a@example.com"): 3}
    found = balance(TOLD, journal("sent", "sent", "bounced", unknown=2, in_row=2), taken, SUBMITTED)
    assert found.wrong(bound=2) == []
    assert found.wrong(bound=1) == ["duplicates 2 above the bound 1"]


def test_what_a_sink_has_and_the_journal_has_not_is_strange() -> None:
    states = journal("sent", "sent", "bounced")
    for message_id, address in [
        ("c1.7@example.com", "a@example.com"),
        ("c1.0@example.com", "other@example.com"),
        ("c1.2@example.com", "bounce-c@example.com"),
        ("", "a@example.com"),
    ]:
        assert balance(TOLD, states, TAKEN | {(message_id, address): 1}, SUBMITTED).strange == 1


def test_message_ids_name_campaign_and_index() -> None:
    assert message_key("0a.b.12@example.com") == ("0a.b", 12)
    assert message_key("x@example.com") is None
    assert message_key("x.y@example.com") is None
