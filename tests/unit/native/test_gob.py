"""The compiled reader of flat gob values by itself: shapes, bounds, and what it hands over to be judged."""

from typing import NamedTuple

import pytest

from weavepy import _fastpath
from weavepy.wire.gobwriter import Basic, GobWriter, Slice, Struct

FLAT = Struct(
    "flat", (("Name", Basic.BYTES), ("Text", Basic.STRING), ("Big", Basic.UINT), ("Short", Basic.UINT))
)
KINDS = b"mtuh"
LIST = Slice(FLAT)


class Row(NamedTuple):
    name: int
    text: str
    big: int
    short: int


def value(**changes: object) -> dict[str, object]:
    return {"Name": b"\0\0\0\0\1\2", "Text": "tëxt", "Big": (1 << 64) - 1, "Short": 65535} | changes


def listed(*values: dict[str, object]) -> tuple[bytes, int, int]:
    """Returns a stream of one list, where its message is, and its type."""
    ids = {FLAT: 70, LIST: 71}
    writer = GobWriter(ids)
    writer.write(LIST, [])
    head = len(writer.getvalue())
    writer.write(LIST, list(values))
    return writer.getvalue(), head, 71


def rows(*values: dict[str, object], text_max: int = 10, rows_max: int = 10) -> tuple[Row, ...] | None:
    data, at, kind = listed(*values)
    return _fastpath.gob_rows(data, at, kind, KINDS, text_max, rows_max, Row)


def test_rows_are_named_tuples_with_what_was_sent() -> None:
    assert rows(value(), {"Name": b"\1\0\0\0\0\0"}) == (
        (258, "tëxt", (1 << 64) - 1, 65535),
        (1 << 40, "", 0, 0),
    )
    found = rows(value())
    assert found is not None
    assert type(found[0]) is Row
    assert found[0].text == "tëxt"
    assert rows() == ()


@pytest.mark.parametrize(
    "bad",
    [value(Name=b""), value(Name=bytes(6)), value(Name=b"1234567"), value(Short=65536), value(Text="a" * 11)],
)
def test_what_a_kind_does_not_allow_is_handed_over(bad: dict[str, object]) -> None:
    assert rows(value(), bad) is None


def test_rows_are_bounded() -> None:
    assert rows(value(), value(), rows_max=2) is not None
    assert rows(value(), value(), rows_max=1) is None


def test_every_shortened_list_is_handed_over() -> None:
    data, at, kind = listed(value(), value(Text=""))
    for end in range(len(data)):
        if at <= end:
            assert _fastpath.gob_rows(data[:end], at, kind, KINDS, 10, 10, Row) is None
    for position in range(at, len(data)):
        for octet in (0, 1, 0x7F, 0x80, 0xF7, 0xF8, 0xFF):
            changed = data[:position] + bytes([octet]) + data[position + 1 :]
            found = _fastpath.gob_rows(changed, at, kind, KINDS, 10, 10, Row)
            assert found is None or len(found) <= 2


def test_a_count_is_believed_only_as_far_as_there_are_octets() -> None:
    body = b"\xff\x8e\x00\xfc\xff\xff\xff\xff"
    assert _fastpath.gob_rows(bytes([len(body)]) + body, 0, 71, KINDS, 10, 1 << 40, Row) is None


def test_odd_octets_of_a_text_are_replaced() -> None:
    data, at, kind = listed(value(Text="aXb"))
    found = _fastpath.gob_rows(data.replace(b"aXb", b"a\xe9b"), at, kind, KINDS, 10, 10, Row)
    assert found is not None
    assert found[0].text == "a�b"


def pairs(count: int, pairs_max: int = 100) -> tuple[list, int, bytes]:
    writer = GobWriter({FLAT: 70, LIST: 71})
    writer.write(LIST, [])  # with all definitions
    at = then = len(writer.getvalue())
    for number in range(count):
        writer.write(FLAT, value(Big=number))
        then = len(writer.getvalue()) if number == 0 else then
        writer.write(LIST, [value()] * number)
    data = writer.getvalue()
    found, end = _fastpath.gob_pairs(data, at, then, 70, KINDS, 10, 71, pairs_max)
    return found, end, data


def test_pairs_have_their_fields_and_the_position_of_the_other() -> None:
    found, end, data = pairs(3)
    assert [row[:4] for row in found] == [(258, "tëxt", number, 65535) for number in range(3)]
    assert end == len(data)
    for number, row in enumerate(found):
        listed_there = _fastpath.gob_rows(data, row[4], 71, KINDS, 10, 10, Row)
        assert listed_there is not None
        assert len(listed_there) == number


def test_pairs_stop_before_what_is_of_another_shape() -> None:
    found, end, data = pairs(3, pairs_max=2)
    assert len(found) == 2
    assert end < len(data)
    for cut in range(end, len(data)):
        short, stop = _fastpath.gob_pairs(data[:cut], end, end, 70, KINDS, 10, 71, 9)
        assert (short, stop) == ([], end)


def test_callers_mistakes_are_errors() -> None:
    with pytest.raises(ValueError, match="kinds"):
        _fastpath.gob_rows(b"", 0, 71, b"x", 10, 10, Row)
    with pytest.raises(ValueError, match="kinds"):
        _fastpath.gob_rows(b"", 0, 71, b"u" * 9, 10, 10, Row)
    with pytest.raises(ValueError, match="position"):
        _fastpath.gob_rows(b"", 1, 71, KINDS, 10, 10, Row)
    with pytest.raises(ValueError, match="position"):
        _fastpath.gob_rows(b"", 0, 71, KINDS, 10, 10, dict)  # type: ignore[type-var]
    with pytest.raises(ValueError, match="position"):
        _fastpath.gob_pairs(b"abc", 2, 1, 70, KINDS, 10, 71, 9)
