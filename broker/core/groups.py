"""Recipient domains that have limits, and the spreading of all others."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import nsmallest
from math import inf
from typing import TYPE_CHECKING, NamedTuple

from broker.core.buckets import Bucket

if TYPE_CHECKING:
    from broker.core.message_state import Message
    from broker.core.settings import DomainGroup
    from broker.core.state import Campaign

_GUESS_SECONDS_A_MESSAGE = 0.01
"""Rather too small: what comes back too early from the journal is put off again."""

DOMAINS_KEPT_MAX = 100_000
"""Domains whose mail exchanger is remembered: about 15 MB."""


@dataclass(slots=True, eq=False)
class Group:
    """One `[[domain]]` of the settings, at work."""

    settings: "DomainGroup"
    bucket: Bucket | None = None
    in_flight: int = 0
    """Batches of its messages."""
    waiting: int = 0
    """Its messages in memory, all campaigns together."""
    wakes_at: float = inf
    """When a campaign that waits for its rate looks again (monotonic)."""
    seconds_a_message: float = 0.0
    """EWMA; 0: not measured yet."""
    blocked: dict[int, "Campaign"] = field(default_factory=dict)
    """Campaigns that wait for one of its batches to end, or for a token of its rate."""

    @property
    def name(self) -> str:
        return self.settings.name

    @property
    def rate(self) -> float:
        """Messages a second that may go to it, as far as its limits and its pace tell."""
        quotas = self.bucket.quotas if self.bucket is not None else ()
        paces = [quota.messages / quota.seconds for quota in quotas]
        if self.settings.connections:
            seconds = self.seconds_a_message or _GUESS_SECONDS_A_MESSAGE
            paces.append(self.settings.connections / seconds)
        return min(paces, default=inf)

    def wake(self, most: int) -> list["Campaign"]:
        """Of the campaigns that wait for it the first so many: whoever else waits would only look in vain."""
        first = nsmallest(most, self.blocked.values(), key=lambda c: (-c.options.priority, c.share))
        for campaign in first:
            del self.blocked[campaign.number]
        return first

    @property
    def is_full(self) -> bool:
        return 0 < self.settings.connections <= self.in_flight


class Lane(NamedTuple):
    """Where messages of a campaign wait that can't just go to whoever is free."""

    group: Group | None
    """Of their domain, where that has limits."""
    tried: frozenset[str]
    """Workers that failed them: others come first."""


@dataclass(slots=True)
class Groups:
    """Which group a domain belongs to."""

    all: list[Group] = field(default_factory=list)
    by_domain: dict[str, Group | None] = field(default_factory=dict)
    """Those of the settings, and those that were looked up."""
    by_mx: list[tuple[str, Group]] = field(default_factory=list)
    asked: set[str] = field(default_factory=set)
    """Domains that are being looked up."""
    to_ask: list[str] = field(default_factory=list)
    """Those of them that nobody has been told to look up yet."""

    def add(self, group: Group) -> None:
        self.all.append(group)
        for name in group.settings.names:
            self.by_domain[name] = group
        self.by_mx.extend((suffix, group) for suffix in group.settings.mx)

    def is_unknown(self, domain: str) -> bool:
        """Its mail exchanger has to be looked up first."""
        return bool(self.by_mx) and domain not in self.by_domain

    def ask(self, domain: str) -> None:
        """Its mail exchanger is wanted."""
        if domain not in self.asked:
            self.asked.add(domain)
            self.to_ask.append(domain)

    def resolved(self, domain: str, exchanger: str) -> Group | None:
        """The answer to a look-up; `exchanger`: a host's name, empty where there is none."""
        self.asked.discard(domain)
        host = "." + exchanger.lower().rstrip(".")
        group = next((g for suffix, g in self.by_mx if host.endswith("." + suffix.lstrip("."))), None)
        if len(self.by_domain) >= DOMAINS_KEPT_MAX:
            self.by_domain = {name: g for g in self.all for name in g.settings.names}
        self.by_domain[domain] = group
        return group


def domain_of(address: str) -> str:
    return address[address.rfind("@") + 1 :].lower()


def spread(messages: Sequence["Message"]) -> Sequence["Message"]:
    """The same messages, each domain's evenly over the whole: its k-th of m at (k + 1/2) / m."""
    addresses = [message.address for message in messages]
    domains = [address[address.rfind("@") + 1 :].lower() for address in addresses]  # domain_of
    sizes = Counter(domains)
    if len(sizes) < 2:
        return messages
    steps = {domain: 1.0 / size for domain, size in sizes.items()}
    position = {domain: step / 2 for domain, step in steps.items()}
    places = []
    for domain in domains:
        place = position[domain]
        places.append(place)
        position[domain] = place + steps[domain]
    return [messages[n] for n in sorted(range(len(messages)), key=places.__getitem__)]
