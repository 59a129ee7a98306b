"""What a server's agent says of it, in HAProxy's words. Pure.

An agent answers each connection with one line of ASCII (HAProxy configuration manual, `agent-check`): words,
separated by spaces, tabs or commas, in upper or lower case.

    ready | drain | maint            what the server shall get
    up | down | fail | stopped       whether it works; the text after a # says why it doesn't
    75%                              of the configured weight
    weight:150                       instead of the configured weight
    maxconn:10                       connections at most; 0 takes that back

What a line doesn't speak of stays as it was: a server that went down needs `up`, one in maintenance `ready`.
"""

import re
from dataclasses import dataclass, replace

from evenpost.wire.limits import WEIGHT_MAX
from evenpost.wire.messages import ServerWord

LINE_BYTES_MAX = 1_024
"""HAProxy's own limit is its buffer; no agent says as much as this."""
REASON_CHARS_MAX = 200

_WORDS = re.compile(r"[^\s,]+")
_NUMBER = re.compile(r"(?:(weight|maxconn):)?([0-9]{1,9})(%?)")
_DOWN = frozenset({"down", "fail", "failed", "stopped"})
_ADMINISTRATIVE: dict[str, ServerWord] = {"ready": "ready", "drain": "drain", "maint": "maint"}


@dataclass(frozen=True, slots=True)
class AgentState:
    """All that an agent has said so far."""

    administrative: ServerWord = "ready"
    works: bool = True
    reason: str = ""
    """Why it doesn't work."""
    percent: int | None = None
    """Of the configured weight."""
    absolute: int | None = None
    maxconn: int | None = None

    @property
    def state(self) -> ServerWord:
        """What the server shall get. A weight of nothing means nothing new, as in HAProxy."""
        if not self.works:
            return "maint"
        if self.administrative == "ready" and 0 in (self.percent, self.absolute):
            return "drain"
        return self.administrative

    def weight(self, configured: int) -> int | None:
        """1 to WEIGHT_MAX; None: as configured."""
        if self.absolute is not None:
            weight = self.absolute
        elif self.percent is not None:
            weight = round(configured * self.percent / 100)
        else:
            return None
        return min(max(weight, 1), WEIGHT_MAX)

    def after(self, line: str) -> tuple["AgentState", list[str]]:
        """The state once this line was heard, and the words in it that mean nothing. Never raises."""
        state, unknown = self, []
        words, _, reason = line.partition("#")
        for word in _WORDS.findall(words.lower()):
            if word in _ADMINISTRATIVE:
                state = replace(state, administrative=_ADMINISTRATIVE[word])
            elif word == "up":
                state = replace(state, works=True, reason="")
            elif word in _DOWN:
                why = "".join(char if char.isprintable() else " " for char in reason).strip()
                state = replace(state, works=False, reason=why[:REASON_CHARS_MAX] or word)
            elif (changed := _with_number(state, word)) is not None:
                state = changed
            else:
                unknown.append(word)
        return state, unknown


def _with_number(state: AgentState, word: str) -> AgentState | None:
    match = _NUMBER.fullmatch(word)
    if match is None:
        return None
    name, number, sign = match[1], int(match[2]), match[3]
    if name == "maxconn" and not sign:
        return replace(state, maxconn=number or None)
    if name == "weight" and not sign:
        return replace(state, absolute=number, percent=None)
    if name is None and sign:
        return replace(state, percent=number, absolute=None)
    return None
