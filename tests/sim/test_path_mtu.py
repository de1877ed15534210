"""Path MTUs of links among routers: found at once, followed up and down."""

import pytest
from world import Host, World


def path_mtus(host: Host) -> list[int]:
    return [link.path_mtu for link in host.links.values()]


def pair(path_mtu: int, **config: object) -> tuple[World, Host, Host]:
    world = World(7)
    one, two = world.host(1, **config), world.host(2, **config)
    world.narrow(1, 2, path_mtu)
    one.start()
    two.start(one)
    world.run_until(lambda: one.established() == {two.name} and two.established() == {one.name}, 2.0)
    return world, one, two


@pytest.mark.parametrize("config", [{}, {"password": None, "ciphers": ("clear",)}])
def test_a_full_size_path_is_in_use_before_frames_are(config: dict[str, object]) -> None:
    world, one, two = pair(1500, **config)
    assert world.run_until(lambda: path_mtus(one) == path_mtus(two) == [1500], 1.0) < 0.02
    assert one.tables is not None
    assert all(link == 0 for _, link, _ in one.tables.peers)


def test_a_path_narrower_than_the_kernel_believes_is_found() -> None:
    world, one, two = pair(1400)
    world.run_until(lambda: path_mtus(one) == path_mtus(two) == [1400], 5.0)


def test_a_path_that_narrows_and_widens_is_followed_and_the_link_stays() -> None:
    world, one, two = pair(1500)
    world.run(60)
    links = set(one.links)
    world.narrow(1, 2, 1280)
    world.run_until(lambda: path_mtus(one) == path_mtus(two) == [1280], 10.0)
    world.narrow(1, 2, 1500)
    world.run_until(lambda: path_mtus(one) == path_mtus(two) == [1500], 60.0)
    assert set(one.links) == links


def test_an_outage_shorter_than_the_heartbeats_allow_leaves_the_path_mtu_alone() -> None:
    world, one, two = pair(1500)
    world.run(60)
    world.cut((1, 2))
    world.run(8)
    world.heal()
    world.run(5)
    assert path_mtus(one) == path_mtus(two) == [1500]
    assert one.established() == {two.name}
