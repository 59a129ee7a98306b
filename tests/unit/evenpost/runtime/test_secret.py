import copy
import json
import pickle
import traceback
from dataclasses import asdict, dataclass

import msgspec
import pytest

from evenpost.runtime.secret import Secret

TEXT = "correct-horse"


@dataclass
class Settings:
    password: Secret


def test_it_is_shown_by_nothing() -> None:
    secret = Secret(TEXT)
    assert secret.reveal() == TEXT
    shown = [
        repr(secret), str(secret), f"{secret}", f"{secret:>20}", f"{secret!r}", f"{Settings(secret)}",
        "%s" % secret, "%r" % {"a": [secret]}, repr(asdict(Settings(secret))),  # noqa: UP031  # people do
        msgspec.json.encode({"a": secret}, enc_hook=repr).decode(), repr(dir(secret)),
    ]  # fmt: skip
    assert all(TEXT not in text for text in shown)
    assert shown[0] == "***"


def test_it_is_neither_pickled_nor_serialised() -> None:
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(TypeError, match="isn't pickled"):
            pickle.dumps(Secret(TEXT), protocol)
    with pytest.raises(TypeError):
        json.dumps({"a": Secret(TEXT)})
    with pytest.raises(TypeError):
        vars(Secret(TEXT))


def test_a_trace_back_with_its_variables_does_not_show_it() -> None:
    def fail(secret: Secret) -> None:
        raise ValueError(f"no {secret}")

    try:
        fail(Secret(TEXT))
    except ValueError as error:
        found = traceback.TracebackException.from_exception(error, capture_locals=True)
        assert TEXT not in "".join(found.format()).replace("reveal", "")


def test_copies_and_comparison() -> None:
    secret = Secret(TEXT)
    assert copy.copy(secret).reveal() == copy.deepcopy([secret])[0].reveal() == TEXT
    assert secret == Secret(TEXT) and hash(secret) == hash(Secret(TEXT))
    assert secret != Secret("other") and secret != TEXT
    assert secret and not Secret()
