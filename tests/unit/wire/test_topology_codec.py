"""Topology payloads: the recorded ones, their bounds, and how long a large mesh takes."""

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from weavepy import limits
from weavepy.errors import WireError
from weavepy.events import PeerName
from weavepy.wire.gob import GobReader
from weavepy.wire.gobwriter import Basic, GobWriter, Schema, Slice, Struct
from weavepy.wire.messages import Gossip, decode_message_untrusted, encode_message
from weavepy.wire.peername import format_peer_name, parse_peer_name
from weavepy.wire.topology import (
    CONNECTION_LIST,
    CONNECTION_SUMMARY,
    PEER_SUMMARY,
    ConnectionSummary,
    PeerRecord,
    decode_topology_untrusted,
    encode_topology,
)

FILES = Path(__file__).parents[2] / "vectors"
STEPS = [step for step in json.loads((FILES / "topology.json").read_text())["steps"] if "update_gob" in step]
LIVE = json.loads((FILES / "live_topology.json").read_text())["messages"]

RECORD = PeerRecord(
    PeerName(1), "host", 2, 3, 4, True, (ConnectionSummary(PeerName(2), "10.0.0.2:6783", True, True),)
)


def as_recorded(record: PeerRecord) -> dict:
    return {
        "Name": format_peer_name(record.name),
        "Nick": record.nickname,
        "UID": str(record.uid),
        "Version": record.version,
        "ShortID": record.short_id,
        "HasShortID": record.has_short_id,
        "Conns": [
            {
                "To": format_peer_name(connection.remote),
                "Addr": connection.address,
                "Outbound": connection.outbound,
                "Estab": connection.established,
            }
            for connection in record.connections
        ],
    }


def by_name(records: list[dict]) -> dict[str, dict]:
    return {
        record["Name"]: record | {"Conns": sorted(record["Conns"], key=lambda c: c["To"])}
        for record in records
    }


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step["description"][:60])
def test_recorded_updates(step: dict) -> None:
    records = decode_topology_untrusted(bytes.fromhex(step["update_gob"]))
    assert by_name([as_recorded(record) for record in records]) == by_name(step["update"])
    assert decode_topology_untrusted(encode_topology(records)) == records


def type_ids(data: bytes) -> dict[Schema, int]:
    """The numbers that the recorded process had given to its types, in the order of their definitions."""
    ids, at = [], 0
    while at < len(data):
        length, at = data[at], at + 1
        if length >= 0x80:
            octets = 256 - length
            length, at = int.from_bytes(data[at : at + octets], "big"), at + octets
        if data[at] == 0xFF and data[at + 1] & 1:  # a negative number of one octet: a definition
            ids.append((data[at + 1] + 1) // 2)
        at += length
    return dict(zip((PEER_SUMMARY, CONNECTION_LIST, CONNECTION_SUMMARY), ids, strict=True))


@pytest.mark.parametrize("number", range(len(LIVE)))
def test_live_messages_are_read_and_written_octet_by_octet(number: int) -> None:
    recorded = LIVE[number]
    data = bytes([recorded["tag"]]) + bytes.fromhex(recorded["message_payload_after_tag"])
    message = decode_message_untrusted(data)
    assert isinstance(message, Gossip)
    assert (message.channel, format_peer_name(message.sender)) == ("topology", recorded["decoded"]["src"])
    assert encode_message(message) == data

    records = decode_topology_untrusted(message.payload)
    peers = recorded["decoded"]["peers"]
    assert len(records) == len(peers)
    for record, peer in zip(records, peers, strict=True):
        summary = peer["summary"]
        assert record.name == int(summary["NameByte"], 16)
        assert record.nickname == summary.get("NickName", "")
        assert record.uid == int(summary.get("UID", 0))
        assert record.version == int(summary.get("Version", 0))
        assert record.short_id == int(summary.get("ShortID", 0))
        assert record.has_short_id == summary.get("HasShortID", False)
        assert list(record.connections) == [
            ConnectionSummary(
                PeerName(int(connection["NameByte"], 16)),
                connection.get("RemoteTCPAddr", ""),
                connection.get("Outbound", False),
                connection.get("Established", False),
            )
            for connection in peer["conns"]
        ]
    assert decode_topology_untrusted(encode_topology(records)) == records

    reader, writer = GobReader(message.payload), GobWriter(ids=type_ids(message.payload))
    while not reader.at_end:
        writer.write(PEER_SUMMARY, reader.read())
        writer.write(CONNECTION_LIST, reader.read())
    assert writer.getvalue() == message.payload


def test_an_update_of_nobody_is_empty() -> None:
    assert encode_topology([]) == b""
    assert decode_topology_untrusted(b"") == []


def test_a_placeholder_has_only_a_name() -> None:
    placeholder = PeerRecord(parse_peer_name("02::9"), "", 0, 0, 0, False, ())
    assert decode_topology_untrusted(encode_topology([placeholder])) == [placeholder]


def test_a_full_mesh_of_300_peers_decodes_in_time() -> None:
    everybody = tuple(
        ConnectionSummary(PeerName(n + 1), f"10.99.{n // 250}.{n % 250}:6783", n % 2 == 0, True)
        for n in range(300)
    )
    records = [PeerRecord(PeerName(n + 1), f"host{n}", n, n, n, True, everybody) for n in range(300)]
    data = encode_topology(records)
    started = time.process_time()
    assert decode_topology_untrusted(data) == records
    assert time.process_time() - started < 2.0


def write(summary: dict, connections: object, summary_type: Schema = PEER_SUMMARY) -> bytes:
    writer = GobWriter()
    writer.write(summary_type, summary)
    writer.write(CONNECTION_LIST, connections)
    return writer.getvalue()


NAME = {"NameByte": b"\2\0\0\0\0\1"}


@pytest.mark.parametrize(
    ("summary", "connections"),
    [
        ({}, []),
        ({"NameByte": b"\2\0\0\0\0"}, []),
        ({"NameByte": b"\2\0\0\0\0\0\1"}, []),
        ({"NameByte": bytes(6)}, []),
        (NAME | {"ShortID": 1 << 16}, []),
        (NAME | {"NickName": "n" * (limits.NICKNAME_BYTES_MAX + 1)}, []),
        (NAME, [{}]),
        (NAME, [{"NameByte": bytes(6)}]),
        (NAME, [NAME | {"RemoteTCPAddr": "a" * (limits.ADDRESS_BYTES_MAX + 1)}]),
        (NAME, [NAME] * (limits.CONNECTIONS_PER_PEER_MAX + 1)),
    ],
)
def test_records_out_of_bounds_are_refused(summary: dict, connections: list) -> None:
    with pytest.raises(WireError):
        decode_topology_untrusted(write(summary, connections))


def test_bounds_are_inclusive() -> None:
    connection = NAME | {"RemoteTCPAddr": "a" * limits.ADDRESS_BYTES_MAX}
    summary = NAME | {"ShortID": (1 << 16) - 1, "NickName": "n" * limits.NICKNAME_BYTES_MAX}
    (record,) = decode_topology_untrusted(write(summary, [connection] * limits.CONNECTIONS_PER_PEER_MAX))
    assert len(record.connections) == limits.CONNECTIONS_PER_PEER_MAX


def test_a_nickname_of_odd_octets_can_be_sent_on() -> None:
    # Each odd octet grows to three; the bound counts what we would send.
    def named(octets: bytes) -> bytes:
        type_with_bytes = Struct("p", (("NameByte", Basic.BYTES), ("NickName", Basic.BYTES)))
        return write(NAME | {"NickName": octets}, [], type_with_bytes).replace(
            b"NickName\1\x0a", b"NickName\1\x0c"
        )

    (record,) = decode_topology_untrusted(named(b"caf\xe9"))
    assert record.nickname == "caf�"
    assert decode_topology_untrusted(encode_topology([record])) == [record]
    with pytest.raises(WireError):
        decode_topology_untrusted(named(b"\xe9" * limits.NICKNAME_BYTES_MAX))


def test_peers_are_bounded() -> None:
    records = [replace(RECORD, connections=())] * (limits.PEERS_MAX + 1)
    assert len(decode_topology_untrusted(encode_topology(records[1:]))) == limits.PEERS_MAX
    with pytest.raises(WireError, match="too many peers"):
        decode_topology_untrusted(encode_topology(records))


@pytest.mark.parametrize(
    "field", [("UID", Basic.INT, -1), ("HasShortID", Basic.UINT, 1), ("NickName", Basic.BYTES, b"x")]
)
def test_fields_of_another_kind_are_refused(field: tuple) -> None:
    name, kind, value = field
    other = Struct("peerSummary", (("NameByte", Basic.BYTES), (name, kind)))
    with pytest.raises(WireError):
        decode_topology_untrusted(write(NAME | {name: value}, [], other))


def test_fields_of_later_versions_are_skipped() -> None:
    later = Struct(
        "peerSummary",
        (("Extra", Slice(Basic.STRING)), *reversed(PEER_SUMMARY.fields)),
    )
    (record,) = decode_topology_untrusted(write(NAME | {"Extra": ["a", "b"], "UID": 7}, [], later))
    assert (record.name, record.uid) == (0x020000000001, 7)


def test_a_summary_without_connections_is_refused() -> None:
    writer = GobWriter()
    writer.write(PEER_SUMMARY, NAME)
    with pytest.raises(WireError, match="ended"):
        decode_topology_untrusted(writer.getvalue())
    writer.write(PEER_SUMMARY, NAME)
    twice = writer.getvalue()
    with pytest.raises(WireError, match="summary and a list"):
        decode_topology_untrusted(twice)
    writer = GobWriter()
    writer.write(PEER_SUMMARY, NAME)
    writer.write(Slice(Basic.UINT), [7])
    with pytest.raises(WireError, match="not a connection"):
        decode_topology_untrusted(writer.getvalue())


@pytest.mark.parametrize(
    "wrong", [{"nickname": "n" * 256}, {"short_id": 1 << 16}, {"uid": 1 << 64}, {"version": -1}]
)
def test_what_peers_would_refuse_is_not_sent(wrong: dict) -> None:
    with pytest.raises(ValueError, match=r"too long|unsigned"):
        encode_topology([replace(RECORD, **wrong)])


def test_no_recorded_case_was_left_out() -> None:
    assert len(STEPS) == 14
    assert len(LIVE) == 18
