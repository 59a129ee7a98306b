"""The contract's bound, read from outcome logs as a fault leaves them."""

from pathlib import Path

from scripts.chaoslab.bound import Exposure, exposure_of
from worker.outcome_log import OutcomeLog
from worker.outcome_rows import OutcomeRow


def row(batch: int, index: int) -> OutcomeRow:
    return (batch, 7, index, 1, "sent", "recipient", 250, "ok", 1, 2)


def test_it_is_what_was_begun_and_what_is_not_confirmed(tmp_path: Path) -> None:
    log = OutcomeLog.open(tmp_path / "log", now_ms=1)
    for index in range(4):
        log.begin(5, 7, index, 1, 1)
    log.flush()
    assert exposure_of(tmp_path / "log").messages == 4
    for index in range(3):
        log.add(row(5, index))
    log.flush()
    log.rows.confirm(log.rows.next - 1)
    log.flush()
    found = exposure_of(tmp_path / "log")
    assert (found.pipeline, found.uncommitted) == ({(5, 3)}, {(5, 2)})
    log.close()


def test_two_faults_that_expose_the_same_attempt_expose_it_once() -> None:
    both = Exposure({(5, 1)}, set())
    both.add(Exposure(set(), {(5, 1), (5, 2)}))
    assert both.messages == 2


def test_a_worker_that_has_no_log_yet_exposes_nothing(tmp_path: Path) -> None:
    assert exposure_of(tmp_path / "none").messages == 0
    (tmp_path / "empty").touch()
    assert exposure_of(tmp_path / "empty").messages == 0
