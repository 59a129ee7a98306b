"""What people and spreadsheets get to see."""

import io
import re
import time

import pytest
from msgspec.structs import replace
from rich.console import Console

from client import output, output_table, output_times
from client.output_live import _screen
from evenpost.wire.messages import WatchUpdate
from tests.unit.client.fake_broker import WORKER, row, status


@pytest.mark.parametrize(
    ("cell", "safe"),
    [("=1+1", "'=1+1"), ("+x@example.com", "'+x@example.com"),
     ("-1", "'-1"), ("@a", "'@a"), ("\t=1", "'\t=1"),
     ("a=1", "a=1"), ("", ""), ("2.0.0 Ok", "2.0.0 Ok")],
)  # fmt: skip
def test_formulas_are_disarmed_for_spreadsheets(cell: str, safe: str) -> None:
    assert output.spreadsheet_safe(cell) == safe


def test_a_cell_on_a_pipe_keeps_to_its_column_and_line() -> None:
    assert output_table.plain("550 5.1.1\tno\r\n such user") == "550 5.1.1 no such user"
    assert output_table.plain(12.5) == "12.5"


EVIL = "\x1b]52;c;cm0gLXJm\x07\x9b31m\u202eevil\r\n\u2028x"


def test_no_name_steers_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Clients name campaigns, workers name themselves and their servers; others look at them."""
    campaign = replace(status(total=1), name=EVIL, pool=EVIL, waiting_for=EVIL)
    worker = replace(WORKER, worker=EVIL, server=EVIL, reason=EVIL, pools=[EVIL])
    for terminal in (True, False):
        monkeypatch.setattr(output_table, "on_terminal", lambda terminal=terminal: terminal)
        print(output.status_line(campaign))
        output_table.table(output.STATUS_COLUMNS, [output.status_row(campaign)])
        output_table.table(output.SERVER_COLUMNS, [output.server_row(worker, 1)], wrap="reason")
        output_table.details([pair for pair in output.status_details(campaign) if pair[1] != ""])
        Console(width=300, color_system=None).print(_screen(WatchUpdate([campaign], [worker]), 300))
    shown = capsys.readouterr().out
    assert "evil" in shown
    assert set(shown.replace("\x1b[1m", "").replace("\x1b[0m", "")) & set(EVIL) <= set(
        "]52;cm0gLXJm31evil\nx"
    )


@pytest.mark.parametrize(
    ("counts", "failed"),
    [({"sent": 10}, 0), ({"sent": 9, "suppressed": 1}, 0), ({"sent": 9, "bounced": 1}, 1),
     ({"sent": 7, "held": 3}, 3),
     ({"sent": 5, "cancelled": 5}, 5), ({"sent": 8, "queued": 2}, 2)],
)  # fmt: skip
def test_what_counts_as_a_failure(counts: dict[str, int], failed: int) -> None:
    assert output.failures(status(total=10, **counts)) == failed


def test_a_status_in_words() -> None:
    line = output.status_line(status(total=12_000, sent=10_000, bounced=2))
    assert line == "c1 'News' running: 10,000 sent, 2 bounced of 12,000"
    details = dict(output.status_details(status(total=10, sent=4, held=1)))
    assert details["messages"] == "10 (50.0 % finished)" and details["held"] == 1
    assert "pool" not in details and "bounced" not in details
    assert dict(output.status_details(status(total=0)))["messages"] == "0"


@pytest.mark.parametrize(("seconds", "words"), [(3.4, "3 s"), (75, "1 min 15 s"), (7_260, "2 h 1 min")])
def test_durations(seconds: float, words: str) -> None:
    assert output_times.duration(seconds) == words


def test_columns_and_rows_fit() -> None:
    assert len(output.worker_row(WORKER, 60)) == len(output.WORKER_COLUMNS)
    assert len(output.server_row(WORKER, 0)) == len(output.SERVER_COLUMNS)
    assert len(output.status_row(status())) == len(output.STATUS_COLUMNS)
    assert len(output.report_row(row(1), file=True)) == len(output.REPORT_COLUMNS)
    assert output.worker_row(WORKER, 60)[-1] == "50.0 %" and output.worker_row(WORKER, 0)[-1] == "-"


def test_times() -> None:
    assert output_times.utc_time(1_700_000_000_123) == "2023-11-14T22:13:20.123Z"
    assert output_times.utc_time(0) == "" == output_times.local_time(None)


def drawn(width: int, *parts: object) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    for part in parts:
        console.print(part)
    return console.file.getvalue()  # type: ignore[attr-defined]  # a StringIO


def test_the_screen_of_a_watch_can_be_drawn() -> None:
    working = replace(status(total=10, sent=4), rate=12.0, eta_at=in_ms(12 * 60))
    text = drawn(120, _screen(WatchUpdate([working], [WORKER]), 120), _screen(WatchUpdate([], []), 120))
    assert "w1" in text and "40.0 % of 10" in text and "No campaign is running" in text
    assert "4 sent | 12/s | done about " in text and "in 12 min" in text


def in_ms(seconds: float) -> int:
    return int((time.time() + seconds) * 1000)


def test_what_is_foreseen_is_told_no_more_exactly_than_anybody_can() -> None:
    clock = time.strftime("%Y-%m-%d %H:%M", time.localtime(time.time() + 720))
    assert output_times.expected(in_ms(720)) in (
        f"about {clock[11:]}, in 12 min",
        f"about {clock}, in 12 min",
    )
    for seconds, words in ((40.2, "in 40 s"), (3 * 3600 + 61, "in 3 h 1 min"), (3 * 3600 + 5, "in 3 h"),
                           (86_400 * 3 + 60, "in 3 days")):  # fmt: skip
        assert output_times.expected(in_ms(seconds)).endswith(words)
    for hours in range(1, 24):  # whatever time it is: past midnight too
        assert re.fullmatch(r"about \d\d:\d\d, in \d+ h", output_times.expected(in_ms(3600 * hours + 1)))
    assert output_times.expected(in_ms(86_400 * 3)).startswith("about 20"), "another day has its date"
    assert output_times.expected(in_ms(-5)) == "any moment" and output_times.expected(None) == ""


def test_a_status_says_when_it_will_be_done_and_which_limits_hold() -> None:
    limited = replace(
        status(sent=3), eta_at=in_ms(720), rate_limit="14/s, 50000/day", window="08:00-20:00 Europe/Berlin",
        pool="bulk", overflow="spare", weight=50,
    )  # fmt: skip
    assert ", done about " in output.status_line(limited) and "in 12 min" in output.status_line(limited)
    details = dict(output.status_details(limited))
    assert str(details["done"]).startswith("about ") and details["rate limit"] == "14/s, 50000/day"
    assert details["window"] == "08:00-20:00 Europe/Berlin"
    assert (details["pool"], details["overflow"], details["weight"]) == ("bulk", "spare", 50)
    plain = dict(output.status_details(status(sent=3)))
    assert not plain.keys() & {"done", "rate limit", "window", "overflow", "weight"}


BUSY = replace(
    WORKER, worker="relay-1.example", server="mailer@relay-1.provider.example:587", state="slow start",
    external=7, load=10, key=0.01234567, weight=200, seconds_a_message=0.04567, failure_rate=0.031,
    rate_limit="14/s, 50000/day", operator="weight:50, maxconn:10", sent=1_234_567, rate=1234.5,
    reason="421 4.7.0 our IP has been temporarily rate limited, see https://provider.example/limits",
)  # fmt: skip


def test_a_server_in_full() -> None:
    cells = dict(zip(output.SERVER_COLUMNS, output.server_row(BUSY, 2_469_134), strict=True))
    told = {
        "state": "slow start", "operator": "weight:50, maxconn:10", "load": 10, "external": 7, "limit": 5,
        "max": 5, "weight": 200, "key": 0.0123, "rate limit": "14/s, 50000/day", "share": "50.0 %",
        "s/message": 0.046, "failures": "3.1 %",
    }  # fmt: skip
    assert {name: cells[name] for name in told} == told
    idle = dict(zip(output.SERVER_COLUMNS, output.server_row(WORKER, 30), strict=True))
    assert output.shown_key(0.000123456) == 0.000123
    assert (idle["key"], idle["failures"], idle["s/message"]) == ("", "", "")


@pytest.mark.parametrize("width", [60, 80, 100, 132, 300])
def test_a_table_keeps_to_the_width_and_a_row_to_its_line(width: int) -> None:
    columns = output.SERVER_COLUMNS
    rows = [output.server_row(replace(BUSY, worker=f"relay-{n}.example"), 10**7) for n in range(5)]
    shown = output_table.fitting(columns, columns, rows, width, "reason")
    lines = drawn(width, output_table.rich_table(shown, columns, rows, wrap="reason")).splitlines()
    assert max(map(len, lines)) <= width
    for n in range(5):
        [line] = [line for line in lines if f"relay-{n}.example" in line]
        assert "slow start" in line and " 10 " in line
    assert {"worker", "state", "load", "limit"} <= set(shown)
    assert (len(shown) == len(columns)) == (width == 300)
    assert [name for name in columns if name in shown] == shown, "their order stays"


def test_the_most_telling_columns_get_their_room_first() -> None:
    columns = {"low": 2, "name": 0, "top": 1, "small": 3}
    rows = [["l" * 10, "n" * 10, "t" * 10, 12345]]
    for width, shown in (
        (42, "low name top small"), (41, "low name top"), (34, "low name top"), (33, "name top small"),
        (30, "name top small"), (29, "name top"), (22, "name top"), (21, "name small"), (5, "name"),
    ):  # fmt: skip
        assert output_table.fitting(columns, columns, rows, width) == shown.split(), width


def test_a_name_that_has_no_room_is_cut_and_not_broken() -> None:
    columns = {"worker": 0, "state": 0}
    rows = [["a-very-long-name " * 4, "ready"], ["w2", "ready"]]
    shown = output_table.fitting(columns, columns, rows, 30)
    lines = drawn(30, output_table.rich_table(shown, columns, rows)).splitlines()
    assert len(lines) == 2 + 2 and "…" in lines[2] and lines[2].endswith("ready")


def test_a_sentence_goes_on_in_the_next_line_and_loses_nothing() -> None:
    columns = {"worker": 0, "why": 0}
    rows = [["w1", "a long story " * 10]]
    shown = output_table.fitting(columns, columns, rows, 40, "why")
    text = drawn(40, output_table.rich_table(shown, columns, rows, wrap="why"))
    assert text.count("story") == 10 and max(map(len, text.splitlines())) <= 40


def test_a_watch_fits_80_columns() -> None:
    workers = [replace(BUSY, worker=f"relay-{n}") for n in range(3)]
    named = replace(
        status(total=12_345_678, sent=1_000_000, queued=11_345_678), name="A rather long campaign name, May",
        rate=1234.0, eta_at=in_ms(7200),
    )  # fmt: skip
    lines = drawn(80, _screen(WatchUpdate([named], workers), 80)).splitlines()
    assert max(map(len, lines)) <= 80
    assert len([line for line in lines if line.strip()]) == 2 + 3 + 2, "no line had to be broken"


def test_80_columns_have_room_for_who_drained_a_worker() -> None:
    reason = "drain, says its server's agent, or the worker, which is ending"
    worker = replace(WORKER, worker="relay-2", state="draining", operator="drain weight:50", reason=reason)
    rows = [output.server_row(worker, 100)]
    shown = output_table.fitting(output.SERVER_COLUMNS, output.SERVER_COLUMNS, rows, 80, "reason")
    assert {"worker", "state", "operator", "reason"} <= set(shown)
