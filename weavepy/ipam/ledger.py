"""What this host knows of the addresses: who owns which, its own space, and who on it has been given what.

Rules of this file. Ring, space and what is held are changed together, here only, and never disagree: an address that
is held but isn't ours by the ring is `unclaimed`, and in `clashes` if its owner has given it out, too. `changed` puts
what must last before whatever tells of a change. The thing people get wrong: free space is counted again after every
change, and that is a new version of our entries, which others learn with the next gossip only.
"""

from collections.abc import Mapping
from typing import Final

from weavepy import limits
from weavepy.events import PeerName
from weavepy.ipam.actions import AllocatorAction, Granted, Request, Save
from weavepy.ipam.config import AllocatorConfig
from weavepy.ipam.holdings import Holdings
from weavepy.ipam.ring import Ring
from weavepy.ipam.space import Space
from weavepy.ipam.stored import RING_KEY, restore_ring, ring_text
from weavepy.wire.ipam import Range

ANYBODY: Final = "_"  # an owner that has no name but its address


class Ledger:
    """One host's books. `stored`: what the last run had saved."""

    def __init__(self, config: AllocatorConfig, stored: Mapping[str, str]) -> None:
        self.own = config.own
        self.universe = config.universe
        self.ring = Ring(config.universe.start, config.universe.end, config.own)
        self.space = Space()
        self.held = Holdings(stored)
        self.nicknames: dict[PeerName, str] = {config.own: config.nickname}
        self.unclaimed: set[int] = set()  # addresses that were given out alone, or without asking
        self.clashes: dict[int, PeerName] = {}  # addresses that somebody else has given out, too
        self._saved_ring: object = None
        ring = restore_ring(stored)
        if ring is not None and (ring.peer, ring.start, ring.end) == (config.own, *config.universe):
            self.ring = ring
        if self.ring.empty and config.seeds:
            self.ring = self.ring.divide(config.seeds)
        else:
            self._saved_ring = self._structure()
        self._settle()

    # ---- reading

    def called(self, peer: PeerName) -> str:
        """Returns a peer's name for people."""
        name = peer.to_bytes(6, "big").hex(":")
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
        if (structure := self._structure()) != self._saved_ring:
            self._saved_ring = structure
            saves.append(Save(RING_KEY, ring_text(self.ring)))
        return [*saves, *self.held.saves(), *actions]

    def _settle(self) -> None:
        """Owns what the ring says; while there is none, anything may be given out by who is alone."""
        ours = [self.universe] if self.ring.empty else self.ring.owned_by(self.own)
        self.space.own(ours, self.held)
        self.unclaimed = {address for address in self.held if self._is_foreign(address)}
        self.clashes = {a: peer for a, peer in self.clashes.items() if a not in self.space.owned}

    def _structure(self) -> object:
        return self.ring.seeds, [(entry.token, entry.peer) for entry in self.ring.entries]
