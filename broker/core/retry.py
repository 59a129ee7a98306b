"""How long a message that wasn't taken waits, by what the server gave as its reason.

The configured first and longest wait are those of a failure that says nothing in particular; each class has
its multiples of them. The reason is read from the enhanced status code (RFC 3463) and, where a server gives
none, or one that is too general, from its words.
"""

import re
from collections.abc import Callable
from typing import Literal, NamedTuple

from broker.core.pacing import back_off

RetryClass = Literal["greylisted", "mailbox_full", "network", "policy", "unknown", "other"]


class Factors(NamedTuple):
    initial: float
    longest: float


FACTORS: dict[RetryClass, Factors] = {
    # Postgrey lets a sender through after 300 s, others sooner (greylisting: RFC 6647);
    # all forget it again unless it comes back within hours. So five times the usual minute, but no longer
    # than the usual longest wait.
    "greylisted": Factors(5.0, 1.0),
    # Somebody has to delete mail first: that takes hours, and each try costs the provider's patience.
    "mailbox_full": Factors(30.0, 4.0),
    # A route, a name server or a host comes back by itself, often soon.
    "network": Factors(1.0, 1.0),
    # A reputation is made worse by asking again and again.
    "policy": Factors(5.0, 2.0),
    # Each further try may be a second copy in the same mailbox: there is no hurry.
    "unknown": Factors(5.0, 1.0),
    "other": Factors(1.0, 1.0),
}

_ENHANCED = re.compile(r"(?<![\d.])4\.(\d{1,3})\.(\d{1,3})(?![\d.])")
_SAYS_GREYLISTED = re.compile(r"gr[ea]y[- ]?list", re.IGNORECASE)
_TRY_LATER = re.compile(r"try again (?:later|in \d+ (?:s|min))|come back later", re.IGNORECASE)
_FULL = re.compile(
    r"(?:mailbox|inbox|user|account|recipient)\S* (?:is )?full|over ?quota|quota exceeded|out of storage",
    re.IGNORECASE,
)
_NETWORK = re.compile(
    r"\bdns\b|host(?:name)? lookup|lookup failed|could not resolve|unroutable|domain not found"
    r"|connection (?:timed out|refused|reset)",
    re.IGNORECASE,
)
_POLICY = re.compile(
    r"reputation|blocked|(?:block|black) ?list|dnsbl|spam|policy|\brate\b|too many|unsolicited|suspicious"
    r"|complaints|volume",
    re.IGNORECASE,
)


def retry_class(code: int, reply: str, kind: str) -> RetryClass:
    """Why a message waits. `code`, `reply`: the server's, 0 where it gave none; `kind`: the outcome's."""
    if kind == "unknown":
        return "unknown"
    if code == 0:
        return "network"
    if _SAYS_GREYLISTED.search(reply):
        return "greylisted"
    match = _ENHANCED.search(reply)
    subject, detail = match.groups() if match is not None else ("", "")
    if (subject, detail) == ("2", "2"):
        return "mailbox_full"
    if subject == "4" or (subject, detail) == ("1", "8"):
        return "network"
    words = _by_words(reply)
    if words == "other" and subject == "7":
        words = "policy"
    # Greylisting often calls itself nothing but a refusal "for now" (4.7.1, 4.2.0, or no code at all).
    vague = words == "other" or (subject, detail) == ("7", "1")
    if vague and subject in ("", "2", "7") and code in (450, 451) and _TRY_LATER.search(reply):
        return "policy" if _POLICY.search(reply) else "greylisted"
    return words


def _by_words(reply: str) -> RetryClass:
    if _FULL.search(reply):
        return "mailbox_full"
    if _NETWORK.search(reply):
        return "network"
    if _POLICY.search(reply):
        return "policy"
    return "other"


def wait_s(
    class_: RetryClass, tries: int, initial_s: float, max_s: float, uniform: Callable[[float, float], float]
) -> float:
    """Seconds until the next try after `tries` failures, jittered as by pacing.back_off. `initial_s` and
    `max_s` are what is configured, for a failure of no particular class."""
    factors = FACTORS[class_]
    longest = max_s * factors.longest
    return back_off(tries, min(initial_s * factors.initial, longest), longest, uniform)
