"""Gives out addresses: from what this host owns at once, else by asking whoever has some (Weave Net 2.8.1's rules).

A host that has nobody to agree with gives out all the same, from a part of the universe that depends on its name, and
tells nobody of a division. Once there is one, made with others or taken from them, it claims there what it has given
out; what somebody else has given out too is a clash: it is listed, and both go on.

Rules of this file. Every call returns what is to be done, in order, and `Save` comes before whatever tells of a
change: an address that was given out, or space that was given away, must not be forgotten by a restart. What can't be
had yet is tried again on all news and every few seconds, and `waiting` says for what. A ring that contradicts ours is
noted in `conflicts` and changes nothing. The thing people get wrong: what others say is merged before anything that
waits is tried again, or it would be asked for from who has given it away.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from weavepy import limits
from weavepy.events import Entropy, PeerName
from weavepy.ipam.actions import AllocatorAction, Announce, Request, Tell
from weavepy.ipam.config import AllocatorConfig
from weavepy.ipam.election import Election
from weavepy.ipam.ledger import Ledger
from weavepy.ipam.requests import Requests
from weavepy.ipam.ring import Ring, RingConflictError
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
        self._reachable = reachable
        self._company = company
        self._expected = expected
        self._ledger = Ledger(config, stored or {})
        self._requests = Requests(self._ledger, entropy=entropy, reachable=reachable)
        self._election: Election | None = None
        if not config.observer:
            self._election = Election(NodeId(config.own, config.uid), config.quorum or 1)
        self._electing = False
        self._tick_at: float | None = None
        self._alone_since: float | None = None  # as far as it matters to somebody who waits
        self.conflicts: dict[str, Range | None] = {}  # what others say of the ring that we can't agree to

    # ---- reading

    @property
    def ring(self) -> Ring:
        """Who owns what, as far as we know."""
        return self._ledger.ring

    @property
    def waiting(self) -> list[Request]:
        """Who waits, and for what."""
        return list(self._requests)

    @property
    def unclaimed(self) -> list[int]:
        """Addresses that were given out here and are still somebody else's by the ring."""
        return sorted(self._ledger.unclaimed)

    @property
    def clashes(self) -> dict[int, PeerName]:
        """Addresses that were given out here and, as he says, by their owner, too."""
        return self._ledger.clashes

    def addresses(self, owner: str) -> dict[int, int]:
        """Returns the addresses of an owner, with the prefix lengths of their subnets."""
        return self._ledger.held.of(owner)

    def owners(self) -> list[str]:
        """Returns all who have an address."""
        return self._ledger.held.owners()

    def state(self) -> AddressState:
        """Returns what we gossip."""
        ledger = self._ledger
        if not ledger.ring.empty:
            return AddressState(0, dict(ledger.nicknames), None, ledger.ring.state())
        election = None if self._election is None else self._election.claims()
        return AddressState(0, dict(ledger.nicknames), election, None)

    def lacks(self, now: float) -> str:
        """Says what this host needs before it can give out anything at all; nothing if it can."""
        return "" if not self.ring.empty or self._alone(now) else self._division()

    def complete(self) -> AddressNews:
        """Returns everything we know, to be gossiped."""
        return AddressNews(self)

    def next_timer(self) -> float | None:
        """Returns when `handle_timer` is due."""
        return self._tick_at

    # ---- what is asked here

    def allocate(self, request: Request, now: float) -> list[AllocatorAction]:
        """Takes a request; its answer, or none yet, is in what is returned."""
        self._requests.add(request)
        return self._ledger.changed(self._retry(now))

    def cancel(self, number: int) -> list[AllocatorAction]:
        """Forgets a request that nobody waits for any more."""
        self._requests.remove(number)
        return []

    def free(self, owner: str, address: int | None = None) -> list[AllocatorAction]:
        """Takes back an owner's address, or all of them; what he doesn't have is nothing."""
        ledger = self._ledger
        held = ledger.held.of(owner)
        for freed in [address] if address is not None else list(held):
            if freed in held:
                ledger.forget(freed)
                ledger.space.give_back(freed)
        return ledger.changed([])

    def prime(self, now: float) -> list[AllocatorAction]:
        """Sees to it that there is a ring, if there is anybody to share with, though nobody needs an address yet."""
        return self._ledger.changed([] if self._alone(now) else self._establish(now))

    def take_over(self, gone: PeerName, now: float) -> tuple[int, list[AllocatorAction]]:
        """Makes all that `gone` owned ours: it must not come back. Returns how many addresses that is."""
        gained = sum(one.end - one.start for one in self.ring.owned_by(gone))
        if gone == self._config.own or not gained:
            return 0, []
        self._ledger.divide(self.ring.transfer(gone, self._config.own))
        return gained, self._ledger.changed([Announce(), *self._retry(now)])

    def leave(self, heirs: Iterable[PeerName]) -> list[AllocatorAction]:
        """Leaves what we own to somebody: an owner who can be reached, else any of `heirs`, else any owner."""
        ledger, own = self._ledger, self._config.own
        actions = self._requests.refuse_all("this host leaves the network")
        others = [peer for peer in sorted(self.ring.peers()) if peer != own]
        known = [peer for peer in heirs if peer != own]
        heir = next((peer for peer in others if self._reachable(peer)), None)
        heir = heir or next(iter([*known, *others]), None)
        for address in list(ledger.held):
            ledger.forget(address)
        if heir is None or not self.ring.owned_by(own):
            return ledger.changed(actions)
        ledger.divide(self.ring.transfer(own, heir))
        return ledger.changed([*actions, Announce()])

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
                denied = self._requests.denied(source, wanted)
                return self._ledger.changed([*denied, *self._retry(now)])

    def handle_timer(self, now: float) -> list[AllocatorAction]:
        """Tries again what waits."""
        if self._tick_at is None or now < self._tick_at:
            return []
        self._tick_at = None
        actions: list[AllocatorAction] = []
        if self.ring.empty and self._electing:
            actions += self._propose()
        self._requests.ask_anew()
        return self._ledger.changed([*actions, *self._retry(now)])

    def peers_changed(self, now: float) -> list[AllocatorAction]:
        """Tries again what waits: there may be somebody to ask now."""
        ledger = self._ledger
        waits = len(self._requests) or ledger.unclaimed or (ledger.held and self.ring.empty)
        return ledger.changed(self._retry(now)) if waits else []

    # ---- alone, and the election

    def _alone(self, now: float) -> bool:
        """Whether there is nobody to agree with, and for long enough if there should be somebody."""
        config = self._config
        if not self.ring.empty or config.quorum is not None or config.observer or self._company():
            self._alone_since = None
            return False
        if not self._expected():
            return True
        if self._alone_since is None:
            self._alone_since = now
        return now >= self._alone_since + limits.IPAM_ALONE_S

    def _establish(self, now: float) -> list[AllocatorAction]:
        if not self.ring.empty or self._electing:
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
        self._ledger.divide(self.ring.divide(value.peers))
        self._electing = False
        return [Announce()]

    # ---- states of others

    def _receive(self, state: AddressState, source: PeerName | None, now: float) -> list[AllocatorAction]:
        actions: list[AllocatorAction] = []
        self._ledger.learn_nicknames(state.nicknames)
        if state.ring is not None:
            self._merge(state.ring)
        elif not self.ring.empty:
            if source is not None:
                actions.append(Tell(source, RingUpdate(self.state())))
        elif state.election is not None:
            if self._election is not None and self._election.update(state.election):
                changed = self._election.think()
                concluded = self._conclude()
                actions += concluded or ([Announce()] if changed else [])
        elif source is not None and self._election is not None:
            actions += self._establish(now)
        return self._ledger.changed([*actions, *self._retry(now)])

    def _merge(self, theirs: RingState) -> None:
        ledger = self._ledger
        try:
            merged = ledger.ring.merge(theirs, ledger.is_used)
        except RingConflictError as error:
            if len(self.conflicts) < limits.CONFLICTS_MAX:
                self.conflicts[str(error)] = error.about
            return
        if merged != ledger.ring:
            self._electing = self._electing and merged.empty
            ledger.divide(merged)
            keep = merged.peers() | {self._config.own}
            ledger.nicknames = {
                peer: nickname
                for peer, nickname in ledger.nicknames.items()
                if peer in keep or self._reachable(peer)
            }

    def _donate(self, to: PeerName, wanted: Range) -> list[AllocatorAction]:
        ledger = self._ledger
        if ledger.ring.empty:
            return []
        given = ledger.space.donate(wanted)
        if given is None:
            return [Tell(to, SpaceDenied(wanted)), Tell(to, RingUpdate(self.state()))]
        ledger.ring = ledger.ring.grant(given, to)
        # Without Save first, a crash now would leave the space with both.
        actions = ledger.changed([Announce()])
        return [*actions, Tell(to, RingUpdate(self.state()))]

    # ---- what waits

    def _retry(self, now: float) -> list[AllocatorAction]:
        actions: list[AllocatorAction] = []
        held = self._ledger.held
        alone = self._alone(now)
        if self.ring.empty and not alone and (self._requests.want_ring() or (held and self._company())):
            actions += self._establish(now)
        undivided = self._division() if self.ring.empty and not alone else ""
        actions += self._requests.retry(undivided)
        waits = held and (self.ring.empty or self._ledger.unclaimed)
        if len(self._requests) or self._electing or waits:
            self._tick(now)
        return actions

    def _division(self) -> str:
        others = "" if self._company() else ": none of the peers that were named is there yet"
        return f"the first division of the addresses among the peers{others}"

    def _tick(self, now: float) -> None:
        if self._tick_at is None:
            self._tick_at = now + limits.IPAM_TICK_S
