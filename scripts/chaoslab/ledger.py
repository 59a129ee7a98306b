"""Three books and whether they agree. Pure.

What clients were told, what the journal says of each message, and what the sinks took.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Told:
    """A SUBMIT_OK as a client passed it on."""

    submission: str
    campaign: str
    recipients: int


@dataclass(frozen=True, slots=True)
class Entry:
    """A message as the journal has it."""

    address: str
    state: str
    unknown: int = 0
    """Its attempts whose outcome is unknown."""


@dataclass(slots=True)
class Journal:
    messages: dict[tuple[str, int], Entry] = field(default_factory=dict)
    """By campaign and index."""
    unknown: dict[str, int] = field(default_factory=dict)
    """What each campaign counts as unknown, attempts that came late included."""


Taken = tuple[str, str]
"""Message-ID and address, as a sink wrote them down."""

FINAL = frozenset({"sent", "bounced", "expired", "cancelled", "suppressed", "held"})
"""A held message waits for a person, as it should."""


@dataclass(slots=True)
class Balance:
    accepted: int = 0
    sent: int = 0
    bounced: int = 0
    held: int = 0
    unknown: int = 0
    """As the campaigns count them."""
    duplicates: int = 0
    """Copies at the sinks beyond the first of each message."""
    lost: int = 0
    """Accepted, and then without an end in the journal; or of a submission that became two campaigns."""
    lies: int = 0
    """The journal says sent, and no sink has it."""
    uncounted: int = 0
    """Copies that `unknown` of a campaign doesn't tell of."""
    strange: int = 0
    """Taken by a sink, and the journal has no such message, or has it as one that was never taken."""
    examples: list[str] = field(default_factory=list)
    """The first of whatever is wrong."""

    def wrong(self, bound: int) -> list[str]:
        """In words what must not be; empty where the books agree."""
        found = [
            f"{name} {count}"
            for name in ("lost", "lies", "uncounted", "strange")
            if (count := getattr(self, name))
        ]
        if self.duplicates > bound:
            found.append(f"duplicates {self.duplicates} above the bound {bound}")
        return found


EXAMPLES_MAX = 10


def message_key(message_id: str) -> tuple[str, int] | None:
    """Campaign and index of a Message-ID `<campaign.index@domain>`; None where it isn't one of ours."""
    campaign, dot, index = message_id.partition("@")[0].rpartition(".")
    return (campaign, int(index)) if dot and index.isdecimal() else None


def balance(
    told: Iterable[Told], journal: Journal, taken: Mapping[Taken, int], submitted: Mapping[str, int]
) -> Balance:
    """Compares the books. `taken`: how often each was taken. `submitted`: recipients of each submission that
    clients were asked to submit until they were told that it is accepted."""
    result = Balance()
    campaigns = _accepted(told, submitted, result)
    copies: Counter[tuple[str, int]] = Counter()
    for (message_id, address), times in taken.items():
        key = message_key(message_id)
        entry = journal.messages.get(key) if key is not None else None
        if key is None or entry is None or entry.address != address:
            result.strange += times
            _example(result, f"a sink has {message_id} for {address}, the journal hasn't")
        else:
            copies[key] += times
    for campaign, recipients in campaigns.items():
        for index in range(recipients):
            entry = journal.messages.get((campaign, index))
            if entry is None or entry.state not in FINAL:
                result.lost += 1
                state = entry.state if entry else "nowhere"
                _example(result, f"message {index} of {campaign} was accepted and is {state}")
    beyond: Counter[str] = Counter()
    in_rows: Counter[str] = Counter()
    for (campaign, index), entry in journal.messages.items():
        times = copies[campaign, index]
        result.sent += entry.state == "sent"
        result.bounced += entry.state == "bounced"
        result.held += entry.state == "held"
        in_rows[campaign] += entry.unknown
        if entry.state == "sent" and not times:
            result.lies += 1
            _example(result, f"message {index} of {campaign} is sent, no sink has it")
        if entry.state == "bounced" and times:
            result.strange += times
            _example(result, f"message {index} of {campaign} bounced, a sink has it")
        result.duplicates += max(0, times - 1)
        beyond[campaign] += max(0, times - 1 - entry.unknown)
    for campaign, count in beyond.items():
        # What came late is counted for the campaign and not in the message's history.
        late = max(0, journal.unknown.get(campaign, 0) - in_rows[campaign])
        missing = max(0, count - late)
        result.uncounted += missing
        if missing:
            _example(result, f"campaign {campaign}: {missing} copies that nothing counts")
    result.unknown = sum(journal.unknown.values())
    return result


def _accepted(told: Iterable[Told], submitted: Mapping[str, int], result: Balance) -> dict[str, int]:
    """Recipients of each campaign that a client was told of. A submission has one, whoever was told."""
    campaigns: dict[str, int] = {}
    of: dict[str, str] = {}
    for each in told:
        first = of.setdefault(each.submission, each.campaign)
        if first != each.campaign or each.recipients != submitted[each.submission]:
            result.lost += each.recipients
            _example(result, f"submission {each.submission} was told {each}, before {first}")
        else:
            campaigns[each.campaign] = each.recipients
    for submission in submitted.keys() - of.keys():
        result.lost += submitted[submission]
        _example(result, f"submission {submission} was never accepted")
    result.accepted = sum(campaigns.values())
    return campaigns


def _example(result: Balance, text: str) -> None:
    if len(result.examples) < EXAMPLES_MAX:
        result.examples.append(text)
