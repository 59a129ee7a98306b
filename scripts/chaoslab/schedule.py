"""From a seed to what goes wrong, and when. Pure: the same seed gives the same schedule.

Faults are spread over a campaign's progress (messages that the sinks took), not over time: then a slow
machine sees the same history as a fast one, as nearly as real processes can.
"""

import random
from dataclasses import dataclass
from typing import Literal

Kind = Literal["kill", "freeze", "upgrade"]

BROKER = "broker"
CLIENT = "client"
FIRST_AT, LAST_AT = 0.02, 0.97
"""The first and the last fault, as shares of the messages: in between, mail is under way."""
SHARE_BROKER, SHARE_CLIENT, SHARE_BOTH = 0.30, 0.14, 0.12
"""Of all kills. `both` are two processes at one moment, and count as two kills. The rest are workers."""
EXTRAS_EVERY = 15
"""One freeze and one upgrade come with so many kills, on top of them; at least one of each."""
FREEZE_LEASES = (1.1, 1.8)
"""How long a worker is frozen, in leases: always beyond the end of its own."""
CLIENT_DELAY_S = (0.1, 0.9)
"""How long after its start a client is killed: while it starts, while it submits, or just after."""


@dataclass(frozen=True, slots=True)
class Fault:
    at: float
    """The share of all messages that the sinks have taken by then, 0 to 1."""
    kind: Kind
    """kill: SIGKILL and started again. freeze: SIGSTOP and, `hold` later, SIGCONT. upgrade: SIGTERM, waited
    for, and started again."""
    victims: tuple[str, ...]
    """Processes: "broker", "client" or a worker's name. Two of them are hit at the same moment."""
    hold: float = 0.0
    """A freeze: its length in leases. The kill of a client: seconds after its start."""


def worker_names(workers: int) -> tuple[str, ...]:
    return tuple(f"w{number}" for number in range(workers))


def schedule(seed: int, kills: int, workers: int) -> list[Fault]:
    """Exactly `kills` SIGKILLs, in order of their time, and freezes and upgrades beside them."""
    chance = random.Random(seed)  # noqa: S311  # chance that can be repeated, not secrets
    names = worker_names(workers)
    both = round(kills * SHARE_BOTH) // 2
    clients = round(kills * SHARE_CLIENT)
    brokers = round(kills * SHARE_BROKER)
    single = max(0, kills - 2 * both - clients - brokers)
    extras = max(1, kills // EXTRAS_EVERY)
    drawn: list[tuple[Kind, tuple[str, ...], float]] = []
    drawn += [("kill", (BROKER, chance.choice(names)), 0.0) for _ in range(both)]
    drawn += [("kill", (CLIENT,), chance.uniform(*CLIENT_DELAY_S)) for _ in range(clients)]
    drawn += [("kill", (BROKER,), 0.0) for _ in range(brokers)]
    drawn += [("kill", (chance.choice(names),), 0.0) for _ in range(single)]
    drawn += [("freeze", (chance.choice(names),), chance.uniform(*FREEZE_LEASES)) for _ in range(extras)]
    drawn += [("upgrade", (chance.choice((BROKER, *names)),), 0.0) for _ in range(extras)]
    chance.shuffle(drawn)
    slot = (LAST_AT - FIRST_AT) / max(1, len(drawn))
    return [
        Fault(FIRST_AT + slot * (number + chance.random()), kind, victims, hold)
        for number, (kind, victims, hold) in enumerate(drawn)
    ]


def kills_of(faults: list[Fault]) -> int:
    return sum(len(fault.victims) for fault in faults if fault.kind == "kill")
