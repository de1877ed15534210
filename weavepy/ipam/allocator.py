"""Gives out addresses: from what this host owns at once, else by asking whoever has some (Weave Net 2.8.1's rules).

A host that has nobody to agree with gives out all the same, from a part of the universe that depends on its name, and
tells nobody of a division. Once there is one, made with others or taken from them, it claims there what it has given
out; what somebody else has given out too is a clash: it is listed, and both go on.

Rules of this file. Every call returns what is to be done, in order, and `Save` comes before whatever tells of a
change: an address that was given out, or space that was given away, must not be forgotten by a restart. What can't be
had yet is tried again on all news and every few seconds, and `waiting` says for what. A ring that contradicts ours is
noted in `conflicts` and changes nothing, until one of the two gives way by itself or by `repair`. The thing people
get wrong: what others say is merged before anything that waits is tried again, or it would be asked for from who has
given it away.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from weavepy import limits
from weavepy.events import Entropy, PeerName
from weavepy.ipam.actions import AllocatorAction, Announce, Request
from weavepy.ipam.config import AllocatorConfig
from weavepy.ipam.conflicts import Conflict, kind
from weavepy.ipam.exchange import Exchange, LeaseRules
from weavepy.ipam.ledger import Ledger
from weavepy.ipam.requests import Requests
from weavepy.ipam.ring import Ring
from weavepy.ipam.seeding import Seeding
from weavepy.wire.ipam import (
    CHANNEL,
    AddressState,
    Range,
    RingUpdate,
    SpaceDenied,
    SpaceRequest,
    decode_address_unicast_untrusted,
)


@dataclass(frozen=True, slots=True)
class Clash:
    """An address that `owner` has here and that `peer` has given out, too."""

    address: int
    owner: str
    peer: PeerName


@dataclass(frozen=True, slots=True)
class AddressNews:
    """Our state as something to gossip: whatever it is when it is written."""

    _allocator: "Allocator" = field(repr=False)

    def merge(self, later: "AddressNews") -> "AddressNews":
        """Returns the news of both."""
        return later

    def encode(self) -> Iterator[bytes]:
        """Writes the state of this moment."""
        yield self._allocator.payload()


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
        peers: Callable[[], Iterable[PeerName]] = tuple,
    ) -> None:
        """`stored`: what the last run had saved. `peers`: all who can be spoken to, to be named."""
        self._config = config
        self._reachable = reachable
        self._company = company
        self._ledger = Ledger(config, stored or {})
        self._requests = Requests(
            self._ledger,
            entropy=entropy,
            reachable=reachable,
            contradicts=lambda peer: self._exchange.conflicts.speaks(peer),
        )
        self._seeding = Seeding(
            config, self._ledger, company=company, expected=expected, reachable=reachable, peers=peers
        )
        self._troubles: dict[str, str] = {}  # why nothing new may be given out, by kind
        self._exchange = Exchange(
            config,
            self._ledger,
            self._seeding,
            reachable=reachable,
            held_back=lambda: self.held_back,
            replaced=self._requests.ask_anew,
        )
        self._tick_at: float | None = None

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

    @property
    def conflicts(self) -> list[Conflict]:
        """Rings of others that can't be merged with ours."""
        return list(self._exchange.conflicts)

    @property
    def contradicted(self) -> bool:
        """Whether others of our division say that what is ours is somebody else's by now: ours may be out of date."""
        return any(one.is_ring and kind(one.ring) == kind(self.ring) for one in self._exchange.conflicts)

    @property
    def ledger(self) -> Ledger:
        """Everything that is known, to be reported; to be read only."""
        return self._ledger

    @property
    def seeding(self) -> Seeding:
        """The election of the first owners, to be reported."""
        return self._seeding

    @property
    def held_back(self) -> str:
        """Why nothing new is given out; empty if nothing is in the way."""
        return "; ".join(self._troubles.values())

    @property
    def universe(self) -> Range:
        """The range that is divided: the operator's, or the cluster's."""
        return self._ledger.universe

    def clashing(self) -> list[Clash]:
        """Returns the addresses in use here that their owner has given out, too: each should be freed and replaced."""
        held = self._ledger.held
        return [Clash(a, held.owner(a) or "", peer) for a, peer in sorted(self.clashes.items())]

    def reachable(self, peer: PeerName) -> bool:
        """Whether a peer can be asked; this host can."""
        return peer == self._config.own or self._reachable(peer)

    def called(self, peer: PeerName) -> str:
        """Returns a peer's name for people."""
        return self._ledger.called(peer)

    def described(self, conflict: Conflict) -> str:
        """Returns whose ring a conflict is with, in a line."""
        return self._exchange.conflicts.described(conflict)

    def addresses(self, owner: str) -> dict[int, int]:
        """Returns the addresses of an owner, with the prefix lengths of their subnets."""
        return self._ledger.held.of(owner)

    def owners(self) -> list[str]:
        """Returns all who have an address."""
        return self._ledger.held.owners()

    def state(self) -> AddressState:
        """Returns what we gossip."""
        return self._exchange.state()

    def payload(self) -> bytes:
        """Returns what we gossip, encoded; once for each change."""
        return self._exchange.payload()

    def lacks(self, now: float) -> str:
        """Says what this host needs before it can give out anything at all; nothing if it can."""
        return self.held_back or self._lacking(now)

    def complete(self) -> AddressNews:
        """Returns everything we know, to be gossiped."""
        return AddressNews(self)

    def next_timer(self) -> float | None:
        """Returns when `handle_timer` is due."""
        due = (self._tick_at, self._exchange.conflicts.next_timer())
        return min((at for at in due if at is not None), default=None)

    # ---- what is asked here

    def start(self) -> list[AllocatorAction]:
        """Begins: what only the configuration says yet must last, too, before anybody is told."""
        return self._ledger.changed([])

    def allocate(self, request: Request, now: float) -> list[AllocatorAction]:
        """Takes a request; its answer, or none yet, is in what is returned."""
        self._requests.add(request)
        return self._ledger.changed(self._retry(now, request))

    def cancel(self, number: int) -> list[AllocatorAction]:
        """Forgets a request that nobody waits for any more."""
        self._requests.remove(number)
        return []

    def free(self, owner: str, address: int | None = None, now: float | None = None) -> list[AllocatorAction]:
        """Takes back an owner's address, or all of them; what he doesn't have is nothing. With `now`, who waits for
        one gets it at once.
        """
        ledger = self._ledger
        held = ledger.held.of(owner)
        for freed in [address] if address is not None else list(held):
            if freed in held:
                ledger.forget(freed)
                ledger.space.give_back(freed)
        waits = now is not None and held and len(self._requests)
        return ledger.changed(self._retry(now) if now is not None and waits else [])

    def prime(self, now: float) -> list[AllocatorAction]:
        """Sees to it that there is a ring, if there is anybody to share with, though nobody needs an address yet."""
        return self._ledger.changed([] if self._seeding.alone(now) else self._establish(now))

    def set_disk_trouble(self, reason: str | None, now: float) -> list[AllocatorAction]:
        """Gives out nothing and gives nothing away until the disk works again, which None says."""
        return self._hold_back("disk", reason, now)

    def set_fence(self, reason: str | None, now: float) -> list[AllocatorAction]:
        """Gives out nothing and gives nothing away while others may take this host for lost; None ends it."""
        return self._hold_back("fence", reason, now)

    def obey(self, lease: LeaseRules) -> None:
        """Gives space to, and believes, only whom the lease lets it."""
        self._exchange.lease = lease
        self._seeding.divided = lease.is_in_force

    def expire(self) -> list[AllocatorAction]:
        """Takes back all addresses of the universe: none of them may be used any more."""
        ledger = self._ledger
        for address in [address for address in ledger.held if ledger.is_inside(address)]:
            ledger.forget(address)
            ledger.space.give_back(address)
        return ledger.changed([])

    def forget_ring(self) -> list[AllocatorAction]:
        """Knows of no division any more, since ours was taken over; others tell what it is by now."""
        self._ledger.forget_ring()
        self._exchange.forget()
        return self._ledger.changed([])

    def repair(
        self, now: float, *, peer: PeerName | None = None, universe: tuple[int, int] | None = None
    ) -> list[AllocatorAction]:
        """Gives way to the ring that contradicts ours, or of several to the one in which `peer` owns something, or that
        of `universe`, and claims there what is in use here. To be done on all hosts of one side. Raises RepairError.
        """
        self._exchange.repair(peer, universe)
        return self._ledger.changed([Announce(), *self._retry(now)])

    def take_over(self, gone: PeerName, now: float) -> tuple[int, list[AllocatorAction]]:
        """Makes all that `gone` owned ours: it must not come back. Returns how many addresses that is."""
        gained = self.ring.size_of(gone)
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
        actions = self._exchange.receive_untrusted(payload, None, now)
        return self._ledger.changed([*actions, *self._retry(now)])

    def handle_broadcast_untrusted(
        self, source: PeerName, payload: bytes, now: float
    ) -> list[AllocatorAction]:
        """Takes the state that `source` broadcast; our own goes on along its tree."""
        actions = self._exchange.receive_untrusted(payload, source, now)
        return self._ledger.changed([*actions, *self._retry(now)])

    def handle_unicast_untrusted(self, source: PeerName, payload: bytes, now: float) -> list[AllocatorAction]:
        """Takes what a peer sent to us alone."""
        match decode_address_unicast_untrusted(payload):
            case SpaceRequest(wanted):
                return self._exchange.donate(source, wanted, now)
            case RingUpdate(state):
                actions = self._exchange.receive(state, source, now)
                self._requests.answered(source)
                return self._ledger.changed([*actions, *self._retry(now)])
            case SpaceDenied(wanted):
                denied = self._requests.denied(source, wanted)
                return self._ledger.changed([*denied, *self._retry(now)])

    def handle_timer(self, now: float) -> list[AllocatorAction]:
        """Tries again what waits, and forgets what nobody says any more."""
        self._exchange.expire(now)
        if self._tick_at is None or now < self._tick_at:
            return []
        self._tick_at = None
        actions: list[AllocatorAction] = []
        if self.ring.empty and self._seeding.electing and not self._troubles:
            actions += self._seeding.propose()
        self._requests.ask_anew()
        return self._ledger.changed([*actions, *self._retry(now)])

    def peers_changed(self, now: float) -> list[AllocatorAction]:
        """Tries again what waits: there may be somebody to ask now."""
        ledger = self._ledger
        waits = len(self._requests) or ledger.unclaimed or (ledger.held and self.ring.empty)
        return ledger.changed(self._retry(now)) if waits else []

    # ---- what waits

    def _hold_back(self, trouble: str, reason: str | None, now: float) -> list[AllocatorAction]:
        if reason is None:
            self._troubles.pop(trouble, None)
        else:
            self._troubles[trouble] = reason
        return self._ledger.changed(self._retry(now))

    def _establish(self, now: float) -> list[AllocatorAction]:
        if self._troubles:
            return []
        actions = self._seeding.establish()
        if actions:
            self._tick(now)
        return actions

    def _lacking(self, now: float) -> str:
        text = self._seeding.lacking(now)
        if text and self.conflicts:
            return "an end to the contradiction about the division: see `weavepy ipam check`"
        return text

    def _retry(self, now: float, only: Request | None = None) -> list[AllocatorAction]:
        """Tries what waits, or of it what has just come."""
        actions: list[AllocatorAction] = []
        held, before = self._ledger.held, self.ring
        lacking = self._lacking(now)
        if lacking and (self._requests.want_ring() or (held and self._company())):
            actions += self._establish(now)
            lacking = self._lacking(now)
        actions += self._requests.retry(lacking, self.held_back, only if self.ring is before else None)
        waits = held and (self.ring.empty or self._ledger.unclaimed)
        if len(self._requests) or self._seeding.electing or waits:
            self._tick(now)
        return actions

    def _tick(self, now: float) -> None:
        if self._tick_at is None:
            self._tick_at = now + limits.IPAM_TICK_S
