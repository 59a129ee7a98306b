"""What a recording server should do other than accept: plain data, so that it can cross a pipe."""

import fnmatch
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

Stage = Literal["connect", "ehlo", "auth", "mail", "rcpt", "data", "message"]
Action = Literal["reply", "hang", "drop"]


@dataclass(frozen=True, slots=True)
class Rule:
    """At `stage`, for the addresses that match, give this answer.

    The stage "message" is the answer to the final dot. `match` is a shell pattern for the address:
    the sender at "mail", the recipient from "rcpt" on, the EHLO name or "" before; at "auth" for what
    the command says. `times` bounds
    how often the rule holds for each address: Rule("rcpt", "450 4.2.0 later", times=1) greylists
    each recipient once. `action` "hang" never answers, "drop" closes the connection without an
    answer; a `reply` of 421 closes it after the answer. `accept=True` at "message" keeps the
    message whatever is answered: the server took it and the client can't know. The first rule
    that matches wins.
    """

    stage: Stage
    reply: str = ""
    match: str = "*"
    times: int | None = None
    action: Action = "reply"
    delay_s: float = 0.0
    accept: bool = False

    def __post_init__(self) -> None:
        if self.action == "reply" and not self.reply and not (self.accept or self.delay_s):
            raise ValueError("a rule needs a reply, a delay or another action")


class Rules:
    """The rules in force, and how often each was used for each address."""

    def __init__(self, rules: Sequence[Rule] = ()) -> None:
        self._used: Counter[tuple[int, str]] = Counter()
        self.replace(rules)

    def replace(self, rules: Sequence[Rule]) -> None:
        self._rules = tuple(rules)
        self._used.clear()
        self._stages = {rule.stage for rule in rules}

    def find(self, stage: Stage, address: str) -> Rule | None:
        if stage not in self._stages:
            return None
        for number, rule in enumerate(self._rules):
            if rule.stage != stage or not fnmatch.fnmatchcase(address, rule.match):
                continue
            if rule.times is not None:
                if self._used[number, address] >= rule.times:
                    continue
                self._used[number, address] += 1
            return rule
        return None


def dumps(rules: Sequence[Rule]) -> str:
    return json.dumps([asdict(rule) for rule in rules])


def loads(text: str) -> list[Rule]:
    return [Rule(**fields) for fields in json.loads(text)]
