"""Gives out addresses: from what this host owns at once, else by asking whoever has some (Weave Net 2.8.1's rules).

A host that has nobody to agree with gives out all the same, from a part of the universe that depends on its name, and
tells nobody of a division. Once there is one, made with others or taken from them, it claims there what it has given
out; what somebody else has given out too is a clash: it is listed, and both go on.

Rules of this file. Every call returns what is to be done, in order, and `Save` comes before whatever tells of a
change: an address that was given out, or space that was given away, must not be forgotten by a restart. What can't be
had yet is tried again on all news and every few seconds, and `waiting` says for what. A ring that contradicts ours is
noted in `conflicts` and changes nothing. The thing people get wrong: free space is counted again after every change,
and that is a new version of our entries, which others learn with the next gossip only.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from weavepy import limits
from weavepy.events import Entropy, PeerName
from weavepy.ipam.actions import (
    AllocatorAction,
    Announce,
    Granted,
    Refused,
    Request,
    Save,
    Tell,
)
from weavepy.ipam.config import AllocatorConfig
from weavepy.ipam.election import Election
from weavepy.ipam.holdings import Holdings
from weavepy.ipam.ring import Ring, RingConflictError
from weavepy.ipam.space import Space
from weavepy.ipam.stored import RING_KEY, restore_ring, ring_text
from weavepy.wire.ipam import (
    CHANNEL,
    AddressState,
    NodeId,
    Range,
    RingState,
    RingUpdate,
    SpaceDenied,
    SpaceRequest,
    decode_address_state_untrusted,
    decode_address_unicast_untrusted,
    encode_address_state,
)

ANYBODY: Final = "_"  # an owner that has no name but its address


@dataclass(frozen=True, slots=True)
class AddressNews:
    """Our state as something to gossip: whatever it is when it is written."""

    _allocator: "Allocator" = field(repr=False)

    def merge(self, later: "AddressNews") -> "AddressNews":
        """Returns the news of both."""
        return later

    def encode(self) -> Iterator[bytes]:
        """Writes the state of this moment."""
        yield encode_address_state(self._allocator.state())


class Allocator:
    """One host's part in dividing the universe. `reachable` tells whether a peer can be spoken to, `company` whether
    any can, `expected` how many others there should be: those that were named, or those that are there if these are
    more.
    """

    name = CHANNEL

    def __init__(
        self,
        config: AllocatorConfig,
        *,
        entropy: Entropy,
        reachable: Callable[[PeerName], bool],
        company: Callable[[], bool],
        expected: Callable[[], int],
        stored: Mapping[str, str] | None = None,
    ) -> None:
        """`stored`: what the last run had saved."""
        self._config = config
        self._entropy = entropy
        self._reachable = reachable
        self._company = company
        self._expected = expected
        self._ring = Ring(config.universe.start, config.universe.end, config.own)
        self._space = Space()
        self._held = Holdings(stored or {})
        self._nicknames: dict[PeerName, str] = {config.own: config.nickname}
        self._election: Election | None = None
        if not config.observer:
            self._election = Election(NodeId(config.own, config.uid), config.quorum or 1)
        self._electing = False
        self._pending: dict[int, Request] = {}
        self._unclaimed: set[int] = set()  # addresses that were given out alone, or without asking,
        self._claimed: set[int] = set()  # and those of them that are asked for
        self._tick_at: float | None = None
        self._alone_since: float | None = None  # as far as it matters to somebody who waits
        self._saved_ring: object = None
        self.conflicts: dict[str, Range | None] = {}  # what others say of the ring that we can't agree to
        self.clashes: dict[int, PeerName] = {}  # addresses that somebody else has given out, too
        ring = restore_ring(stored or {})
        if ring is not None and (ring.peer, ring.start, ring.end) == (config.own, *config.universe):
            self._ring = ring
        if self._ring.empty and config.seeds:
            self._ring = self._ring.divide(config.seeds)
        else:
            self._saved_ring = self._structure()
        self._settle_space()

    # ---- reading

    @property
    def ring(self) -> Ring:
        """Who owns what, as far as we know."""
        return self._ring

    @property
    def waiting(self) -> list[Request]:
        """Who waits, and for what."""
        return list(self._pending.values())

    @property
    def unclaimed(self) -> list[int]:
        """Addresses that were given out here and are still somebody else's by the ring."""
        return sorted(self._unclaimed)

    def addresses(self, owner: str) -> dict[int, int]:
        """Returns the addresses of an owner, with the prefix lengths of their subnets."""
        return self._held.of(owner)

    def owners(self) -> list[str]:
        """Returns all who have an address."""
        return self._held.owners()

    def state(self) -> AddressState:
        """Returns what we gossip."""
        if not self._ring.empty:
            return AddressState(0, dict(self._nicknames), None, self._ring.state())
        election = None if self._election is None else self._election.claims()
        return AddressState(0, dict(self._nicknames), election, None)

    def lacks(self, now: float) -> str:
        """Says what this host needs before it can give out anything at all; nothing if it can."""
        return "" if not self._ring.empty or self._alone(now) else self._division()

    def complete(self) -> AddressNews:
        """Returns everything we know, to be gossiped."""
        return AddressNews(self)

    def next_timer(self) -> float | None:
        """Returns when `handle_timer` is due."""
        return self._tick_at

    # ---- what is asked here

    def allocate(self, request: Request, now: float) -> list[AllocatorAction]:
        """Takes a request; its answer, or none yet, is in what is returned."""
        self._pending[request.number] = request
        return self._changed(self._retry(now))

    def cancel(self, number: int) -> list[AllocatorAction]:
        """Forgets a request that nobody waits for any more."""
        self._pending.pop(number, None)
        return []

    def free(self, owner: str, address: int | None = None) -> list[AllocatorAction]:
        """Takes back an owner's address, or all of them; what he doesn't have is nothing."""
        held = self._held.of(owner)
        for freed in [address] if address is not None else list(held):
            if freed in held:
                self._forget(freed)
                self._space.give_back(freed)
        return self._changed([])

    def prime(self, now: float) -> list[AllocatorAction]:
        """Sees to it that there is a ring, if there is anybody to share with, though nobody needs an address yet."""
        return self._changed([] if self._alone(now) else self._establish(now))

    def take_over(self, gone: PeerName, now: float) -> tuple[int, list[AllocatorAction]]:
        """Makes all that `gone` owned ours: it must not come back. Returns how many addresses that is."""
        gained = sum(one.end - one.start for one in self._ring.owned_by(gone))
        if gone == self._config.own or not gained:
            return 0, []
        self._ring = self._ring.transfer(gone, self._config.own)
        self._settle_space()
        return gained, self._changed([Announce(), *self._retry(now)])

    def leave(self, heirs: Iterable[PeerName]) -> list[AllocatorAction]:
        """Leaves what we own to somebody: an owner who can be reached, else any of `heirs`, else any owner."""
        actions: list[AllocatorAction] = [Refused(n, "this host leaves the network") for n in self._pending]
        self._pending.clear()
        others = [peer for peer in sorted(self._ring.peers()) if peer != self._config.own]
        known = [peer for peer in heirs if peer != self._config.own]
        heir = next((peer for peer in others if self._reachable(peer)), None)
        heir = heir or next(iter([*known, *others]), None)
        for address in list(self._held):
            self._forget(address)
        if heir is None or not self._ring.owned_by(self._config.own):
            return self._changed(actions)
        self._ring = self._ring.transfer(self._config.own, heir)
        self._settle_space()
        return self._changed([*actions, Announce()])

    # ---- what comes from others; raises WireError

    def handle_gossip_untrusted(self, payload: bytes, now: float) -> list[AllocatorAction]:
        """Takes a neighbour's state. Nothing of it is passed on: everybody gossips his own."""
        return self._receive(decode_address_state_untrusted(payload), None, now)

    def handle_broadcast_untrusted(
        self, source: PeerName, payload: bytes, now: float
    ) -> list[AllocatorAction]:
        """Takes the state that `source` broadcast; our own goes on along its tree."""
        return self._receive(decode_address_state_untrusted(payload), source, now)

    def handle_unicast_untrusted(self, source: PeerName, payload: bytes, now: float) -> list[AllocatorAction]:
        """Takes what a peer sent to us alone."""
        match decode_address_unicast_untrusted(payload):
            case SpaceRequest(wanted):
                return self._donate(source, wanted)
            case RingUpdate(state):
                return self._receive(state, source, now)
            case SpaceDenied(wanted):
                return self._denied(source, wanted, now)

    def handle_timer(self, now: float) -> list[AllocatorAction]:
        """Tries again what waits."""
        if self._tick_at is None or now < self._tick_at:
            return []
        self._tick_at = None
        actions: list[AllocatorAction] = []
        if self._ring.empty and self._electing:
            actions += self._propose()
        for request in self._pending.values():
            request.asked = None
        self._claimed.clear()
        return self._changed([*actions, *self._retry(now)])

    def peers_changed(self, now: float) -> list[AllocatorAction]:
        """Tries again what waits: there may be somebody to ask now."""
        waits = self._pending or self._unclaimed or (self._held and self._ring.empty)
        return self._changed(self._retry(now)) if waits else []

    # ---- alone, and the election

    def _alone(self, now: float) -> bool:
        """Whether there is nobody to agree with, and for long enough if there should be somebody."""
        config = self._config
        if not self._ring.empty or config.quorum is not None or config.observer or self._company():
            self._alone_since = None
            return False
        if not self._expected():
            return True
        if self._alone_since is None:
            self._alone_since = now
        return now >= self._alone_since + limits.IPAM_ALONE_S

    def _establish(self, now: float) -> list[AllocatorAction]:
        if not self._ring.empty or self._electing:
            return []
        self._electing = True
        self._tick(now)
        return self._propose()

    def _propose(self) -> list[AllocatorAction]:
        election = self._election
        if election is None:
            return [Announce()]  # whoever votes begins, or tells us of a ring
        election.quorum = self._config.quorum or (self._expected() + 1) // 2 + 1
        election.propose()
        return self._conclude() or [Announce()]

    def _conclude(self) -> list[AllocatorAction]:
        value = None if self._election is None else self._election.consensus()
        if value is None:
            return []
        self._ring = self._ring.divide(value.peers)
        self._electing = False
        self._settle_space()
        return [Announce()]

    # ---- states of others

    def _receive(self, state: AddressState, source: PeerName | None, now: float) -> list[AllocatorAction]:
        actions: list[AllocatorAction] = []
        if len(self._nicknames) + len(state.nicknames) <= limits.PEERS_MAX:
            self._nicknames.update(state.nicknames)
        if state.ring is not None:
            self._merge(state.ring)
        elif not self._ring.empty:
            if source is not None:
                actions.append(Tell(source, RingUpdate(self.state())))
        elif state.election is not None:
            if self._election is not None and self._election.update(state.election):
                changed = self._election.think()
                concluded = self._conclude()
                actions += concluded or ([Announce()] if changed else [])
        elif source is not None and self._election is not None:
            actions += self._establish(now)
        return self._changed([*actions, *self._retry(now)])

    def _merge(self, theirs: RingState) -> None:
        try:
            merged = self._ring.merge(theirs, self._is_used)
        except RingConflictError as error:
            if len(self.conflicts) < limits.CONFLICTS_MAX:
                self.conflicts[str(error)] = error.about
            return
        if merged != self._ring:
            self._ring = merged
            self._electing = self._electing and merged.empty
            self._settle_space()
            keep = merged.peers() | {self._config.own}
            self._nicknames = {
                peer: nickname
                for peer, nickname in self._nicknames.items()
                if peer in keep or self._reachable(peer)
            }

    def _donate(self, to: PeerName, wanted: Range) -> list[AllocatorAction]:
        if self._ring.empty:
            return []
        given = self._space.donate(wanted)
        if given is None:
            return [Tell(to, SpaceDenied(wanted)), Tell(to, RingUpdate(self.state()))]
        self._ring = self._ring.grant(given, to)
        # Without Save first, a crash now would leave the space with both.
        actions = self._changed([Announce()])
        return [*actions, Tell(to, RingUpdate(self.state()))]

    def _denied(self, source: PeerName, wanted: Range, now: float) -> list[AllocatorAction]:
        actions: list[AllocatorAction] = []
        address = wanted.start
        if wanted.end == address + 1 and address in self._held and self._ring.owner(address) == source:
            self.clashes[address] = source
        for request in list(self._pending.values()):
            if request.claim and request.wanted == wanted and request.asked == source:
                del self._pending[request.number]
                actions.append(Refused(request.number, "another peer owns the address and has given it out"))
        return self._changed([*actions, *self._retry(now)])

    # ---- requests

    def _retry(self, now: float) -> list[AllocatorAction]:
        actions: list[AllocatorAction] = []
        alone = self._alone(now)
        wanting = any(self._needs_ring(request) for request in self._pending.values())
        if self._ring.empty and not alone and (wanting or (self._held and self._company())):
            actions += self._establish(now)
        for request in list(self._pending.values()):
            if self._ring.empty and not alone and self._needs_ring(request):
                request.waits_for = self._division()
            else:
                actions += self._claim(request) if request.claim else self._lowest(request)
        actions += self._claim_all()
        if self._pending or self._electing or (self._held and (self._ring.empty or self._unclaimed)):
            self._tick(now)
        return actions

    def _lowest(self, request: Request) -> list[AllocatorAction]:
        held = self._held.of(request.owner)
        known = next((a for a in held if request.wanted.start <= a < request.wanted.end), None)
        if known is not None:
            return [self._grant(request, known)]
        # The first and the last address of a subnet have meanings of their own.
        usable = Range(request.wanted.start + 1, request.wanted.end - 1)
        near = self._alone_from(usable) if self._ring.empty else usable.start
        address = self._space.take_near(usable, near)
        if address is not None:
            return [self._grant(request, address)]
        if self._ring.empty:
            request.waits_for = "space: nobody has any left"
            return []
        if request.asked is not None and self._reachable(request.asked):
            return []
        donors = self._ring.donors(request.wanted)
        order = sorted(donors, key=lambda peer: donors[peer] * self._entropy.random(), reverse=True)
        asked = next((peer for peer in order if self._reachable(peer)), None)
        request.asked = asked
        if asked is None:
            there = ", ".join(self._called(peer) for peer in order)
            request.waits_for = (
                f"space that only peers have who can't be reached: {there}"
                if order
                else "space: nobody has any left"
            )
            return []
        request.waits_for = f"space from {self._called(asked)}"
        return [Tell(asked, SpaceRequest(request.wanted))]

    def _alone_from(self, usable: Range) -> int:
        """Where a host begins that nobody has given a part: two that meet later have seldom given out the same."""
        return usable.start + self._config.own * 0x9E3779B97F4A7C15 % 2**64 % max(
            1, usable.end - usable.start
        )

    def _claim(self, request: Request) -> list[AllocatorAction]:
        address = request.wanted.start
        owner = self._held.owner(address)
        if owner is not None:
            if owner in (request.owner, ANYBODY) or request.owner == ANYBODY:
                return [self._grant(request, address)]
            del self._pending[request.number]
            return [Refused(request.number, f"it belongs to {owner} on this host")]
        universe = self._config.universe
        if not universe.start <= address < universe.end:
            return [self._grant(request, address)]  # nobody's to coordinate
        if self._space.take(address):
            return [self._grant(request, address)]
        peer = self._ring.owner(address)
        assert peer is not None
        if not self._reachable(peer):
            request.tries += 1
            request.waits_for = f"{self._called(peer)}, who owns it and can't be reached"
            if request.optimistic:
                return [self._grant(request, address)]
            if request.tries > limits.CLAIM_TRIES_MAX:
                del self._pending[request.number]
                return [
                    Refused(request.number, f"{self._called(peer)} owns the address and can't be reached")
                ]
            return []
        if request.asked == peer:
            return []
        request.asked = peer
        request.waits_for = f"{self._called(peer)}, who owns it"
        return [Tell(peer, SpaceRequest(request.wanted))]

    def _claim_all(self) -> list[AllocatorAction]:
        """Asks for what was given out before it was ours to give."""
        actions: list[AllocatorAction] = []
        for address in self.unclaimed:
            peer = self._ring.owner(address)
            if peer is not None and address not in self._claimed and self._reachable(peer):
                self._claimed.add(address)
                actions.append(Tell(peer, SpaceRequest(Range(address, address + 1))))
        return actions

    def _division(self) -> str:
        others = "" if self._company() else ": none of the peers that were named is there yet"
        return f"the first division of the addresses among the peers{others}"

    def _needs_ring(self, request: Request) -> bool:
        """Whether somebody may own what it is about: what is outside the universe is nobody's."""
        universe = self._config.universe
        if not request.claim:
            held = self._held.of(request.owner)
            return not any(request.wanted.start <= a < request.wanted.end for a in held)
        address = request.wanted.start
        return universe.start <= address < universe.end and self._held.owner(address) is None

    def _grant(self, request: Request, address: int) -> Granted:
        self._pending.pop(request.number, None)
        if self._held.owner(address) == ANYBODY != request.owner:
            self._forget(address)
        self._held.add(address, request.owner, request.prefix)
        if self._is_foreign(address):
            self._unclaimed.add(address)
        return Granted(request.number, address)

    def _forget(self, address: int) -> None:
        self._held.forget(address)
        self._unclaimed.discard(address)
        self.clashes.pop(address, None)

    def _is_foreign(self, address: int) -> bool:
        """Whether an address is another peer's by the ring."""
        universe = self._config.universe
        inside = universe.start <= address < universe.end
        return inside and not self._ring.empty and address not in self._space.owned

    def _is_used(self, about: Range) -> bool:
        return self._space.owned.size_within(about) > self._space.free.size_within(about)

    def _called(self, peer: PeerName) -> str:
        name = peer.to_bytes(6, "big").hex(":")
        return f"{name}({self._nicknames[peer]})" if self._nicknames.get(peer) else name

    def _tick(self, now: float) -> None:
        if self._tick_at is None:
            self._tick_at = now + limits.IPAM_TICK_S

    # ---- what lasts

    def _settle_space(self) -> None:
        """Owns what the ring says; while there is none, anything may be given out by who is alone."""
        ring = self._ring
        ours = [self._config.universe] if ring.empty else ring.owned_by(self._config.own)
        self._space.own(ours, self._held)
        self._unclaimed = {address for address in self._held if self._is_foreign(address)}
        self.clashes = {a: peer for a, peer in self.clashes.items() if a not in self._space.owned}

    def _structure(self) -> object:
        return self._ring.seeds, [(entry.token, entry.peer) for entry in self._ring.entries]

    def _changed(self, actions: list[AllocatorAction]) -> list[AllocatorAction]:
        """Counts what is free, and puts what must last before all that tells of it."""
        self._ring = self._ring.report_free(self._space.free.size_within)
        saves = []
        if (structure := self._structure()) != self._saved_ring:
            self._saved_ring = structure
            saves.append(Save(RING_KEY, ring_text(self._ring)))
        return [*saves, *self._held.saves(), *actions]
