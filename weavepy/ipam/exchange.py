"""What is said to other hosts and heard from them: rings that are merged, given way to or noted as conflicts, votes,
and space that is given away.

Rules of this file. Actions are returned without what must be saved first, which `Ledger.changed` puts before them. What
brings nothing new costs next to nothing: others say the same again and again. The thing people get wrong: merging
again what has been merged brings nothing, whatever has come since, since versions only grow; but only as long as the
ring is the same one.
"""

import hashlib
from collections.abc import Callable
from typing import Protocol

from weavepy import limits
from weavepy.events import PeerName
from weavepy.ipam.actions import AllocatorAction, Announce, Tell
from weavepy.ipam.config import AllocatorConfig
from weavepy.ipam.conflicts import Conflicts, RepairError, gives_way
from weavepy.ipam.ledger import Ledger
from weavepy.ipam.ring import MalformedRingError, Ring, RingConflictError
from weavepy.ipam.seeding import Seeding
from weavepy.ipam.space import Ranges, range_text
from weavepy.wire.ipam import (
    AddressState,
    Range,
    RingState,
    RingUpdate,
    SpaceDenied,
    decode_address_state_untrusted,
    encode_address_state,
)


class LeaseRules(Protocol):
    """What a lease says about the talk of others."""

    def may_give(self, peer: PeerName, now: float) -> bool: ...
    def believes(self, peer: PeerName) -> bool: ...
    def is_in_force(self) -> bool: ...


class Exchange:
    """One host's part in the talk about addresses. `held_back` tells why nothing may change now, if that is so."""

    def __init__(
        self,
        config: AllocatorConfig,
        ledger: Ledger,
        seeding: Seeding,
        *,
        reachable: Callable[[PeerName], bool],
        held_back: Callable[[], str],
        replaced: Callable[[], None],
    ) -> None:
        """`replaced` is called when ours is another ring: whoever was asked for something is to be asked anew."""
        self._config = config
        self._ledger = ledger
        self._seeding = seeding
        self._reachable = reachable
        self._held_back = held_back
        self._replaced = replaced
        self._known: dict[bytes, None] = {}  # hashes of states that are merged into ours
        self._encoded: tuple[Ring, dict[PeerName, str], bytes] | None = None
        self.lease: LeaseRules | None = None
        self.conflicts = Conflicts(ledger.called, config.universe if config.chosen else None)

    # ---- what is said

    def state(self) -> AddressState:
        """Returns what we gossip."""
        ledger = self._ledger
        if not ledger.ring.empty:
            return AddressState(0, dict(ledger.nicknames), None, ledger.ring.state())
        return AddressState(0, dict(ledger.nicknames), self._seeding.claims(), None)

    def payload(self) -> bytes:
        """Returns what we gossip, encoded; once for each change."""
        ledger = self._ledger
        if ledger.ring.empty:
            return encode_address_state(self.state())
        last = self._encoded
        if last is None or last[0] is not ledger.ring or last[1] != ledger.nicknames:
            last = ledger.ring, dict(ledger.nicknames), encode_address_state(self.state())
            self._encoded = last
        return last[2]

    def donate(self, to: PeerName, wanted: Range, now: float) -> list[AllocatorAction]:
        """Gives a peer some of what is free."""
        ledger = self._ledger
        if ledger.ring.empty or not (self.lease is None or self.lease.may_give(to, now)):
            return []
        if self._held_back() or self.conflicts.divides_otherwise(to, ledger.ring):
            # Denied would mean of a single address that it has been given out.
            single = wanted.end == wanted.start + 1
            denied: list[AllocatorAction] = [] if single else [Tell(to, SpaceDenied(wanted))]
            return [*denied, Tell(to, RingUpdate(self.state()))]
        given = ledger.space.donate(wanted)
        if given is None:
            return [Tell(to, SpaceDenied(wanted)), Tell(to, RingUpdate(self.state()))]
        ledger.ring = ledger.ring.grant(given, to)
        # Without Save first, a crash now would leave the space with both.
        actions = ledger.changed([Announce()])
        return [*actions, Tell(to, RingUpdate(self.state()))]

    # ---- what is heard

    def receive_untrusted(self, payload: bytes, source: PeerName | None, now: float) -> list[AllocatorAction]:
        """Takes a state: of `source`, or if that is None, of a neighbour. Raises WireError."""
        digest = hashlib.blake2b(payload, digest_size=16).digest()
        if digest in self._known:
            return []
        actions, known = self._receive(decode_address_state_untrusted(payload), source, now)
        if known:
            if len(self._known) >= limits.STATES_KNOWN_MAX:
                del self._known[next(iter(self._known))]
            self._known[digest] = None
        return actions

    def receive(self, state: AddressState, source: PeerName, now: float) -> list[AllocatorAction]:
        """Takes a state that was sent to us alone."""
        return self._receive(state, source, now, himself=True)[0]

    def _receive(
        self, state: AddressState, source: PeerName | None, now: float, *, himself: bool = False
    ) -> tuple[list[AllocatorAction], bool]:
        """Returns also whether it was a ring that ours now has all of. `himself`: it is the state of `source`, and not
        that of a peer who passed his broadcast on.
        """
        self._ledger.learn_nicknames(state.nicknames)
        if state.ring is not None:
            return self._merge(state, state.ring, now)
        if not self._ledger.ring.empty:
            return ([] if source is None else [Tell(source, RingUpdate(self.state()))]), False
        if self._held_back():
            return [], False
        # A broadcast carries the state of who passed it on, and too many votes to wait for are safer than too few.
        if source is not None and (himself or state.election is not None):
            self._seeding.heard_of(source, votes=state.election is not None)
        if state.election is not None:
            if source is not None and not self._seeding.votes:
                return [Tell(source, RingUpdate(self.state()))], False  # let nobody wait for our vote
            return self._seeding.take(state.election), False
        wanted = source is not None and self._seeding.votes
        return (self._seeding.establish() if wanted else []), False

    def _merge(
        self, state: AddressState, theirs: RingState, now: float
    ) -> tuple[list[AllocatorAction], bool]:
        ledger, before = self._ledger, self._ledger.ring
        if self.lease is not None and not self.lease.believes(theirs.peer):
            return [], False
        try:
            if ledger.merge(theirs):
                self._seeding.electing = self._seeding.electing and ledger.ring.empty
                self._prune_nicknames()
            self.conflicts.agrees(theirs.peer)
            self._contest()
            if before.empty and not ledger.ring.empty:
                self._known.clear()
            return [], not ledger.ring.empty
        except RingConflictError as error:
            is_ring = not isinstance(error, MalformedRingError)
            if is_ring and self._gives_way(theirs) and self._adopt([theirs]):
                return [] if before.empty else [Announce()], False
            self.conflicts.note(error, theirs, state.nicknames, now)
            self._contest()
            return [], False

    def _gives_way(self, theirs: RingState) -> bool:
        default, chosen = self._config.universe, self._config.chosen
        ours = self._ledger.ring
        return not self._held_back() and gives_way(ours, theirs, default=default, chosen=chosen)

    # ---- conflicts

    def repair(self, peer: PeerName | None, universe: tuple[int, int] | None = None) -> None:
        """Gives way to the ring that contradicts ours, or of several to that of `peer` or `universe`. Raises
        RepairError.
        """
        chosen = self.conflicts.choose(peer, universe, ours=self._ledger.universe)
        found = [conflict.ring for conflict in chosen]
        if self._held_back():
            raise RepairError(f"nothing can be changed now: {self._held_back()}")
        theirs, ours = Range(found[0].start, found[0].end), self._ledger.universe
        if self._config.chosen and theirs != ours:
            raise RepairError(
                f"that ring divides {range_text(theirs)}, and this host was started for {range_text(ours)}: "
                f"start it again with --ipalloc-range {range_text(theirs)}"
            )
        if not self._adopt(found):
            raise RepairError("that ring makes no sense together with what this host knows: stop who says it")

    def expire(self, now: float) -> None:
        """Forgets what nobody says any more."""
        self.conflicts.expire(now)
        self._contest()

    def _adopt(self, rings: list[RingState]) -> bool:
        """Begins anew with another ring; returns whether that can be."""
        try:
            for ring in rings:
                self._ledger.adopt(ring)
        except RingConflictError:
            return False
        self.conflicts.clear()
        self._contest()
        self._known.clear()
        self._seeding.electing = False
        self._prune_nicknames()
        self._replaced()
        return True

    def forget(self) -> None:
        """Begins anew without a ring."""
        self.conflicts.clear()
        self._contest()
        self._known.clear()
        self._seeding.electing = False
        self._replaced()

    def _contest(self) -> None:
        """Gives out nothing of what another host may be giving out."""
        self._ledger.space.contested = Ranges(self.conflicts.contested(self._ledger.ring))

    def _prune_nicknames(self) -> None:
        ledger = self._ledger
        keep = ledger.ring.peers() | {self._config.own}
        ledger.nicknames = {
            peer: name for peer, name in ledger.nicknames.items() if peer in keep or self._reachable(peer)
        }
