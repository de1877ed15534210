"""The address gossip, octet by octet as Weave Net 2.8.1 writes it, and what is refused."""

import json
from pathlib import Path

import pytest

from weavepy.errors import WireError
from weavepy.events import PeerName
from weavepy.wire.gob import GobReader
from weavepy.wire.gobwriter import Basic, Slice, Struct, encode_value
from weavepy.wire.ipam import (
    AddressState,
    Range,
    RingEntry,
    RingState,
    RingUpdate,
    SpaceDenied,
    SpaceRequest,
    decode_address_state_untrusted,
    decode_address_unicast_untrusted,
    encode_address_state,
    encode_address_unicast,
)

FILES = Path(__file__).parents[2] / "vectors"
VECTORS = json.loads((FILES / "ipam.json").read_text())["vectors"]
LIVE = json.loads((FILES / "live_ipallocation.json").read_text())["messages"]


@pytest.mark.parametrize("vector", VECTORS, ids=[v["name"] for v in VECTORS])
def test_the_original_packages_octets(vector: dict[str, str]) -> None:
    payload = bytes.fromhex(vector["payload"])
    if "tag 5" in vector["carrier"]:
        message = decode_address_unicast_untrusted(payload)
        assert encode_address_unicast(message) == payload
    else:
        state = decode_address_state_untrusted(payload)
        assert encode_address_state(state) == payload


@pytest.mark.parametrize("message", LIVE, ids=[f"{n}-{m['tag_name']}" for n, m in enumerate(LIVE)])
def test_what_real_routers_said(message: dict[str, str]) -> None:
    """The order of a Go map is random, so what is written again is compared as values."""
    reader = GobReader(bytes.fromhex(message["message_payload_after_tag"]))
    values = [reader.read()]
    while not reader.at_end:
        values.append(reader.read())
    payload = values[-1]
    assert isinstance(payload, bytes)
    if int(message["tag"]) == 5:
        unicast = decode_address_unicast_untrusted(payload)
        assert decode_address_unicast_untrusted(encode_address_unicast(unicast)) == unicast
        assert len(encode_address_unicast(unicast)) == len(payload)
    else:
        state = decode_address_state_untrusted(payload)
        assert decode_address_state_untrusted(encode_address_state(state)) == state
        assert len(encode_address_state(state)) == len(payload)


def test_an_election_that_is_empty_is_not_none() -> None:
    for election in (None, {}):
        state = AddressState(1, {PeerName(1): "a"}, election)
        assert decode_address_state_untrusted(encode_address_state(state)) == state


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "empty"),
        (b"\x03", "unknown kind"),
        (b"\xff\x00", "unknown kind"),
        (b"\x00", "gob"),
        (b"\x01", "gob"),
        (encode_address_unicast(SpaceRequest(Range(4, 8)))[:-1], "gob"),
        (encode_address_unicast(SpaceRequest(Range(4, 8))) + b"\x00", "not one range"),
        (encode_address_unicast(SpaceRequest(Range(8, 8))), "empty range"),
        (encode_address_unicast(SpaceDenied(Range(9, 8))), "empty range"),
    ],
)
def test_unicasts_that_nobody_may_send(payload: bytes, reason: str) -> None:
    with pytest.raises(WireError, match=reason):
        decode_address_unicast_untrusted(payload)


@pytest.mark.parametrize(
    "ring",
    [
        RingState(1 << 32, 0, PeerName(1), (), ()),
        RingState(0, 16, PeerName(1 << 48), (), ()),
        RingState(0, 16, PeerName(1), (RingEntry(0, PeerName(0), 0, 0),), ()),
        RingState(0, 16, PeerName(1), (RingEntry(0, PeerName(1), 1 << 32, 0),), ()),
        RingState(0, 16, PeerName(1), (), (PeerName(0),)),
    ],
)
def test_rings_of_numbers_that_do_not_fit(ring: RingState) -> None:
    payload = encode_address_unicast(RingUpdate(AddressState(0, ring=ring)))
    with pytest.raises(WireError, match=r"right size|without a name"):
        decode_address_unicast_untrusted(payload)


def test_nicknames_of_any_length_are_not_taken() -> None:
    with pytest.raises(WireError, match="nickname"):
        decode_address_state_untrusted(encode_address_state(AddressState(0, {PeerName(1): "x" * 256})))


def test_a_large_ring_is_written_as_the_schema_says() -> None:
    """Entries have an encoder of their own, for speed."""
    numbers = (0, 1, 127, 128, 255, 256, 65535, 1 << 24, (1 << 32) - 1)
    entries = tuple(
        RingEntry(token, PeerName(peer), version, free)
        for token in numbers
        for peer in (1, 200, (1 << 48) - 1)
        for version in numbers
        for free in numbers[:5]
    )
    schema = Struct("", tuple((name, Basic.UINT) for name in ("Token", "Peer", "Version", "Free")))
    by_schema = encode_value(
        Slice(schema),
        [{"Token": e.token, "Peer": e.peer, "Version": e.version, "Free": e.free} for e in entries],
    )
    payload = encode_address_state(
        AddressState(0, {}, None, RingState(0, (1 << 32) - 1, PeerName(1), entries, ()))
    )
    assert by_schema in payload
