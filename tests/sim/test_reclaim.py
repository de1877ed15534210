"""`--reclaim-after` with whole routers: what lost hosts owned comes back, and is used by one side only."""

import pytest
from world import Host, World

from weavepy import events as ev
from weavepy.events import PeerName
from weavepy.wire.ipam import Range

UNIVERSE = Range(0x0A200000, 0x0A200040)
AFTER_S = 120
TAKEN_WITHIN_S = 300.0  # from the loss: the time, a margin, and what finding out and agreeing take


def network(count: int, *, seeds: int = 3, seed: int = 1) -> tuple[World, list[Host]]:
    world = World(seed)
    names = tuple(PeerName(0x020000000000 + number) for number in range(1, seeds + 1))
    settings = {"universe": UNIVERSE, "seeds": names, "reclaim_after_s": AFTER_S}
    hosts = [world.host(number, addresses=settings) for number in range(1, count + 1)]
    for host in hosts:
        host.start(*hosts[: host.number - 1])
    world.run_until(lambda: all(in_force(host) for host in hosts), 120.0)
    return world, hosts


def in_force(host: Host) -> bool:
    assert host.router is not None
    assert host.router.addresses is not None
    assert host.router.addresses.lease is not None
    lease = host.router.addresses.lease.lease
    return lease.roster is not None and not lease.fenced(host.clock())


def owned(host: Host, peer: Host) -> int:
    assert host.router is not None
    assert host.router.addresses is not None
    return sum(one.end - one.start for one in host.router.addresses.allocator.ring.owned_by(peer.name))


def allocate(host: Host, number: int) -> None:
    host.handle(ev.AddressWanted(number, f"c{number}", UNIVERSE.start, UNIVERSE.end, 26))


def held(host: Host) -> set[int]:
    assert host.router is not None
    assert host.router.addresses is not None
    allocator = host.router.addresses.allocator
    return {address for owner in allocator.owners() for address in allocator.addresses(owner)}


def test_a_lost_hosts_space_is_taken_over_by_the_others() -> None:
    world, (one, two, three) = network(3)
    assert owned(one, three) > 0
    three.power_off()
    lost_at = world.now
    world.run(AFTER_S)
    assert owned(one, three) > 0, "too early: it may still use them"
    world.run_until(lambda: owned(one, three) == owned(two, three) == 0, TAKEN_WITHIN_S - AFTER_S)
    assert world.now - lost_at >= AFTER_S
    # All there is can be had from those that are left.
    for number in range(62):
        allocate(one if number % 2 else two, 100 + number)
    world.run(60.0)
    assert len(held(one) | held(two)) == 62
    assert not held(one) & held(two)


@pytest.mark.parametrize("returns", ["with its disk", "from a partition"])
def test_the_lost_host_stops_in_time_and_comes_back_as_a_newcomer(returns: str) -> None:
    world, (one, two, three) = network(3)
    allocate(three, 1)
    world.run(1.0)
    mine = held(three)
    assert mine
    world.cut((3, 1), (3, 2))
    cut_at = world.now
    if returns == "with its disk":
        three.power_off()
        world.run(AFTER_S * 2)
    else:
        world.run(AFTER_S / 2 + 30)
        allocate(three, 2)  # fenced by now
        world.run(5.0)
        assert held(three) == mine
        assert owned(one, three) > 0
        world.run_until(lambda: bool(three.expired_at), AFTER_S)
        assert held(three) == set()
    world.run_until(lambda: owned(one, three) == owned(two, three) == 0, TAKEN_WITHIN_S)
    assert not three.expired_at or cut_at + AFTER_S / 2 < three.expired_at[0] < world.now, "both used them"
    world.heal()
    if returns == "with its disk":
        three.start(one, resume=True)
        assert three.router is not None
    world.run_until(lambda: in_force(three), 900.0)
    allocate(three, 3)
    world.run_until(lambda: bool(held(three)), 60.0)
    for number in range(20):
        allocate(one, 10 + number)
        allocate(two, 50 + number)
    world.run(60.0)
    assert not held(three) & (held(one) | held(two))
    assert len(held(one)) == len(held(two)) == 20


def test_two_hosts_never_take_anything_from_each_other() -> None:
    world, hosts = network(3)
    one, two, three = hosts
    two.power_off()
    three.power_off()
    world.run(4 * AFTER_S)
    assert owned(one, two) > 0
    assert one.expired_at, "it can't know that the others are gone and not it"
