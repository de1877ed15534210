"""Random histories of networks whose hosts take over what lost ones owned (`--reclaim-after`), with whole routers.

No address that a host still answers for is given out by another one, however the network is parted and whoever dies.
In the end what dead hosts owned is back without an operator.
"""

import random

import pytest
from addresses import AddressWorld, Grant, allocator_of
from histories import START, History
from world import Host

from weavepy import events as ev
from weavepy import limits
from weavepy.events import PeerName
from weavepy.ipam.lease import Lease
from weavepy.wire.ipam import Range

RECLAIM_AFTER_S = limits.RECLAIM_AFTER_MIN_S
TAKEN_OVER_WITHIN_S = RECLAIM_AFTER_S + limits.LEASE_MARGIN_S + 2 * limits.LEASE_SETTLE_S


class LeaseWorld(AddressWorld):
    """What a host gave out is its own until it says that it has expired, as long as its router runs."""

    expired = 0

    def fell(self, host: Host) -> None:
        """Nobody knows how long it will be away."""
        super().fell(host)
        for grant in self.all_grants():
            grant.doubtful = grant.doubtful or grant.host is host

    def performing(self, host: Host, effect: ev.Effect) -> None:
        if isinstance(effect, ev.AddressesExpired):
            self.expired += 1
            for grant in list(self.all_grants()):
                if grant.host is host:
                    self.forget(grant)
        super().performing(host, effect)

    def may_err(self, host: Host) -> bool:
        """Who is held back, or down, may believe what he likes."""
        return super().may_err(host) or bool(fenced(host))

    def _learn(self, grant: Grant) -> None:
        if not fenced(grant.host):
            super()._learn(grant)

    def restart(self, host: Host, *targets: Host) -> None:
        host.start(*targets)


def fenced(host: Host) -> str:
    if host.router is None:
        return "down"
    return lease_of(host).fenced(host.clock())


def lease_of(host: Host) -> Lease:
    assert host.router is not None
    assert host.router.addresses is not None
    assert host.router.addresses.lease is not None
    return host.router.addresses.lease.lease


class LeaseHistory(History):
    """Hosts have some minutes between blows, or nothing would ever expire."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        draw = random.Random(f"lease {seed}")
        self.mode = "leases"
        self.count = draw.choice((3, 3, 4, 5))
        self.trouble -= {"removals", "departures", "claims", "jumps", "apart"}
        self.trouble |= {draw.choice(("cuts", "one-way cuts", "power cuts", "kills"))}
        self.world = LeaseWorld(seed, Range(START, START + (1 << draw.choice((4, 5, 6)))))

    def _new_host(self, *, observer: bool | None = None) -> Host:  # noqa: ARG002
        number = next(self.numbers)
        return self.world.address_host(
            number,
            disk_s=self.draw.choice((0.0, 0.02)),
            quorum=self.count // 2 + 1,
            reclaim_after_s=RECLAIM_AFTER_S,
        )

    def _pause(self) -> None:
        self.world.run(self.draw.choice((0.05, 3.0, 30.0, 120.0, 400.0)) * self.draw.random())

    def _end_trouble(self) -> None:
        world = self.world
        self.tell("the trouble is over")
        world.loss = world.duplication = 0.0
        world.heal()
        down = self._down()
        dead = (
            self.draw.choice(down)
            if down and len(down) < self.count / 2 and self.draw.random() < 0.5
            else None
        )
        for host in down:
            if host is not dead:
                self._start(host)
        self._connect_all()
        world.run(60.0)
        if dead is None and len(world.up()) > 3 and self.draw.random() < 0.5:
            dead = self.draw.choice(world.up())
            dead.power_off()
        if dead is not None:
            self.tell(f"host {dead.number} never comes back")
            world.throw_away(dead)
        world.run(TAKEN_OVER_WITHIN_S)
        self._remove_the_dead_if(len(world.up()) < 3)

    def _remove_the_dead_if(self, few: bool) -> None:
        """Of two hosts neither decides that there is no third one; an operator has to."""
        names = {host.name for host in self.world.up()}
        owners = {peer for host in self.world.up() for peer in allocator_of(host).ring.peers()}
        assert few or owners <= names, f"{[f'{peer:#x}' for peer in owners - names]} still own something"
        if few:
            self._remove_the_dead()
            self._dismiss_the_dead(names)
        self.world.run(60.0)
        for host in self.world.up():
            assert not fenced(host), f"host {host.number} is held back: {fenced(host)}"

    def _dismiss_the_dead(self, names: set[PeerName]) -> None:
        """Also those that owned nothing: their votes are waited for."""
        for host in self.world.up():
            for peer in sorted({name for name, _ in lease_of(host)._council.roster.members} - names):
                self.tell(f"host {host.number} no longer counts on {peer:#x}")
                self.world.remove_peer(host, peer)
                return


def live_through(seeds: range) -> int:
    """Returns how often addresses expired."""
    expired = 0
    for seed in seeds:
        history = LeaseHistory(seed)
        history.run()
        assert isinstance(history.world, LeaseWorld)
        expired += history.world.expired
    return expired


@pytest.mark.parametrize(("first", "last", "expired"), [(1, 2, 1), (5, 5, 1)])
def test_what_lost_hosts_owned_is_taken_over_and_nothing_is_in_use_twice(
    first: int, last: int, expired: int
) -> None:
    assert live_through(range(first, last + 1)) >= expired, "no history comes to where addresses expire"


@pytest.mark.deep
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("first", range(8, 1008, 100))
def test_a_thousand_histories_with_leases(first: int) -> None:
    assert live_through(range(first, first + 100)) > 30
