"""Stories of networks that give out addresses: how hosts meet, die, return, sleep, and come back with an old disk."""

import pytest
from addresses import AddressWorld, Request, allocator_of, settle, start_all
from world import Host

from weavepy.ipam.stored import RING_KEY
from weavepy.wire.ipam import Range

START = 0x0A200000  # 10.32.0.0
SMALL, USUAL = Range(START, START + 16), Range(START, START + 256)


def had(*requests: Request) -> list[int]:
    """Returns the addresses that were given out, as offsets."""
    assert all(request.answer is not None and not request.answer.reason for request in requests)
    return [request.answer.value - START for request in requests if request.answer is not None]


def use_up(world: AddressWorld, host: Host, count: int, name: str) -> list[Request]:
    requests = [world.allocate(host, f"{name}{n}") for n in range(count)]
    world.run(10)
    return requests


def test_three_hosts_are_launched_attach_containers_and_are_connected_then() -> None:
    world = AddressWorld(1, USUAL)
    hosts = [world.address_host(number).start() for number in (1, 2, 3)]
    requests = [world.allocate(host, f"c{n}") for host in hosts for n in range(3)]
    given = had(*requests)  # at once, since nobody else is there
    hosts[0].connect(hosts[1], hosts[2])
    settle(world)
    assert len(set(given)) == 9  # each began somewhere else
    assert not any(allocator_of(host).clashes for host in hosts)
    assert not any(allocator_of(host).unclaimed for host in hosts)
    use_up(world, hosts[2], 245 - 3, "d")
    settle(world)
    world.check_settled()


def test_two_who_gave_out_the_same_address_alone_know_it_when_they_have_met() -> None:
    world = AddressWorld(2, USUAL)
    one, two = world.address_host(1).start(), world.address_host(2).start()
    claims = [world.claim(host, f"web{host.number}", START + 80) for host in (one, two)]
    assert had(*claims) == [80, 80]
    two.connect(one)
    settle(world)
    world.check_settled()
    (known,) = [host for host in (one, two) if allocator_of(host).clashes]
    (grant,) = [grant for grant in world.all_grants() if grant.host is known]
    world.free(grant)  # the operator gives that container another one
    again = world.allocate(known, grant.owner)
    settle(world)
    assert had(again) != [80]
    assert not allocator_of(known).clashes


@pytest.mark.parametrize("seed", range(12))
def test_a_host_dies_while_it_writes_down_what_it_gave_away(seed: int) -> None:
    world = AddressWorld(seed, SMALL)
    hosts = [world.address_host(n) for n in (1, 2, 3)]
    start_all(world, hosts)
    use_up(world, hosts[0], 5, "c")
    settle(world)
    for host in hosts[1:]:
        host.disk.latency_s = 0.2
    wish = use_up(world, hosts[0], 1, "d")[0] if seed % 2 else world.allocate(hosts[0], "d")
    world.run_until(lambda: any(host.disk.busy for host in hosts[1:]), 10, must=False)
    donor = next((host for host in hosts[1:] if host.disk.busy), hosts[1])
    donor.power_off()
    world.run(20)
    donor.start(hosts[0])
    settle(world)
    had(wish)
    world.check_settled()
    assert {allocator_of(host).ring.state().entries[0].peer for host in hosts} <= {
        host.name for host in hosts
    }


def test_a_host_that_was_given_up_returns_with_its_disk() -> None:
    world = AddressWorld(4, USUAL)
    hosts = [world.address_host(n) for n in (1, 2, 3)]
    start_all(world, hosts)
    mine = use_up(world, hosts[2], 3, "c")
    hosts[2].power_off()
    world.run(30)
    taken = world.remove_peer(hosts[0], hosts[2].name)
    world.run(1)
    assert taken.answer is not None
    assert taken.answer.value > 60
    use_up(world, hosts[0], 100, "d")  # some of them were the lost host's
    hosts[2].start(hosts[0])
    settle(world)
    links = {host: set(host.links) for host in hosts}
    ring = allocator_of(hosts[1]).ring
    later = use_up(world, hosts[2], 20, "e")
    settle(world)
    assert allocator_of(hosts[1]).ring.peers() == ring.peers() == {hosts[0].name, hosts[1].name}
    assert allocator_of(hosts[2]).conflicts
    assert {host: set(host.links) for host in hosts} == links  # a contradiction ends no connection
    assert all(
        request.answer is None for request in later
    )  # it has learnt that its space isn't its own any more
    assert "repair" in allocator_of(hosts[2]).waiting[0].waits_for
    world.repair(hosts[2])
    settle(world)
    world.check_settled()
    assert [START + offset for offset in had(*mine)] == sorted(allocator_of(hosts[2]).clashes)
    assert len(set(had(*mine)) | set(had(*later))) == 23


def test_a_host_that_was_given_up_and_is_set_up_anew_gets_addresses_again() -> None:
    world = AddressWorld(5, SMALL)
    hosts = [world.address_host(n) for n in (1, 2, 3)]
    start_all(world, hosts)
    use_up(world, hosts[2], 2, "c")
    hosts[2].power_off()
    world.run(30)
    world.remove_peer(hosts[0], hosts[2].name)
    world.run(1)
    world.throw_away(hosts[2])
    fresh = world.address_host(4)
    fresh.start(hosts[1])
    settle(world)
    assert len(had(*use_up(world, fresh, 14, "d"))) == 14


def test_a_host_comes_back_with_the_disk_of_yesterday() -> None:
    world = AddressWorld(6, USUAL)
    hosts = [world.address_host(n) for n in (1, 2)]
    start_all(world, hosts)
    before = use_up(world, hosts[0], 3, "c")
    yesterday = dict(hosts[0].disk.durable)
    use_up(world, hosts[1], 180, "d")  # host 1 gives half of what it had away
    assert hosts[0].disk.durable[RING_KEY] != yesterday[RING_KEY]
    hosts[0].power_off()
    world.restore(hosts[0], yesterday)
    hosts[0].start(hosts[1])
    settle(world)
    world.check_settled()
    assert not allocator_of(hosts[0]).conflicts
    later = use_up(world, hosts[0], 70, "e")
    assert had(*before) == sorted(had(*before))
    assert len(had(*later)) == 70
    world.check_settled()


@pytest.mark.parametrize("days", [1, 30, 3650])
def test_a_host_sleeps_for_days(days: int) -> None:
    world = AddressWorld(7, SMALL)
    hosts = [world.address_host(n) for n in (1, 2, 3)]
    start_all(world, hosts)
    before = use_up(world, hosts[1], 4, "c")
    rings = [allocator_of(host).ring.peers() for host in hosts]
    hosts[1].jump(days * 86400.0)
    world.run(0.1)
    waits = world.allocate(hosts[1], "d")
    world.run(15)
    assert all(len(host.established()) == 2 for host in hosts)
    settle(world)
    assert [allocator_of(host).ring.peers() for host in hosts] == rings
    assert set(had(*before)).isdisjoint(had(waits))
    rest = use_up(world, hosts[0], 9, "e")
    assert len({*had(*before, waits), *had(*rest)}) == 14
    assert not any(allocator_of(host).conflicts for host in hosts)


def test_a_host_leaves_and_nothing_is_lost() -> None:
    world = AddressWorld(8, SMALL)
    hosts = [world.address_host(n) for n in (1, 2, 3)]
    start_all(world, hosts)
    use_up(world, hosts[2], 4, "c")
    owned = sum(one.end - one.start for one in allocator_of(hosts[2]).ring.owned_by(hosts[2].name))
    left = world.leave(hosts[2])
    assert left.answer is not None
    assert left.answer.value == owned > 0
    world.run(1)
    hosts[2].kill()
    world.wipe(hosts[2])
    settle(world)
    assert allocator_of(hosts[0]).ring.peers() == {hosts[0].name, hosts[1].name}
    assert len(had(*use_up(world, hosts[0], 14, "d"))) == 14


def test_who_can_not_reach_the_others_still_gives_out_its_own() -> None:
    world = AddressWorld(9, SMALL)
    hosts = [world.address_host(n) for n in (1, 2, 3)]
    start_all(world, hosts)
    settle(world)
    world.cut((1, 2), (1, 3))
    world.run(20)
    own = sum(one.end - one.start for one in allocator_of(hosts[0]).ring.owned_by(hosts[0].name)) - 1
    requests = use_up(world, hosts[0], own + 2, "c")
    assert [r.answer is not None for r in requests] == [True] * own + [False] * 2
    (first, _) = allocator_of(hosts[0]).waiting
    assert "can't be reached" in first.waits_for
    world.heal()
    world.run_until(lambda: not world.waiting(), 30)
    assert len(set(had(*requests))) == own + 2
