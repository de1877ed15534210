"""Which of several divisions a host gives way to."""

import pytest
from island import END, START, UNIVERSE, Island
from test_conflicts import say

from weavepy.events import PeerName
from weavepy.ipam.conflicts import RepairError
from weavepy.ipam.ring import Ring
from weavepy.wire.ipam import Range

FAR = Range(0x0A320000, 0x0A320000 + 256)  # 10.50.0.0/24


def two_ranges(**config: object) -> Island:
    """Host 3 hears of two rings of the same owners, of which one divides the range that it was started with."""
    island = Island(3, seeds=(PeerName(1), PeerName(3)), **config)
    for universe in (UNIVERSE, FAR):
        say(island, 3, Ring(*universe, PeerName(1)).divide([PeerName(1), PeerName(2)]))
    assert len(island[3].allocator.conflicts) == 2
    return island


@pytest.mark.parametrize("peer", [None, PeerName(2)])
def test_of_two_rings_of_the_same_owners_the_one_of_our_range_counts(peer: PeerName | None) -> None:
    island = two_ranges()
    island[3].do(island[3].allocator.repair(island.now, peer=peer))
    assert (island[3].allocator.universe, island[3].allocator.ring.seeds) == (UNIVERSE, (1, 2))


def test_of_two_rings_of_the_same_owners_the_range_chooses() -> None:
    island = two_ranges(chosen=False)
    three = island[3].allocator
    assert [three.described(one) for one in three.conflicts] == [
        "the ring of 00:00:00:00:00:01, 00:00:00:00:00:02 (10.32.0.0/24)",
        "the ring of 00:00:00:00:00:01, 00:00:00:00:00:02 (10.50.0.0/24)",
    ]
    with pytest.raises(
        RepairError, match="no other ring divides that range; name the range or a peer of one"
    ):
        three.repair(island.now, universe=(START, END + 1))
    island[3].do(three.repair(island.now, universe=FAR))
    assert (three.universe, three.ring.seeds) == (FAR, (1, 2))


def test_two_other_rings_of_our_range_are_still_to_be_chosen_from() -> None:
    island = two_ranges()
    say(island, 3, Ring(START, END, PeerName(4)).divide([PeerName(1), PeerName(4)]))
    with pytest.raises(RepairError, match="more than one ring"):
        island[3].allocator.repair(island.now, peer=PeerName(1))
    island[3].do(island[3].allocator.repair(island.now, peer=PeerName(2)))
    assert island[3].allocator.ring.seeds == (1, 2)
