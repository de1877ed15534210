"""What happened to rings of Weave Net, issue by issue. Here it ends without two who have one address and don't know it,
without space that is lost, and without a connection that is given up.
"""

from dataclasses import replace

import pytest
from addresses import AddressWorld, allocator_of, settle, start_all
from test_ring_stories import START, USUAL, had, use_up
from world import Host

from weavepy.events import AddressFreed, PeerName
from weavepy.ipam.ring import Ring
from weavepy.ipam.stored import RING_KEY, restore_ring, ring_text
from weavepy.wire.ipam import CHANNEL, AddressState, Range, RingEntry, RingUpdate, encode_address_unicast


def owner_of(host: Host, address: int) -> PeerName | None:
    return allocator_of(host).ring.owner(address)


def three(seed: int, universe: Range = USUAL) -> tuple[AddressWorld, list[Host]]:
    """Three hosts with a part each."""
    world = AddressWorld(seed, universe)
    names = tuple(PeerName(0x020000000000 + n) for n in (1, 2, 3))
    hosts = [world.address_host(n, seeds=names) for n in (1, 2, 3)]
    start_all(world, hosts)
    settle(world)
    return world, hosts


@pytest.mark.parametrize("used", [False, True])
def test_3628_space_is_given_away_unheard_and_its_giver_is_taken_over(used: bool) -> None:
    """Host 1 gives space to host 2; host 3 hears nothing of it, and takes over what host 1 had as far as it knows."""
    world, (one, two, three_) = three(1)
    world.cut((1, 3), (2, 3))
    world.run(20)
    given = use_up(world, two, 100, "c")  # more than it owns: some was host 1's
    theirs = sorted(START + offset for offset in had(*given) if owner_of(three_, START + offset) == one.name)
    assert theirs
    one.power_off()
    world.throw_away(one)
    world.remove_peer(three_, one.name, rashly=True)
    world.run(1)
    if used:
        assert had(world.claim(three_, "d", theirs[0])) == [theirs[0] - START]
    world.heal()
    two.connect(three_)
    settle(world)
    assert two.established() == {three_.name}
    if used:
        # Only now two have one address. It is said, no connection ends, and an operator ends it.
        assert allocator_of(two).conflicts or allocator_of(three_).conflicts
        world.repair(next(host for host in (three_, two) if allocator_of(host).conflicts))
        settle(world)
        world.check_settled()
        assert len(allocator_of(two).clashes) + len(allocator_of(three_).clashes) == 1
    else:
        assert not allocator_of(two).conflicts
        assert not allocator_of(three_).conflicts
        world.check_settled()
    assert allocator_of(two).ring.peers() == allocator_of(three_).ring.peers() == {two.name, three_.name}
    left = 254 - len({grant.address for grant in world.all_grants()})
    use_up(world, three_, left, "e")
    settle(world)
    assert not world.waiting()


@pytest.mark.parametrize("used", [0, 1, 2])
def test_3632_two_have_taken_over_the_same_host(used: int) -> None:
    """The same version of an entry with two owners. `used`: how many of them have given something of it out."""
    world, (one, two, lost) = three(2)
    part = allocator_of(one).ring.owned_by(lost.name)[0]
    lost.power_off()
    world.throw_away(lost)
    world.cut((1, 2))
    world.run(30)
    for number, host in enumerate((one, two)):
        world.remove_peer(host, lost.name, rashly=True)
        world.run(0.1)
        if number < used:
            assert had(world.claim(host, f"c{number}", part.start + 7 + number)) == [
                part.start - START + 7 + number
            ]
    world.heal()
    one.connect(two)
    settle(world)
    assert one.established() == {two.name}
    if used == 2:
        assert allocator_of(one).conflicts
        world.repair(one)
        settle(world)
    world.check_settled()
    assert owner_of(one, part.start) == owner_of(two, part.start)
    assert not allocator_of(one).conflicts
    assert not allocator_of(two).conflicts
    left = 254 - len({grant.address for grant in world.all_grants()})
    use_up(world, one, left, "e")
    assert not world.waiting()


@pytest.mark.parametrize("seed", range(8))
def test_2344_the_power_fails_while_an_address_is_freed(seed: int) -> None:
    """What was freed is free or still given out after it, and what others were told of it is no older than the disk."""
    world, (one, two, _) = three(seed)
    use_up(world, one, 20, "c")
    settle(world)
    one.disk.latency_s = 0.05
    size = sum(part.end - part.start for part in allocator_of(one).ring.owned_by(one.name))
    versions = {entry.token: entry.version for entry in allocator_of(two).ring.entries}
    for grant in list(world.all_grants())[:10]:
        world.free(grant)
    world.run(0.1 * world.random.random())
    one.power_off()
    world.run(3)
    world.restart(one, two)
    settle(world)
    for host in (one, two):
        assert all(entry.version >= versions[entry.token] for entry in allocator_of(host).ring.entries)
        assert not allocator_of(host).conflicts
    ours = [entry for entry in allocator_of(two).ring.entries if entry.peer == one.name]
    held = sum(len(allocator_of(one).addresses(owner)) for owner in allocator_of(one).owners())
    assert 10 <= held <= 20
    assert sum(entry.free for entry in ours) == size - held, "others know how much is free there"
    use_up(world, two, 254 - held, "d")
    assert not world.waiting()


def test_3693_a_part_goes_on_at_the_start_of_the_universe() -> None:
    """A ring whose first token isn't the universe's first address: the last owner has what is before it, too."""
    world = AddressWorld(3, USUAL)
    hosts = [world.address_host(n) for n in (1, 2, 3)]
    names = [host.name for host in hosts]
    entries = tuple(RingEntry(START + 50 + 80 * n, name, 1, 0) for n, name in enumerate(names))
    ring = Ring(USUAL.start, USUAL.end, names[0], entries, tuple(names))
    for host in hosts:
        host.disk.durable[RING_KEY] = ring_text(replace(ring, peer=host.name))
    for before, host in enumerate(hosts):
        host.start(*hosts[:before])
    settle(world)
    assert sum(one.end - one.start for one in allocator_of(hosts[2]).ring.owned_by(names[2])) == 96
    last = use_up(world, hosts[2], 94, "c")
    assert set(had(*last)) == {*range(1, 50), *range(210, 255)}
    more = use_up(world, hosts[2], 60, "d")
    assert not set(had(*last)) & set(had(*more))
    for grant in [grant for grant in world.all_grants() if grant.address < START + 50]:
        world.free(grant)
    settle(world)
    left = 254 - len(list(world.all_grants()))
    assert len(had(*use_up(world, hosts[0], left, "e"))) == left
    settle(world)
    world.check_settled()
    hosts[2].power_off()
    world.restart(hosts[2], hosts[0])
    settle(world)
    world.check_settled()


def test_2083_freed_space_that_is_not_ours_and_rings_that_claim_too_much_upset_nobody() -> None:
    world, (one, two, lost) = three(4)
    lost_part = allocator_of(one).ring.owned_by(lost.name)[0]
    lost.power_off()
    world.run(30)
    hasty = world.claim(one, "c", lost_part.start + 3, optimistic=True)
    assert had(hasty) == [lost_part.start - START + 3]
    world.remove_peer(two, lost.name)
    settle(world)
    (grant,) = world.all_grants()
    assert owner_of(one, grant.address) == one.name  # claimed of the new owner
    world.free(grant)
    one.handle(AddressFreed("c", grant.address))  # once more
    bad = allocator_of(two).ring.state()
    worse = [bad.entries[0]._replace(free=1000), *bad.entries[1:]]
    state = AddressState(0, {}, None, replace(bad, entries=tuple(worse)))
    assert two.router is not None
    two.router._gossip.unicast(CHANNEL, one.name, encode_address_unicast(RingUpdate(state)))
    settle(world)
    assert one.established() == {two.name}
    assert sum(entry.free for entry in allocator_of(one).ring.entries) == 256
    assert len(had(*use_up(world, one, 254, "d"))) == 254


def test_3310_a_contradiction_ends_no_connection_and_grows_no_memory() -> None:
    """Two networks with parts of their own meet: for as long as nobody ends it both say so, and all goes on."""
    world = AddressWorld(5, USUAL)
    left = [world.address_host(n) for n in (1, 2)]
    right = [world.address_host(n) for n in (3, 4)]
    for pair in (left, right):
        start_all(world, pair)
        use_up(world, pair[0], 5, "c")
        use_up(world, pair[1], 5, "d")
    right[0].connect(left[0])
    settle(world)
    hosts = left + right
    links = {host: set(host.links) for host in hosts}
    counts = []
    for _ in range(3):
        world.run(200)
        counts.append([len(allocator_of(host).conflicts) for host in hosts])
    assert counts[0] == counts[2]
    assert all(0 < count < 5 for count in counts[0])
    assert {host: set(host.links) for host in hosts} == links
    assert all(request.answer for request in use_up(world, right[1], 3, "e"))
    for host in right:
        world.repair(host)
    settle(world)
    world.run(60)
    world.check_settled()
    assert not any(allocator_of(host).conflicts for host in hosts)
    kept = restore_ring(right[0].disk.durable)
    assert kept is not None
    assert kept.seeds == allocator_of(left[0]).ring.seeds
