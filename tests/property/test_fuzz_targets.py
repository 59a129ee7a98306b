"""What the fuzzer looks at, without the fuzzer: its kept corpus again, and bytes by chance."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scripts.fuzzing import targets
from scripts.fuzzing.targets import TARGETS

CORPUS = Path(__file__).parents[1] / "corpus"


@pytest.mark.parametrize("name", TARGETS)
def test_what_the_fuzzer_kept_is_answered(name: str) -> None:
    kept = sorted((CORPUS / name).iterdir())
    assert kept
    for path in kept:
        TARGETS[name](path.read_bytes())


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=60, deadline=None)
@given(data=st.binary(max_size=300))
def test_any_bytes_are_answered(name: str, data: bytes) -> None:
    TARGETS[name](data)


def test_a_target_tells_a_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the fuzzer would be clean whatever it met."""

    def decode(*_: object) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr(targets.codec, "decode_body", decode)
    with pytest.raises(KeyError):
        TARGETS["wire_body"](b"\0\x80")
