"""What a server says decides how soon it is asked again."""

import pytest

from broker.core.retry import FACTORS, RetryClass, retry_class, wait_s


@pytest.mark.parametrize(
    ("code", "reply", "class_"),
    [
        # Postgrey, rspamd, Exim, Microsoft, OpenSMTPD's spamd
        (450, "4.2.0 <a@x.example>: Recipient address rejected: Greylisted, see https://y", "greylisted"),
        (451, "4.7.1 Try again later", "greylisted"),
        (451, "Greylisted, please try again in 180 seconds", "greylisted"),
        (451, "4.7.0 Temporary greylisting in action", "greylisted"),
        (450, "4.7.1 Please try again later", "greylisted"),
        (451, "Temporary local problem - please try again later", "greylisted"),
        (421, "4.7.1 greylisted", "greylisted"),
        # Google, Yahoo, Microsoft
        (452, "4.2.2 The email account that you tried to reach is over quota.", "mailbox_full"),
        (452, "4.2.2 Mailbox full", "mailbox_full"),
        (450, "Requested action aborted: mailbox full", "mailbox_full"),
        (452, "4.3.1 Insufficient system storage", "other"),
        (422, "4.2.2 x", "mailbox_full"),
        (421, "4.7.28 Gmail has detected an unusual rate of unsolicited mail", "policy"),
        (421, "4.7.0 [TSS04] Messages temporarily deferred due to user complaints", "policy"),
        (451, "4.7.650 The mail server has been temporarily rate limited due to IP reputation", "policy"),
        (450, "4.7.1 rate limited: blocked, try again later", "policy"),
        (451, "4.4.4 Mail received as unauthenticated: DNS", "network"),
        (450, "4.1.8 <s@y.example>: Sender address rejected: Domain not found", "network"),
        (450, "Sender address rejected: Domain not found", "network"),
        (451, "4.4.0 DNS look-up timeout", "network"),
        (0, "connection refused", "network"),
        (451, "4.3.0 Error: queue file write error", "other"),
        (451, "", "other"),
        (454, "Temporarily moderated by an operator", "other"),
        (454, "listed at a dnsbl", "policy"),
        (451, "mailbox is full, try again later", "mailbox_full"),
        (451, "Internal error 14.7.1.5", "other"),
    ],
)  # fmt: skip
def test_the_class_of_a_reply(code: int, reply: str, class_: RetryClass) -> None:
    assert retry_class(code, reply, "deferred") == class_


def test_an_unknown_outcome_is_one_whatever_was_said() -> None:
    assert retry_class(451, "4.7.1 Greylisted", "unknown") == "unknown"
    assert retry_class(0, "", "unknown") == "unknown"


def test_each_class_waits_its_multiple_and_doubles() -> None:
    def longest(low: float, high: float) -> float:
        assert low == high / 2, "half of it is at random"
        return high

    def waits(class_: RetryClass, tries: range) -> list[float]:
        return [wait_s(class_, n, 60, 3_600, longest) for n in tries]

    assert waits("other", range(1, 4)) == [60, 120, 240]
    assert waits("greylisted", range(1, 4)) == [300, 600, 1_200]
    assert waits("mailbox_full", range(1, 6)) == [1_800, 3_600, 7_200, 14_400, 14_400]
    assert waits("policy", range(1, 7)) == [300, 600, 1_200, 2_400, 4_800, 7_200]
    assert waits("network", range(9, 10)) == [3_600]


def test_a_first_wait_is_never_longer_than_the_longest() -> None:
    for class_ in FACTORS:
        assert wait_s(class_, 1, 100, 100, lambda low, high: high) == 100 * min(FACTORS[class_])
