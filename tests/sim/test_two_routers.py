"""Two routers: from the first dial to tables, and what happens when one of them goes."""

import pytest
from world import PORT, Host, World

from weavepy import events as ev
from weavepy.events import Address


def pair(seed: int = 1, **config: object) -> tuple[World, Host, Host]:
    world = World(seed)
    one, two = world.host(1, **config), world.host(2, **config)
    one.start()
    two.start(one)
    return world, one, two


def meshed(*hosts: Host) -> bool:
    names = {host.name for host in hosts}
    return all(host.established() == names - {host.name} for host in hosts)


def forwards(host: Host, other: Host) -> bool:
    return host.tables is not None and any(
        name == other.name and link in host.links and host.links[link].peer == other.name
        for name, link, _ in host.tables.peers
    )


def test_join_establishes_and_forwards_within_two_seconds() -> None:
    world, one, two = pair()
    assert world.run_until(lambda: meshed(one, two), 1.0) < 0.1
    world.run_until(lambda: forwards(one, two) and forwards(two, one), 2.0)
    assert two.router is not None
    assert two.router.targets() == {"10.0.0.1": "established"}
    assert one.tables is not None
    assert one.tables.trees == ((one.name, (next(iter(one.links)),)),)


def test_a_link_carries_frames_at_once() -> None:
    """Frames wait for the other side's topology update, which a new link sends without its usual delay."""
    world, one, two = pair()
    world.run_until(lambda: meshed(one, two), 1.0)
    assert world.run_until(lambda: forwards(one, two) and forwards(two, one), 2.0) < 0.3


@pytest.mark.parametrize("gap_s", [0.5, 20.0, 1000.0])
def test_a_restarted_host_finds_back_by_itself_even_if_it_was_only_ever_dialled(gap_s: float) -> None:
    world, one, two = pair()
    world.run(10)
    one.kill()
    world.run(gap_s)
    one.start(resume=True)
    assert world.run_until(lambda: forwards(one, two) and forwards(two, one), 2.0) < 0.5
    world.run(30)
    assert len(one.links) == len(two.links) == 1


def test_a_host_without_discovery_remembers_nobody() -> None:
    world, one, _ = pair(discovery=False)
    world.run(10)
    assert "neighbours" not in one.persisted


def test_equal_seeds_give_equal_runs() -> None:
    traces = []
    for seed in (5, 5, 6):
        world, one, two = pair(seed)
        world.run(65)
        assert meshed(one, two)
        traces.append(world.trace())
    assert traces[0] == traces[1] != traces[2]


def test_lost_power_is_noticed_within_15_s_and_the_peer_rejoins_with_a_new_uid() -> None:
    world, one, two = pair()
    world.run(10)
    uid = uid_of(one, two)
    two.power_off()
    took = world.run_until(lambda: not one.established(), 15.0)
    assert took > 5
    assert not one.links
    world.run(2)
    assert one.known() == {one.name}
    assert one.forgotten == [two.name]
    two.start(one)
    assert world.run_until(lambda: forwards(one, two) and forwards(two, one), 3.0) < 2
    assert uid_of(one, two) != uid


def test_power_back_before_anybody_noticed_replaces_the_connection_at_once() -> None:
    world, one, two = pair()
    world.run(10)
    two.power_off()
    world.run(1)
    two.start(one)
    assert world.run_until(lambda: meshed(one, two), 1.0) < 0.1
    world.run(5)
    assert forwards(one, two)
    assert forwards(two, one)
    assert len(one.links) == 1
    assert one.forgotten == []


def test_killed_router_comes_back() -> None:
    world, one, two = pair()
    world.run(5)
    one.kill()
    world.run_until(lambda: not two.established(), 0.1)
    one.start()
    world.run_until(lambda: meshed(one, two), 10)  # the other one redials by itself


@pytest.mark.parametrize("seed", range(12))
def test_simultaneous_dial_gives_one_connection(seed: int) -> None:
    world = World(seed)
    one, two = world.host(1), world.host(2)
    one.start(two)
    two.start(one)
    world.run(2)
    assert one.router is not None
    # One of the first two dials may have met a host that wasn't up yet; then the other one did it.
    one.connect(two)
    two.connect(one)
    world.run(8)
    assert meshed(one, two)
    assert len(one.pipes) == len(two.pipes) == len(one.links) == len(two.links) == 1
    world.run(200)
    assert len(one.pipes) == 1, "a duplicate is dialled again and again"
    assert sum("multiple connections" in line for line in one.logged) <= 2


def test_partition_and_heal() -> None:
    world, one, two = pair()
    world.run(5)
    world.cut((1, 2))
    world.run_until(lambda: not one.established() and not two.established(), 15.0)
    world.run(30)
    world.heal()
    world.run_until(lambda: meshed(one, two), 30)
    world.run_until(lambda: forwards(one, two) and forwards(two, one), 2.5)


def test_short_interruption_keeps_the_connection() -> None:
    world, one, two = pair()
    world.run(5)
    index = next(iter(one.links))
    world.cut((1, 2))
    world.run(5)
    world.heal()
    world.run(20)
    assert list(one.links) == [index]
    assert meshed(one, two)


def test_rekey_every_second_for_a_minute() -> None:
    world, one, two = pair(rekey_interval_s=1.0)
    world.run(60)
    assert meshed(one, two)
    for host in (one, two):
        (link,) = host.links.values()
        assert link.sending is not None
        assert 55 <= link.sending.epoch <= 60
        assert link.sending.epoch in {e for h in (one, two) for x in h.links.values() for e in x.receiving}
    assert len(world.sending_keys) >= 2 * 2 * 55  # two hosts, two lanes; World refuses one that comes twice


def test_worn_key_is_changed_at_once() -> None:
    world, one, _ = pair()
    world.run(5)
    (index,) = one.links
    one.handle(ev.KeyWorn(index))
    world.run(1)
    sending = one.links[index].sending
    assert sending is not None
    assert sending.epoch == 1


def test_clear_mode_has_no_keys() -> None:
    world, one, two = pair(password=None, ciphers=("clear",))
    world.run(5)
    assert meshed(one, two)
    assert all(link.clear for link in one.links.values())
    assert not world.sending_keys


def test_other_ciphers_are_agreed_on() -> None:
    world = World(1)
    one = world.host(1).start()
    world.host(2, ciphers=("chacha20-poly1305",)).start(one)
    world.run(5)
    (link,) = one.links.values()
    assert link.sending is not None
    assert link.sending.cipher == "chacha20-poly1305"


def test_different_overlay_mtu_is_warned_about_once() -> None:
    world = World(1)
    one = world.host(1).start()
    world.host(2, overlay_mtu=1400).start(one)
    world.run(100)
    assert sum("overlay MTU" in line for line in one.logged) == 1


def test_udp_blocked_ends_the_connection_after_a_minute_and_says_why() -> None:
    world, one, two = pair()
    for host in (one, two):
        host._send_heartbeat = lambda _link, _heard: None  # type: ignore[method-assign]
    world.run(59)
    assert len(one.pipes) == 1
    world.run(2)
    assert any("is UDP" in line for line in one.logged + two.logged)
    assert two.router is not None
    assert "UDP" in two.router.targets()["10.0.0.1"] or two.pipes


def test_idle_connection_is_kept_alive_and_quiet() -> None:
    world, one, two = pair()
    world.run(10)
    before = one.sent_bytes
    world.run(600)
    assert meshed(one, two)
    assert len(one.logged) < 5
    assert one.sent_bytes - before < 600 * 60


def test_a_moved_peer_is_shown_where_it_is() -> None:
    world, one, _ = pair()
    world.run(5)
    (index,) = one.links
    one.handle(ev.LinkMoved(index, Address("10.0.0.77", PORT)))
    assert one.router is not None
    (connection,) = one.router.report(world.now)["Connections"]  # type: ignore[misc]
    assert connection["Attrs"]["remote"] == f"10.0.0.77:{PORT}"


def uid_of(host: Host, peer: Host) -> int:
    assert host.router is not None
    peers = host.router.report(0.0)["Peers"]
    assert isinstance(peers, list)
    return int(next(p["UID"] for p in peers if p["NickName"] == f"host{peer.number}"))
