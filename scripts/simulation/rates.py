"""Whether rates were kept to: what each bucket granted, as far as it was really begun."""

from collections import defaultdict
from dataclasses import dataclass

from broker.core.state import Batch, State
from evenpost.schedule.rate import Quota, parse_rate

SLACK_S = 1e-6
"""Of sums of floats."""

Key = tuple[str, tuple[Quota, ...]]
"""Whose rate it is, and what it allows: another rate has other windows."""


@dataclass(frozen=True, slots=True)
class _Grant:
    """A batch, as the core gave it out."""

    time: float
    keys: tuple[Key, ...]


class Rates:
    """Grants across restarts of the broker. A message that was given back unbegun used nothing."""

    def __init__(self) -> None:
        self._grants: dict[int, _Grant] = {}
        self._begun: defaultdict[Key, list[float]] = defaultdict(list)
        """For each content that was begun, when its batch was given out."""

    def given(self, state: State, batch: Batch, time: float) -> str:
        """A batch is given out. What is wrong with that, or nothing."""
        worker, campaign, group = batch.worker, batch.campaign, batch.group
        limits = [
            (f"server {worker.server}", worker.rate, worker.bucket),
            (f"campaign {campaign.id}", campaign.options.rate, campaign.bucket),
        ]
        if group is not None:
            limits.append((f"domain {group.name}", group.settings.rate, group.bucket))
        keys = []
        for name, rate, bucket in limits:
            if bucket is not None:
                keys.append((name, bucket.quotas))
            elif parse_rate(rate):
                return f"{name} has the rate {rate!r} and no bucket"
        self._grants[batch.number] = _Grant(time, tuple(keys))
        return ""

    def begun(self, batch: int) -> None:
        """A content of this batch is written."""
        grant = self._grants.get(batch)
        if grant is not None:
            for key in grant.keys:
                self._begun[key].append(grant.time)

    def overdrawn(self) -> str:
        """The first stretch of time that got more than its window allows, in words; empty for none."""
        for (name, quotas), times in self._begun.items():
            times.sort()
            for quota in quotas:
                for first, beyond in zip(times, times[quota.messages :], strict=False):
                    if beyond - first < quota.seconds - SLACK_S:
                        return (
                            f"{name}: {quota.messages + 1} messages in {beyond - first:.4f} s from "
                            f"{first:.4f} s on, where {quota.messages} are allowed in {quota.seconds:g} s"
                        )
        return ""
