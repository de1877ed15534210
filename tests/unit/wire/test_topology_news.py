"""What is new in a topology payload: the compiled scan against the bounded decoder, on good and on bad payloads."""

import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weavepy import _fastpath, limits
from weavepy.errors import WireError
from weavepy.events import PeerName
from weavepy.wire.gob import GobReader
from weavepy.wire.gobwriter import Basic, GobWriter, Struct
from weavepy.wire.topology import (
    CONNECTION_LIST,
    PEER_SUMMARY,
    ConnectionSummary,
    PeerRecord,
    decode_topology_untrusted,
    encode_record,
    encode_topology,
)
from weavepy.wire.topologynews import Known, decode_news_untrusted

FILES = Path(__file__).parents[2] / "vectors"
LIVE = [
    bytes.fromhex(message["message_payload_after_tag"])
    for message in json.loads((FILES / "live_topology.json").read_text())["messages"]
]
UPDATES = [
    bytes.fromhex(step["update_gob"])
    for step in json.loads((FILES / "topology.json").read_text())["steps"]
    if "update_gob" in step
]

NAMES = st.integers(1, (1 << 48) - 1).map(PeerName)
TEXTS = st.text(max_size=30)
CONNECTIONS = st.builds(ConnectionSummary, NAMES, TEXTS, st.booleans(), st.booleans())
RECORDS = st.builds(
    PeerRecord,
    NAMES,
    TEXTS,
    st.integers(0, (1 << 64) - 1),
    st.integers(0, (1 << 64) - 1),
    st.integers(0, (1 << 16) - 1),
    st.booleans(),
    st.lists(CONNECTIONS, max_size=5).map(tuple),
)


def nobody(*_: object) -> bool:
    return False


def everybody(*_: object) -> bool:
    return True


def expect_equal(data: bytes, known: Known = nobody) -> None:
    """With and without the scanner: the same result, or both refuse."""
    try:
        plain = decode_news_untrusted(data, known, None)
    except WireError:
        with pytest.raises(WireError):
            decode_news_untrusted(data, known, _fastpath)
    else:
        assert decode_news_untrusted(data, known, _fastpath) == plain


@given(st.lists(RECORDS, max_size=6), st.integers(0, 3))
def test_the_scan_finds_what_the_decoder_finds(records: list[PeerRecord], odd: int) -> None:
    data = encode_topology(records)
    expect_equal(data)
    names, news = decode_news_untrusted(data, lambda _, __, version, ___: version % 4 == odd, _fastpath)
    assert names == [record.name for record in records]
    assert news == [record for record in records if record.version % 4 != odd]
    assert all(type(connection) is ConnectionSummary for record in news for connection in record.connections)


@pytest.mark.parametrize("data", [*UPDATES, b""])
def test_recorded_updates(data: bytes) -> None:
    expect_equal(data)
    names, news = decode_news_untrusted(data, everybody, _fastpath)
    assert names == [record.name for record in decode_topology_untrusted(data)]
    assert news == []


@pytest.mark.parametrize("seed", range(40))
def test_damaged_payloads_are_judged_alike(seed: int) -> None:
    draw = random.Random(seed)
    for _ in range(250):
        data = bytearray(draw.choice(UPDATES))
        for _ in range(draw.randint(1, 3)):
            at = draw.randrange(len(data) + 1)
            match draw.randrange(4):
                case 0 if data:
                    data[at % len(data)] = draw.choice((0, 1, 2, 0x7F, 0x80, 0xF7, 0xF8, 0xFF))
                case 1:
                    del data[at : at + draw.randint(1, 9)]
                case 2:
                    data[at:at] = draw.choice(UPDATES)[: draw.randrange(40)]
                case 3 if data:
                    data[at % len(data)] ^= 1 << draw.randrange(8)
        expect_equal(bytes(data))


def connection(**changes: object) -> dict[str, object]:
    return {"NameByte": b"\2\0\0\0\0\1", "RemoteTCPAddr": "10.0.0.1:1", "Established": True} | changes


SUMMARY = {"NameByte": b"\2\0\0\0\0\2", "NickName": "n", "UID": 5, "Version": 6}


@pytest.mark.parametrize(
    ("summary", "connections"),
    [
        ({}, []),
        (SUMMARY | {"NameByte": bytes(6)}, []),
        (SUMMARY | {"NameByte": b"1234567"}, []),
        (SUMMARY | {"ShortID": 1 << 16}, []),
        (SUMMARY | {"ShortID": (1 << 16) - 1, "UID": (1 << 64) - 1}, []),
        (SUMMARY | {"NickName": "n" * limits.NICKNAME_BYTES_MAX}, []),
        (SUMMARY | {"NickName": "n" * (limits.NICKNAME_BYTES_MAX + 1)}, []),
        (SUMMARY, [connection(NameByte=b"")]),
        (SUMMARY, [connection(NameByte=bytes(6))]),
        (SUMMARY, [connection(RemoteTCPAddr="a" * limits.ADDRESS_BYTES_MAX)]),
        (SUMMARY, [connection(RemoteTCPAddr="a" * (limits.ADDRESS_BYTES_MAX + 1))]),
        (SUMMARY, [connection()] * limits.CONNECTIONS_PER_PEER_MAX),
        (SUMMARY, [connection()] * (limits.CONNECTIONS_PER_PEER_MAX + 1)),
    ],
)
def test_bounds_are_those_of_the_decoder(summary: dict, connections: list) -> None:
    writer = GobWriter()
    for one, listed in ((SUMMARY, []), (summary, connections), (SUMMARY | {"Version": 7}, [connection()])):
        writer.write(PEER_SUMMARY, one)
        writer.write(CONNECTION_LIST, listed)
    expect_equal(writer.getvalue())


def test_types_of_another_shape_are_left_to_the_decoder() -> None:
    shuffled = Struct("peerSummary", (*reversed(PEER_SUMMARY.fields), ("Later", Basic.STRING)))
    writer = GobWriter()
    writer.write(shuffled, SUMMARY | {"Later": "x"})
    writer.write(CONNECTION_LIST, [connection()])
    expect_equal(writer.getvalue())
    assert len(decode_news_untrusted(writer.getvalue(), nobody, _fastpath)[1]) == 1


def test_a_definition_in_the_middle_is_left_to_the_decoder() -> None:
    data = encode_topology([PeerRecord(PeerName(n), "", n, n, 0, False, ()) for n in (1, 2, 3)])
    other = GobWriter({Struct("a", ()): 90})
    other.write(Struct("a", ()), {})
    definition = other.getvalue()[: -len(b"\x04\xff\xb4\x00")]
    end = len(data) - len(b"".join(encode_record(PeerRecord(PeerName(3), "", 3, 3, 0, False, ()))))
    expect_equal(data[:end] + definition + data[end:])
    names, _ = decode_news_untrusted(data[:end] + definition + data[end:], everybody, _fastpath)
    assert names == [1, 2, 3]


def test_what_is_known_is_passed_over_unread() -> None:
    """Its framing is checked and nothing else, so nothing of it comes out."""
    links = (ConnectionSummary(PeerName(9), "a", True, True),)
    records = [PeerRecord(PeerName(n), "", n, n, 0, False, links) for n in (1, 2)]
    data = bytearray(encode_topology(records))
    data[-2] = 0xFF  # in the list of the second record
    with pytest.raises(WireError):
        decode_news_untrusted(bytes(data), nobody, _fastpath)
    names, news = decode_news_untrusted(bytes(data), lambda name, *_: name == 2, _fastpath)
    assert names == [1, 2]
    assert [record.name for record in news] == [1]


def test_peers_are_bounded() -> None:
    records = [PeerRecord(PeerName(1), "", 1, 1, 0, False, ())] * (limits.PEERS_MAX + 1)
    assert (
        len(decode_news_untrusted(encode_topology(records[1:]), everybody, _fastpath)[0]) == limits.PEERS_MAX
    )
    with pytest.raises(WireError, match="too many peers"):
        decode_news_untrusted(encode_topology(records), everybody, _fastpath)


def test_the_reader_finds_values_and_defines_types_by_position() -> None:
    data = encode_topology([PeerRecord(PeerName(1), "", 1, 1, 0, False, ())])
    reader = GobReader(data)
    summary_type, _, _ = reader.find_value()
    list_type, then, end = reader.find_value()
    assert end == len(data)
    again = GobReader(data)
    assert again.struct_fields(summary_type) is None
    again.define_until(then)
    assert again.struct_fields(summary_type) == PEER_SUMMARY.fields
    assert again.slice_element(summary_type) is None
    assert again.struct_fields(list_type) is None
    assert again.slice_element(list_type) is not None
    assert again.position == then
    assert again.read() == []
