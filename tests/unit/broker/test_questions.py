"""Who may ask how much: an answer to each refusal would cost as much as the question."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from broker.guard import ANSWERS_PER_S, Guard, Limits
from broker.questions import Questions
from evenpost.runtime.clock import now
from evenpost.wire import messages as wire

PEER = b"peer"
ASKED = 5_000


@pytest.mark.parametrize("cancels", [False, True])
def test_a_flood_of_questions_is_refused_in_silence_and_holds_nothing(cancels: bool) -> None:
    """A CANCEL of a campaign that isn't in memory is a question to the journal, too."""
    guard = Guard(Limits())
    guard.came(PEER, "key", now().mono)
    core = SimpleNamespace(state=SimpleNamespace(batches={1: "mail is going out"}))
    questions = Questions(cast(Any, core), cast(Any, None), cast(Any, None), guard, lambda *_: None)
    guard.asked(PEER, 10.0, now().mono)  # its share is used up for a long time
    told: list[wire.Message] = []
    for request in range(ASKED):
        assert guard.begin(PEER, request, 20) == "", "those that were refused count as open no more"

        def answer(reply: wire.Message, request: int = request) -> None:
            guard.answered(PEER, request)
            told.append(reply)

        if cancels:
            questions.cancelled_before(PEER, request, "c", answer, lambda: None)
        else:
            questions.ask(PEER, request, wire.Status(campaign="c"), answer)
    assert ANSWERS_PER_S <= len(told) < ASKED / 10
    assert all(isinstance(reply, wire.Error) and reply.code == "busy" for reply in told)
    assert guard.waiting_bytes == 0
