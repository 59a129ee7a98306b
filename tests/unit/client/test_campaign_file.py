from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from client import Campaign
from client.input_attachments import read_attachment
from client.input_check import checked
from client.input_times import parse_time
from client.problems import InputError, Problem
from client.submission_plan import Plan
from evenpost.wire.codec import unpack_values
from evenpost.wire.messages import Attachment

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
NEWSLETTER = Path(__file__).parents[3] / "examples" / "newsletter"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "body.html").write_text('<p>Dear {{ name }} <img src="cid:logo.png"></p>')
    (tmp_path / "body.txt").write_bytes(b"\xef\xbb\xbfDear {{ name }}\r\n")
    (tmp_path / "list.csv").write_text("email,name\nanna@example.com,Anna\n")
    (tmp_path / "logo.png").write_bytes(b"\x89PNG")
    (tmp_path / "offer.pdf").write_bytes(b"%PDF")
    return tmp_path


MINIMAL = 'from = "News <n@example.com>"\nsubject = "Hi"\nrecipients = "list.csv"\n'


def load(folder: Path, text: str, **overrides: Any) -> Campaign:
    path = folder / "campaign.toml"
    path.write_text(text)
    return Campaign.load(path, **overrides)


def problems(folder: Path, text: str, **overrides: Any) -> list[Problem]:
    with pytest.raises(InputError) as caught:
        load(folder, text, **overrides)
    return list(caught.value.problems)


def build(**keywords: Any) -> Campaign:
    given = {"sender": "n@example.com", "subject": "Hi", "text": "Hello", "recipients": ["a@example.com"]}
    return Campaign(**{**given, **keywords})


def told(**keywords: Any) -> list[tuple[str, str]]:
    with pytest.raises(InputError) as caught:
        build(**keywords)
    return [(p.field, p.reason) for p in caught.value.problems]


def test_everything_that_a_file_can_say(folder: Path) -> None:
    campaign = load(folder, """
from = "News {{ name }} <n@example.com>"
subject = "Hi {{ name }}"
html = "body.html"
text = "body.txt"
recipients = { path = "list.csv", encoding = "cp1252", delimiter = ",", email_column = "email" }
reply_to = "r@example.com"
envelope_from = ""
to_name = "{{ name }}"
name = "May"
start_at = 2126-05-01T09:00:00+02:00
expire_at = "+2h"
priority = 7
pool = "bulk"
overflow = "spare"
weight = 50
rate = "14/s, 50000/day"
window = "Mon-Fri 08:00-20:00 Europe/Berlin"
on_unknown = "hold"
submission_id = "may-1"
[headers]
X-One = "1"
X-Two = ["a", "b"]
[[attachments]]
path = "logo.png"
inline = true
[[attachments]]
path = "offer.pdf"
filename = "Offer.pdf"
content_type = "application/x-pdf"
""")  # fmt: skip
    template = campaign.template(["name"])
    assert template.sender == "News {{ name }} <n@example.com>"
    assert template.html == (folder / "body.html").read_text()
    assert template.text == "Dear {{ name }}\n"
    assert template.envelope_from == ""
    assert template.headers == [("X-One", "1"), ("X-Two", "a"), ("X-Two", "b")]
    assert template.attachments == [
        Attachment("logo.png", "image/png", b"\x89PNG", "logo.png"),
        Attachment("Offer.pdf", "application/x-pdf", b"%PDF", None),
    ]
    assert template.fields == ["name"]
    options = campaign.options()
    start = datetime(2126, 5, 1, 7, tzinfo=UTC).timestamp() * 1000
    assert (options.start_at, options.expire_at) == (start, start + 2 * 3_600_000)
    assert (options.name, options.priority, options.pool, options.on_unknown) == ("May", 7, "bulk", "hold")
    assert (options.overflow, options.weight, options.rate, options.window) == (
        "spare", 50, "14/s, 50000/day", "Mon-Fri 08:00-20:00 Europe/Berlin",
    )  # fmt: skip
    assert campaign.submission_id == "may-1"
    assert campaign.reads_file
    assert campaign.files == {"html": str(folder / "body.html"), "text": str(folder / "body.txt")}
    assert campaign.warnings == ()
    with campaign.open_recipients(["name"]) as recipients:
        ((address, packed),) = next(recipients.chunks())
    assert (address, unpack_values(packed)) == ("anna@example.com", ["Anna"])


def test_bodies_can_stand_in_the_file(folder: Path) -> None:
    campaign = load(folder, MINIMAL + 'html = "<p>Hi"\ntext = """\nHello\n"""\n')
    assert (campaign.html, campaign.text) == ("<p>Hi", "Hello\n")


def test_all_problems_at_once(folder: Path) -> None:
    found = problems(folder, """
form = "News <n@example.com>"
subject = "Hi"
reply-to = "r@example.com"
html = "bodi.html"
priority = "high"
on_unknown = "drop"
start_at = "tomorrow"
recipients = { path = "list.csv", encodings = "x" }
attachments = ["none.pdf", { path = "logo.png", inlin = true }, 3]
sender_name = "x"
[headers]
"X Y" = "1"
X-Z = 5
""")  # fmt: skip
    assert {(p.field, p.reason.split(",")[0], p.hint.split(":")[0]) for p in found} >= {
        ("form", "unknown key", "Did you mean 'from'?"),
        ("reply-to", "unknown key", "Did you mean 'reply_to'?"),
        ("recipients.encodings", "unknown key", "Did you mean 'encoding'?"),
        ("attachments[2].inlin", "unknown key", "Did you mean 'inline'?"),
        ("from", "missing", "For example"),
        ("on_unknown", 'expected "resend" or "hold"', ""),
    }
    assert {p.field for p in found} == {
        "form", "reply-to", "recipients.encodings", "attachments[2].inlin", "from", "html", "priority",
        "on_unknown", "start_at", "attachments[1]", "attachments[3]", "sender_name", "headers.X Y", "headers",
    }  # fmt: skip
    assert all(p.file == str(folder / "campaign.toml") for p in found)
    assert len([p for p in found if p.field == "html"]) == 1


def test_syntax_errors_have_line_and_column(folder: Path) -> None:
    (problem,) = problems(folder, 'from = "x"\nsubject = Hi\n')
    assert (problem.line, problem.column) == (2, 11)
    assert "at line" not in problem.reason
    assert str(problem).startswith(f"{folder / 'campaign.toml'}:2:11: ")
    (problem,) = problems(folder, 'from = "x')
    assert "end of the file" in problem.reason
    for number in ("1" * 5_000, "0x" + "f" * 5_000, "[" * 50_000):
        found = problems(folder, f'from = "x"\npriority = {number}\n')
        assert any("thousands of digits" in problem.reason for problem in found)
    with pytest.raises(InputError, match="no such file"):
        Campaign.load(folder / "none.toml")
    (folder / "latin.toml").write_bytes(b'from = "x"\nsubject = "\xe9"\n')
    with pytest.raises(InputError, match=r"latin\.toml:2: byte 0xE9"):
        Campaign.load(folder / "latin.toml")


def test_keywords_beat_the_file(folder: Path) -> None:
    campaign = load(folder, MINIMAL + 'text = "body.txt"\n',
                    subject="New", recipients=["b@example.com"], pool=None)  # fmt: skip
    assert campaign.subject == "New"
    assert not campaign.reads_file
    assert campaign.text == "Dear {{ name }}\n"
    assert campaign.pool is None


@pytest.mark.parametrize(
    ("keywords", "field"),
    [
        ({"sender": ""}, "from"),
        ({"sender": "News"}, "from"),
        ({"sender": "A <a@example.com>\nBcc: x@example.com"}, "from"),
        ({"subject": None}, "subject"),
        ({"subject": "Hi\r\nBcc: x@example.com"}, "subject"),
        ({"text": " "}, "html"),
        ({"text": 5}, "text"),
        ({"recipients": None}, "recipients"),
        ({"recipients": {"email": "a@example.com"}}, "recipients"),
        ({"recipients": 7}, "recipients"),
        ({"envelope_from": "bounces"}, "envelope_from"),
        ({"headers": {"A:b": "1"}}, "headers.A:b"),
        ({"headers": {"X": "1\n2"}}, "headers.X"),
        ({"headers": 5}, "headers"),
        ({"headers": [("X", "1")] * 101}, "headers"),
        ({"priority": 10}, "priority"),
        ({"priority": True}, "priority"),
        ({"pool": ""}, "pool"),
        ({"overflow": ""}, "overflow"),
        ({"pool": "a", "overflow": "a\nb"}, "overflow"),
        ({"name": "x" * 201}, "name"),
        ({"weight": 0}, "weight"),
        ({"weight": 1_001}, "weight"),
        ({"weight": True}, "weight"),
        ({"weight": "heavy"}, "weight"),
        ({"rate": "14"}, "rate"),
        ({"rate": 14}, "rate"),
        ({"rate": ", ".join(f"{n}/{n}s" for n in range(10, 60))}, "rate"),
        ({"window": "08:00"}, "window"),
        ({"window": "08:00-20:00 Europe/Berln"}, "window"),
        ({"window": 8}, "window"),
        ({"attachments": "offer.pdf"}, "attachments"),
        ({"attachments": ["/none/offer.pdf"]}, "attachments[1]"),
        (
            {"attachments": [Attachment("a", "a/b", b"x", "c")] * 2, "html": '<img src="cid:c">'},
            "attachments",
        ),
        ({"attachments": [Attachment("a", "a/b", b"x" * 33 * 1024 * 1024)]}, "attachments"),
        ({"html": '<img src="cid:none.png">'}, "html"),
        ({"start_at": "soon"}, "start_at"),
        ({"start_at": 5}, "start_at"),
        ({"start_at": datetime(1960, 1, 1, tzinfo=UTC)}, "start_at"),
        ({"expire_at": datetime(2020, 1, 1, tzinfo=UTC)}, "expire_at"),
        ({"start_at": "+2h", "expire_at": timedelta()}, "expire_at"),
    ],
)
def test_campaigns_from_python_are_checked(keywords: dict[str, Any], field: str) -> None:
    assert field in [each for each, _ in told(**keywords)]


def test_inline_images_and_the_html(folder: Path) -> None:
    reasons = told(html='<img src="cid:logo.png">', attachments=[folder / "logo.png"])
    assert "cid:logo.png" in reasons[0][1]
    logo = read_attachment(folder / "logo.png", inline=True)
    assert build(html='<img src="cid:logo.png">', attachments=[logo]).warnings == ()
    assert build(html='<img src="cid:{{ x }}">', attachments=[logo]).warnings == ()
    (warning,) = build(html="<p>", attachments=[logo]).warnings
    assert warning.severity == "warning"
    assert "cid:logo.png" in warning.reason
    with pytest.raises(ValueError, match="cid"):
        read_attachment(folder / "logo.png", cid="a b")
    with pytest.raises(ValueError, match="content type"):
        read_attachment(folder / "logo.png", content_type="png")


def test_what_is_odd_in_a_file_is_told_once(folder: Path) -> None:
    text = MINIMAL + 'text = "body.txt"\nhtml = "<p>"\nstart_at = "2126-05-01T09:00"\n'
    campaign = load(folder, text + 'attachments = [{ path = "logo.png", inline = true }]\n')
    assert sorted(p.field for p in campaign.warnings) == ["attachments", "start_at"]


def test_campaign_is_kept_whole() -> None:
    campaign = build(expire_at="+1h", headers={"X-A": "1"})
    assert isinstance(campaign.expire_at, datetime)
    assert campaign.template().headers == [("X-A", "1")]
    assert abs((campaign.options().expire_at or 0) / 1000 - datetime.now(UTC).timestamp() - 3_600) < 60


@pytest.mark.parametrize(
    ("given", "time"),
    [
        ("+2h", NOW + timedelta(hours=2)),
        ("+1d 12h", NOW + timedelta(days=1.5)),
        ("+1w1m1s", NOW + timedelta(days=7, seconds=61)),
        (timedelta(hours=1), NOW + timedelta(hours=1)),
        ("2026-05-01T09:00:00+02:00", datetime(2026, 5, 1, 7, tzinfo=UTC)),
        ("2026-05-01 09:00Z", datetime(2026, 5, 1, 9, tzinfo=UTC)),
        (NOW, NOW),
    ],
)
def test_times(given: object, time: datetime) -> None:
    assert parse_time(given, NOW) == (time, False)


def test_no_rate_and_no_window_are_none() -> None:
    options = build().options()
    assert (options.rate, options.window, options.weight, options.overflow) == ("", "", 100, None)
    assert build(rate=None, window=None).options() == options


def test_a_rate_or_a_window_that_is_wrong_says_how_it_is_written() -> None:
    with pytest.raises(InputError) as caught:
        build(rate="14 a second", window="8-20", weight=0)
    texts = {p.field: str(p) for p in caught.value.problems}
    assert texts.keys() == {"rate", "window", "weight"}
    assert '"14/s, 50000/day"' in texts["rate"] and "Europe/Berlin" in texts["window"]
    with pytest.raises(InputError, match='rate = "14/s, 50000/day"'):
        build(rate=14)


def test_an_overflow_needs_a_pool() -> None:
    (warning,) = build(overflow="spare").warnings
    assert (warning.field, warning.severity) == ("overflow", "warning") and "pool" in warning.reason
    assert build(pool="bulk", overflow="spare").warnings == ()
    with pytest.raises(InputError, match="overflow: is the pool itself"):
        build(pool="bulk", overflow="bulk")


@pytest.mark.parametrize(
    ("key", "meant"),
    [("rate_limit", "rate"), ("throttle", "rate"), ("send_window", "window"), ("overflow_pool", "overflow"),
     ("wieght", "weight")],
)  # fmt: skip
def test_what_others_call_it_is_understood(folder: Path, key: str, meant: str) -> None:
    (problem,) = problems(folder, MINIMAL + f'text = "body.txt"\n{key} = "x"\n')
    assert problem.hint == f"Did you mean {meant!r}?"


def test_local_time_is_said() -> None:
    values = {"start_at": "2126-05-01T09:00", "sender": "a@example.com", "subject": "x", "text": "x",
              "recipients": []}  # fmt: skip
    values, found = checked(values, NOW)
    assert values["start_at"] == datetime(2126, 5, 1, 9).astimezone()
    assert [(p.severity, p.field) for p in found] == [("warning", "start_at")]
    assert "local time" in found[0].reason


@pytest.mark.parametrize("given", ["", "2h", "+2", "+2x", "+99999999999w", "2026-13-01", "09:00", 5, None])
def test_no_times(given: object) -> None:
    with pytest.raises(ValueError, match=r"no time|away"):
        parse_time(given, NOW)


def test_newsletter_example() -> None:
    campaign = Campaign.load(NEWSLETTER / "campaign.toml")
    assert campaign.warnings == ()
    assert [part.content_id for part in campaign.template().attachments] == ["logo.png"]
    assert campaign.html is not None
    assert 3_000 < len(campaign.html.encode()) < 5_000


def test_the_paced_example() -> None:
    campaign = Campaign.load(NEWSLETTER.parent / "paced.toml")
    assert campaign.warnings == ()
    options = campaign.options()
    assert (options.priority, options.weight, options.pool, options.overflow) == (1, 50, "bulk", "spare")
    assert options.rate and options.window
    with Plan(campaign) as plan:
        assert plan.check().good == 5_000
