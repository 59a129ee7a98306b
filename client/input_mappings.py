"""JSONL files, and recipients from Python: each row names its own fields, and values may be nested."""

import difflib
import struct
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, compress, islice
from operator import itemgetter
from typing import Any, BinaryIO, cast

import msgspec

from client.input_rows import (
    BATCH_ROWS,
    EMAIL_NAMES,
    Batch,
    Incomplete,
    clean_addresses,
    guess_email_name,
    report_fat,
)
from client.input_text import ListText, Progress
from client.problems import ProblemLog, shown
from evenpost.compose import SHORT_VALUE_CHARS
from evenpost.wire import codec, limits
from evenpost.wire.errors import WireError

NumberedRows = list[tuple[int, Any]]

# What JSON can hold becomes the same bytes as by evenpost.wire.codec.pack_values, sooner; a test holds that.
_pack_json = msgspec.msgpack.Encoder().encode
_decode_json = msgspec.json.Decoder().decode

_unpack_record = msgspec.msgpack.Decoder(tuple[list[int], list[str], list[bytes], bool]).decode
_LENGTH = struct.Struct("!I")
_JSON_SCALARS = frozenset({str, int, float, bool})


class JsonlSource:
    """A file with a JSON object a line."""

    def __init__(self, text: ListText, fields: Sequence[str], email_key: str | None) -> None:
        self._text = text
        self.name = text.name
        self.missing_columns: tuple[str, ...] = ()
        self.header_line = 0
        self.rows_seen = 0
        self._rows = MappingRows(fields, email_key, from_json=True)
        self.columns = self._first_columns()

    def batches(self, log: ProblemLog, *, checking: bool, progress: Progress | None) -> Iterator[Batch]:
        self.rows_seen = 0
        lines_of_text, first = self._text.lines(progress), 1
        while lines := list(islice(lines_of_text, BATCH_ROWS)):
            batch = self._usual_batch(first, lines, log)
            if batch is None:
                batch = self._rows.batch(self._decoded(first, lines, log), log, checking=checking)
            if batch.addresses:
                yield batch
            first += len(lines)

    def check_unchanged(self) -> None:
        self._text.check_unchanged()

    def close(self) -> None:
        self._text.close()

    def _usual_batch(self, first: int, lines: list[str], log: ProblemLog) -> Batch | None:
        if self._text.suspicious:
            return None
        try:
            items = list(map(_decode_json, lines))
        except (ValueError, RecursionError):
            return None
        batch = self._rows.usual_batch(first, items, log)
        if batch is not None:
            self.rows_seen += len(items)
        return batch

    def _decoded(self, first: int, lines: list[str], log: ProblemLog) -> NumberedRows:
        items: NumberedRows = []
        for number, line in enumerate(lines, first):
            if not line.strip():
                continue
            self.rows_seen += 1
            if self._text.suspicious and (reason := self._text.undecodable(line)):
                log.add("wrong_encoding", number, reason, self._text.encoding_hint(line))
                continue
            try:
                item = msgspec.json.decode(line)
            except (ValueError, RecursionError) as error:  # msgspec's own errors are ValueErrors
                hint = 'Each line is one JSON object, such as {"email": "anna@example.com"}'
                log.add("bad_json", number, str(error), hint)
                continue
            if isinstance(item, dict):
                items.append((number, item))
            else:
                hint = "One object a line, please. From an array: jq -c '.[]' LIST.json > LIST.jsonl"
                log.add("bad_json", number, f"{shown(item)} is not an object", hint)
        return items

    def _first_columns(self) -> tuple[str, ...] | None:
        for line in islice(self._text.lines(), 100):
            try:
                item = msgspec.json.decode(line)
            except (ValueError, RecursionError):
                continue
            return self._rows.columns_of(item)
        return None


class IterableSource:
    """Addresses, or mappings with an address and merge fields, from Python. They can be had only once, so
    what is good goes to a temporary file as it is checked; nothing is held."""

    def __init__(self, items: Iterable[object], fields: Sequence[str], email_key: str | None) -> None:
        self.name = "recipients"
        self.missing_columns: tuple[str, ...] = ()
        self.header_line = 0
        self.rows_seen = 0
        self._rows = MappingRows(fields, email_key)
        iterator = iter(items)
        head = list(islice(iterator, 1))
        self.columns = self._rows.columns_of(head[0]) if head else None
        self._items: Iterator[object] | None = chain(head, iterator)
        # In memory while it is small: one transactional message needs no file.
        self._spool = cast(BinaryIO, tempfile.SpooledTemporaryFile(max_size=1024 * 1024))  # noqa: SIM115

    def batches(self, log: ProblemLog, *, checking: bool, progress: Progress | None) -> Iterator[Batch]:
        return self._spooled() if self._items is None else self._read(log, checking, progress)

    def check_unchanged(self) -> None:
        pass

    def close(self) -> None:
        self._spool.close()

    def _read(self, log: ProblemLog, checking: bool, progress: Progress | None) -> Iterator[Batch]:
        assert self._items is not None
        while items := list(islice(self._items, BATCH_ROWS)):
            first = self.rows_seen + 1
            self.rows_seen += len(items)
            batch = self._rows.usual_batch(first, items, log)
            if batch is None:
                known = self._known(list(enumerate(items, first)), log)
                batch = self._rows.batch(known, log, checking=checking)
            if batch.addresses:
                record = _pack_json((list(batch.lines), batch.addresses, batch.packed, batch.simple))
                self._spool.write(_LENGTH.pack(len(record)) + record)
                yield batch
            if progress is not None:
                progress(self.rows_seen, 0)
        self._items = None

    def _spooled(self) -> Iterator[Batch]:
        offset = 0
        while True:
            self._spool.seek(offset)
            length = self._spool.read(_LENGTH.size)
            if not length:
                return
            (size,) = _LENGTH.unpack(length)
            offset += _LENGTH.size + size
            lines, addresses, packed, simple = _unpack_record(self._spool.read(size))
            yield Batch(lines, addresses, packed, simple=simple)

    @staticmethod
    def _known(items: NumberedRows, log: ProblemLog) -> NumberedRows:
        if all(isinstance(item, str | dict) for _, item in items):
            return items
        known = []
        for number, item in items:
            if isinstance(item, str | Mapping):
                known.append((number, item))
            else:
                hint = "Give an address, or a mapping with 'email' and merge fields"
                log.add("bad_row", number, f"{shown(item)} is neither an address nor a mapping", hint)
        return known


class MappingRows:
    """Rows that are mappings or bare addresses, to batches."""

    def __init__(self, fields: Sequence[str], email_key: str | None, *, from_json: bool = False) -> None:
        self._from_json = from_json
        self._fields = tuple(fields)
        self._email_key = email_key
        self._email = email_key or EMAIL_NAMES[0]
        self._email_of = itemgetter(self._email)
        self._values_of = [itemgetter(name) for name in self._fields]

    def columns_of(self, item: object) -> tuple[str, ...] | None:
        """The merge fields of one row."""
        if not isinstance(item, Mapping):
            return None
        email = self._email_name(item)
        return tuple(str(name) for name in item if name != email)

    def usual_batch(self, first: int, items: list[Any], log: ProblemLog) -> Batch | None:
        """The batch of rows as they usually are: each a dict with an address and all the fields, which are
        texts, numbers or booleans. None where one of them needs the closer look that `batch` takes."""
        if set(map(type, items)) != {dict}:
            return None
        try:
            addresses = list(map(self._email_of, items))
            columns = [list(map(value_of, items)) for value_of in self._values_of]
        except KeyError:
            return None
        kinds = set(map(type, chain.from_iterable(columns)))
        if set(map(type, addresses)) != {str} or not kinds <= _JSON_SCALARS:
            return None
        texts = chain.from_iterable(columns) if kinds == {str} else _texts(columns)
        printable = (text := "".join(texts)).isprintable()
        if not printable and "\0" in text:
            return None
        try:
            packed = list(map(_pack_json, zip(*columns, strict=True) if columns else [()] * len(items)))
        except (ValueError, OverflowError):
            return None
        longest = max(map(len, packed))
        if longest > limits.ROW_FIELDS_BYTES_MAX:
            return None
        lines: Sequence[int] = range(first, first + len(items))
        cleaned, good = clean_addresses(addresses, lines, log, self._email)
        simple = cleaned is addresses and printable and kinds <= {str} and longest <= SHORT_VALUE_CHARS
        if good is not None:
            lines, cleaned = list(compress(lines, good)), list(compress(cleaned, good))
            packed = list(compress(packed, good))
        return Batch(lines, cleaned, packed, simple=simple)

    def batch(self, items: NumberedRows, log: ProblemLog, *, checking: bool) -> Batch:
        lines: list[int] = []
        raw: list[str] = []
        values: list[list[Any]] = []
        fields = self._fields
        nothing: list[Any] = [None] * len(fields)
        for line, item in items:
            address: Any = item
            row = nothing
            if not isinstance(item, str):
                address = item.get(self._email)
                if address is None:
                    address = item.get(self._email_name(item))
                row = [item.get(name) for name in fields]
            if not isinstance(address, str):
                self._report_address(log, line, address, item)
                continue
            lines.append(line)
            raw.append(address)
            values.append(row)
        addresses, good = clean_addresses(raw, lines, log, self._email)
        packed = self._packed(values, lines, log)
        if good is not None or None in packed:
            good = [bool(a) and p is not None for a, p in zip(addresses, packed, strict=True)]
            lines, addresses = list(compress(lines, good)), list(compress(addresses, good))
            values, packed = list(compress(values, good)), list(compress(packed, good))
        batch = Batch(lines, addresses, cast("list[bytes]", packed))
        if checking:
            batch.incomplete = [
                Incomplete(line, address, row, [f for f, v in zip(fields, row, strict=True) if v is None])
                for line, address, row in zip(lines, addresses, values, strict=True)
                if None in row
            ]
        return batch

    def _email_name(self, item: Mapping[Any, Any]) -> str | None:
        names = [name for name in item if isinstance(name, str)]
        if self._email_key is not None:
            return next((name for name in names if name.lower() == self._email_key.lower()), None)
        return guess_email_name(names)

    def _report_address(self, log: ProblemLog, line: int, address: object, item: Mapping[Any, Any]) -> None:
        if address is not None:
            log.add("bad_address", line, f"{shown(address)} is not a string", "", self._email)
            return
        names = [str(name) for name in islice(item, 20)]
        near = difflib.get_close_matches(self._email, names, 1)
        has = f"It has {', '.join(map(repr, names))}"
        hint = f"Is it {near[0]!r}? Then give --email-column" if near else has
        log.add("no_address", line, f"no {self._email!r}", hint if names else "", self._email)

    def _packed(self, values: list[list[Any]], lines: list[int], log: ProblemLog) -> Sequence[bytes | None]:
        if self._from_json:
            try:
                packed = list(map(_pack_json, values))
            except (ValueError, OverflowError, RecursionError):
                pass  # row by row, to say which
            else:
                if not any(0 in row or len(row) > limits.ROW_FIELDS_BYTES_MAX for row in packed):
                    return packed
        return [self._pack(row, line, log) for row, line in zip(values, lines, strict=True)]

    def _pack(self, values: list[Any], line: int, log: ProblemLog) -> bytes | None:
        """The values for the wire; None, and a word in the log, where they can't be sent."""
        try:
            packed = codec.pack_values(values)
            if any(isinstance(value, list | tuple | dict) for value in values):
                codec.unpack_values(packed)  # as a worker will: refuses keys that aren't strings
        except (TypeError, ValueError, OverflowError, RecursionError, WireError):
            self._report_value(values, line, log)
            return None
        if len(packed) > limits.ROW_FIELDS_BYTES_MAX:
            report_fat(log, line, len(packed))
            return None
        if 0 in packed:  # perhaps only a length
            for name, value in zip(self._fields, values, strict=True):
                if _has_nul(value):
                    log.add("nul", line, "a NUL character", "Remove it: no mail can carry it", name)
                    return None
        return packed

    def _report_value(self, values: list[Any], line: int, log: ProblemLog) -> None:
        for name, value in zip(self._fields, values, strict=True):
            try:
                codec.unpack_values(codec.pack_values([value]))
            except (TypeError, ValueError, OverflowError, RecursionError, WireError):
                kind = type(value).__name__
                hint = "Make it a string, a number, true or false, or lists and objects of these"
                log.add("bad_value", line, f"{shown(value)} ({kind}) can't be sent", hint, name)
                return


def _texts(columns: list[list[Any]]) -> Iterator[str]:
    return (value for column in columns for value in column if isinstance(value, str))


def _has_nul(value: object) -> bool:
    if isinstance(value, str):
        return "\0" in value
    if isinstance(value, Mapping):
        return any(_has_nul(part) for pair in value.items() for part in pair)
    return isinstance(value, list | tuple) and any(map(_has_nul, value))
