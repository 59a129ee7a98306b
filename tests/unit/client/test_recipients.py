import io
import json
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from client import input_text
from client.input_duplicates import DuplicateFinder
from client.problems import InputError, Problem
from client.recipients import Checked, RecipientList, RecipientSource
from evenpost.wire import limits
from evenpost.wire.codec import pack_values, unpack_values

Rows = list[tuple[str, list[Any]]]


def read(
    source: RecipientSource, fields: Sequence[str] = (), *, skip_bad: bool = True, **options: Any
) -> tuple[Checked, Rows]:
    with RecipientList.open(source, fields=fields, **options) as recipients:
        checked = recipients.check()
        rows = [
            (address, unpack_values(packed))
            for chunk in recipients.chunks(skip_bad=skip_bad)
            for address, packed in chunk
        ]
    return checked, rows


def told(checked: Checked) -> list[tuple[str, int, str]]:
    return [(p.kind, p.line, p.field) for p in checked.problems]


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write(content: str | bytes, name: str = "list.csv") -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def one_problem(source: RecipientSource, **options: Any) -> Problem:
    with pytest.raises(InputError) as caught:
        RecipientList.open(source, **{"fields": (), **options})
    (problem,) = caught.value.problems
    return problem


@pytest.mark.parametrize("delimiter", list(",;\t|"))
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_usual_csv_is_read(write: Any, delimiter: str, line_end: str, encoding: str) -> None:
    lines = ["First name,E-Mail,city", "Zoë,zoe@example.com,", '"Jürgen, Dr.",j@Example.org,"a ""b"""']
    text = line_end.join(line.replace(",", delimiter) for line in lines) + line_end
    path = write(text.encode(encoding))
    checked, rows = read(path, ["first_name", "city"], skip_bad=False)
    assert rows == [
        ("zoe@example.com", ["Zoë", ""]),
        ("j@example.org", [f"Jürgen{delimiter} Dr.", 'a "b"']),
    ]
    assert (checked.total, checked.good, checked.problems_total) == (2, 2, 0)


def test_only_the_fields_asked_for_are_packed_in_their_order(write: Any) -> None:
    path = write("a,email,b,c\n1,x@example.com,2,3\n")
    assert read(path, ["c", "a"])[1] == [("x@example.com", ["3", "1"])]
    assert read(path, ["b"])[1] == [("x@example.com", ["2"])]
    assert read(path)[1] == [("x@example.com", [])]
    with RecipientList.open(path, fields=()) as recipients:
        assert recipients.columns == ("a", "b", "c")
        assert list(recipients.chunks()) == [[("x@example.com", pack_values([]))]]


def test_packed_values_are_the_codecs(write: Any) -> None:
    values = ["", "a" * 31, "b" * 32, "ü" * 200, "c" * 40_000]
    path = write("email,v,w\n" + "".join(f"a{i}@example.com,{v},x\n" for i, v in enumerate(values)))
    with RecipientList.open(path, fields=["v", "w"]) as recipients:
        (chunk,) = recipients.chunks()
    assert [packed for _, packed in chunk] == [pack_values([value, "x"]) for value in values]


def test_every_problem_has_its_line(write: Any) -> None:
    path = write(
        "email,name,note\n"  # 1
        "a@example.com,A,\n"  # 2
        "not an address,B,\n"  # 3
        '"b@example.com","B\nB\r\nB","x"\n'  # 4-6
        "A@EXAMPLE.com,again,\n"  # 7
        "\n"  # 8
        ",,\n"  # 9: empty
        "c@example.com,short\n"  # 10
        "d@example.com,long,x,y\n"  # 11
        "e@example.com,fine,x,,\n"  # 12
        ",nobody,\n"  # 13
        "f@example.com,N\0UL,\n"  # 14
        "c@@example.com,short\n"  # 15
        '"g@example.com"x,quote,\n'  # 16
        "b@example.com,third,\n"  # 17
        "h@example.com,fine,\n"  # 18
    )
    checked, rows = read(path, ["name"])
    assert told(checked) == [
        ("bad_address", 3, "email"), ("duplicate", 7, "email"), ("short_row", 10, ""), ("long_row", 11, ""),
        ("bad_address", 13, "email"), ("nul", 14, "name"), ("short_row", 15, ""), ("bad_row", 16, ""),
        ("duplicate", 17, "email"),
    ]  # fmt: skip
    assert rows == [
        ("a@example.com", ["A"]), ("b@example.com", ["B\nB\r\nB"]), ("e@example.com", ["fine"]),
        ("h@example.com", ["fine"]),
    ]  # fmt: skip
    assert checked.total == 13
    assert checked.good == 4
    assert all(p.file == str(path) and p.reason for p in checked.problems)
    assert "line 2" in checked.problems[1].reason
    assert "line 4" in checked.problems[-1].reason
    with RecipientList.open(path, fields=["name"]) as recipients, pytest.raises(InputError) as caught:
        next(recipients.chunks())
    assert caught.value.total == 9


def test_unclosed_quote_is_told_where_it_begins(write: Any) -> None:
    checked, rows = read(write('email,n\na@example.com,1\nb@example.com,"2\nc@example.com,3\n'), ["n"])
    assert told(checked) == [("bad_row", 3, "")]
    assert "never closed" in checked.problems[0].reason
    assert rows == [("a@example.com", ["1"])]


def test_wrong_encoding_names_lines_and_the_likely_one(write: Any) -> None:
    path = write("email,name\na@example.com,Jürgen\nb@example.com,Bo\n".encode("cp1252"))
    checked, rows = read(path, ["name"])
    assert told(checked) == [("wrong_encoding", 2, "name")]
    assert "0xFC" in checked.problems[0].reason
    assert "Jürgen" in checked.problems[0].hint
    assert "cp1252" in checked.problems[0].hint
    assert rows == [("b@example.com", ["Bo"])]
    assert read(path, ["name"], encoding="cp1252")[1][0] == ("a@example.com", ["Jürgen"])


def test_kinds_of_files_that_are_no_lists(write: Any, tmp_path: Path) -> None:
    assert "gzip" in one_problem(write(b"\x1f\x8b\x08\0")).reason
    assert "CSV UTF-8" in one_problem(write(b"PK\x03\x04")).hint
    assert "utf-16-le" in one_problem(write("email\na@example.com\n".encode("utf-16-le"))).hint
    assert one_problem(tmp_path / "none.csv").kind == "unreadable"
    assert one_problem(tmp_path).kind == "unreadable"
    assert "evenpost send" in one_problem("anna@example.com").hint
    assert one_problem(write("")).kind == "empty"
    assert one_problem(write("\n\n")).kind == "empty"
    assert one_problem(write("anna@example.com\n")).kind == "no_header"
    assert one_problem(write("name,phone\nA,1\n")).kind == "missing_column"
    assert one_problem(write("email\n"), encoding="utf-9").kind == "bad_option"
    assert one_problem(write("email\n"), encoding="base64").kind == "bad_option"
    assert one_problem(write("email\n"), delimiter=",,").kind == "bad_option"
    assert one_problem(write("email\n"), email_column="mail").kind == "missing_column"
    assert one_problem(write("email,n,N\n"), fields=["_n"]).kind == "double_column"


def test_line_without_end_is_refused(write: Any) -> None:
    path = write("email,x\na@example.com," + "x" * 2_000_000)
    with RecipientList.open(path, fields=()) as recipients, pytest.raises(InputError, match="million"):
        recipients.check()


def test_email_column_and_excels_sep_line(write: Any) -> None:
    path = write("sep=|\nemail|Contact|x\n-|a@example.com|1\n")
    checked, rows = read(path, ["x"], email_column="contact")
    assert rows == [("a@example.com", ["1"])]
    assert checked.problems_total == 0
    path = write("sep=;\nemail\nbad\n")
    assert told(read_all(path)) == [("empty", 0, ""), ("bad_address", 3, "email")]


def read_all(source: RecipientSource, fields: Sequence[str] = ()) -> Checked:
    with RecipientList.open(source, fields=fields) as recipients:
        return recipients.check()


@pytest.mark.parametrize("text", ["email\n", "email\n\n\n", "email,n\nx,1\n"])
def test_nothing_left_is_fatal_even_when_bad_rows_are_skipped(write: Any, text: str) -> None:
    checked = read_all(write(text))
    assert checked.fatal
    assert "empty" in checked.counts
    with pytest.raises(InputError):
        checked.raise_for_problems(skip_bad=True)


def test_missing_column_is_told_once_and_is_fatal(write: Any) -> None:
    path = write("email\n" + "".join(f"a{i}@example.com\n" for i in range(50)))
    checked = read_all(path, ["name"])
    assert told(checked) == [("missing_column", 1, "name")]
    assert checked.fatal


def test_check_row_decides_on_missing_columns(write: Any) -> None:
    path = write("email,vip\n" + "".join(f"a{i}@example.com,{'yes' if i == 7 else ''}\n" for i in range(50)))
    calls = []

    def check_row(line: int, address: str, values: Sequence[object]) -> str | None:
        calls.append(line)
        return "'name' is undefined" if values[0] == "yes" else None

    with RecipientList.open(path, fields=["vip", "name"]) as recipients:
        checked = recipients.check(check_row=check_row)
        assert told(checked) == [("missing_column", 1, "name")]
        assert "line 9" in checked.problems[0].reason
        assert calls == list(range(2, 10))
    with RecipientList.open(path, fields=["vip", "name"]) as recipients:
        assert recipients.check(check_row=lambda *_: None).problems_total == 0
        assert unpack_values(next(recipients.chunks())[0][1]) == ["", None]


def test_a_missing_column_hides_no_duplicate(write: Any) -> None:
    """The row that shows that the column is missing is the first of two with one address."""
    file = write("email\na@example.com\nb@example.com\nA@example.com\n")
    with RecipientList.open(file, fields=["name"]) as recipients:
        checked = recipients.check(check_row=lambda line, address, values: "'name' is undefined")
    assert {(p.kind, p.line) for p in checked.problems} == {("missing_column", 1), ("duplicate", 4)}


def test_check_row_is_never_asked_about_full_rows(write: Any) -> None:
    path = write("email,n\na@example.com,\n")

    def check_row(*_: object) -> str | None:
        raise AssertionError

    with RecipientList.open(path, fields=["n"]) as recipients:
        assert recipients.check(check_row=check_row).good == 1


def test_jsonl(write: Any) -> None:
    lines = [
        '{"email": "a@example.com", "n": {"x": [1, 2.5, true, null, "ü"]}, "m": 0}',
        '{"Email": "b@example.com", "m": 18446744073709551615}',
        "",
        '{"email": "c@example.com", "n": null, "m": 1}',
        '{"email": "d@example.com", "n": 99999999999999999999999, "m": 1}',
        '{"email": 5}',
        '{"e_mail": "x@example.com"}',
        '{"email": "e@example.com", ',
        '["f@example.com"]',
        '{"email": "a@EXAMPLE.com", "n": 1, "m": 1}',
        '{"email": "g@example.com", "n": "\\u0000", "m": 1}',
        '{"email": "h@example.com", "n": "' + "x" * 70_000 + '", "m": 1}',
        '{"email": "i@example.com", "n": "\\ud800", "m": 1}',
    ]
    path = write("\n".join(lines), "list.jsonl")
    with RecipientList.open(path, fields=["n", "m"]) as recipients:
        assert recipients.columns == ("n", "m")
        checked = recipients.check(check_row=lambda line, *_: "'n' is undefined" if line == 4 else None)
        rows = [row for chunk in recipients.chunks(skip_bad=True) for row in chunk]
    assert [(kind, line) for kind, line, _ in told(checked)] == [
        ("missing_value", 4), ("bad_value", 5), ("bad_address", 6), ("no_address", 7), ("bad_json", 8),
        ("bad_json", 9), ("duplicate", 10), ("nul", 11), ("fat_row", 12), ("bad_json", 13),
    ]  # fmt: skip
    assert checked.problems[0].field == "n"
    assert "'e_mail'" in checked.problems[3].hint
    assert rows == [
        ("a@example.com", pack_values([{"x": [1, 2.5, True, None, "ü"]}, 0])),
        ("b@example.com", pack_values([None, 2**64 - 1])),
    ]


def test_jsonl_without_hook_reports_each_missing_value(write: Any) -> None:
    checked, rows = read(write('{"email": "a@example.com"}\n{"email": "b@example.com", "n": 1}\n'), ["n"])
    assert told(checked) == [("missing_value", 1, "n")]
    assert rows == [("b@example.com", [1])]


def test_json_array_gets_a_hint(write: Any) -> None:
    checked = read_all(write('[{"email": "a@example.com"}]', "list.json"))
    assert any("jq" in p.hint for p in checked.problems)


def test_wrong_encoding_in_jsonl(write: Any) -> None:
    path = write(
        '{"email": "a@example.com", "n": "é"}\n{"email": "b@example.com", "n": ""}\n'.encode("cp1252")
    )
    checked, rows = read(path, ["n"])
    assert told(checked) == [("wrong_encoding", 1, "")]
    assert rows == [("b@example.com", [""])]


def test_iterables_are_read_once_and_streamed_twice() -> None:
    def people() -> Iterator[Any]:
        for i in range(3_500):
            yield {"email": f"A{i}@Example.com", "n": i}
        yield "plain@example.com"
        yield {"email": "a5@example.com", "n": 5}
        yield 17
        yield {"email": "x@example.com", "n": date(2026, 1, 1)}
        yield {"email": "y@example.com", "n": {1: 2}}

    with RecipientList.open(people(), fields=["n"]) as recipients:
        assert recipients.columns == ("n",)
        checked = recipients.check(check_row=lambda *_: None)
        assert [(p.kind, p.line) for p in checked.problems] == [
            ("duplicate", 3502), ("bad_row", 3503), ("bad_value", 3504), ("bad_value", 3505),
        ]  # fmt: skip
        first = list(recipients.chunks(skip_bad=True))
        assert first == list(recipients.chunks(skip_bad=True))
    rows = [row for chunk in first for row in chunk]
    assert len(rows) == checked.good == 3_501
    assert rows[0] == ("A0@example.com", pack_values([0]))
    assert rows[-1] == ("plain@example.com", pack_values([None]))


def test_list_of_addresses() -> None:
    assert read(["a@example.com", "b@example.com"])[1] == [("a@example.com", []), ("b@example.com", [])]
    assert read_all([]).fatal


def test_standard_input_and_pipes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    content = b"email\na@example.com\nbad\n"

    class Stdin:
        buffer = io.BytesIO(content)

    monkeypatch.setattr(sys, "stdin", Stdin())
    checked, rows = read("-")
    assert rows == [("a@example.com", [])]
    assert checked.problems[0].file == "standard input"

    fifo = tmp_path / "pipe"
    os.mkfifo(fifo)
    writer = threading.Thread(target=fifo.write_bytes, args=(content,))
    writer.start()
    assert read(fifo)[1] == [("a@example.com", [])]
    writer.join()


def test_chunks_are_bounded_and_the_same_each_time(write: Any) -> None:
    path = write("email,n\n" + "".join(f"a{i}@example.com,{'x' * (i % 97)}\n" for i in range(4_321)))
    with RecipientList.open(path, fields=["n"]) as recipients:
        whole = [row for chunk in recipients.chunks() for row in chunk]
        assert len(whole) == 4_321
        for rows_max, bytes_max in ((100, 10**9), (1_000, 10**9), (7_000, 5_000), (50, 4_000), (1, 1)):
            chunks = list(recipients.chunks(rows_max, bytes_max))
            assert [row for chunk in chunks for row in chunk] == whole
            assert all(0 < len(chunk) <= rows_max for chunk in chunks)
            if bytes_max > 1:
                assert all(sum(len(a) + len(v) + 10 for a, v in chunk) <= bytes_max for chunk in chunks)
            assert list(recipients.chunks(rows_max, bytes_max)) == chunks


def test_changed_file_is_noticed(write: Any) -> None:
    path = write("email\n" + "".join(f"a{i}@example.com\n" for i in range(30_000)))
    with RecipientList.open(path, fields=()) as recipients:
        chunks = recipients.chunks(rows_max=1_000)
        next(chunks)
        with path.open("a") as file:
            file.write("more@example.com\n")
        with pytest.raises(InputError, match="changed"):
            list(chunks)


def test_replaced_file_is_no_harm(write: Any, tmp_path: Path) -> None:
    path = write("email\na@example.com\n")
    with RecipientList.open(path, fields=()) as recipients:
        recipients.check()
        other = write("email\nb@example.com\n", "other.csv")
        other.replace(path)
        assert [a for chunk in recipients.chunks() for a, _ in chunk] == ["a@example.com"]


def test_progress_ends_at_the_size(write: Any) -> None:
    path = write("email\n" + "".join(f"a{i}@example.com\n" for i in range(60_000)))
    seen: list[tuple[int, int]] = []
    with RecipientList.open(path, fields=()) as recipients:
        recipients.check(progress=lambda done, total: seen.append((done, total)))
    assert len(seen) > 2
    assert seen == sorted(seen)
    assert seen[-1] == (path.stat().st_size, path.stat().st_size)


def test_problems_are_bounded_and_counted(write: Any) -> None:
    path = write("email\n" + "bad\n" * 5_000 + "a@example.com\n" * 3_000)
    checked = read_all(path)
    assert checked.counts == {"bad_address": 5_000, "duplicate": 2_999}
    assert len(checked.problems) == 2_000
    assert checked.problems_total == 7_999
    assert [p.line for p in checked.problems] == [*range(2, 1_002), *range(5_003, 6_003)]


def test_rows_across_blocks(write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    text = 'email,n\r\na@example.com,"ü\r\nü"\r\nb@example.com,€\r\nbad,x\r\n'
    for size in range(1, 30):
        monkeypatch.setattr(input_text, "BLOCK_BYTES", size)
        for encoding in ("utf-8-sig", "utf-16"):
            path = write(text.encode(encoding))
            with RecipientList.open(path, fields=["n"], encoding=encoding) as recipients:
                checked = recipients.check()
                rows = [(a, unpack_values(v)) for c in recipients.chunks(skip_bad=True) for a, v in c]
            assert rows == [("a@example.com", ["ü\r\nü"]), ("b@example.com", ["€"])], size
            assert told(checked) == [("bad_address", 5, "email")]


def test_fat_row_is_told(write: Any) -> None:
    value = "x" * limits.ROW_FIELDS_BYTES_MAX
    checked, rows = read(write(f"email,n\na@example.com,{value}\nb@example.com,y\n"), ["n"])
    assert told(checked) == [("fat_row", 2, "")]
    assert rows == [("b@example.com", ["y"])]
    assert read(write(f"email,n\na@example.com,{value}\n"))[1] == [("a@example.com", [])]


def test_email_is_no_field() -> None:
    with pytest.raises(ValueError, match="email"):
        RecipientList.open([], fields=["email"])


def test_duplicates_beyond_memory() -> None:
    finder = DuplicateFinder(spill_bytes=12_000)
    addresses = [f"a{i}@example.com" for i in range(4_000)]
    addresses[3_100] = "A17@example.com"
    addresses[3_900] = "a17@Example.com"
    addresses[2] = addresses[1]
    for start in range(0, 4_000, 300):
        finder.add(range(start, min(start + 300, 4_000)), addresses[start : start + 300])
    assert sorted(finder.duplicates()) == [(1, 2), (17, 3_100), (17, 3_900)]
    finder.close()


def test_newsletter_example_is_good() -> None:
    folder = Path(__file__).parents[3] / "examples" / "newsletter"
    checked, rows = read(folder / "recipients.csv", ["first_name", "loans"], skip_bad=False)
    assert checked.good == len(rows) == 5_000
    assert rows[0] == ("misaki1.garcia-nunez@example.net", ["美咲", "1"])


@pytest.mark.parametrize("empty", [",\n", " , \n", "\n", "\t\n", ",,,\n"])
def test_empty_rows_are_no_problem(write: Any, empty: str) -> None:
    checked, rows = read(write("email,n\na@example.com,1\n" + empty), ["n"])
    assert (checked.problems_total, checked.total) == (0, 1)
    assert rows == [("a@example.com", ["1"])]


def test_mark_of_an_encoding_that_is_given(write: Any) -> None:
    path = write("\ufeffemail\na@example.com\n".encode("utf-16-le"))
    assert read(path, encoding="utf-16-le")[1] == [("a@example.com", [])]


def test_nul_in_otherwise_good_jsonl(write: Any) -> None:
    checked, rows = read(
        write('{"email": "a@example.com", "n": ["\\u0000"]}\n{"email": "b@c.de", "n": 0}\n'), ["n"]
    )
    assert told(checked) == [("nul", 1, "n")]
    assert rows == [("b@c.de", [0])]


# --- the digest: which list is it? ------------------------------------------------------------------


def digest(source: RecipientSource, fields: Sequence[str] = ("name",), **options: Any) -> str:
    with RecipientList.open(source, fields=fields, **options) as recipients:
        found = recipients.check().digest
        assert recipients.check().digest == found
    return found


LIST = "email,name,other\n" + "".join(f"a{i}@example.com,N{i},{i}\n" for i in range(2_500))


def test_the_digest_is_that_of_the_rows_whatever_they_come_from(write: Any) -> None:
    rows = [{"email": f"a{i}@example.com", "name": f"N{i}"} for i in range(2_500)]
    found = digest(write(LIST))
    assert found == digest(write(LIST))
    assert 16 <= len(found) <= limits.DIGEST_CHARS_MAX
    assert digest(rows) == found
    assert digest(iter(rows)) == found
    assert digest(write("".join(json.dumps(row) + "\n" for row in rows), "list.jsonl")) == found
    assert digest(write(LIST.replace("\n", "\r\n").replace("\r\n", "\r\n\r\n", 7))) == found


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("a2499@example.com,N2499", "b2499@example.com,N2499"),  # another address
        ("a7@example.com,N7", "a7@example.com,M7"),  # another value
        ("a7@example.com,N7,7\n", ""),  # one less
        ("a2499@example.com,N2499,2499\n", ""),  # the last one less
        ("other\n", "other\nnew@example.com,New,1\n"),  # one more
        ("a7@example.com,N7,7\na8@example.com,N8", "a8@example.com,N8,8\na7@example.com,N7"),  # another order
        ("a7@example.com,N7,7\na8@example.com,N8", "a7@example.com,N8,7\na8@example.com,N7"),
    ],
)
def test_a_list_that_differs_in_one_place_has_another_digest(write: Any, old: str, new: str) -> None:
    assert old in LIST
    assert digest(write(LIST.replace(old, new, 1))) != digest(write(LIST))


def test_how_a_list_is_read_is_part_of_its_digest(write: Any) -> None:
    path = write("email,mail2,name,n2\na@example.com,b@example.com,\xe9;x,y\n")
    usual = digest(path)
    assert digest(path, ["n2"]) != usual
    assert digest(path, ["name", "n2"]) != digest(path, ["n2", "name"])
    assert digest(path, email_column="mail2") != usual
    assert digest(path, encoding="latin-1") != usual
    split = write("email,n;x;email\na@example.com,1;2;b@example.com\n")
    assert digest(split, [], delimiter=",") == digest(["a@example.com"], [])
    assert digest(split, [], delimiter=";") == digest(["b@example.com"], []) != digest(["a@example.com"], [])


def test_bad_rows_that_are_left_out_are_part_of_the_digest_only_as_far_as_they_are_read(write: Any) -> None:
    good = "email,name\na@example.com,A\nb@example.com,B\n"
    assert digest(write(good + "nonsense,C\n")) == digest(write(good))
    assert digest(write(good + "a@example.com,C\n")) != digest(write(good))
