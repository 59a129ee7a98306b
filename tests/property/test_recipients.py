"""Any text survives the way through a file; skip_bad leaves exactly the good rows; duplicates are exact."""

import csv
import io
import json
import string
import tempfile
from pathlib import Path
from typing import Any

import pytest
from email_validator import EmailNotValidError, validate_email
from hypothesis import given, settings
from hypothesis import strategies as st

from client.addresses import AddressError, clean_address, is_plain
from client.input_duplicates import DuplicateFinder
from client.recipients import RecipientList
from evenpost.wire.codec import unpack_values

VALUES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
DELIMITERS = st.sampled_from(",;\t|")
GOOD = st.integers(0, 30).map(lambda n: f"p{n}@example.com")
ROW_ADDRESS = GOOD | st.sampled_from(["", "x", "a@b", "a b@example.com", "P7@Example.com"])


def read(data: bytes, fields: list[str], **options: Any) -> tuple[Any, list[tuple[str, list[Any]]]]:
    with tempfile.NamedTemporaryFile() as file:
        Path(file.name).write_bytes(data)
        with RecipientList.open(file.name, fields=fields, **options) as recipients:
            checked = recipients.check(check_row=lambda *_: None)
            chunks = recipients.chunks(rows_max=7, skip_bad=True) if checked.good else []
            return checked, [(a, unpack_values(v)) for chunk in chunks for a, v in chunk]


@given(
    st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=30),
    DELIMITERS,
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
)
def test_any_text_comes_through_csv(
    pairs: list[tuple[str, str]], delimiter: str, line_end: str, encoding: str
) -> None:
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=delimiter, lineterminator=line_end, quoting=csv.QUOTE_ALL)
    writer.writerow(["a", "email", "b"])
    line, lines = 2, []
    for i, (a, b) in enumerate(pairs):
        writer.writerow([a, f"p{i}@example.com", b])
        lines.append(line)
        line += 1 + sum(
            len(cell.replace("\r\n", "\n").replace("\r", "\n").split("\n")) - 1 for cell in (a, b)
        )
    writer.writerow(["", "bad", ""])
    checked, rows = read(out.getvalue().encode(encoding), ["a", "b"], delimiter=delimiter)
    assert rows == [(f"p{i}@example.com", [a, b]) for i, (a, b) in enumerate(pairs)]
    assert [p.line for p in checked.problems] == [line]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | VALUES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(VALUES, inner, max_size=4),
    max_leaves=10,
)  # fmt: skip


@given(
    st.lists(st.fixed_dictionaries({"x": JSON}, optional={"y": JSON}), min_size=1, max_size=20), st.booleans()
)
def test_any_value_comes_through_jsonl_and_iterables(items: list[dict[str, Any]], ascii_only: bool) -> None:
    rows_in = [{"email": f"p{i}@example.com", **item} for i, item in enumerate(items)]
    expected = [(row["email"], [row["x"], row.get("y")]) for row in rows_in]
    text = "\n".join(json.dumps(row, ensure_ascii=ascii_only) for row in rows_in)
    assert read(text.encode(), ["x", "y"])[1] == expected
    with RecipientList.open(iter(rows_in), fields=["x", "y"]) as recipients:
        assert recipients.check(check_row=lambda *_: None).problems_total == 0
        assert [(a, unpack_values(v)) for chunk in recipients.chunks() for a, v in chunk] == expected


@given(st.lists(st.tuples(ROW_ADDRESS, st.integers(1, 4)), max_size=60))
def test_skip_bad_leaves_the_first_of_each_good_address(rows_in: list[tuple[str, int]]) -> None:
    data = ["email;n;m"]
    seen: dict[str, int] = {}
    expected, bad_lines = [], []
    for line, (address, width) in enumerate(rows_in, 2):
        cells = [address, f"v{line}", "m", "too many"][:width]
        data.append(";".join(cells))
        if not any(cells):
            continue
        key = address.lower()
        if width != 3 or not is_plain(key) or key in seen:
            bad_lines.append(line)
        else:
            seen[key] = line
            local, _, domain = address.partition("@")
            expected.append((f"{local}@{domain.lower()}", [f"v{line}"]))
    checked, rows = read("\n".join(data).encode(), ["n"])
    assert rows == expected
    assert checked.good == len(expected)
    assert checked.total == len(expected) + len(bad_lines)
    assert [p.line for p in checked.problems if p.line] == bad_lines


@settings(deadline=None)
@given(st.lists(st.integers(0, 300), max_size=400), st.integers(1, 100), st.integers(1, 50))
def test_duplicates_are_exact(numbers: list[int], spill_rows: int, step: int) -> None:
    finder = DuplicateFinder(spill_bytes=24 * spill_rows)
    addresses = [f"p{n}@example.com" for n in numbers]
    for start in range(0, len(addresses), step):
        part = addresses[start : start + step]
        finder.add(range(start, start + len(part)), part)
    found = sorted(finder.duplicates(), key=lambda pair: pair[1])
    finder.close()
    expected = [(addresses.index(a), i) for i, a in enumerate(addresses) if addresses.index(a) != i]
    assert found == expected


@given(
    st.binary(max_size=400),
    st.sampled_from([b"email,n\n", b'{"email": "a@example.com"}\n', b"\xff\xfe", b""]),
)
def test_any_bytes_are_told_apart(data: bytes, head: bytes) -> None:
    from client.problems import InputError

    try:
        checked, rows = read(head + data, ["n"])
    except InputError as error:
        assert all(problem.reason for problem in error.problems)
    else:
        assert checked.good == len(rows) <= checked.total
        assert sum(checked.counts.values()) == len(checked.problems)


ADDRESS_CHARS = st.text(string.ascii_letters + string.digits + ".-+_'@ \"äß", max_size=30)


@given(st.emails() | st.tuples(ADDRESS_CHARS, ADDRESS_CHARS).map("@".join))
def test_fast_path_agrees_with_email_validator(address: str) -> None:
    def by_library(address: str) -> bool:
        try:
            validate_email(address, check_deliverability=False, test_environment=True)
        except EmailNotValidError:
            return False
        return True

    if is_plain(address) and not any(part in address for part in ("xn--", "--", ".local", ".arpa")):
        assert by_library(address) or address[-1].isdigit() or address.endswith((".onion", ".invalid"))
    try:
        clean = clean_address(address)
    except AddressError:
        assert not by_library(address) or len(address.partition("@")[0].encode()) > 64
    else:
        assert clean_address(clean) == clean
        assert clean.rpartition("@")[2].isascii()


@pytest.mark.parametrize("address", ["a@b.c-", "a@-b.cd", "a@b..cd", "a.@b.cd", "a@b.cd\n", "a@b.1d", "a@b"])
def test_fast_path_is_strict(address: str) -> None:
    assert not is_plain(address)
