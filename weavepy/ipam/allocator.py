"""Gives out addresses: from what this host owns at once, else by asking whoever has some (Weave Net 2.8.1's rules).

Rules of this file. Every call returns what is to be done, in order, and `Save` comes before whatever tells of a
change: an address that was given out, or space that was given away, must not be forgotten by a restart. What can't be
had yet is tried again on all news and every few seconds, and `waiting` says for what. A ring that contradicts ours is
noted in `conflicts` and changes nothing. The thing people get wrong: free space is counted again after every change,
and that is a new version of our entries, which others learn with the next gossip only.
"""

from collections.abc import Callable, Iterable, Iterator
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
from weavepy.ipam.election import Election
from weavepy.ipam.ring import Ring, RingConflictError
from weavepy.ipam.space import Space
from weavepy.ipam.stored import restore, save_text
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
class AllocatorConfig:
    """`quorum` voters must agree on the first owners; None: a majority of the peers that were named. `seeds`: they are
    known from the start. `observer`: never votes.
    """

    own: PeerName
    uid: int
    nickname: str
    universe: Range
    quorum: int | None = None
    seeds: tuple[PeerName, ...] = ()
    observer: bool = False


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
    """One host's part in dividing the universe. `reachable` tells whether a peer can be spoken to, `expected` how many
    peers the operator named.
    """

    name = CHANNEL

    def __init__(
        self,
        config: AllocatorConfig,
        *,
        entropy: Entropy,
        reachable: Callable[[PeerName], bool],
        expected: Callable[[], int],
        stored: str | None = None,
    ) -> None:
        self._config = config
        self._entropy = entropy
        self._reachable = reachable
        self._expected = expected
        self._ring = Ring(config.universe.start, config.universe.end, config.own)
        self._space = Space()
        self._owned: dict[str, dict[int, int]] = {}  # owner -> address -> prefix
        self._nicknames: dict[PeerName, str] = {config.own: config.nickname}
        self._election: Election | None = None
        if not config.observer:
            self._election = Election(NodeId(config.own, config.uid), config.quorum or 1)
        self._electing = False
        self._pending: dict[int, Request] = {}
        self._tick_at: float | None = None
        self._saved = ""
        self.conflicts: dict[str, Range | None] = {}  # what others say that we can't agree to
        if stored is not None:
            ring, self._owned = restore(stored)
            if (ring.peer, ring.start, ring.end) == (config.own, *config.universe):
                self._ring = ring
        if self._ring.empty and config.seeds:
            self._ring = self._ring.divide(config.seeds)
        self._settle_space()
        self._saved = save_text(self._ring, self._owned)

    # ---- reading

    @property
    def ring(self) -> Ring:
        """Who owns what, as far as we know."""
        return self._ring

    @property
    def waiting(self) -> list[Request]:
        """Who waits, and for what."""
        return list(self._pending.values())

    def addresses(self, owner: str) -> dict[int, int]:
        """Returns the addresses of an owner, with the prefix lengths of their subnets."""
        return dict(self._owned.get(owner, {}))

    def owners(self) -> list[str]:
        """Returns all who have an address."""
        return list(self._owned)

    def state(self) -> AddressState:
        """Returns what we gossip."""
        if not self._ring.empty:
            return AddressState(0, dict(self._nicknames), None, self._ring.state())
        election = None if self._election is None else self._election.claims()
        return AddressState(0, dict(self._nicknames), election, None)

    def complete(self) -> AddressNews:
        """Returns everything we know, to be gossiped."""
        return AddressNews(self)

    def next_timer(self) -> float | None:
        """Returns when `handle_timer` is due."""
        return self._tick_at

    # ---- what is asked here

    def allocate(self, request: Request, now: float) -> list[AllocatorAction]:
        """Takes a request; its answer, or none yet, is in what is returned."""
        known = next(
            (a for a in self._owned.get(request.owner, {}) if request.wanted.start <= a < request.wanted.end),
            None,
        )
        if known is not None and not request.claim:
            return [Granted(request.number, known)]
        self._pending[request.number] = request
        return self._work(now)

    def cancel(self, number: int) -> list[AllocatorAction]:
        """Forgets a request that nobody waits for any more."""
        self._pending.pop(number, None)
        return []

    def free(self, owner: str, address: int | None = None) -> list[AllocatorAction]:
        """Takes back an owner's address, or all of them; what he doesn't have is nothing."""
        held = self._owned.get(owner, {})
        for freed in [address] if address is not None else list(held):
            if held.pop(freed, None) is not None:
                self._space.give_back(freed)
        if not held:
            self._owned.pop(owner, None)
        return self._changed([])

    def prime(self, now: float) -> list[AllocatorAction]:
        """Sees to it that there is a ring, though nobody needs an address yet."""
        return self._changed(self._establish(now))

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
        self._owned.clear()
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
        return self._changed([*actions, *self._retry(now)])

    # ---- the election

    def _establish(self, now: float) -> list[AllocatorAction]:
        if not self._ring.empty or self._electing:
            return []
        self._electing = True
        self._tick_at = now + limits.IPAM_TICK_S
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
        for request in list(self._pending.values()):
            if request.claim and request.wanted == wanted and request.asked == source:
                del self._pending[request.number]
                actions.append(Refused(request.number, "another peer owns the address and has given it out"))
        return self._changed([*actions, *self._retry(now)])

    # ---- requests

    def _work(self, now: float) -> list[AllocatorAction]:
        return self._changed(self._retry(now))

    def _retry(self, now: float) -> list[AllocatorAction]:
        actions: list[AllocatorAction] = []
        if any(self._needs_ring(request) for request in self._pending.values()):
            actions += self._establish(now)
        for request in list(self._pending.values()):
            if self._ring.empty and self._needs_ring(request):
                request.waits_for = "the first division of the addresses among the peers"
            else:
                actions += self._claim(request) if request.claim else self._lowest(request)
        if self._pending and self._tick_at is None:
            self._tick_at = now + limits.IPAM_TICK_S
        return actions

    def _lowest(self, request: Request) -> list[AllocatorAction]:
        # The first and the last address of a subnet have meanings of their own.
        address = self._space.take_lowest(Range(request.wanted.start + 1, request.wanted.end - 1))
        if address is not None:
            return [self._grant(request, address)]
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

    def _claim(self, request: Request) -> list[AllocatorAction]:
        address = request.wanted.start
        owner = self._owner_of(address)
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

    def _needs_ring(self, request: Request) -> bool:
        """Whether somebody may own what it is about: what is outside the universe is nobody's."""
        universe = self._config.universe
        if not request.claim:
            return True
        address = request.wanted.start
        return universe.start <= address < universe.end and self._owner_of(address) is None

    def _grant(self, request: Request, address: int) -> Granted:
        self._pending.pop(request.number, None)
        owner = self._owner_of(address)
        if owner == ANYBODY != request.owner:
            self._forget(ANYBODY, address)
        self._owned.setdefault(request.owner, {})[address] = request.prefix
        return Granted(request.number, address)

    def _forget(self, owner: str, address: int) -> None:
        held = self._owned[owner]
        del held[address]
        if not held:
            del self._owned[owner]

    def _owner_of(self, address: int) -> str | None:
        return next((owner for owner, held in self._owned.items() if address in held), None)

    def _is_used(self, about: Range) -> bool:
        return any(about.start <= a < about.end for held in self._owned.values() for a in held)

    def _called(self, peer: PeerName) -> str:
        name = peer.to_bytes(6, "big").hex(":")
        return f"{name}({self._nicknames[peer]})" if self._nicknames.get(peer) else name

    # ---- what lasts

    def _settle_space(self) -> None:
        ours = self._ring.owned_by(self._config.own)
        self._space.own(ours, [a for held in self._owned.values() for a in held])

    def _changed(self, actions: list[AllocatorAction]) -> list[AllocatorAction]:
        """Counts what is free, and puts what must last before all that tells of it."""
        self._ring = self._ring.report_free(self._space.free.size_within)
        text = save_text(self._ring, self._owned)
        if text == self._saved:
            return actions
        self._saved = text
        return [Save(text), *actions]
