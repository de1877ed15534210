"""Routers that have fastpath and sleeve beside each other, on roads that lose one of them."""

import pytest
from world import Host, World

from weavepy import limits

BOTH = ("fastpath", "sleeve")


def two(
    seed: int, *, first: tuple[str, ...] = BOTH, second: tuple[str, ...] = BOTH
) -> tuple[World, Host, Host]:
    world = World(seed)
    one, other = world.host(1, overlays=first), world.host(2, overlays=second)
    one.start()
    other.start(one)
    return world, one, other


def carriers(*hosts: Host) -> list[str]:
    """What each host says that its only connection goes by."""
    found = []
    for host in hosts:
        assert host.router is not None
        (connection,) = host.router.report(host.world.now)["Connections"]  # type: ignore[misc]
        found.append(connection["Attrs"]["name"])  # type: ignore[index]
        (link,) = host.links.values()
        assert link.by_sleeve == (found[-1] == "sleeve"), "the engine does what the report says"
    return found


def terminations(*hosts: Host) -> int:
    return sum(host.router.report(0.0)["TerminationCount"] for host in hosts if host.router is not None)  # type: ignore[misc]


@pytest.mark.parametrize("seed", range(5))
def test_both_come_up_and_fastpath_carries(seed: int) -> None:
    world, one, other = two(seed)
    world.run_until(lambda: one.established() and other.established(), 5.0)
    assert carriers(one, other) == ["fastpath", "fastpath"]
    assert one.router is not None
    assert one.router.is_connected()
    world.run(600.0)
    assert carriers(one, other) == ["fastpath", "fastpath"]
    assert terminations(one, other) == 0
    assert not any("sleeve" in text for _, _, _, text in world.log)


@pytest.mark.parametrize("overlay", BOTH)
@pytest.mark.parametrize("ways", ["both", "one", "other"])
def test_one_overlay_lost_is_stood_in_for_by_the_other(overlay: str, ways: str) -> None:
    world, one, other = two(7)
    world.run_until(lambda: one.established() and other.established(), 5.0)
    world.run(30.0)
    if ways != "other":
        world.drop(1, 2, overlay)
    if ways != "one":
        world.drop(2, 1, overlay)
    world.run(8.0)
    expected = ["sleeve", "sleeve"] if overlay == "fastpath" else ["fastpath", "fastpath"]
    assert carriers(one, other) == expected
    world.run(600.0)
    assert carriers(one, other) == expected
    world.pass_all()
    world.run(2 * limits.HEARTBEAT_STEADY_S + limits.HEARTBEAT_VAIN_PERIOD_S)
    assert carriers(one, other) == ["fastpath", "fastpath"]
    assert terminations(one, other) == 0


def test_fastpath_blocked_from_the_start_makes_no_difference_to_who_reaches_whom() -> None:
    world = World(3)
    one, other = world.host(1, overlays=BOTH), world.host(2, overlays=BOTH)
    world.drop(1, 2, "fastpath")
    world.drop(2, 1, "fastpath")
    one.start()
    other.start(one)
    world.run_until(lambda: bool(one.established() and other.established()), limits.SLEEVE_GRACE_S + 1.0)
    assert carriers(one, other) == ["sleeve", "sleeve"]
    world.run(300.0)
    assert terminations(one, other) == 0
    world.pass_all()
    world.run(limits.HEARTBEAT_VAIN_PERIOD_S + 1.0)
    assert carriers(one, other) == ["fastpath", "fastpath"]


def test_both_lost_end_the_connection_and_it_comes_back() -> None:
    world, one, other = two(11)
    world.run_until(lambda: one.established() and other.established(), 5.0)
    for overlay in BOTH:
        world.drop(1, 2, overlay)
    world.run(15.0)
    assert terminations(one, other) > 0
    assert not other.established()
    assert other.router is not None
    assert not other.router.is_connected()
    world.pass_all()
    world.run(90.0)
    assert carriers(one, other) == ["fastpath", "fastpath"]
    assert one.established()
    assert other.established()


@pytest.mark.parametrize("by_sleeve", [False, True])
def test_a_peer_without_power_is_found_within_15_s(by_sleeve: bool) -> None:
    world, one, other = two(5)
    world.run_until(lambda: one.established() and other.established(), 5.0)
    if by_sleeve:
        world.drop(1, 2, "fastpath")
        world.run(30.0)
        assert carriers(one, other) == ["sleeve", "sleeve"]
    other.power_off()
    assert world.run_until(lambda: not one.established(), 15.0) > 9.0


@pytest.mark.parametrize("first", [BOTH, ("sleeve",), ("fastpath",)])
@pytest.mark.parametrize("second", [BOTH, ("sleeve",), ("fastpath",)])
def test_any_two_offers_with_something_in_common_meet(
    first: tuple[str, ...], second: tuple[str, ...]
) -> None:
    world, one, other = two(1, first=first, second=second)
    world.run(20.0)
    common = [name for name in BOTH if name in first and name in second]
    if common:
        assert carriers(one, other) == [common[0]] * 2
        assert one.established()
        assert other.established()
    else:
        assert not one.established()
        assert any("no overlay in common" in text for _, _, _, text in world.log)
