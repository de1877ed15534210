"""A world whose routers give out addresses, and what must be true of it at every moment.

Rules of this file. Nothing here asks a router what it thinks is right: what was answered, sent and written is compared
with what was answered, sent and written before. An address is *doubtful* if the host that gave it out couldn't know
better (it was alone, or was told not to wait for the owner, or the operator has given the host up): such a one may be
somebody else's too, but then one of both must say so once all has settled. The thing people get wrong: what a host
knows is ahead of its disk, and only what is on the disk counts after a power cut.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from world import Host, World

from weavepy import _fastpath
from weavepy import events as ev
from weavepy.events import PeerName
from weavepy.ipam.allocator import Allocator
from weavepy.ipam.ring import Ring
from weavepy.ipam.stored import RING_KEY, address_key, restore_ring
from weavepy.router import Router
from weavepy.wire.ipam import (
    CHANNEL,
    AddressState,
    Range,
    RingUpdate,
    decode_address_state_untrusted,
    decode_address_unicast_untrusted,
)
from weavepy.wire.messages import Broadcast, Gossip, Message, Unicast


class WatchedRouter(Router):
    """A router that remembers what is in the frames that it seals."""

    def __init__(self, *positional: Any, **named: Any) -> None:
        self.letters: dict[
            int, tuple[bytes, AddressState]
        ] = {}  # by the frame, which is kept so that none is like it
        self.gossip_bytes = 0
        self._read: tuple[bytes, AddressState | None] = b"", None
        super().__init__(*positional, **named)

    def _send(self, session: Any, message: Message) -> None:
        super()._send(session, message)
        if not isinstance(message, Gossip | Broadcast | Unicast) or message.channel != CHANNEL:
            return
        self.gossip_bytes += len(message.payload)
        if self._read[0] is not message.payload:  # the same goes to many
            self._read = message.payload, self._own_state(message)
        sent, state = self._effects[-1], self._read[1]
        if state is not None and isinstance(sent, ev.Send):
            self.letters[id(sent.data)] = sent.data, state

    def _own_state(self, message: Gossip | Broadcast | Unicast) -> AddressState | None:
        """Returns what a message says of our ring; who relays a broadcast speaks for himself."""
        if not isinstance(message, Unicast):
            return decode_address_state_untrusted(message.payload)
        if message.source != self._config.name:
            return None
        inner = decode_address_unicast_untrusted(message.payload)
        return inner.state if isinstance(inner, RingUpdate) else None


@dataclass(slots=True)
class Request:
    """What a host was asked, and what came of it."""

    number: int
    host: Host
    incarnation: int
    owner: str
    claim: int | None
    asked_at: float
    answer: ev.Answered | None = None
    answered_at: float = 0.0
    cancelled: bool = False  # an answer that was under way comes all the same


@dataclass(slots=True)
class Grant:
    """An address that somebody uses."""

    address: int
    host: Host
    owner: str
    doubtful: bool
    seeds: tuple[PeerName, ...]

    def __str__(self) -> str:
        return f"{self.address & 0xFFFF:#x} of {self.owner} on host {self.host.number}"


class AddressWorld(World):
    """`universe`: what there is to be given out."""

    router_class = WatchedRouter
    scanner = _fastpath  # the topology isn't what this is about

    def __init__(self, seed: int, universe: Range) -> None:
        super().__init__(seed)
        self.universe = universe
        self.requests: dict[int, Request] = {}
        self.grants: dict[int, list[Grant]] = {}
        # Who was given up by the operator, or has an old disk: what they say counts when all has settled.
        self.distrusted: set[PeerName] = set()
        self.departed: set[int] = set()
        self.divided: set[tuple[PeerName, ...]] = set()  # the first divisions that there have been
        self._owned: dict[int, tuple[object, tuple[PeerName, ...], list[Range]]] = {}
        self._rings: dict[int, Ring] = {}
        self._shapes: dict[str, list[tuple[int, PeerName]]] = {}

    # ---- what an operator does

    def address_host(
        self, number: int, *, disk_s: float = 0.0, discovery: bool = True, **addresses: object
    ) -> Host:
        """Makes a host; `addresses` are settings of its allocator."""
        host = self.host(number, discovery=discovery, addresses={"universe": self.universe} | addresses)
        host.disk.latency_s = disk_s
        return host

    def allocate(self, host: Host, owner: str) -> Request:
        return self._ask(host, owner, self.universe, None)

    def claim(self, host: Host, owner: str, address: int, *, optimistic: bool = False) -> Request:
        return self._ask(host, owner, Range(address, address + 1), address, optimistic=optimistic)

    def _ask(
        self, host: Host, owner: str, wanted: Range, claim: int | None, *, optimistic: bool = False
    ) -> Request:
        request = self._request(host, owner, claim)
        prefix = 32 - (self.universe.end - self.universe.start - 1).bit_length()
        host.handle(ev.AddressWanted(request.number, owner, *wanted, prefix, claim is not None, optimistic))
        return request

    def _request(self, host: Host, owner: str, claim: int | None = None) -> Request:
        number = len(self.requests) + 1
        request = self.requests[number] = Request(number, host, host.incarnation, owner, claim, self.now)
        return request

    def cancel(self, request: Request) -> None:
        request.cancelled = True
        request.host.handle(ev.AddressCancelled(request.number))

    def free(self, grant: Grant) -> None:
        """Whoever had it has stopped using it before anybody is told."""
        self.forget(grant)
        grant.host.handle(ev.AddressFreed(grant.owner, grant.address))

    def remove_peer(self, host: Host, gone: PeerName, *, rashly: bool = False) -> Request:
        """Runs `rmpeer` for a host that is down; `rashly`: without knowing what it has given away, and to whom."""
        self._distrust(gone)
        if rashly:
            self._distrust(host.name)
        request = self._request(host, "")
        host.handle(ev.SpaceTaken(request.number, gone))
        return request

    def restore(self, host: Host, backup: Mapping[str, str]) -> None:
        """Gives a host that is down the disk that it had once. What has begun there since isn't there any more."""
        assert host.router is None
        host.disk.durable = dict(backup)
        self._distrust(host.name)
        for grant in self.all_grants():
            if grant.host is host and address_key(grant.address) not in backup:
                self.forget(grant)

    def _distrust(self, peer: PeerName) -> None:
        self.distrusted.add(peer)
        for grant in self.all_grants():
            grant.doubtful = grant.doubtful or grant.host.name == peer
        for other in self.hosts.values():
            if other.name == peer:
                self._owned.pop(other.number, None)

    def repair(self, host: Host, peer: PeerName | None = None) -> Request:
        """Has a host give way to another ring than its own."""
        self._distrust(host.name)
        request = self._request(host, "")
        host.handle(ev.DivisionYielded(request.number, peer))
        return request

    def leave(self, host: Host) -> Request:
        """Runs `reset`: the containers of this host are gone, too."""
        for grant in list(self.all_grants()):
            if grant.host is host:
                self.forget(grant)
        self.departed.add(host.number)
        request = self._request(host, "")
        host.handle(ev.SpaceLeft(request.number))
        return request

    def wipe(self, host: Host) -> None:
        """Takes away a host that was powered off, and its disk, for good."""
        assert host.router is None
        host.disk.durable.clear()
        self._owned.pop(host.number, None)
        del self.hosts[host.number]

    def throw_away(self, host: Host) -> None:
        """Takes away a host that is down, with all that ran there."""
        for grant in list(self.all_grants()):
            if grant.host is host:
                self.forget(grant)
        self.wipe(host)

    def restart(self, host: Host, *targets: Host) -> None:
        """Starts a host that is down. What was given out there is still known there."""
        host.start(*targets)
        held = {
            address
            for owner in allocator_of(host).owners()
            for address in allocator_of(host).addresses(owner)
        }
        for grant in self.all_grants():
            assert grant.host is not host or grant.address in held, f"a restart has forgotten {grant}"

    # ---- reading

    def all_grants(self) -> Iterator[Grant]:
        for grants in list(self.grants.values()):
            yield from list(grants)

    def waiting(self) -> list[Request]:
        """Returns what hosts that still run owe an answer to."""
        return [
            request
            for request in self.requests.values()
            if request.answer is None
            and not request.cancelled
            and request.host.router is not None
            and request.incarnation == request.host.incarnation
        ]

    def up(self) -> list[Host]:
        return [host for host in self.hosts.values() if host.router is not None]

    # ---- what must be true at every moment

    def turned(self, host: Host) -> None:
        """Nobody believes that he owns what another one believes to own, as far as one division goes."""
        if host.router is None:
            return
        ring = allocator_of(host).ring
        if ring is self._rings.get(host.number):
            return
        self._rings[host.number] = ring
        shape = ring.seeds, tuple((entry.token, entry.peer) for entry in ring.entries)
        if host.number in self._owned and self._owned[host.number][0] == shape:
            return
        check_ring(ring)
        if not ring.empty:
            self.divided.add(ring.seeds)
        self._owns(host, ring)

    def fell(self, host: Host) -> None:
        """What a host without power owns is what is on its disk."""
        self._rings.pop(host.number, None)
        self._owned.pop(host.number, None)
        kept = restore_ring(host.disk.durable)
        if kept is not None and kept.peer == host.name:
            self._owns(host, kept)

    def _owns(self, host: Host, ring: Ring) -> None:
        shape = ring.seeds, tuple((entry.token, entry.peer) for entry in ring.entries)
        owned = ring.owned_by(host.name)
        for number, (_, seeds, theirs) in self._owned.items():
            common = overlap(owned, theirs)
            if number == host.number or common is None or seeds != ring.seeds:
                continue
            assert self.may_err(host) or self.may_err(self.hosts[number]), (
                f"hosts {host.number} and {number} both own {common.start:#x}-{common.end:#x}"
            )
        self._owned[host.number] = shape, ring.seeds, owned

    def may_err(self, host: Host) -> bool:
        """Whether what a host believes to own may be another one's by now."""
        return host.name in self.distrusted

    def performing(self, host: Host, effect: ev.Effect) -> None:
        match effect:
            case ev.Send(_, data) if isinstance(host.router, WatchedRouter):
                known = host.router.letters.pop(id(data), None)
                if known is not None:
                    self._announced(host, known[1])
            case ev.Answered():
                self._answered(host, effect)

    def _announced(self, host: Host, state: AddressState) -> None:
        """What is told is what the next start would find, or what an earlier one would have: a message may wait."""
        if state.ring is None:
            return
        disk = host.disk
        assert RING_KEY in disk.durable, f"host {host.number} tells of a ring that isn't on its disk"
        told = [(entry.token, entry.peer) for entry in state.ring.entries]
        texts = (disk.durable[RING_KEY], *reversed(disk.earlier.get(RING_KEY, ())))
        assert any(told == self._shape(text) for text in texts), (
            f"host {host.number} tells of another ring than the one on its disk"
        )

    def _shape(self, text: str) -> list[tuple[int, PeerName]]:
        """Returns who owns what by a ring that is on a disk."""
        shape = self._shapes.get(text)
        if shape is None:
            kept = restore_ring({RING_KEY: text})
            assert kept is not None
            if len(self._shapes) > 1000:
                self._shapes.clear()
            shape = self._shapes[text] = [(entry.token, entry.peer) for entry in kept.entries]
        return shape

    def _answered(self, host: Host, answer: ev.Answered) -> None:
        request = self.requests[answer.number]
        assert request.answer is None, f"request {request.number} is answered twice"
        assert request.host is host
        request.answer, request.answered_at = answer, self.now
        if answer.reason or not request.owner or host.number in self.departed:
            return
        address, allocator = answer.value, allocator_of(host)
        assert address_key(address) in host.disk.durable, "given out, and not on the disk"
        assert request.claim in (None, address)
        doubtful = allocator.ring.empty or address in allocator.unclaimed or host.name in self.distrusted
        grant = Grant(address, host, request.owner, doubtful, allocator.ring.seeds)
        others = self.grants.setdefault(address, [])
        for other in others:
            if other.host is host:
                assert other.owner == request.owner, f"{grant} was given out already: {other}"
                return
            self._learn(other)
            excused = grant.doubtful or other.doubtful or grant.seeds != other.seeds
            assert excused, f"{grant} is given out although there is {other}"
        others.append(grant)

    def _learn(self, grant: Grant) -> None:
        """A doubtful address that has become its host's own isn't doubtful any more."""
        if grant.doubtful and grant.host.router is not None and grant.host.name not in self.distrusted:
            allocator = allocator_of(grant.host)
            if not allocator.ring.empty and grant.address not in allocator.unclaimed:
                grant.doubtful, grant.seeds = False, allocator.ring.seeds

    def forget(self, grant: Grant) -> None:
        """Nobody uses it any more."""
        self.grants[grant.address].remove(grant)

    # ---- what must be true when all has settled

    def stubborn(self) -> list[Host]:
        """Returns the hosts that don't believe what was done while they were away. They have to say so."""
        found = []
        for host in self.up():
            ring = allocator_of(host).ring
            rings = [(other.name, allocator_of(other).ring) for other in self.up() if other is not host]
            others = [
                theirs.owned_by(owner)
                for name, theirs in rings
                if theirs.seeds == ring.seeds and name not in self.distrusted
                for owner in theirs.peers() - {host.name}
            ]
            if host.name in self.distrusted and any(overlap(ring.owned_by(host.name), o) for o in others):
                assert allocator_of(host).conflicts, f"host {host.number} says nothing of a conflict"
                found.append(host)
        return found

    def check_settled(self) -> None:
        """Everybody is up, hears everybody, and has had half a minute: who was distrusted knows better by now."""
        self.distrusted.clear()
        for host in self.up():
            self._owns(host, allocator_of(host).ring)
        self.check_known_clashes()

    def check_known_clashes(self) -> None:
        """What two have is known to one of them at least."""
        for address, grants in self.grants.items():
            if len(grants) > 1:
                known = [g for g in grants if g.host.router and address in allocator_of(g.host).clashes]
                assert known, f"nobody lists a clash: {', '.join(map(str, grants))}"


def allocator_of(host: Host) -> Allocator:
    assert host.router is not None
    assert host.router.addresses is not None
    return host.router.addresses.allocator


def check_ring(ring: Ring) -> None:
    """A ring divides the whole universe, and each address once."""
    if ring.empty:
        return
    tokens = [entry.token for entry in ring.entries]
    assert tokens == sorted(set(tokens))
    parts = sorted(one for at in range(len(tokens)) for one in ring.ranges(at))
    assert parts[0].start == ring.start
    assert parts[-1].end == ring.end
    assert all(one.end == other.start for one, other in pairwise(parts))


def overlap(ranges: list[Range], others: list[Range]) -> Range | None:
    """Returns something that is in both."""
    for one in ranges:
        for other in others:
            common = Range(max(one.start, other.start), min(one.end, other.end))
            if common.start < common.end:
                return common
    return None


def start_all(world: AddressWorld, hosts: list[Host]) -> None:
    """Starts hosts that know each other, and lets them divide the addresses."""
    for before, host in enumerate(hosts):
        host.start(*hosts[:before])
    world.run_until(lambda: all(len(host.established()) == len(hosts) - 1 for host in hosts), 20)
    hosts[0].handle(ev.DivisionWanted())
    world.run_until(lambda: not any(allocator_of(host).ring.empty for host in hosts), 40)


def settle(world: AddressWorld) -> None:
    """Lets everybody hear everything, as far as they do by themselves."""
    world.run(65.0)
