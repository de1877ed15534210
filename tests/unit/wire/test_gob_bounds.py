"""Hostile gob streams end in WireError, soon, and without taking more memory than they are long."""

import tracemalloc

import pytest

from weavepy import limits
from weavepy.errors import WireError
from weavepy.wire import gob
from weavepy.wire.gob import GobReader
from weavepy.wire.gobwriter import Basic, GobWriter, Map, Slice, Struct, encode_int, encode_uint


def message(*parts: bytes) -> bytes:
    body = b"".join(parts)
    return encode_uint(len(body)) + body


def define_slice(type_id: int, element: int) -> bytes:
    return message(
        encode_int(-type_id), b"\2\1\2", encode_int(type_id), b"\0\1", encode_int(element), b"\0\0"
    )


def define_struct(type_id: int, *fields: tuple[bytes, int]) -> bytes:
    listed = b"".join(
        b"\1" + encode_uint(len(name)) + name + b"\1" + encode_int(field_type) + b"\0"
        for name, field_type in fields
    )
    return message(
        encode_int(-type_id),
        b"\3\1\2",
        encode_int(type_id),
        b"\0\1",
        encode_uint(len(fields)),
        listed,
        b"\0\0",
    )


def refuses(data: bytes, match: str) -> None:
    with pytest.raises(WireError, match=match):
        read_for_ever(GobReader(data))


def read_for_ever(reader: GobReader) -> None:
    while True:
        reader.read()


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", "ended"),
        (b"\0", "empty"),
        (b"\x05\x06", "longer"),
        (b"\xf8" + b"\xff" * 8, "longer"),
        (b"\xf7" + b"\xff" * 9, "64 bits"),
        (b"\x80", "64 bits"),
        (b"\xfe\x01", "missing"),
        (message(b"\x06"), "missing"),
        (message(b"\x06\x01\x05"), "starts with 0"),
        (message(b"\x06\x00\x05\x00"), "left over"),
        (message(b"\x06\x00\xf7"), "64 bits"),
        (message(b"\x0c\x00\x02x"), "missing"),
        (message(b"\x0e\x00\x02"), "not defined"),  # complex numbers
        (message(encode_int(77), b"\0"), "not defined"),
        (message(b"\x0c\x00\x00") + b"\x01", "longer"),
    ],
)
def test_refuses_broken_streams(data: bytes, match: str) -> None:
    refuses(data, match)


def test_a_definition_needs_a_free_id_of_users() -> None:
    refuses(define_slice(63, gob.UINT), "reserved")
    refuses(define_slice(65, gob.UINT) * 2, "twice")
    assert GobReader(define_slice(64, gob.UINT) + message(encode_int(64), b"\0\1\7")).read() == [7]


def test_a_definition_has_exactly_one_kind() -> None:
    refuses(message(encode_int(-65), b"\0"), "exactly one kind")
    slice_type, map_type = b"\2\1\2\xff\x82\0\1\6\0", b"\2\1\2\xff\x82\0\1\6\1\6\0"
    refuses(message(encode_int(-65), slice_type, map_type, b"\0"), "exactly one kind")


def test_a_type_may_be_named_before_it_is_defined_but_not_used() -> None:
    list_of_lists = define_slice(65, 66)
    value = message(encode_int(65), b"\0\1\1\7")
    refuses(list_of_lists + value, "not defined")
    assert GobReader(list_of_lists + define_slice(66, gob.UINT) + value).read() == [[7]]


def test_an_empty_list_needs_no_definition_of_its_element() -> None:
    assert GobReader(define_slice(65, 66) + message(encode_int(65), b"\0\0")).read() == []


def test_self_referential_types_stop_at_the_depth_bound() -> None:
    own_element = define_slice(65, 65)
    depth = limits.GOB_DEPTH_MAX
    deepest = message(encode_int(65), b"\0", b"\1" * (depth - 1), b"\0")
    value = GobReader(own_element + deepest).read()
    for _ in range(depth - 1):
        (value,) = value  # type: ignore[misc]
    assert value == []
    refuses(own_element + message(encode_int(65), b"\0", b"\1" * depth, b"\0"), "deeply")
    refuses(own_element + message(encode_int(65), b"\0", b"\1" * 100_000, b"\0"), "deeply")
    refuses(define_struct(65, (b"Next", 65)) + message(encode_int(65), b"\1" * 100_000), "deeply")


def test_nested_interfaces_stop_at_the_depth_bound() -> None:
    inner = b"\1x\x0c\1\0"
    for _ in range(40):
        body = b"\0" + inner
        inner = b"\1x" + encode_int(gob.INTERFACE) + encode_uint(len(body)) + body
    refuses(message(encode_int(gob.INTERFACE), b"\0", inner), "deeply")


@pytest.mark.parametrize("length", [2, 4])
def test_an_interface_value_has_the_length_it_says(length: int) -> None:
    refuses(message(encode_int(gob.INTERFACE), b"\0\1x\x0c", encode_uint(length), b"\0\1a"), "length|longer")


def test_an_array_has_the_length_of_its_type() -> None:
    array = message(encode_int(-65), b"\1\1\2", encode_int(65), b"\0\1\6\1\4\0\0")
    assert GobReader(array + message(encode_int(65), b"\0\2\7\x08")).read() == [7, 8]
    refuses(array + message(encode_int(65), b"\0\1\7"), "another length")


def test_types_that_encode_themselves_are_octets() -> None:
    definition = message(encode_int(-65), b"\5\1\2", encode_int(65), b"\0\0\0")
    assert GobReader(definition + message(encode_int(65), b"\0\2hi")).read() == b"hi"


def test_struct_fields_have_to_exist() -> None:
    point = define_struct(65, (b"X", gob.INT), (b"Y", gob.INT))
    refuses(point + message(encode_int(65), b"\3\2\0"), "no such field")
    refuses(point + message(encode_int(65), b"\xf8" + b"\xff" * 8), "no such field")
    refuses(point + message(encode_int(65), b"\1\2"), "missing")


def test_names_types_and_fields_are_bounded() -> None:
    long = limits.GOB_NAME_BYTES_MAX
    ok = define_struct(65, *[(b"n" * long, gob.UINT)] * limits.GOB_FIELDS_MAX)
    assert GobReader(ok + message(encode_int(65), b"\0")).read() == {}
    refuses(define_struct(65, (b"n" * (long + 1), gob.UINT)), "name too long")
    refuses(define_struct(65, *[(b"n", gob.UINT)] * (limits.GOB_FIELDS_MAX + 1)), "more elements")
    name = encode_uint(long + 1) + b"n" * (long + 1)
    refuses(message(encode_int(-65), b"\2\1\1", name, b"\1\2\0\1\6\0\0"), "type name too long")
    refuses(message(encode_int(gob.INTERFACE), b"\0", name, b"\x0c\1\0"), "type name too long")
    types = b"".join(define_slice(65 + n, gob.UINT) for n in range(limits.GOB_TYPES_MAX))
    assert GobReader(types + message(b"\6\0\7")).read() == 7
    refuses(types + define_slice(64, gob.UINT), "too many types")


@pytest.mark.parametrize("count", [5, 1 << 20, (1 << 64) - 1])
def test_counts_beyond_the_octets_left_are_refused_before_anything_is_allocated(count: int) -> None:
    four_octets = b"\1\1\1\1"
    claim = message(encode_int(65), b"\0", encode_uint(count), four_octets)
    list_of_numbers = define_slice(65, gob.UINT) + claim
    writer = GobWriter()
    writer.write(Map(Basic.UINT, Basic.UINT), {})
    map_of_numbers = writer.getvalue()[:-5] + claim
    octets = message(b"\x0a\0", encode_uint(count), four_octets)
    tracemalloc.start()
    try:
        refuses(list_of_numbers, "more elements")
        refuses(map_of_numbers, "more elements")
        refuses(octets, "missing")
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_the_caller_bounds_the_elements_of_one_value_altogether() -> None:
    writer = GobWriter()
    writer.write(Slice(Slice(Basic.UINT)), [[1, 2], [3]])
    assert GobReader(writer.getvalue()).read(5) == [[1, 2], [3]]
    with pytest.raises(WireError, match="more elements"):
        GobReader(writer.getvalue()).read(4)


def test_map_keys_of_every_type_are_possible() -> None:
    writer = GobWriter()
    node = Struct("NodeID", (("Name", Basic.UINT), ("UID", Basic.UINT)))
    writer.write(Map(Slice(Basic.UINT), Basic.BOOL), {(1, 2): True})
    data = writer.getvalue()
    assert GobReader(data).read() == {(1, 2): True}
    definitions = GobWriter()
    definitions.write(Map(node, Basic.BOOL), {})
    head = definitions.getvalue()[:-5]
    value = message(encode_int(66), b"\0\1", b"\1\7\1\x08\0", b"\1")
    assert GobReader(head + value).read() == {(("Name", 7), ("UID", 8)): True}


def test_strings_that_are_not_utf8_are_read_with_replacement_characters() -> None:
    assert GobReader(message(b"\x0c\0\3a\xffb")).read() == "a�b"


def test_a_long_stream_is_read_in_time_proportional_to_its_length() -> None:
    # Measured in memory, not in seconds: a value must not cost a copy of the rest of the stream.
    data = message(b"\6\0\7") * 50_000
    reader = GobReader(data)
    tracemalloc.start()
    try:
        values = 0
        while not reader.at_end:
            values += reader.read() == 7
        assert values == 50_000
        assert tracemalloc.get_traced_memory()[1] < len(data)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("number", [-1, 1 << 64])
def test_the_writer_refuses_what_no_uint64_holds(number: int) -> None:
    with pytest.raises(ValueError, match="unsigned"):
        encode_uint(number)


@pytest.mark.parametrize("number", [-(1 << 63) - 1, 1 << 63])
def test_the_writer_refuses_what_no_int64_holds(number: int) -> None:
    with pytest.raises(ValueError, match="signed"):
        encode_int(number)


def test_a_nil_interface_is_nothing() -> None:
    assert GobReader(message(encode_int(gob.INTERFACE), b"\0\0")).read() is None
