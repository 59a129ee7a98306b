"""The short ways through a list end where the long one does: the same rows, words, lines and digest."""

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

from hypothesis import example, given, settings
from hypothesis import strategies as st

from client import input_csv, input_csv_cells, input_mappings, input_text
from client.addresses import are_plain, is_plain
from client.input_duplicates import RepeatCheck
from client.input_mappings import MappingRows
from client.input_rows import Batch
from client.problems import ProblemLog
from client.recipients import RecipientList
from evenpost.compose import SHORT_VALUE_CHARS, compile_template
from evenpost.wire.codec import unpack_values
from evenpost.wire.messages import Template

ADDRESSES = st.sampled_from(
    [
        "a@example.com", "b@example.com", "B@Example.com", "c.d+e@x-y.example.org", "ü@example.com", "",
        "q@example..com", "a@example.com\nb@example.com", "a@b", " ", " a@example.com", "a@-b.cd", "a.@b.cd",
        f"{'a' * 64}@b.cd", f"{'a' * 65}@b.cd", f"a@{'b' * 63}.cd", f"a@{'b' * 64}.cd", "a@@b.cd", "a@b.1d",
        f"a@{'.'.join(['b' * 61] * 3)}.co", f"a@{'.'.join(['b' * 61] * 3)}.com", "a@b.c", "a b@c.de", "\n",
        "a@b.cd-", "a@b.cd\n",
    ]
)  # fmt: skip


@given(st.lists(ADDRESSES | st.text("aA1.-@\n", max_size=8), max_size=6))
@example([])
@example(["a@example.com\nb@example.com"])
@example([f"{'a' * 65}@b.cd"])
@example([f"a@{'.'.join(['b' * 61] * 3)}.com"])
def test_plain_together_is_plain_each(addresses: list[str]) -> None:
    assert are_plain(addresses) == all(map(is_plain, addresses))


@given(st.lists(st.integers(0, 300), max_size=60), st.integers(1, 100), st.integers(1, 50), st.booleans())
def test_repeats_are_noticed_in_any_case(numbers: list[int], spill: int, step: int, capitals: bool) -> None:
    check = RepeatCheck(spill_bytes=8 * spill)
    for start in range(0, len(numbers), step):
        part = [f"p{n}@example.com" for n in numbers[start : start + step]]
        check.add([a.upper() for a in part] if capitals and start else part)
    assert check.any() == (len(set(numbers)) != len(numbers))
    check.close()


CELLS = ADDRESSES | st.sampled_from(
    ['"', '""', '"a,b"', '"a\nb"', '"x"y', '"', "\0", "ä", "\udce9", "n", "", ",", "\r", ";", "\u2028"]
)
LINES = st.lists(
    st.tuples(ADDRESSES, CELLS, CELLS).map(",".join) | st.lists(CELLS, max_size=4).map(",".join), max_size=12
)


@settings(deadline=None, max_examples=300)
@given(
    LINES, st.sampled_from(["\n", "\r\n", "\r"]), st.booleans(), st.integers(1, 200), st.integers(1, 200),
    st.sampled_from([("a",), ("b", "a"), (), ("a", "gone")]),
    st.sampled_from(["email,a,b", "a,b,email", '"a",email,b']),
)  # fmt: skip
@example(["a@b.cd,", "c@d.ef,,,"], "\n", True, 200, 200, (), "email,a,b")
@example(['"a\nb",a@example.com,"', "x"], "\n", False, 1, 1, ("a",), "a,email,b")
def test_a_csv_file_is_read_the_same_in_pieces_and_row_by_row(
    lines: list[str], line_end: str, ended: bool, block: int, piece: int, fields: tuple[str, ...], header: str
) -> None:
    text = line_end.join([header, *lines]) + (line_end if ended else "")
    data = text.encode("utf-8", "surrogateescape")

    def found() -> Any:
        with tempfile.NamedTemporaryFile() as file:
            Path(file.name).write_bytes(data)
            with RecipientList.open(file.name, fields=fields, delimiter=",") as recipients:
                checked = recipients.check(check_row=lambda *_: None)
                chunks = recipients.told_chunks(7, 10**6, skip_bad=True) if checked.good else ()
                rows = [row for chunk in chunks for row in chunk.rows]
        told = [(p.kind, p.line, p.field, p.reason) for p in checked.problems]
        return told, checked.total, checked.good, checked.digest, rows

    def changed(*ways: Any) -> Any:
        with ExitStack() as stack:
            for way in ways:
                stack.enter_context(way)
            return found()

    never: Callable[..., None] = lambda *_: None  # noqa: E731
    by_row = changed(patch.object(input_csv, "columns_of", never), patch.object(input_csv, "rows_of", never))
    assert found() == by_row
    small = (
        patch.object(input_text, "BLOCK_BYTES", block + 30),
        patch.object(input_csv_cells, "PIECE_CHARS", piece),
    )
    assert changed(*small) == by_row
    assert changed(*small, patch.object(input_csv, "columns_of", never)) == by_row


VALUES = st.sampled_from(
    [
        "x",
        "",
        "ä",
        "\0",
        "\udce9",
        "\n",
        0,
        7,
        -1,
        2**64,
        1.5,
        True,
        None,
        "y" * 101,
        [1],
        {"k": "v"},
        b"b",
        "z" * 70_000,
    ]
)
ROWS = st.lists(
    st.fixed_dictionaries({"email": ADDRESSES | st.none() | st.just(1), "a": VALUES}, optional={"b": VALUES}),
    min_size=1, max_size=6,
)  # fmt: skip


@example([{"email": "a@b.cd", "a": "\0"}], ("a",), True)
@example([{"email": "a@b.cd", "a": "z" * 70_000}], ("a",), False)
@example([{"email": "a@b.cd", "a": 7}], ("a",), False)
@example([{"email": "a@b.cd", "a": 2**64}], ("a",), True)
@given(ROWS, st.sampled_from([("a",), ("a", "b"), ()]), st.booleans())
def test_usual_mappings_become_what_any_mappings_become(
    items: list[Any], fields: tuple[str, ...], from_json: bool
) -> None:
    rows = MappingRows(fields, None, from_json=from_json)
    log, long_log = ProblemLog("list"), ProblemLog("list")
    batch = rows.usual_batch(5, items, log)
    if batch is None:
        assert log.total == 0
        return
    expected = rows.batch(list(enumerate(items, 5)), long_log, checking=True)
    assert (list(batch.lines), batch.addresses, batch.packed) == (
        list(expected.lines), expected.addresses, expected.packed
    )  # fmt: skip
    assert expected.incomplete == []
    assert log.kept() == long_log.kept()
    assert_simple(batch, fields)


def test_usual_mappings_are_taken() -> None:
    rows = MappingRows(("a", "b"), None)
    items = [{"email": "a@example.com", "a": "x", "b": 3}, {"email": "ü@example.com", "a": "", "b": True}]
    assert rows.usual_batch(1, items, ProblemLog("list")) is not None


@given(
    st.lists(
        st.tuples(ADDRESSES, st.text(max_size=3) | st.sampled_from(["\1", "y" * 101, "x" * 100])), max_size=6
    )
)
def test_what_a_csv_file_calls_simple_cant_fail_in_a_template_that_takes_it(
    pairs: list[tuple[str, str]],
) -> None:
    text = "".join(f"{a},{v}\n" for a, v in [("email", "a"), *pairs])
    with tempfile.NamedTemporaryFile() as file:
        Path(file.name).write_bytes(text.encode("utf-8", "surrogatepass"))
        with RecipientList.open(file.name, fields=["a"], delimiter=",") as recipients:
            source = recipients._source
            for batch in source.batches(ProblemLog("list"), checking=False, progress=None):
                assert_simple(batch, ("a",))


def assert_simple(batch: Batch, fields: tuple[str, ...]) -> None:
    if not batch.simple:
        return
    text = "".join(f"{{{{ {name} }}}}" for name in fields)
    template = Template("a@example.com", f"Hi {text}", text=text, fields=list(fields))
    composer = compile_template(template, campaign_id="x", created_at_ms=0)
    assert composer.takes_simple
    for address, packed in zip(batch.addresses, batch.packed, strict=True):
        values = unpack_values(packed)
        assert is_plain(address) and all(len(value) <= SHORT_VALUE_CHARS for value in values)
        composer.compose(0, address, values, 0.0)
        composer.envelope(address, values)


assert input_mappings.BATCH_ROWS >= 100  # a batch of these tests is one batch
