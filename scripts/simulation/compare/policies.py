"""The policies by name: the engine's two, and the contenders."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from broker.core.balancer import Balancer
from broker.core.settings import Settings
from scripts.simulation.compare.contenders import (
    Contender,
    HeartbeatOnly,
    Random,
    RoundRobin,
    Sessions,
    TwoChoices,
    WeightedRoundRobin,
)

OUTSTANDING = 2.0
"""A contender's sender has so many messages of a campaign outstanding, for each connection that there is."""


@dataclass(frozen=True)
class Policy:
    name: str
    engine: Literal["least-connections", "least-time"] | None = None
    contender: type[Contender] | None = None
    knows_speeds: bool = False
    """Its servers are configured with weights like their true speeds at the start."""

    def settings(self, **core: Any) -> Settings:
        return Settings(policy=self.engine or "least-connections", **core)

    def balancers(self, seed: int, outstanding: float | None) -> Callable[[Settings], Balancer] | None:
        contender = self.contender
        if contender is None:
            return None
        rng = random.Random(f"{seed} policy")  # noqa: S311  # repeatable on purpose
        return lambda settings: contender(settings, rng, outstanding)


POLICIES = {
    policy.name: policy
    for policy in (
        Policy("least-connections", engine="least-connections"),
        Policy("least-time", engine="least-time"),
        Policy("round-robin", contender=RoundRobin),
        Policy("weighted-round-robin", contender=WeightedRoundRobin, knows_speeds=True),
        Policy("random", contender=Random),
        Policy("two-choices", contender=TwoChoices),
        Policy("heartbeat-only", contender=HeartbeatOnly),
        Policy("leastconn-sessions", contender=Sessions),
    )
}
ENGINE = ("least-connections", "least-time")
ALL = tuple(POLICIES)
