"""What this host knows of the addresses: who owns which, its own space, and who on it has been given what.

Rules of this file. Ring, space and what is held are changed together, here only, and never disagree: an address that
is held but isn't ours by the ring is `unclaimed`, and in `clashes` if its owner has given it out, too. `changed` puts
what must last before whatever tells of a change. The thing people get wrong: free space is counted again after every
change, and that is a new version of our entries, which others learn with the next gossip only.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from weavepy import limits
from weavepy.events import PeerName
from weavepy.ipam.actions import AllocatorAction, Granted, Request, Save
from weavepy.ipam.config import AllocatorConfig
from weavepy.ipam.conflicts import kind
from weavepy.ipam.holdings import Holdings
from weavepy.ipam.ring import Ring
from weavepy.ipam.space import Space, range_text
from weavepy.ipam.stored import (
    FORMER_KEY,
    RING_KEY,
    restore_former,
    restore_ring,
    ring_text,
    rings_text,
)
from weavepy.wire.ipam import Range, RingState
from weavepy.wire.peername import format_peer_name

ANYBODY: Final = "_"  # an owner that has no name but its address


@dataclass(frozen=True, slots=True)
class Share:
    """What one peer owns, and how much of that he last said is free."""

    owned: int
    free: int


class Ledger:
    """One host's books. `stored`: what the last run had saved."""

    def __init__(self, config: AllocatorConfig, stored: Mapping[str, str]) -> None:
        self.own = config.own
        self.ring = Ring(config.universe.start, config.universe.end, config.own)
        self.space = Space()
        self.held = Holdings(stored)
        self.nicknames: dict[PeerName, str] = {config.own: config.nickname}
        self.unclaimed: set[int] = set()  # addresses that were given out alone, or without asking
        self.clashes: dict[int, PeerName] = {}  # addresses that somebody else has given out, too
        self.notes: list[str] = []  # what of that which was saved doesn't fit, for people
        self._former = restore_former(stored)
        self._saved_former = list(self._former)
        self._saved_ring: Ring | None = None
        self._shares: tuple[Ring | None, dict[PeerName, Share]] = (None, {})
        saved = restore_ring(stored)
        self._restore(config, saved)
        if saved is None and self.ring.empty and config.seeds:
            self.ring = self.ring.divide(config.seeds)
        self._settle()

    def _restore(self, config: AllocatorConfig, saved: Ring | None) -> None:
        found = [*self._former, *([saved] if saved is not None and not saved.empty else [])]
        fitting = [ring for ring in found if ring.peer == config.own]
        if config.chosen:
            fitting = [ring for ring in fitting if ring_range(ring) == config.universe]
        if fitting:
            # What was said of our entries since they were saved is older than anything that we say from now on.
            self.ring = fitting[-1].reserve(limits.RING_VERSIONS_RESERVED)
        if saved is not None and self.ring.entries == saved.entries:
            self._saved_ring = self.ring
        elif saved is not None and (not fitting or fitting[-1] is not saved):
            if saved.peer == config.own:
                self._give_up(saved)
                why = f"divides {range_text(ring_range(saved))}, not {range_text(config.universe)}"
            else:
                why = f"was saved by another peer, {format_peer_name(saved.peer)}"
            self.notes.append(f"the ring that was saved {why}: this host goes on without it")
        seeds = tuple(sorted(set(config.seeds)))
        if seeds and not self.ring.empty and self.ring.seeds != seeds:
            self.notes.append(
                "the addresses were divided among other peers than the seeds before; that stays"
            )
        outside = sum(not self.is_inside(address) for address in self.held)
        if outside and self.notes:
            where = range_text(self.universe)
            self.notes.append(
                f"in use here, but outside {where}, so that nobody else knows of them: {outside}"
            )

    # ---- reading

    @property
    def universe(self) -> Range:
        """What is divided."""
        return ring_range(self.ring)

    def is_division(self, theirs: RingState) -> bool:
        """Whether a ring is of the same division as ours."""
        return kind(theirs) == kind(self.ring)

    def shares(self) -> dict[PeerName, Share]:
        """Returns what each owner has; counted once for each change, since the metrics ask again and again."""
        ring = self.ring
        if self._shares[0] is not ring:
            found: dict[PeerName, Share] = {}
            for at, entry in enumerate(ring.entries):
                known = found.get(entry.peer, Share(0, 0))
                found[entry.peer] = Share(known.owned + ring.length(at), known.free + entry.free)
            self._shares = ring, found
        return self._shares[1]

    def called(self, peer: PeerName) -> str:
        """Returns a peer's name for people."""
        name = format_peer_name(peer)
        return f"{name}({self.nicknames[peer]})" if self.nicknames.get(peer) else name

    def is_inside(self, address: int) -> bool:
        """Whether an address is of the universe: what is outside is nobody's."""
        return self.universe.start <= address < self.universe.end

    def is_used(self, about: Range) -> bool:
        """Whether an address of ours in a range has been given out."""
        return self.space.owned.size_within(about) > self.space.free.size_within(about)

    def _is_foreign(self, address: int) -> bool:
        """Whether an address is another peer's by the ring."""
        return self.is_inside(address) and not self.ring.empty and address not in self.space.owned

    # ---- changing

    def learn_nicknames(self, nicknames: Mapping[PeerName, str]) -> None:
        """Takes what peers are called."""
        if len(self.nicknames) + len(nicknames) <= limits.PEERS_MAX:
            self.nicknames.update(nicknames)

    def divide(self, ring: Ring) -> None:
        """Goes by another ring from now on: owns what it says."""
        self.ring = ring
        self._settle()

    def forget_ring(self) -> None:
        """Knows of no division any more, nor of any before."""
        self._former.clear()
        self.divide(Ring(*self.universe, self.own))

    def merge(self, theirs: RingState) -> bool:
        """Takes what a ring says that ours doesn't; returns whether that was anything. Raises RingConflictError."""
        if self.ring.empty and (theirs.start, theirs.end) == self.universe:
            merged = self._before(theirs).merge(theirs, _nothing, giving_way=True)
        else:
            merged = self.ring.merge(theirs, self.is_used, last_counts=False)
            merged = merged.concede(theirs, self.is_used)
        if merged == self.ring:
            return False
        self.divide(merged)
        return True

    def adopt(self, theirs: RingState) -> None:
        """Gives up our ring for another, or where it contradicts one of the same division. Raises
        RingConflictError, and then nothing has changed.
        """
        if self.is_division(theirs):
            self.divide(self.ring.merge(theirs, _nothing, giving_way=True))
            return
        taken = self._before(theirs).merge(theirs, _nothing, giving_way=True)
        if not self.ring.empty:
            self._give_up(self.ring)
        self.divide(taken)

    def _before(self, theirs: RingState) -> Ring:
        """Returns what we knew of a division when we gave it up: grants, perhaps, that others don't know of."""
        known = [ring for ring in self._former if kind(ring) == kind(theirs) and ring.peer == self.own]
        if known:
            return known[-1].reserve(limits.RING_VERSIONS_RESERVED)
        return Ring(theirs.start, theirs.end, self.own)

    def _give_up(self, ring: Ring) -> None:
        others = [one for one in self._former if kind(one) != kind(ring) or one.peer != ring.peer]
        self._former = [*others, ring][-limits.FORMER_RINGS_MAX :]

    def grant(self, request: Request, address: int) -> Granted:
        """Gives an address, which was taken out of what is free if it was there, to who asked."""
        if self.held.owner(address) == ANYBODY != request.owner:
            self.forget(address)
        self.held.add(address, request.owner, request.prefix)
        if self._is_foreign(address):
            self.unclaimed.add(address)
        return Granted(request.number, address)

    def forget(self, address: int) -> None:
        """Takes a held address off the books; whether it is free now is for the caller to say."""
        self.held.forget(address)
        self.unclaimed.discard(address)
        self.clashes.pop(address, None)

    def changed(self, actions: list[AllocatorAction]) -> list[AllocatorAction]:
        """Counts what is free, and puts what must last before all that tells of it."""
        self.ring = self.ring.report_free(self.space.free.size_within)
        saves = []
        if self._former != self._saved_former:
            self._saved_former = list(self._former)
            saves.append(Save(FORMER_KEY, rings_text(self._former)))
        if self._must_save():
            self._saved_ring = self.ring
            saves.append(Save(RING_KEY, ring_text(self.ring)))
        return [*saves, *self.held.saves(), *actions]

    def _must_save(self) -> bool:
        """Whether who owns what isn't as it was saved, or our entries have got as new as `reserve` makes them."""
        ring, saved = self.ring, self._saved_ring
        if ring is saved:
            return False
        if saved is None:
            return not ring.empty
        if (kind(ring), len(ring.entries)) != (kind(saved), len(saved.entries)):
            return True
        for entry, known in zip(ring.entries, saved.entries, strict=True):
            if entry is known:
                continue
            if (entry.token, entry.peer) != (known.token, known.peer):
                return True
            if entry.peer == self.own and entry.version >= known.version + limits.RING_VERSIONS_RESERVED:
                return True
        return False

    def _settle(self) -> None:
        """Owns what the ring says; while there is none, anything may be given out by who is alone."""
        ring = self.ring
        ours = [self.universe] if ring.empty else ring.owned_by(self.own)
        self.space.own(ours, self.held)
        self.unclaimed = {address for address in self.held if self._is_foreign(address)}
        self.clashes = {
            a: peer for a, peer in self.clashes.items() if a in self.unclaimed and ring.owner(a) == peer
        }


def ring_range(ring: Ring) -> Range:
    """Returns what a ring divides."""
    return Range(ring.start, ring.end)


def _nothing(_: Range) -> bool:
    return False
