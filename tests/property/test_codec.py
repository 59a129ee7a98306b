"""Every message survives the wire; nothing that comes from it raises anything but WireError."""

import tracemalloc

import msgpack
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenpost.wire import codec
from evenpost.wire import messages as wire
from evenpost.wire.errors import Code, WireError

EVERY = frozenset(wire.Type)
text = st.text(max_size=20)
name = st.text(min_size=1, max_size=20)
count = st.integers(0, 2**63 - 1)

st.register_type_strategy(str, text)


def any_of(type_: type[msgspec.Struct]) -> st.SearchStrategy[msgspec.Struct]:
    """A strategy for a struct from its type's own description."""
    fields = {f.encode_name: _strategy(f.type) for f in msgspec.inspect.type_info(type_).fields}  # type: ignore[union-attr]  # a struct has fields
    return st.builds(
        lambda **values: msgspec.convert(values, type_) if not _is_row(type_) else type_(**values), **fields
    )


def _is_row(type_: type[msgspec.Struct]) -> bool:
    return bool(type_.__struct_config__.array_like)


def _strategy(info: msgspec.inspect.Type) -> st.SearchStrategy[object]:
    kind = msgspec.inspect
    match info:
        case kind.IntType():
            low = info.ge if info.ge is not None else -(2**31)
            return st.integers(low, info.le if info.le is not None else 2**31)
        case kind.FloatType():
            low_f = info.ge if info.ge is not None else -1e9
            return st.floats(low_f, info.le if info.le is not None else 1e9, allow_nan=False)
        case kind.BoolType():
            return st.booleans()
        case kind.StrType():
            return st.text(min_size=info.min_length or 0, max_size=max(info.min_length or 0, 15))
        case kind.BytesType():
            return st.binary(max_size=15)
        case kind.NoneType():
            return st.none()
        case kind.LiteralType():
            return st.sampled_from(info.values)
        case kind.UnionType():
            return st.one_of([_strategy(t) for t in info.types])
        case kind.ListType():
            low = info.min_length or 0
            return st.lists(_strategy(info.item_type), min_size=low, max_size=low + 2)
        case kind.TupleType():
            return st.tuples(*[_strategy(t) for t in info.item_types])
        case kind.DictType():
            return st.dictionaries(_strategy(info.key_type), _strategy(info.value_type), max_size=2)  # type: ignore[arg-type]  # keys are text
        case kind.StructType():
            return any_of(info.cls)
    raise AssertionError(info)


@pytest.mark.parametrize("type_", sorted(wire.Type), ids=lambda t: t.name)
def test_every_message_survives_the_wire(type_: wire.Type) -> None:
    @given(any_of(wire.BY_TYPE[type_]), count)
    def check(message: wire.Message, request: int) -> None:
        got = codec.decode(codec.encode(message, request), {type_})
        assert got == codec.Decoded(request, message)
        assert type(got.message) is type(message)

    check()


@pytest.mark.parametrize("type_", [wire.Type.BATCH, wire.Type.RECIPIENTS, wire.Type.OUTCOMES])
def test_a_raw_body_is_what_its_struct_says(type_: wire.Type) -> None:
    rows = "items" if type_ is wire.Type.BATCH else "rows"

    @given(any_of(wire.BY_TYPE[type_]))
    def check(message: wire.Message) -> None:
        body = msgspec.structs.asdict(message)
        body[rows] = [msgspec.structs.astuple(row) for row in body[rows]]
        assert codec.encode_raw(type_, body) == codec.encode(message)

    check()


@given(st.lists(st.binary(max_size=200), max_size=4))
def test_garbage_is_refused_in_words(frames: list[bytes]) -> None:
    with pytest.raises(WireError) as refused:
        codec.decode(frames, EVERY)
    assert refused.value.message


@given(st.sampled_from(sorted(wire.Type)), st.binary(max_size=300))
def test_a_garbage_body_is_refused_or_means_something(type_: wire.Type, body: bytes) -> None:
    header = codec.encode(wire.Done())[0]
    frames = [header[:3] + bytes([type_]) + header[4:], body]
    try:
        message = codec.decode(frames, EVERY).message
    except WireError as error:
        assert error.code in (Code.BAD_MESSAGE, Code.BAD_FRAME)
    else:
        assert isinstance(message, wire.BY_TYPE[type_])


def test_another_version_is_refused_with_what_to_do() -> None:
    header, body = codec.encode(wire.Done())
    with pytest.raises(WireError, match=r"speaks version 9 .* version 3") as refused:
        codec.decode([header[:2] + b"\x09" + header[3:], body], EVERY)
    assert refused.value.code is Code.BAD_VERSION


def test_an_error_names_the_field() -> None:
    frames = codec.encode_raw(wire.Type.COMMIT, {"campaign": "c", "chunks": -1, "recipients": 2})
    with pytest.raises(WireError, match=r"COMMIT: .*\$\.chunks"):
        codec.decode(frames, EVERY)
    frames = codec.encode_raw(wire.Type.PAUSE, {"campaign": "c", "surprise": 1})
    with pytest.raises(WireError, match="surprise"):
        codec.decode(frames, EVERY)


def test_a_type_that_is_not_for_this_side_is_refused() -> None:
    with pytest.raises(WireError, match="not accepted on this endpoint"):
        codec.decode(codec.encode(wire.SetServer("w")), wire.FROM_WORKER)


@given(st.lists(st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), text, st.binary())))
def test_merge_values_survive(values: list[object]) -> None:
    assert codec.unpack_values(codec.pack_values(values)) == values


HOSTILE = {
    "deep": b"\x91" * 5_000,
    "deep maps": b"\x81\xa1a" * 5_000,
    "invalid UTF-8": b"\x81\xa8campaign\xa2\xff\xfe",
    "surrogates": b"\x81\xa8campaign\xa3\xed\xa0\x80",
    "a timestamp": b"\x81\xa8campaign\xd6\xff\xff\xff\xff\xff",
    "a timestamp out of range": b"\x81\xa8campaign\xc7\x0c\xff" + b"\xff" * 12,
    "an ext type": b"\x81\xa8campaign\xd4\x05\x01",
    "NaN": b"\x81\xabinterval_s\xca\x7f\xc0\x00\x00",
    "infinity": b"\x81\xabinterval_s\xca\x7f\x80\x00\x00",
    "a huge integer": b"\x81\xa5limit\xcf" + b"\xff" * 8,
    "a length that is a lie": b"\xdd\xff\xff\xff\xff",
    "a map's length that is a lie": b"\xdf\xff\xff\xff\xff",
    "a list as a key": b"\x81\x90\x90",
    "more behind the end": b"\x80\x80",
    "nothing": b"",
}


@pytest.mark.parametrize("type_", sorted(wire.Type), ids=lambda t: t.name)
@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE)
def test_nothing_but_a_wire_error_comes_of_hostile_bodies(type_: wire.Type, body: bytes) -> None:
    with pytest.raises(WireError) as refused:
        codec.decode_body(type_, body)
    assert refused.value.message.isprintable() and len(refused.value.message) < 500


@pytest.mark.parametrize("packed", HOSTILE.values(), ids=HOSTILE)
def test_nothing_but_a_wire_error_comes_of_hostile_values(packed: bytes) -> None:
    with pytest.raises(WireError):
        codec.unpack_values(packed)
    with pytest.raises(WireError):
        codec.unpack_struct(packed, wire.Template)


def test_a_bomb_is_refused_before_it_is_unpacked() -> None:
    """Nine million empty lists where 5,000 rows may be: unpacked first, they took 500 MB."""
    count = 9_000_000
    body = b"\x83\xa8campaign\xa1c\xa5chunk\x00\xa4rows\xdd" + count.to_bytes(4, "big") + b"\x90" * count
    tracemalloc.start()
    with pytest.raises(WireError, match="length <= 5000"):
        codec.decode_body(wire.Type.RECIPIENTS, body)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


def test_what_an_error_quotes_is_short_and_printable() -> None:
    field = "\x1b[2J\n" + "x" * 100_000
    with pytest.raises(WireError) as refused:
        codec.decode_body(wire.Type.PAUSE, codec.pack({"campaign": "c", field: 1}))
    assert len(refused.value.message) < 400 and refused.value.message.isprintable()


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=300)
    | st.binary(max_size=300),
    lambda inner: st.lists(inner, max_size=20) | st.dictionaries(st.text(), inner, max_size=20),
    max_leaves=30,
)


@given(plain)
def test_packing_gives_the_bytes_of_msgpack(value: object) -> None:
    """A submission is known again by a digest of packed bytes, whichever release packed them."""
    assert codec.pack(value) == msgpack.packb(value)
    assert codec.pack((value, 1)) == msgpack.packb([value, 1])
