"""Many who wait for addresses that nobody has, or that somebody else has: little is said, and it comes to an end."""

from island import START, Island

from weavepy.events import PeerName
from weavepy.wire.ipam import Range


def settled(*numbers: int, **config: object) -> Island:
    island = Island(*numbers, seeds=tuple(PeerName(number) for number in numbers), **config)
    island.gossip()
    island.deliver()
    return island


def asked(island: Island) -> int:
    """Counts what is said to one peer alone while everything is delivered."""
    count = 0
    while island.post_box:
        count += island.post_box[0][2] == "unicast"
        island.deliver_one()
    return count


def test_a_hundred_who_wait_ask_as_one() -> None:
    island = settled(1, 2)
    numbers = [island[1].allocate(f"c{n}") for n in range(227)]  # 127 are its own
    assert asked(island) <= 2 * 8 + 4  # who asks gets half of what is left, and an answer
    assert all(number in island[1].granted for number in numbers)


def test_who_waits_in_vain_asks_each_peer_once_in_a_while() -> None:
    island = settled(1, 2, 3)
    for n in range(254):
        island[2].allocate(f"c{n}")
    island.deliver()
    for n in range(100):
        island[1].allocate(f"d{n}")
    island.deliver()
    island[3].allocator.ring.report_free(lambda _: 0)
    island.gossip()
    island.deliver()
    island.now += 5.0
    island[1].do(island[1].allocator.handle_timer(island.now))
    assert asked(island) <= 8
    assert len(island[1].allocator.waiting) == 100


def test_two_who_wait_do_not_pass_a_useless_address_to_and_fro() -> None:
    """The first and the last address of a subnet are nobody's, but free, so they are given to who asks."""
    universe = Range(START, START + 8)
    island = settled(1, 2, universe=universe)
    for n in range(6):
        island[1].allocate(f"c{n}", universe, 29)
        island.deliver(at_most=1000)
    for n in range(3):
        island[1].allocate(f"d{n}", universe, 29)
        island[2].allocate(f"e{n}", universe, 29)
    island.deliver(at_most=100)
    island.pass_time(20.0)
    before = island[1].allocator.ring
    island.deliver(at_most=100)
    assert island[1].allocator.ring == before
    island[1].do(island[1].allocator.free("c0"))
    island.pass_time(40.0)
    assert len(island[1].allocator.waiting) + len(island[2].allocator.waiting) == 5


def test_who_can_not_agree_with_anybody_is_given_nothing_it_would_never_know_of() -> None:
    """It was given up and has returned, and what both have given out can't be merged."""
    island = settled(1, 2, 3)
    used = island[3].allocator.ring.owned_by(PeerName(3))[0].start + 5
    island[3].claim("c", used)
    island.groups = [{1, 2}, {3}]
    island[1].do(island[1].allocator.take_over(PeerName(3), island.now)[1])
    island[1].claim("d", used)
    island.pass_time(35.0)
    island.groups = None
    island.pass_time(40.0)
    assert island[3].allocator.conflicts
    number = island[3].allocate("e")
    island.pass_time(40.0)
    assert number not in island[3].granted
    assert "weavepy ipam repair" in island[3].allocator.waiting[0].waits_for
    assert island[2].allocator.ring.peers() == {1, 2}
    island[3].do(island[3].allocator.repair(island.now))
    island.pass_time(10.0)
    assert number in island[3].granted
    assert island[3].allocator.clashes == {used: 1}
