"""A campaign on its way to the broker: what is compiled, and when."""

import threading
from pathlib import Path
from typing import Any

import pytest

from client import Campaign, InputError
from client.submission_plan import RECENT_BYTES_MAX, RECENT_TEMPLATES_MAX, Plan
from evenpost.compose import Composer
from evenpost.wire.messages import Attachment


def campaign(**given: Any) -> Campaign:
    whole = {"sender": "a@example.com", "subject": "Code", "text": "It is {{ code }}."}
    return Campaign(**({"recipients": [{"email": "a@example.com", "code": 7}]} | whole | given))  # type: ignore[arg-type]


def composer(**given: Any) -> Composer:
    with Plan(campaign(**given)) as plan:
        plan.check()
        return plan.composer


def test_the_same_template_is_compiled_once_whoever_it_is_for() -> None:
    first = composer()
    assert composer(recipients=[{"email": "b@example.com", "code": 8}]) is first
    assert composer(text="Another {{ code }}.") is not first


def test_its_data_is_checked_each_time() -> None:
    composer()
    with pytest.raises(InputError):
        composer(recipients=[{"email": "a@example.com", "code": None}])


def test_only_so_many_are_kept_and_none_that_is_large() -> None:
    first = composer()
    for number in range(RECENT_TEMPLATES_MAX):
        composer(subject=f"Code {number}")
    assert composer() is not first
    large = {"text": "x" * RECENT_BYTES_MAX}
    assert composer(**large) is not composer(**large)
    attached = {"attachments": [Attachment("a.txt", "text/plain", b"x")]}
    assert composer(**attached) is not composer(**attached)


def test_a_composer_stays_in_its_thread(tmp_path: Path) -> None:
    """It counts what a message costs: two threads at once would count together."""
    here, there = composer(), []
    thread = threading.Thread(target=lambda: there.append(composer()))
    thread.start()
    thread.join()
    assert there[0] is not here
    file = tmp_path / "list.csv"
    file.write_text("email,code\na@example.com,7\n")
    assert composer(recipients=file) is not composer(recipients=file), "threads of a pool read it"


def test_what_does_not_compile_is_an_error_each_time() -> None:
    for _ in range(2):
        with pytest.raises(InputError):
            composer(text="{{ code")
