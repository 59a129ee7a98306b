"""However much is rejected, the log has few lines of it."""

from broker.rejections import TOLD_EVERY_S, Rejections


def test_the_first_is_told_at_once_and_the_others_together() -> None:
    made = Rejections()
    made.add("clients", "bad_frame", "no EP")
    (line,) = made.due(100.0)
    assert line.fields == {"endpoint": "clients", "code": "bad_frame", "error": "no EP", "count": 1}
    for number in range(500):
        made.add("clients", "bad_frame", f"another text {number}")
        assert made.due(100.0 + number / 100) == []
    (line,) = made.due(100.0 + TOLD_EVERY_S)
    assert line.fields["count"] == 500 and line.fields["error"] == "another text 499"
    assert made.due(1e9) == []


def test_a_peers_words_make_no_new_kinds() -> None:
    made = Rejections()
    for number in range(10_000):
        made.add("workers", "bad_message", f"unknown field {number}")
    assert len(made._kinds) == 1
    assert [line.fields["count"] for line in made.due(0.0)] == [10_000]
