"""Random histories of hosts with allocators and leases: partitions, crashes, restarts, late comers, and views that lag.

Checked all along: no address is in use on two hosts. And in the end: what a dead host had is back.
"""

import random

import pytest
from leases import PERIOD_S, Cluster


def disturb(cluster: Cluster, rng: random.Random, last: int) -> None:
    """Does one thing that happens to networks. Most hosts are there most of the time."""
    hosts = sorted(cluster.hosts)
    match rng.randrange(8):
        case 0 | 1:  # two parts
            part = set(rng.sample(hosts, rng.randrange(1, len(hosts))))
            cluster.groups = [part, set(hosts) - part]
        case 2:  # parts that overlap: some see both
            cluster.groups = [set(rng.sample(hosts, rng.randrange(1, len(hosts) + 1))) for _ in range(3)]
        case 3 | 4:
            cluster.groups = None
        case 5:
            cluster.kill(rng.choice(hosts))
        case 6:
            for host in cluster.hosts.values():
                if not host.alive and rng.random() < 0.7:
                    host.start()
        case 7 if len(hosts) < last:
            cluster.add(len(hosts) + 1)
    for host in cluster.living:
        for request in host.allocator.waiting[
            2:
        ]:  # who waits for what nobody has makes traffic, and nothing else
            host.allocator.cancel(request.number)
        for _ in range(rng.randrange(8)):
            owner = f"c{rng.randrange(30)}"
            if rng.random() < 0.7:
                host.allocate(owner)
            else:
                host.do(host.allocator.free(owner))


def history(seed: int, steps: int) -> None:
    rng = random.Random(seed)
    cluster = Cluster(seed, size=rng.choice((16, 64, 256)))
    count = rng.randrange(3, 7)
    founders = range(1, count + 1)
    for name in founders:
        cluster.add(name, seeds=founders, period_s=rng.choice((PERIOD_S, PERIOD_S, 180)))
    if rng.random() < 0.8:
        cluster.run(60)
    for _ in range(steps):
        disturb(cluster, rng, count + 2)
        cluster.run(rng.choice((1, 5, 20, 70, 130, 200, 300)))
    # Everything heals; then one dies for good.
    cluster.groups = None
    for host in cluster.hosts.values():
        if not host.alive:
            host.start()
    cluster.run(400)
    assert all(host.lease.roster is not None for host in cluster.living)
    for host in cluster.living:
        assert not host.lease.fenced(cluster.now), (seed, host.name, host.lease.report(cluster.now))
        assert not host.allocator.conflicts, (seed, host.name, host.allocator.conflicts)
    assert len({host.allocator.ring.entries for host in cluster.living}) == 1
    dead = rng.choice(sorted(cluster.hosts))
    cluster.kill(dead)
    cluster.run(180 + 60 + 60)
    living = cluster.living
    if len(living) == 2 and not any(h.taken for h in living):
        assert len(cluster.hosts) == 3
    assert all(dead not in host.allocator.ring.peers() for host in living), seed
    assert all(not host.lease.fenced(cluster.now) for host in living)
    numbers = [(host, host.allocate("last")) for host in living]
    cluster.run(60)
    owned = sum(e.free for e in living[0].allocator.ring.entries)
    assert all(number in host.granted for host, number in numbers) or owned < 3 * len(living)


@pytest.mark.parametrize("seed", range(2))
def test_no_address_is_used_twice_and_space_comes_back(seed: int) -> None:
    history(seed, 12)


@pytest.mark.deep
@pytest.mark.parametrize("seed", range(1000, 1060))
def test_many_histories(seed: int) -> None:
    history(seed, 25)
