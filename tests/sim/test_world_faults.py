"""What the simulated world can do to hosts: disks that take their time, clocks that jump, ways that lose and repeat."""

import random
from itertools import count

from disk import Disk
from world import Host, World

from weavepy import events as ev
from weavepy.wire.ipam import Range

UNIVERSE = Range(0x0A200000, 0x0A200100)


def pair(seed: int) -> tuple[World, Host, Host]:
    world = World(seed)
    one, two = world.host(1), world.host(2)
    one.start()
    two.start(one)
    return world, one, two


def meshed(*hosts: Host) -> bool:
    names = {host.name for host in hosts}
    return all(host.established() == names - {host.name} for host in hosts)


def test_what_is_behind_a_write_waits_for_it() -> None:
    world = World(1)
    one = world.host(1, addresses={"universe": UNIVERSE})
    one.disk.latency_s = 10.0
    performed: list[tuple[float, str]] = []
    world.performing = lambda _host, effect: performed.append((world.now, type(effect).__name__))  # type: ignore[method-assign]
    one.start()
    one.handle(ev.AddressWanted(1, "c1", *UNIVERSE, 24))
    one.handle(ev.ConnectPeers((("10.0.0.2", world.host(2).address),)))
    assert one.disk.busy
    assert {name for _, name in performed} == {"Tables"}  # at the start
    assert not one.disk.durable
    world.run_until(lambda: performed[-1][1] == "Dial", 30)
    assert [name for _, name in performed if name != "Tables"] == ["Answered", "Dial"]
    assert len(one.disk.durable) == 2


def test_a_power_cut_loses_what_was_not_written_and_may_lose_what_was_being_written() -> None:
    found = set()
    for seed in range(20):
        world = World(seed)
        disk = Disk(random.Random(seed), world.after)
        disk.latency_s = 1.0
        disk.write("a", "1", lambda: None)
        world.run(2.0)
        disk.write("a", "2", lambda: None)
        disk.crash()
        world.run(2.0)
        found.add(disk.durable["a"])
    assert found == {"1", "2"}


def test_no_callback_of_an_earlier_life_touches_the_disk() -> None:
    world = World(1)
    disk = Disk(random.Random(4), world.after)
    disk.latency_s = 1.0
    called: list[str] = []
    disk.write("a", "1", lambda: called.append("1"))
    disk.crash()
    disk.write("a", "2", lambda: called.append("2"))
    world.run(2.0)
    assert (called, disk.durable) == (["2"], {"a": "2"})


def test_a_clock_that_jumps_costs_the_links_and_nothing_else() -> None:
    world, one, two = pair(1)
    one.clock_offset_s = 1e6
    world.run(10)
    assert meshed(one, two)
    one.jump(30 * 86400.0)
    world.run(0.01)
    assert not meshed(one, two)
    world.run_until(lambda: meshed(one, two), 15)
    world.run(120)
    assert meshed(one, two)


def test_nothing_arrives_by_a_way_that_is_closed_one_way_and_tcp_keeps_it() -> None:
    world, one, two = pair(1)
    world.run(10)
    heard: list[object] = []
    usual = two.handle
    two.handle = lambda event: (heard.append(event), usual(event))[1]  # type: ignore[method-assign]
    world.cut_one_way((1, 2))
    world.run(5)
    assert not [event for event in heard if not isinstance(event, ev.EpochUsed)]
    conn = next(iter(one.pipes))
    one._transmit(conn, b"")
    world.run(1)
    assert not any(isinstance(event, ev.Received) for event in heard)
    world.heal()
    assert any(isinstance(event, ev.Received) for event in heard)


def test_datagrams_are_lost_and_repeated_as_often_as_was_asked_for() -> None:
    world = World(1)
    before = world.random.getstate()
    assert [world.copies() for _ in range(10)] == [1] * 10
    assert world.random.getstate() == before
    world.loss, world.duplication = 0.2, 0.1
    copies = [world.copies() for _ in range(10_000)]
    assert 0.18 < copies.count(0) / 10_000 < 0.22
    assert 0.08 < copies.count(2) / 10_000 < 0.12


def test_links_stay_up_when_a_fifth_of_the_datagrams_is_lost() -> None:
    world, one, two = pair(2)
    world.run(5)
    world.loss, world.duplication = 0.2, 0.1
    down = count()
    for _ in range(300):
        world.run(1)
        if not meshed(one, two):
            next(down)
    assert next(down) <= 5


def test_a_connection_that_is_reset_is_made_again() -> None:
    world, one, two = pair(1)
    world.run(10)
    (conn,) = one.pipes
    one.reset(conn)
    world.run(0.01)
    assert conn not in one.pipes
    world.run_until(lambda: meshed(one, two), 10)


def test_a_longer_way_takes_longer() -> None:
    world, one, two = pair(1)
    world.delay(1, 2, 0.4)
    assert world.run_until(lambda: meshed(one, two), 10) > 2.0
