"""The names gossip, octet by octet as Weave Net 2.8.1 writes it, and what is refused or left out."""

import json
import random
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from weavepy import limits
from weavepy.errors import WireError
from weavepy.events import PeerName
from weavepy.wire.gob import GobReader
from weavepy.wire.gobwriter import Basic, GobWriter, Slice, Struct, encode_int, encode_value
from weavepy.wire.names import (
    ENTRY,
    GOSSIP,
    VERSION_MAX,
    NameEntry,
    NameGossip,
    decode_names_untrusted,
    encode_entry,
    encode_names,
    join_entries,
)
from weavepy.wire.peername import parse_peer_name

FILES = Path(__file__).parents[2] / "vectors"
VECTORS = json.loads((FILES / "nameserver.json").read_text())
LIVE = json.loads((FILES / "live_nameserver.json").read_text())["messages"]
PEER = PeerName(0x020000000001)
ONE = NameEntry("c1", PEER, 0x0A200001, "one.weave.local.")


def dotted(text: str) -> int:
    return int(IPv4Address(text))


def entry_of(fields: dict[str, Any]) -> NameEntry:
    return NameEntry(
        fields["ContainerID"],
        parse_peer_name(fields["Origin"]),
        dotted(fields["Addr"]),
        fields["Hostname"],
        fields["Version"],
        fields["Tombstone"],
    )


@pytest.mark.parametrize("vector", VECTORS["messages"], ids=[v["name"] for v in VECTORS["messages"]])
def test_the_original_packages_octets(vector: dict[str, Any]) -> None:
    payload = bytes.fromhex(vector["payload"])
    gossip = decode_names_untrusted(payload)
    assert gossip == NameGossip(vector["Timestamp"], tuple(map(entry_of, vector["Entries"])))
    assert encode_names(gossip) == payload
    shuffled = random.Random(1).sample(gossip.entries, len(gossip.entries))
    assert encode_names(NameGossip(gossip.timestamp, tuple(shuffled))) == payload


@pytest.mark.parametrize("message", LIVE, ids=[f"{n}-{m['tag_name']}" for n, m in enumerate(LIVE)])
def test_what_real_routers_said(message: dict[str, Any]) -> None:
    """Type numbers depend on what else a router has encoded before; the rest is the same, octet by octet."""
    reader = GobReader(bytes.fromhex(message["message_payload_after_tag"]))
    values = [reader.read()]
    while not reader.at_end:
        values.append(reader.read())
    payload = values[-1]
    assert isinstance(payload, bytes)
    gossip = decode_names_untrusted(payload)
    (said,) = message["decoded"]["ns"]
    assert gossip.timestamp == said["Timestamp"]
    assert [e.container for e in gossip.entries] == [e["ContainerID"] for e in said.get("Entries", [])]
    ours = encode_names(gossip)
    assert len(ours) == len(payload)
    assert decode_names_untrusted(ours) == gossip
    began = b"\1" + encode_int(gossip.timestamp)
    assert ours.partition(began)[2] == payload.partition(began)[2] != b""


def test_each_entry_is_what_its_type_says() -> None:
    draw = random.Random(7)
    for _ in range(500):
        entry = NameEntry(
            draw.choice(("", "c", "weave:extern", "f" * 200)),
            PeerName(draw.choice((1, 127, 128, (1 << 48) - 1))),
            draw.choice((0, 5, 0x0A200001, 0xFFFFFFFF)),
            draw.choice(("", "a.", "ü" * 100)),
            draw.choice((0, 1, -1, 64, VERSION_MAX)),
            draw.choice((0, 1700000000, -5)),
        )
        fields = dict(zip([name for name, _ in ENTRY.fields], entry, strict=True))
        assert encode_entry(entry) == encode_value(ENTRY, fields)


def test_all_entries_are_what_the_type_of_the_message_says() -> None:
    for timestamp in (0, 1700000000):
        for entries in ([], [ONE]):
            writer = GobWriter()
            fields = [dict(zip([name for name, _ in ENTRY.fields], entry, strict=True)) for entry in entries]
            writer.write(GOSSIP, {"Timestamp": timestamp, "Entries": fields})
            assert join_entries(timestamp, list(map(encode_entry, entries))) == writer.getvalue()


def test_two_of_one_identity_are_never_sent_but_taken() -> None:
    with pytest.raises(ValueError, match="identity"):
        encode_names(NameGossip(1, (ONE, ONE._replace(version=3))))
    twice = join_entries(1, [encode_entry(ONE), encode_entry(ONE._replace(version=3))])
    assert decode_names_untrusted(twice).entries == (ONE, ONE._replace(version=3))


@pytest.mark.parametrize(
    "changes",
    [
        {"origin": PeerName(0)},
        {"origin": PeerName(1 << 48)},
        {"address": -1},
        {"address": 1 << 32},
        {"version": 1 << 63},
    ],
)
def test_what_no_receiver_could_read_is_not_written(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"no such|64-bit"):
        encode_entry(ONE._replace(**changes))


@pytest.mark.parametrize(
    "fields",
    [
        {"Hostname": ""},
        {"Hostname": "x" * (limits.HOSTNAME_CHARS_MAX + 1)},
        {"ContainerID": "x" * (limits.CONTAINER_CHARS_MAX + 1)},
        {"Origin": 0},
        {"Origin": 1 << 48},
        {"Version": -1},
        {"Version": VERSION_MAX},
        {"Tombstone": -1},
        {"Hostname": "\ufffd"},
        {"Hostname": "\u212a.weave.local."},  # in lower case a k
        {"ContainerID": "\ufffd"},
    ],
)
def test_entries_that_are_of_no_use_are_left_out_alone(fields: dict[str, Any]) -> None:
    good = dict(zip([name for name, _ in ENTRY.fields], ONE, strict=True))
    writer = GobWriter()
    writer.write(GOSSIP, {"Timestamp": 1, "Entries": [good | fields, good]})
    assert decode_names_untrusted(writer.getvalue()).entries == (ONE,)


def other(entry: Struct, fields: dict[str, Any]) -> bytes:
    writer = GobWriter()
    kind = Struct("GossipData", (("Timestamp", Basic.INT), ("Entries", Slice(entry, "Entries"))))
    writer.write(kind, {"Timestamp": 1, "Entries": [fields]})
    return writer.getvalue()


def test_fields_that_we_do_not_know_and_fields_in_another_order() -> None:
    entry = Struct("Entry", (("New", Basic.STRING), *reversed(ENTRY.fields)))
    fields = dict(zip([name for name, _ in ENTRY.fields], ONE, strict=True))
    assert decode_names_untrusted(other(entry, fields | {"New": "x"})).entries == (ONE,)


WHOLE = encode_names(NameGossip(1, (ONE,)))
TEXT = GobWriter()
TEXT.write(Basic.STRING, "names")


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "gob"),
        (WHOLE[:-1], "gob"),
        (WHOLE + b"\x00", "not one message"),
        (WHOLE + WHOLE, "not one message"),
        (TEXT.getvalue(), "not one message"),
        (other(Struct("E", (("Addr", Basic.UINT),)), {"Addr": 1 << 32}), "right size"),
        (other(Struct("E", (("Origin", Basic.INT),)), {"Origin": -1}), "right size"),
        (other(Struct("E", (("Hostname", Basic.UINT),)), {"Hostname": 1}), "text"),
        (other(Struct("E", (("Version", Basic.UINT),)), {"Version": 1 << 63}), "number"),
        (other(Struct("E", (("Version", Basic.STRING),)), {"Version": "1"}), "number"),
    ],
)
def test_what_is_no_such_message(payload: bytes, reason: str) -> None:
    with pytest.raises(WireError, match=reason):
        decode_names_untrusted(payload)


def test_more_entries_than_there_may_be() -> None:
    least = encode_entry(NameEntry("", PeerName(1), 0, ""))
    assert decode_names_untrusted(join_entries(1, [least] * limits.NAMES_MAX)).entries == ()
    with pytest.raises(WireError, match="more elements"):
        decode_names_untrusted(join_entries(1, [least] * (limits.NAMES_MAX + 1)))
