"""Several hosts with allocators and leases: what they see of each other lags, and what they say takes time."""

import json
import random
from collections.abc import Iterable

from weavepy.events import PeerName
from weavepy.ipam.actions import AllocatorAction, Announce, Granted, Refused, Request, Save, Tell
from weavepy.ipam.allocator import Allocator
from weavepy.ipam.config import AllocatorConfig
from weavepy.ipam.lease import Lease
from weavepy.ipam.leaseactions import Expire, ForgetRing, LeaseAction, TakeOver
from weavepy.ipam.stored import address_key
from weavepy.wire.ipam import (
    Range,
    encode_address_state,
    encode_address_unicast,
)

LAG_S = 15.0  # at most, between what is and what a host sees
PERIOD_S = 120


class Host:
    """What is `saved` survives a restart."""

    def __init__(
        self,
        cluster: "Cluster",
        name: int,
        seeds: Iterable[int],
        period_s: int = PERIOD_S,
        *,
        boot: str = "b",
    ) -> None:
        self.cluster, self.name, self.period_s, self.boot = cluster, PeerName(name), period_s, boot
        self.seeds = tuple(map(PeerName, seeds))
        self.saved: dict[str, str] = {}
        self.sees: set[int] = set()
        self.granted: dict[int, int] = {}
        self.expired = 0
        self.taken: list[int] = []
        self.alive = False
        self.mute = False  # knows nothing of leases, as a Weave Net router
        self.fragile = False  # dies when it has taken something over, before it tells anybody
        self.starts = 0

    def start(self) -> None:
        self.alive = True
        self.sees.clear()
        self._start_allocator()
        self.lease = Lease(
            self.name,
            self.period_s,
            self.cluster.now,
            founders=lambda: self.allocator.ring.seeds,
            owners=lambda: self.allocator.ring.peers(),
            reachable=self._reaches,
            boot=self.boot,
            stored=dict(self.saved),
        )
        self.allocator.obey(self.lease)
        self.do_lease(self.lease.handle_timer(self.cluster.now))

    def _start_allocator(self) -> None:
        self.starts += 1
        config = AllocatorConfig(
            own=self.name,
            uid=100 * self.name + self.starts,
            nickname=f"host{self.name}",
            universe=self.cluster.universe,
            seeds=self.seeds if not self.starts > 1 else (),
            observer=True,
        )
        self.allocator = Allocator(
            config,
            entropy=random.Random(self.name),
            reachable=self._reaches,
            company=lambda: bool(self.sees),
            expected=lambda: 2,
            stored=dict(self.saved),
        )
        self.fence = ""
        self.do(self.allocator.start())

    def look_at_fence(self) -> None:
        """Tells the allocator when that has changed."""
        reason = self.lease.fenced(self.cluster.now)
        if reason != self.fence:
            self.fence = reason
            self.do(self.allocator.set_fence(reason or None, self.cluster.now))

    def _reaches(self, peer: PeerName) -> bool:
        return peer in self.sees

    def allocate(self, owner: str) -> int:
        self.look_at_fence()
        number = self.cluster.number = self.cluster.number + 1
        request = Request(number, owner, self.cluster.universe, 24, False, self.cluster.now)
        self.do(self.allocator.allocate(request, self.cluster.now))
        return number

    def held(self) -> dict[int, str]:
        return {a: owner for owner in self.allocator.owners() for a in self.allocator.addresses(owner)}

    def say_all(self, to: int) -> None:
        if not self.mute:
            for payload in self.lease.complete().encode():
                self.cluster.post(self.name, to, "lease gossip", payload)
        self.cluster.post(self.name, to, "gossip", encode_address_state(self.allocator.state()))

    def handle(self, kind: str, source: PeerName, payload: bytes) -> None:
        now, allocator, lease = self.cluster.now, self.allocator, self.lease
        if kind == "broadcast":
            self.do(allocator.handle_broadcast_untrusted(source, payload, now))
        elif kind == "unicast":
            self.do(allocator.handle_unicast_untrusted(source, payload, now))
        elif kind == "gossip":
            self.do(allocator.handle_gossip_untrusted(payload, now))
        elif self.mute:
            pass
        elif kind == "lease broadcast":
            self.do_lease(lease.merge_broadcast_untrusted(payload, now)[1])
        else:
            news, actions = lease.merge_gossip_untrusted(payload, now)
            self.do_lease(actions)
            if news is not None:
                for part in news.encode():
                    self.cluster.post_all(self.name, "lease gossip", part)

    def do(self, actions: Iterable[AllocatorAction]) -> None:
        new = set()
        for action in actions:
            match action:
                case Save(key, text):
                    new.add(key)
                    self._save(key, text)
                case Announce():
                    self.cluster.post_all(
                        self.name, "broadcast", encode_address_state(self.allocator.state())
                    )
                case Tell(peer, message):
                    self.cluster.post(self.name, peer, "unicast", encode_address_unicast(message))
                case Granted(number, address):
                    assert address_key(address) not in new or not self.lease.fenced(self.cluster.now)
                    self.granted[number] = address
                case Refused():
                    pass

    def do_lease(self, actions: Iterable[LeaseAction]) -> None:
        for action in [] if self.mute else actions:
            match action:
                case Save(key, text):
                    self._save(key, text)
                case Announce():
                    for payload in self.lease.news().encode():
                        self.cluster.post_all(self.name, "lease broadcast", payload)
                case TakeOver(gone):
                    self.taken.append(gone)
                    taking = self.allocator.take_over(gone, self.cluster.now)[1]
                    if self.fragile:
                        self.do(action for action in taking if isinstance(action, Save))
                        self.cluster.kill(self.name)
                        return
                    self.do(taking)
                case Expire():
                    self.expired += 1
                    self.do(self.allocator.expire())
                case ForgetRing():
                    assert not self.held()
                    self.do(self.allocator.forget_ring())
        self.look_at_fence()

    def _save(self, key: str, text: str | None) -> None:
        if text is None:
            self.saved.pop(key, None)
        else:
            json.loads(text)  # the store takes nothing else
            self.saved[key] = text


class Cluster:
    """All hosts, and who can speak to whom: all in one of `groups`, or all if there are none."""

    def __init__(self, seed: int = 0, *, lag_s: float = LAG_S, size: int = 64) -> None:
        self.rng = random.Random(seed)
        self.lag_s = lag_s
        self.universe = Range(0x0A200000, 0x0A200000 + size)
        self.now = 1000.0
        self.number = 0
        self.hosts: dict[int, Host] = {}
        self.groups: list[set[int]] | None = None
        self._changing: dict[tuple[int, int], float] = {}
        self._mail: list[tuple[int, int, str, bytes]] = []
        self._gossip_at = self.now

    def add(
        self, *names: int, seeds: Iterable[int] = (), period_s: int = PERIOD_S, mute: bool = False
    ) -> None:
        for name in names:
            self.hosts[name] = Host(self, name, seeds, period_s)
            self.hosts[name].mute = mute
            self.hosts[name].start()

    def __getitem__(self, name: int) -> Host:
        return self.hosts[name]

    @property
    def living(self) -> list[Host]:
        return [host for host in self.hosts.values() if host.alive]

    def kill(self, *names: int) -> None:
        for name in names:
            self.hosts[name].alive = False
            self.hosts[name].sees.clear()

    def connected(self, one: int, other: int) -> bool:
        if one == other or not (self.hosts[one].alive and self.hosts[other].alive):
            return False
        return self.groups is None or any({one, other} <= group for group in self.groups)

    def post(self, source: int, to: int, kind: str, payload: bytes) -> None:
        if to in self.hosts and self.connected(source, to):
            self._mail.append((source, to, kind, payload))

    def post_all(self, source: int, kind: str, payload: bytes) -> None:
        for other in self.hosts:
            self.post(source, other, kind, payload)

    def run(self, seconds: float) -> None:
        until = self.now + seconds
        while self.now < until:
            self.now += 1.0
            self._look()
            if self.now >= self._gossip_at:
                self._gossip_at += 30.0
                for host in self.living:
                    for other in self.hosts:
                        host.say_all(other)
            for host in self.living:
                if host.lease.next_timer() <= self.now:
                    host.do_lease(host.lease.handle_timer(self.now))
                assert host.fence == host.lease.fenced(self.now) or host.mute, "no timer when that changed"
                host.do(host.allocator.handle_timer(self.now))
            self._deliver()
            self.check()

    def _look(self) -> None:
        for host in self.living:
            for other in self.hosts:
                is_so = self.connected(host.name, other)
                pair = (host.name, other)
                if is_so == (other in host.sees):
                    self._changing.pop(pair, None)
                    continue
                if pair not in self._changing:
                    self._changing[pair] = self.now + self.rng.uniform(0, self.lag_s)
                if self._changing[pair] > self.now:
                    continue
                del self._changing[pair]
                if is_so:
                    host.sees.add(other)
                    host.say_all(other)
                else:
                    host.sees.discard(other)
                host.do_lease(host.lease.topology_changed(self.now))
                host.do(host.allocator.peers_changed(self.now))

    def _deliver(self) -> None:
        for _ in range(20_000):
            if not self._mail:
                return
            # From one host to another things arrive in order; else any order is possible.
            first = self._mail[self.rng.randrange(len(self._mail))][:2]
            at = next(at for at, one in enumerate(self._mail) if one[:2] == first)
            source, to, kind, payload = self._mail.pop(at)
            if self.connected(source, to):
                self.hosts[to].handle(kind, PeerName(source), payload)
        raise AssertionError("they never stop talking")

    def check(self) -> None:
        """No address is in use on two hosts."""
        used: dict[int, tuple[int, str]] = {}
        for host in self.living:
            for address, owner in host.held().items():
                assert address not in used, (self.now, address, used[address], host.name, owner)
                used[address] = (host.name, owner)
