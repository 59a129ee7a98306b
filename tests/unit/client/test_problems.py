import pytest

from client.problems import InputError, Problem, ProblemLog, counted, shown


@pytest.mark.parametrize(
    ("problem", "text"),
    [
        (Problem("x", "why", "Do this", "a.csv", 7, field="email"), "a.csv:7: email: why. Do this"),
        (Problem("x", "why", file="a.toml", line=3, column=5), "a.toml:3:5: why"),
        (Problem("x", "why", severity="warning"), "warning: why"),
    ],
)
def test_problem_reads_well(problem: Problem, text: str) -> None:
    assert str(problem) == text


def test_log_keeps_the_first_lines_of_each_kind_and_counts_all() -> None:
    log = ProblemLog("a.csv", kept_max=3)
    for line in (9, 4, 7, 1, 8, 2):
        log.add("duplicate", line, "twice")
    log.add("bad_address", 5, "no @", "", "email")
    assert [(p.kind, p.line) for p in log.kept()] == [
        ("duplicate", 1), ("duplicate", 2), ("duplicate", 4), ("bad_address", 5),
    ]  # fmt: skip
    assert dict(log.counts) == {"duplicate": 6, "bad_address": 1}
    assert log.total == 7


def test_problems_of_one_line_stay_in_order() -> None:
    log = ProblemLog("a.csv")
    for reason in ("one", "two", "three"):
        log.add("x", 1, reason)
    assert [p.reason for p in log.kept()] == ["one", "two", "three"]


def test_input_error_counts() -> None:
    error = InputError([Problem("x", "why")], total=1_200)
    assert error.message == str(error) == "why (and 1,199 more)"
    assert error.code == "bad_input"


@pytest.mark.parametrize(("number", "words"), [(0, "0 rows"), (1, "1 row"), (4_998, "4,998 rows")])
def test_counted(number: int, words: str) -> None:
    assert counted(number, "row") == words


def test_shown_hides_nothing_and_ends() -> None:
    assert shown("a\nb") == r"'a\nb'"
    assert len(shown("x" * 1000)) == 60
