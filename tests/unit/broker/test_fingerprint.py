"""What makes two openings under one submission id the same submission."""

import msgspec
import pytest

from broker.opening import fingerprint_of
from evenpost.wire.messages import OpenCampaign, Options, Template

TEMPLATE = Template("a@example.com", "s", text="t")
OPTIONS = Options(name="News", start_at=1, expire_at=2, priority=4, pool="bulk", on_unknown="resend")
OPENING = OpenCampaign("sub", TEMPLATE, OPTIONS, "digest")


def with_options(**changes: object) -> OpenCampaign:
    return msgspec.structs.replace(OPENING, options=msgspec.structs.replace(OPTIONS, **changes))


def test_times_that_count_from_each_try_make_no_difference() -> None:
    later = with_options(start_at=1_000, expire_at=None)
    assert fingerprint_of(later, b"T") == fingerprint_of(OPENING, b"T")


@pytest.mark.parametrize(
    "other",
    [
        msgspec.structs.replace(OPENING, list_digest="another"),
        msgspec.structs.replace(OPENING, list_digest=""),
        with_options(name="Other"),
        with_options(priority=5),
        with_options(pool="other"),
        with_options(pool=None),
        with_options(on_unknown="hold"),
    ],
)
def test_another_list_or_option_is_another_submission(other: OpenCampaign) -> None:
    assert fingerprint_of(other, b"T") != fingerprint_of(OPENING, b"T")


def test_another_template_is_another_submission() -> None:
    assert fingerprint_of(OPENING, b"U") != fingerprint_of(OPENING, b"T")
