"""Hosts that die, return and are cut off at random: afterwards all is as if nothing had happened, and nothing leaks."""

import random

import pytest
from test_many_routers import expect_tables, full_mesh
from world import Host, World

HOSTS = 7
BLOWS = 6
HEALED_WITHIN_S = 900  # longer than the longest pause between two tries to dial


def strike(draw: random.Random, world: World, hosts: list[Host], door: dict[int, Host]) -> None:
    """Kills a host, starts one, or parts the network for up to some minutes."""
    up = [host for host in hosts if host.router is not None]
    down = [host for host in hosts if host.router is None]
    blow = draw.random()
    if blow < 0.3 and len(up) > 3:
        draw.choice(up).kill()
    elif blow < 0.5 and len(up) > 3:
        draw.choice(up).power_off()
    elif blow < 0.75 and down:
        host = draw.choice(down)
        host.start(door[host.number], resume=draw.random() < 0.5)
    else:
        side = set(draw.sample(range(1, HOSTS + 1), draw.randint(1, HOSTS - 1)))
        world.cut(*((a, b) for a in side for b in range(1, HOSTS + 1) if b not in side))
        world.run(draw.choice((5, 30, 200)) * draw.random())
        world.heal()


def expect_nothing_left(host: Host, hosts: list[Host]) -> None:
    router = host.router
    assert router is not None
    others = {other.name for other in hosts} - {host.name}
    assert {link.peer for link in host.links.values()} == others
    assert len(host.pipes) == len(host.links) == len(others)
    assert len(router._sessions.by_conn) == len(router._sessions.by_peer) == len(others)
    assert len(router._sessions.by_link) == len(others)
    assert set(router._topology._references) == others
    assert not router._dialling
    assert not router._admission._sources
    assert host.known() == {other.name for other in hosts}
    assert host.tables is not None
    assert {link for _, link, _ in host.tables.peers} - {0} <= host.links.keys()
    assert {link for _, links in host.tables.trees for link in links} <= host.links.keys()
    due = router.next_timer()
    assert due is None or due >= host.world.now


@pytest.mark.parametrize("seed", range(6))
def test_whatever_happened_the_mesh_is_whole_again_and_nothing_is_left_over(seed: int) -> None:
    draw = random.Random(seed)
    world = World(seed)
    hosts = [world.host(number) for number in range(1, HOSTS + 1)]
    door = {host.number: hosts[0] if host is not hosts[0] else hosts[1] for host in hosts}
    hosts[0].start()
    for before, host in enumerate(hosts[1:], 1):
        host.start(*draw.sample(hosts[:before], min(before, draw.randint(1, 2))))
        world.run(draw.random() / 2)
    for _ in range(BLOWS):
        strike(draw, world, hosts, door)
        world.run(draw.random() * 20)
    for host in hosts:
        if host.router is None:
            host.start(door[host.number])
    world.run_until(lambda: full_mesh(hosts), HEALED_WITHIN_S)
    world.run(30)
    for host in hosts:
        expect_nothing_left(host, hosts)
    expect_tables(hosts)
