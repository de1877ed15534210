"""What is heard again and again, and said again and again, is decoded, merged and encoded once."""

from dataclasses import replace

import pytest
from island import END, START, Island

from weavepy import limits
from weavepy.events import PeerName
from weavepy.ipam import exchange
from weavepy.wire.ipam import (
    AddressState,
    RingState,
    decode_address_state_untrusted,
    encode_address_state,
)

SEEDS = (PeerName(1), PeerName(2))


def counted(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    decoded: list[bytes] = []

    def decode(payload: bytes) -> AddressState:
        decoded.append(payload)
        return decode_address_state_untrusted(payload)

    monkeypatch.setattr(exchange, "decode_address_state_untrusted", decode)
    return decoded


def test_what_has_been_merged_is_known_again(monkeypatch: pytest.MonkeyPatch) -> None:
    island = Island(1, 2, seeds=SEEDS)
    one, decoded = island[1].allocator, counted(monkeypatch)
    payload = island[2].allocator.payload()
    for _ in range(3):
        island[1].do(one.handle_gossip_untrusted(payload, 0.0))
        island[1].allocate(f"c{len(decoded)}")
        island[1].do(one.handle_broadcast_untrusted(PeerName(2), payload, 0.0))
    assert decoded == [payload]
    island[2].allocate("d")
    island[1].do(one.handle_gossip_untrusted(island[2].allocator.payload(), 0.0))
    assert len(decoded) == 2
    assert one.ring.entries[1].free == 127


def test_after_giving_way_everything_is_news_again(monkeypatch: pytest.MonkeyPatch) -> None:
    island = Island(1, 2, 3, seeds=(PeerName(1), PeerName(2)))
    island[3].config = {"seeds": (PeerName(3), PeerName(4))}
    island[3].saved.clear()
    island[3].start()
    island.gossip()
    island.deliver()
    decoded = counted(monkeypatch)
    island[3].do(island[3].allocator.repair(0.0))
    island[3].do(island[3].allocator.handle_gossip_untrusted(island[1].allocator.payload(), 0.0))
    assert len(decoded) == 1


def test_what_contradicts_is_heard_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    island = Island(1, 2, seeds=SEEDS)
    theirs = replace(island[2].allocator.ring.state(), seeds=(PeerName(2), PeerName(3)))
    payload = encode_address_state(AddressState(0, {}, None, theirs))
    decoded = counted(monkeypatch)
    for now in (0.0, 100.0):
        island[1].do(island[1].allocator.handle_gossip_untrusted(payload, now))
    assert len(decoded) == 2
    assert island[1].allocator.conflicts[0].heard == 100.0


def test_others_cant_fill_the_memory_with_states() -> None:
    island = Island(1, 2, seeds=SEEDS)
    one = island[1].allocator
    for n in range(limits.STATES_KNOWN_MAX + 10):
        state = AddressState(n, {}, None, island[2].allocator.ring.state())
        island[1].do(one.handle_gossip_untrusted(encode_address_state(state), 0.0))
    assert len(one._exchange._known) == limits.STATES_KNOWN_MAX


def test_what_is_said_is_encoded_once_for_each_change() -> None:
    island = Island(1, 2, seeds=SEEDS)
    one = island[1].allocator
    first = one.payload()
    assert one.payload() is first
    assert b"".join(one.complete().encode()) == first == encode_address_state(one.state())
    island[1].allocate("c")
    assert one.payload() != first
    before = one.payload()
    payload = encode_address_state(
        AddressState(0, {PeerName(2): "renamed"}, None, island[2].allocator.ring.state())
    )
    island[1].do(one.handle_gossip_untrusted(payload, 0.0))
    assert one.payload() != before
    assert one.payload() == encode_address_state(one.state())


def test_a_ring_of_nothing_isnt_given_way_to() -> None:
    island = Island(1, chosen=False)
    empty = RingState(START, END + 256, PeerName(2), (), ())
    payload = encode_address_state(AddressState(0, {}, None, empty))
    island[1].do(island[1].allocator.handle_gossip_untrusted(payload, 0.0))
    assert island[1].allocator.universe == (START, END)
