"""The cluster's rates: one bucket for each server, campaign and group of domains that has a rate."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from broker.core.buckets import Bucket, StoredBucket
from evenpost.runtime.clock import Now
from evenpost.schedule.rate import parse_rate

if TYPE_CHECKING:
    from broker.core.groups import Group
    from broker.core.state import Campaign
    from broker.core.worker_state import Worker


def of(worker: "Worker", campaign: "Campaign", group: "Group | None") -> list[Bucket]:
    """The buckets that a message of this campaign and group takes from when this worker gets it."""
    buckets = (worker.bucket, campaign.bucket, group.bucket if group is not None else None)
    return [bucket for bucket in buckets if bucket is not None]


@dataclass(slots=True)
class Quotas:
    stored: dict[str, StoredBucket] = field(default_factory=dict)
    """What the journal had at the start, of buckets that nobody has asked for yet."""
    buckets: dict[str, Bucket] = field(default_factory=dict)
    rates: dict[str, str] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    """Since the last `promises`."""
    freed: set[str] = field(default_factory=set)
    """Buckets that may allow more than those who wait for them were told."""
    keys: dict[int, str] = field(default_factory=dict)
    campaigns: dict[str, "Campaign"] = field(default_factory=dict)
    """Those with a rate of their own, by its key."""
    retired: dict[str, tuple[float, int, Bucket]] = field(default_factory=dict)
    """Buckets of ended campaigns, which may be retried: until when (monotonic) what they granted counts, and
    their numbers, since a promise may be under way."""
    made: int = 0
    numbers: dict[str, int] = field(default_factory=dict)
    """Which bucket of this name it is: a campaign's may go and another come."""

    def bucket(self, key: str, rate: str, now: Now) -> Bucket | None:
        """The bucket with this name; a changed rate keeps what was used. None where there is no rate.

        Raises RateError."""
        quotas = parse_rate(rate)
        bucket = self.buckets.get(key)
        if not quotas:
            return None
        if bucket is None:
            if key in self.retired:
                _, self.numbers[key], bucket = self.retired.pop(key)
                bucket.change(quotas, now)
            else:
                bucket = Bucket(quotas, now, self.stored.pop(key, None))
                self.made += 1
                self.numbers[key] = self.made
            self.buckets[key] = bucket
            self.keys[id(bucket)] = key
            self.used.add(key)
        elif self.rates[key] != rate:
            bucket.change(quotas, now)
            self.used.add(key)  # it may wait for a promise
            self.freed.add(key)
        self.rates[key] = rate
        return bucket

    def take(self, bucket: Bucket, now: float, messages: int) -> None:
        bucket.take(now, messages)
        self.used.add(self.keys[id(bucket)])

    def refund(self, bucket: Bucket, now: float, messages: int, taken_at: float) -> None:
        """So many that were taken didn't go: whoever else waits for this bucket may go sooner."""
        bucket.refund(now, messages, taken_at)
        if (key := self.keys.get(id(bucket))) is not None:  # its campaign may have ended
            self.freed.add(key)

    def promises(self, now: Now) -> Iterable[tuple[str, StoredBucket]]:
        """What the journal has to know before more is granted."""
        for key in self.used:
            promise = self.buckets[key].promise(now)
            if promise is not None:
                yield key, promise
        self.used.clear()

    def promised(self, key: str, number: int) -> None:
        """The journal knows what was promised, to the bucket of that name and number."""
        if key in self.retired and self.retired[key][1] == number:
            self.retired[key][2].promised()
        if self.numbers.get(key) != number:
            return
        self.buckets[key].promised()
        self.used.add(key)  # its rate may have changed since
        self.freed.add(key)

    def of_campaign(self, campaign: "Campaign", now: Now) -> Bucket | None:
        key = f"campaign:{campaign.id}"
        bucket = self.bucket(key, campaign.options.rate, now)
        if bucket is not None:
            self.campaigns[key] = campaign
        return bucket

    def retire(self, campaign: "Campaign", now: Now) -> list[str]:
        """It has ended. Which buckets count for nothing any more: the journal may forget them."""
        key = f"campaign:{campaign.id}"
        bucket = self.buckets.pop(key, None)
        if bucket is None:
            return []
        del self.keys[id(bucket)], self.rates[key], self.campaigns[key]
        self.used.discard(key)
        self.freed.discard(key)
        past = [old for old, (until, _, _) in self.retired.items() if until <= now.mono]
        for old in past:
            del self.retired[old]
        until = now.mono + max(quota.seconds for quota in bucket.quotas)
        self.retired[key] = (until, self.numbers.pop(key), bucket)
        return past
