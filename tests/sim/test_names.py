"""Names in a network of routers: everybody has them at once, nobody keeps those of who is gone, and partitions heal."""

import random
from collections.abc import Callable

import pytest
from test_chaos import BLOWS, HEALED_WITHIN_S, HOSTS, strike
from test_many_routers import full_mesh
from world import Host, World

from weavepy import events as ev
from weavepy.events import PeerName
from weavepy.names.channel import NamesChannel
from weavepy.wire.messages import Broadcast, Gossip
from weavepy.wire.names import NameEntry

EVERYWHERE_WITHIN_S = 1.0
HEALED_NAMES_WITHIN_S = 5.0
COLLECTED_WITHIN_S = 3.0  # after a connection was reset
SILENT_WITHIN_S = 15.0  # after a host lost its power


def channel(host: Host) -> NamesChannel:
    assert host.router is not None
    assert host.router.names is not None
    return host.router.names


def add(host: Host, name: str, *, address: int | None = None, container: str = "c") -> None:
    number = host.number if address is None else address
    host.handle(ev.NameAdded(container, f"{name}.weave.local.", number))


def remove(host: Host, name: str) -> None:
    host.handle(ev.NameRemoved(hostname=f"{name}.weave.local."))


def resolves(host: Host, name: str) -> list[int]:
    return [entry.address for entry in channel(host).records.addresses(f"{name}.weave.local.")]


def everywhere(hosts: list[Host], name: str, addresses: list[int]) -> Callable[[], bool]:
    return lambda: all(resolves(host, name) == addresses for host in hosts)


def replicas(hosts: list[Host]) -> list[list[NameEntry]]:
    return [sorted(channel(host).records.entries.values()) for host in hosts]


def equal(hosts: list[Host]) -> bool:
    first, *others = replicas(hosts)
    return all(other == first for other in others)


def mesh(world: World, count: int, **config: object) -> list[Host]:
    hosts = [world.host(number, names=True, **config) for number in range(1, count + 1)]
    hosts[0].start()
    for before, host in enumerate(hosts[1:], 1):
        host.start(*hosts[:before][:2])
    world.run_until(lambda: full_mesh(hosts), 60)
    world.run(5)
    return hosts


def chain(world: World, count: int) -> list[Host]:
    """Hosts that know of all others, each connected to its neighbours alone."""
    hosts = [world.host(number, names=True, discovery=False) for number in range(1, count + 1)]
    hosts[0].start()
    for before, host in enumerate(hosts[1:]):
        host.start(hosts[before])
    everybody = {host.name for host in hosts}
    world.run_until(lambda: all(host.known() == everybody for host in hosts), 60)
    world.run(5)
    return hosts


@pytest.mark.parametrize("arrange", [mesh, chain])
def test_a_name_is_everywhere_within_a_second_and_gone_as_soon(
    arrange: Callable[[World, int], list[Host]],
) -> None:
    world = World(3)
    hosts = arrange(world, 6)
    for host in hosts:
        add(host, "web")
        add(host, f"host{host.number}")
    world.run_until(everywhere(hosts, "web", [1, 2, 3, 4, 5, 6]), EVERYWHERE_WITHIN_S)
    world.run_until(everywhere(hosts, "host3", [3]), EVERYWHERE_WITHIN_S)
    remove(hosts[2], "web")
    world.run_until(everywhere(hosts, "web", [1, 2, 4, 5, 6]), EVERYWHERE_WITHIN_S)
    add(hosts[2], "web")
    world.run_until(everywhere(hosts, "web", [1, 2, 3, 4, 5, 6]), EVERYWHERE_WITHIN_S)
    hosts[4].handle(ev.NameRemoved(container="c"))
    world.run_until(everywhere(hosts, "host5", []), EVERYWHERE_WITHIN_S)
    assert equal(hosts)


def test_nothing_is_said_when_nothing_changes() -> None:
    world = World(4)
    hosts = mesh(world, 4)
    for host in hosts:
        add(host, "web")
    world.run(100)
    before = [channel(host).records.revision for host in hosts]
    messages = count_names_messages(hosts)
    world.run(300)
    assert [channel(host).records.revision for host in hosts] == before
    # Ten rounds of periodic gossip: each host tells all to its three neighbours, and none has anything to pass on.
    assert len(messages) <= 11 * len(hosts) * 3


def count_names_messages(hosts: list[Host]) -> list[object]:
    seen: list[object] = []
    for host in hosts:
        assert host.router is not None
        gossip = host.router._gossip
        flush = gossip.flush

        def counted(now: float, flush: Callable = flush) -> list:
            sent = list(flush(now))
            seen.extend(m for _, m in sent if isinstance(m, Gossip | Broadcast) and m.channel == "nameserver")
            return sent

        gossip.flush = counted  # type: ignore[method-assign]
    return seen


def test_who_joins_has_all_names_and_all_have_his_restored_ones() -> None:
    world = World(5)
    hosts = chain(world, 4)
    for host in hosts:
        add(host, "web")
    last = world.host(9, names=True, discovery=False).start()
    add(last, "web")
    persisted = last.persisted
    last.kill()
    world.run(1)
    last.start(hosts[-1], resume=True)
    assert last.persisted is persisted
    assert resolves(last, "web") == [9]  # before anybody has been heard of
    hosts.append(last)
    connected = world.run_until(lambda: last.established() != set(), 60)
    assert connected < 5
    world.run_until(everywhere(hosts, "web", [1, 2, 3, 4, 9]), 2 * EVERYWHERE_WITHIN_S)
    assert equal(hosts)


def test_names_cross_a_host_that_has_none() -> None:
    world = World(9)
    hosts = [world.host(number, names=number != 2, discovery=False) for number in (1, 2, 3)]
    hosts[0].start()
    hosts[1].start(hosts[0])
    hosts[2].start(hosts[1])
    world.run(10)
    ends = [hosts[0], hosts[2]]
    for host in hosts:
        add(host, "web")
    world.run_until(everywhere(ends, "web", [1, 3]), EVERYWHERE_WITHIN_S)
    remove(hosts[0], "web")
    world.run_until(everywhere(ends, "web", [3]), EVERYWHERE_WITHIN_S)


@pytest.mark.parametrize("seed", range(3))
def test_a_name_that_is_heard_of_before_its_host_resolves_as_soon_as_that_is_known(seed: int) -> None:
    """In a star, topology reaches some only after several rounds of gossip; a broadcast reaches all at once."""
    world = World(seed)
    hub = world.host(1, names=True, discovery=False).start()
    hosts = [hub, *(world.host(n, names=True, discovery=False).start(hub) for n in range(2, 14))]
    world.run(70)
    new = world.host(20, names=True, discovery=False).start(hub)
    world.run_until(lambda: new.router is not None and bool(new.router._sessions.by_peer), 10)
    add(new, "new")
    world.run_until(lambda: all(new.name in host.known() for host in hosts), 200)
    world.run_until(everywhere(hosts, "new", [20]), EVERYWHERE_WITHIN_S)


# ---- who is gone


def test_the_names_of_a_killed_host_are_gone_when_it_is() -> None:
    world = World(6)
    hosts = mesh(world, 5)
    for host in hosts:
        add(host, "web")
    world.run(2)
    hosts[4].kill()
    left = hosts[:4]
    assert world.run_until(everywhere(left, "web", [1, 2, 3, 4]), COLLECTED_WITHIN_S) < COLLECTED_WITHIN_S
    world.run(100)
    assert everywhere(left, "web", [1, 2, 3, 4])()


def test_the_names_of_a_host_without_power_are_gone_within_15_seconds() -> None:
    world = World(7)
    hosts = mesh(world, 4)
    for host in hosts:
        add(host, "web")
    world.run(2)
    hosts[3].power_off()
    world.run_until(everywhere(hosts[:3], "web", [1, 2, 3]), SILENT_WITHIN_S)
    world.run(100)
    assert everywhere(hosts[:3], "web", [1, 2, 3])()


@pytest.mark.parametrize("count", [2, 4])
def test_a_host_that_comes_back_without_its_names_has_them_nowhere(count: int) -> None:
    world = World(8)
    hosts = mesh(world, count)
    add(hosts[-1], "old")
    world.run_until(everywhere(hosts, "old", [count]), EVERYWHERE_WITHIN_S)
    hosts[-1].power_off()
    hosts[-1].start(hosts[0])  # at once: the others haven't noticed
    world.run_until(lambda: full_mesh(hosts), 60)
    world.run_until(everywhere(hosts, "old", []), HEALED_NAMES_WITHIN_S)
    world.run(100)
    assert everywhere(hosts, "old", [])()
    add(hosts[-1], "old")  # newer than what the others remember
    world.run_until(everywhere(hosts, "old", [count]), EVERYWHERE_WITHIN_S)


# ---- partitions


def test_both_sides_of_a_partition_change_and_agree_when_it_heals() -> None:
    for seed in range(4):
        world = World(10 + seed)
        hosts = mesh(world, 6)
        for host in hosts:
            add(host, "web")
            add(host, f"gone{host.number}")
        world.run(2)
        world.cut(*((a, b) for a in (1, 2, 3) for b in (4, 5, 6)))
        world.run_until(everywhere(hosts[:3], "web", [1, 2, 3]), 90)
        world.run_until(everywhere(hosts[3:], "web", [4, 5, 6]), 90)
        for host in hosts:
            remove(host, f"gone{host.number}")
            add(host, f"new{host.number}")
        world.run(60)
        world.heal()
        world.run_until(lambda hosts=hosts: full_mesh(hosts), HEALED_WITHIN_S)
        world.run_until(lambda hosts=hosts: equal(hosts), HEALED_NAMES_WITHIN_S)
        for number in range(1, 7):
            assert everywhere(hosts, f"new{number}", [number])()
            assert everywhere(hosts, f"gone{number}", [])()
        assert everywhere(hosts, "web", [1, 2, 3, 4, 5, 6])()


@pytest.mark.parametrize("seed", [1, 2, 14, 57, 58, 82, 128])
def test_an_interruption_that_only_some_links_outlive_loses_no_change(seed: int) -> None:
    """About as long as a silent link lives. Whoever returned first made the others seem to be reachable all along, or
    had forgotten nothing and so passed nothing on: with these seeds, until the periodic gossip."""
    world = World(seed)
    hosts = mesh(world, 3)
    for host in hosts:
        add(host, "web")
    world.run(2 + random.Random(seed).random() * 20)
    world.cut((1, 3), (2, 3))
    add(hosts[2], "far")
    remove(hosts[0], "web")
    add(hosts[0], "late")
    world.run(11 + random.Random(seed * 7).random() * 3)
    world.heal()
    world.run_until(lambda: full_mesh(hosts), HEALED_WITHIN_S)
    world.run_until(lambda: equal(hosts), HEALED_NAMES_WITHIN_S)
    assert everywhere(hosts, "web", [2, 3])()
    assert everywhere(hosts, "late", [1])()
    assert everywhere(hosts, "far", [3])()


def test_a_short_interruption_loses_no_change() -> None:
    """The links outlive it, and TCP delivers late what was said."""
    world = World(15)
    hosts = mesh(world, 3)
    add(hosts[0], "old")
    world.run(2)
    world.cut((1, 2), (1, 3))
    remove(hosts[0], "old")
    add(hosts[0], "new")
    world.run(3)
    world.heal()
    world.run_until(lambda: equal(hosts), HEALED_NAMES_WITHIN_S)
    assert everywhere(hosts, "new", [1])()
    assert everywhere(hosts, "old", [])()


def test_a_partition_that_outlives_every_tombstone_brings_nothing_back() -> None:
    world = World(16)
    hosts = mesh(world, 4)
    add(hosts[0], "old")
    world.run(2)
    world.cut((1, 3), (1, 4), (2, 3), (2, 4))
    world.run(60)
    remove(hosts[0], "old")
    world.run(4000)
    world.heal()
    world.run_until(lambda: full_mesh(hosts), HEALED_WITHIN_S)
    world.run(60)
    assert everywhere(hosts, "old", [])()
    assert replicas(hosts) == [[]] * 4
    assert not any(key.startswith("names/") for key in hosts[0].persisted)


# ---- storms


@pytest.mark.parametrize("seed", range(6))
def test_after_a_storm_there_are_the_names_that_there_are_and_no_ghosts(seed: int) -> None:
    draw = random.Random(seed)
    world = World(seed)
    hosts = [world.host(number, names=True) for number in range(1, HOSTS + 1)]
    door = {host.number: hosts[0] if host is not hosts[0] else hosts[1] for host in hosts}
    hosts[0].start()
    for before, host in enumerate(hosts[1:], 1):
        host.start(*draw.sample(hosts[:before], min(before, draw.randint(1, 2))))
        world.run(draw.random() / 2)
    for _ in range(BLOWS):
        for host in hosts:
            if host.router is not None:
                for name in ("a", "b", "c"):
                    (add if draw.random() < 0.6 else remove)(host, name)
        strike(draw, world, hosts, door)
        world.run(draw.random() * 20)
    for host in hosts:
        if host.router is None:
            host.start(door[host.number])
    world.run_until(lambda: full_mesh(hosts), HEALED_WITHIN_S)
    # All is as each host says of itself.
    own = {host.name: live(host, host.name) for host in hosts}
    world.run_until(lambda: equal(hosts), HEALED_NAMES_WITHIN_S)
    for host in hosts:
        for origin, names in own.items():
            assert live(host, origin) == names
    world.run(60)
    assert equal(hosts)


def live(host: Host, origin: PeerName) -> set[tuple[str, int]]:
    entries = channel(host).records.of_origin(origin)
    return {(entry.hostname, entry.address) for entry in entries if not entry.tombstone}


# ---- clocks, replays


@pytest.mark.parametrize("error_s", [-10 * 365 * 86400.0, 901.0, 10 * 365 * 86400.0])
def test_a_wrong_clock_costs_the_names_of_that_host_and_no_link(error_s: float) -> None:
    world = World(20)
    hosts = mesh(world, 4)
    for host in hosts:
        add(host, "web")
    world.run(2)
    hosts[3].wall_error_s = error_s
    remove(hosts[3], "web")
    add(hosts[3], "new")
    add(hosts[0], "other")
    world.run(120)
    said = count_names_messages(hosts[3:])
    world.run(120)
    assert full_mesh(hosts)
    assert not said  # a Weave Net router would end the connection for each
    assert everywhere(hosts[:3], "new", [])()
    assert everywhere(hosts[:3], "other", [1])()
    assert everywhere(hosts, "web", [1, 2, 3, 4])() is False
    assert channel(hosts[0]).skewed > 0
    hosts[3].wall_error_s = 0.0
    world.run_until(everywhere(hosts, "new", [4]), 31)
    world.run_until(everywhere(hosts, "other", [1]), EVERYWHERE_WITHIN_S)
    world.run_until(everywhere(hosts, "web", [1, 2, 3]), EVERYWHERE_WITHIN_S)
    world.run(2 * 1800 + 120)  # and what was dated by the wrong clock isn't remembered for ever
    assert all(not entry.tombstone for replica in replicas(hosts) for entry in replica)
    assert equal(hosts)


def test_replayed_gossip_changes_nothing() -> None:
    """Everything that was ever said is said again, in any order, by a neighbour that means harm."""
    draw = random.Random(30)
    world = World(30)
    hosts = mesh(world, 3)
    said = count_names_messages(hosts)
    for round_ in range(6):
        for host in hosts:
            (add if round_ % 2 == 0 else remove)(host, "web")
            add(host, f"n{round_}")
        world.run(20)
    for host in hosts:
        host.handle(ev.NameRemoved())
    world.run(5)
    before = replicas(hosts)
    recorded = list(said)
    for wait_s in (0, 300, 1500, 2000, 4000):
        world.run(wait_s)
        draw.shuffle(recorded)
        for message in recorded:
            victim, neighbour = draw.sample(hosts, 2)
            assert victim.router is not None
            victim.router._gossip.handle_untrusted(neighbour.name, message, world.now)  # type: ignore[arg-type]
            victim.router._gossip._hushed.clear()
        world.run(1)
        for host in hosts:
            assert not any(
                channel(host).records.known(f"{name}.weave.local.") for name in ("web", "n0", "n5")
            )
        if wait_s == 0:
            assert replicas(hosts) == before
    assert full_mesh(hosts)
    assert replicas(hosts) == [[]] * 3


def test_the_same_seed_makes_the_same_run() -> None:
    def trace() -> str:
        world = World(40)
        hosts = mesh(world, 3)
        for host in hosts:
            add(host, "web")
        world.run(40)
        return world.trace()

    assert trace() == trace()
