"""Many peers that give out addresses: what gossip of the ring costs them when nothing happens and when all want some.

The mesh is sparse: 300 routers that all know each other directly would be 45,000 links. Figures are printed:
pytest -s shows them.
"""

import random
import time

import pytest
from addresses import AddressWorld, allocator_of
from world import Host

from weavepy import events as ev
from weavepy import limits
from weavepy.events import PeerName
from weavepy.wire.ipam import Range

START = 0x0A200000
DEGREE = 2
PERIODS = 4
FIRST = tuple(PeerName(0x020000000000 + number) for number in range(1, 21))
BYTES_OF_ENTRY = (
    24  # of one entry of a ring in gossip, and of the nickname of one peer: 15 and 22 at most are usual
)


class Crowd:
    """Hosts in a sparse mesh that have divided the addresses; figures are counted from one call to the next."""

    def __init__(self, peers: int, universe: Range, **addresses: object) -> None:
        self.world = AddressWorld(peers, universe)
        draw = random.Random(peers)
        self.hosts: list[Host] = []
        for number in range(1, peers + 1):
            host = self.world.address_host(number, discovery=False, **addresses)
            host.start(*draw.sample(self.hosts, min(len(self.hosts), DEGREE)))
            self.hosts.append(host)
            self.world.run(0.05)
        self.world.run_until(lambda: all(len(host.known()) == peers for host in self.hosts[::37]), 120)
        self._counted = 0

    def divide(self) -> float:
        self.hosts[0].handle(ev.DivisionWanted())
        return self.world.run_until(
            lambda: not any(allocator_of(host).ring.empty for host in self.hosts),
            2 * limits.GOSSIP_INTERVAL_S,
        )

    def tell(self, what: str, began: float) -> int:
        """Prints and returns the bytes of ring gossip that each host has sent on average."""
        total = sum(host.router.gossip_bytes for host in self.hosts)  # type: ignore[union-attr]
        each = (total - self._counted) // len(self.hosts)
        self._counted = total
        longest = max(host.longest_turn_s for host in self.hosts)
        for host in self.hosts:
            host.longest_turn_s = 0.0
        entries = len(allocator_of(self.hosts[0]).ring.entries)
        print(
            f"{len(self.hosts)} peers, {what}: {each:,} octets of ring gossip per host, {entries} ranges, longest turn "
            f"{longest * 1e3:.0f} ms, {time.perf_counter() - began:.1f} s of this machine"
        )
        return each


@pytest.mark.parametrize(
    ("peers", "addresses", "bits", "config"),
    [
        (20, 500, 9, {"quorum": 11}),
        pytest.param(300, 10_000, 14, {"seeds": FIRST}, marks=[pytest.mark.deep, pytest.mark.timeout(3600)]),
    ],
    ids=lambda value: value if isinstance(value, int) else "",
)
def test_a_storm_of_addresses_is_over_soon_and_gossip_stays_bounded(
    peers: int, addresses: int, bits: int, config: dict[str, object]
) -> None:
    began = time.perf_counter()
    crowd = Crowd(peers, Range(START, START + (1 << bits)), **config)
    world, hosts = crowd.world, crowd.hosts
    crowd.tell("all have joined", began)

    began = time.perf_counter()
    took_s = crowd.divide()
    crowd.tell(f"the addresses are divided within {took_s:.1f} s", began)
    world.run(2 * limits.GOSSIP_INTERVAL_S)
    crowd.tell("a minute later", began)

    began = time.perf_counter()
    world.run(60.0)
    idle = crowd.tell("an idle minute", began)
    bound = 2 * (peers * 2).bit_length() * (500 + 2 * BYTES_OF_ENTRY * peers)
    assert idle <= PERIODS * bound

    began, at = time.perf_counter(), world.now
    eager = hosts[: peers // 3]  # more than their own parts hold, so most of them have to ask
    for number in range(addresses):
        world.allocate(eager[number % len(eager)], f"c{number}")
        if number % 100 == 99:
            world.run(0.1)
    world.run_until(lambda: not world.waiting(), 120)
    crowd.tell(f"{addresses} addresses within {world.now - at:.1f} s", began)
    assert len(world.grants) == addresses
    assert all(
        request.answer is not None and not request.answer.reason for request in world.requests.values()
    )

    began = time.perf_counter()
    world.run(60.0)
    entries = len(allocator_of(hosts[0]).ring.entries)
    idle = crowd.tell("an idle minute after it", began)
    assert idle <= PERIODS * 2 * (peers * 2).bit_length() * (500 + BYTES_OF_ENTRY * (peers + entries))
    shapes = {tuple((e.token, e.peer) for e in allocator_of(host).ring.entries) for host in hosts}
    assert len(shapes) == 1
