"""Which outcomes are told, and how far ahead of their confirmation."""

from evenpost.wire import limits
from worker.outcome_rows import OutcomeRow, Rows
from worker.reporting import OUTCOMES_IN_FLIGHT_MAX, ROWS_IN_FLIGHT_MAX, Reporter


def row(index: int) -> OutcomeRow:
    return (1, 1, index, 1, "sent", "recipient", 250, "2.0.0 Ok", 1, 2)


def test_batches_that_end_are_told_though_the_broker_has_confirmed_nothing_yet() -> None:
    """It confirms what comes within 0.1 s together; at a campaign's end many batches of one message end in
    that time, and each server idles until its batch's end is told."""
    rows = Rows()
    reporter = Reporter(rows)
    told = []
    for number in range(OUTCOMES_IN_FLIGHT_MAX + 1):
        rows.add(row(number))
        reporter.ended(number)
        told += reporter.take(0.001 * number)
    assert OUTCOMES_IN_FLIGHT_MAX >= 4 * 16, "several batches each of sixteen connections"
    assert [report.done for report in told] == [[number] for number in range(OUTCOMES_IN_FLIGHT_MAX)]
    reporter.committed(1, 0.2)
    assert [report.done for report in reporter.take(0.2)] == [[OUTCOMES_IN_FLIGHT_MAX]]


def test_rows_gather_here_while_the_broker_cannot_confirm_any() -> None:
    rows = Rows()
    reporter = Reporter(rows)
    for number in range(ROWS_IN_FLIGHT_MAX + 3 * limits.OUTCOMES_ROWS_MAX):
        rows.add(row(number))
    reporter.hurry()
    told = reporter.take(1.0)
    assert sum(len(report.rows) for report in told) == ROWS_IN_FLIGHT_MAX
    reporter.committed(limits.OUTCOMES_ROWS_MAX, 1.1)
    reporter.hurry()
    assert [len(report.rows) for report in reporter.take(1.1)] == [limits.OUTCOMES_ROWS_MAX]
