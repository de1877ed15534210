"""While the disk doesn't work or others may take this host for lost: nothing new is given out, or away."""

from typing import Any

import pytest
from island import START, UNIVERSE, Island

from weavepy.events import PeerName
from weavepy.ipam.actions import Announce, Save, Tell
from weavepy.wire.ipam import Range, RingUpdate, SpaceDenied, SpaceRequest, encode_address_unicast

SEEDS = (PeerName(1), PeerName(2))


@pytest.mark.parametrize("trouble", ["set_disk_trouble", "set_fence"])
def test_nothing_new_is_given_out_and_it_goes_on_when_it_is_over(trouble: str) -> None:
    island = Island(1, 2, seeds=SEEDS)
    kept = island[1].allocate("a")
    hold: Any = getattr(island[1].allocator, trouble)
    island[1].do(hold("why not", island.now))
    assert island[1].allocator.held_back == "why not"
    assert island[1].allocator.lacks(island.now) == "why not"
    again = island[1].allocate("a")
    assert island[1].granted[again] == island[1].granted[kept], "what he has he keeps"
    late = [island[1].allocate("b"), island[1].claim("c", START + 9), island[1].claim("d", START + 200)]
    outside = island[1].claim("e", START - 1)
    island.pass_time(60.0)
    assert not {*late, outside} & set(island[1].granted)
    assert {request.waits_for for request in island[1].allocator.waiting} == {"why not"}
    assert not island[1].refused
    island[1].do(island[1].allocator.free("a"))
    island[1].do(hold(None, island.now))
    island.deliver()
    assert {*late, outside} <= set(island[1].granted), "at once"
    island.check(settled=True)


def test_two_reasons_hold_until_both_are_over() -> None:
    island = Island(1, 2, seeds=SEEDS)
    one = island[1].allocator
    island[1].do(one.set_disk_trouble("the disk is full", 0.0))
    island[1].do(one.set_fence("no majority", 0.0))
    assert one.held_back == "the disk is full; no majority"
    number = island[1].allocate("a")
    island[1].do(one.set_disk_trouble(None, 0.0))
    assert number not in island[1].granted
    island[1].do(one.set_fence(None, 0.0))
    assert number in island[1].granted


def test_nothing_is_given_away_and_a_claim_isnt_told_that_it_clashes() -> None:
    island = Island(1, 2, seeds=SEEDS)
    island[1].do(island[1].allocator.set_disk_trouble("the disk is full", 0.0))
    ring = island[1].allocator.ring
    for wanted, denied in ((UNIVERSE, True), (Range(START + 9, START + 10), False)):
        request = encode_address_unicast(SpaceRequest(wanted))
        actions = island[1].allocator.handle_unicast_untrusted(PeerName(2), request, 0.0)
        assert not any(isinstance(action, Save | Announce) for action in actions)
        messages = [action.message for action in actions if isinstance(action, Tell)]
        assert any(isinstance(message, SpaceDenied) for message in messages) == denied
        assert any(isinstance(message, RingUpdate) for message in messages)
    assert island[1].allocator.ring == ring
    number = island[2].claim("c", START + 9)
    island.pass_time(30.0)
    assert number not in island[2].granted
    assert number not in island[2].refused
    island[1].do(island[1].allocator.set_disk_trouble(None, island.now))
    island.pass_time(10.0)
    assert number in island[2].granted


def test_no_division_is_begun_or_agreed_to() -> None:
    island = Island(1, 2)
    for host in (1, 2):
        island[host].do(island[host].allocator.set_disk_trouble("the disk is full", 0.0))
        island[host].do(island[host].allocator.prime(0.0))
        island[host].allocate("c")
    island.pass_time(30.0)
    island[2].do(island[2].allocator.set_disk_trouble(None, island.now))
    island.pass_time(30.0)
    assert all(island[host].allocator.ring.empty for host in (1, 2))
    island[1].do(island[1].allocator.set_disk_trouble(None, island.now))
    island.pass_time(30.0)
    assert island[1].allocator.ring.seeds == SEEDS
    assert all(not island[host].allocator.waiting for host in (1, 2))


def test_a_host_alone_gives_out_nothing_either() -> None:
    island = Island(1)
    island[1].do(island[1].allocator.set_disk_trouble("the disk is full", 0.0))
    number = island[1].allocate("a")
    assert number not in island[1].granted
    island[1].do(island[1].allocator.set_disk_trouble(None, 0.0))
    assert number in island[1].granted


def test_a_host_in_trouble_gives_way_when_it_is_over() -> None:
    island = Island(1, 2, quorum=1)
    island.groups = [{1}, {2}]
    for host in (1, 2):
        island[host].do(island[host].allocator.prime(0.0))
    island[2].do(island[2].allocator.set_disk_trouble("the disk is full", 0.0))
    island.groups = None
    island.pass_time(60.0)
    assert island[2].allocator.ring.seeds == (2,)
    island[2].do(island[2].allocator.set_disk_trouble(None, island.now))
    island.pass_time(60.0)
    assert island[2].allocator.ring.seeds == (1,)
