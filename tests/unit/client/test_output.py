"""What people and spreadsheets get to see."""

import pytest

from client import output
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
    assert output.plain("550 5.1.1\tno\r\n such user") == "550 5.1.1 no such user"
    assert output.plain(12.5) == "12.5"


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
    assert output.duration(seconds) == words


def test_columns_and_rows_fit() -> None:
    assert len(output.worker_row(WORKER, 60)) == len(output.WORKER_COLUMNS)
    assert len(output.server_row(WORKER, 0)) == len(output.SERVER_COLUMNS)
    assert len(output.status_row(status())) == len(output.STATUS_COLUMNS)
    assert len(output.report_row(row(1), file=True)) == len(output.REPORT_COLUMNS)
    assert output.worker_row(WORKER, 60)[-1] == "50.0 %" and output.worker_row(WORKER, 0)[-1] == "-"


def test_times() -> None:
    assert output.utc_time(1_700_000_000_123) == "2023-11-14T22:13:20.123Z"
    assert output.utc_time(0) == "" == output.local_time(None)


def test_the_screen_of_a_watch_can_be_drawn() -> None:
    import io

    from rich.console import Console

    from client.output_live import _screen
    from evenpost.wire.messages import WatchUpdate

    console = Console(file=io.StringIO(), width=120, force_terminal=True)
    console.print(_screen(WatchUpdate([status(total=10, sent=4)], [WORKER])))
    console.print(_screen(WatchUpdate([], [])))
    text = console.file.getvalue()  # type: ignore[attr-defined]  # a StringIO
    assert "w1" in text and "40.0 % of 10" in text and "No campaign is running" in text
