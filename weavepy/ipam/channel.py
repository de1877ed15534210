"""The gossip channel `IPallocation` (Weave Net 2.8.1): an allocator with the router's events, gossip and store.

Rules of this file. Nothing is decided here: events and messages go to the allocator, and what it asks for becomes
effects or gossip, in its order. The thing people get wrong: effects are performed in order and gossip is written at the
end of the router's turn, so what is saved is durable before anybody is told; nothing here may send by itself.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from weavepy.events import (
    AddressCancelled,
    AddressEvent,
    AddressFreed,
    AddressWanted,
    Answered,
    DiskTrouble,
    DivisionWanted,
    DivisionYielded,
    Effect,
    Entropy,
    PeerName,
    Persist,
    SpaceLeft,
    SpaceTaken,
)
from weavepy.ipam.actions import AllocatorAction, Announce, Granted, Refused, Request, Save, Tell
from weavepy.ipam.allocator import AddressNews, Allocator
from weavepy.ipam.config import AllocatorConfig
from weavepy.ipam.conflicts import RepairError
from weavepy.ipam.leasechannel import LeaseChannel
from weavepy.wire.ipam import CHANNEL, Range, encode_address_unicast


class Peers(Protocol):
    """Who else there is, as gossip gets about."""

    def reachable(self, peer: PeerName) -> bool: ...
    def others(self) -> int: ...
    def names(self) -> Iterable[PeerName]: ...


class Gossip(Protocol):
    """The part of `mesh.gossip.Gossiper` that is used here."""

    def broadcast(self, channel: str, news: Any) -> None: ...
    def unicast(self, channel: str, destination: PeerName, payload: bytes) -> bool: ...


class AddressChannel:
    """One router's allocator. `expected`: how many other peers there should be; `emit` takes effects."""

    name = CHANNEL

    def __init__(
        self,
        config: AllocatorConfig,
        *,
        peers: Peers,
        expected: Callable[[], int],
        gossip: Gossip,
        emit: Callable[[Effect], None],
        entropy: Entropy,
        stored: Mapping[str, str] | None = None,
    ) -> None:
        """`stored`: what was persisted by the last run."""
        self._peers = peers
        self._gossip = gossip
        self._emit = emit
        self.allocator = Allocator(
            config,
            entropy=entropy,
            reachable=peers.reachable,
            company=lambda: peers.others() > 0,
            expected=expected,
            stored=stored,
            peers=peers.names,
        )
        self.lease: LeaseChannel | None = None
        if config.reclaim_after_s:
            self.lease = LeaseChannel(
                config,
                self.allocator,
                reachable=peers.reachable,
                gossip=gossip,
                perform=self._perform,
                emit=emit,
                stored=stored or {},
            )

    def reachable(self, peer: PeerName) -> bool:
        """Tells whether a peer can be spoken to."""
        return self._peers.reachable(peer)

    # ---- what is asked here

    def start(self, now: float) -> None:
        """Begins."""
        self._perform(self.allocator.start())
        if self.lease is not None:
            self.lease.start(now)

    def handle(self, event: AddressEvent, now: float) -> None:
        """Takes what the operator, or somebody for a container, asks for."""
        allocator = self.allocator
        match event:
            case AddressWanted(number, owner, start, end, prefix, claim, optimistic, another):
                request = Request(number, owner, Range(start, end), prefix, claim, now, optimistic, another)
                self._perform(allocator.allocate(request, now))
            case AddressCancelled(number):
                self._perform(allocator.cancel(number))
            case AddressFreed(owner, address):
                self._perform(allocator.free(owner, address, now))
            case DivisionWanted():
                self._perform(allocator.prime(now))
            case SpaceTaken(number, peer, force):
                self._take_over(number, peer, now, force=force)
            case SpaceLeft(number):
                owned = allocator.ring.size_of(allocator.ring.peer)
                heirs = [peer for peer in allocator.ring.peers() if self._peers.reachable(peer)]
                self._perform(allocator.leave(heirs))
                if self.lease is not None:
                    self.lease.dismiss(allocator.ring.peer, now)
                self._emit(Answered(number, owned - allocator.ring.size_of(allocator.ring.peer)))
            case DivisionYielded(number, peer, universe):
                try:
                    actions = allocator.repair(now, peer=peer, universe=universe)
                except RepairError as error:
                    self._emit(Answered(number, reason=str(error)))
                else:
                    self._perform(actions)
                    self._emit(Answered(number, len(allocator.unclaimed)))
            case DiskTrouble(reason):
                self._perform(allocator.set_disk_trouble(reason, now))

    def _take_over(self, number: int, peer: PeerName, now: float, *, force: bool) -> None:
        if peer == self.allocator.ring.peer:
            self._emit(Answered(number, reason="that is this host itself"))
        elif self._peers.reachable(peer) and not force:
            reason = "it is still heard and gives out these addresses; stop it first (`weavepy reset` there)"
            self._emit(Answered(number, reason=reason))
        elif self.allocator.contradicted and not force:
            reason = (
                "what this host knows of who owns what may be out of date, since others contradict it: say it on one "
                "of them, or `weavepy ipam repair` here first"
            )
            self._emit(Answered(number, reason=reason))
        else:
            if self.lease is not None:
                self.lease.dismiss(peer, now)
            gained, actions = self.allocator.take_over(peer, now)
            self._perform(actions)
            self._emit(Answered(number, gained))

    # ---- gossip

    def merge_gossip_untrusted(self, payload: bytes, now: float) -> None:
        """Takes a neighbour's state. Nothing of it goes on: everybody gossips his own."""
        self._perform(self.allocator.handle_gossip_untrusted(payload, now))

    def merge_broadcast_untrusted(self, source: PeerName, payload: bytes, now: float) -> AddressNews:
        """Takes the state that `source` broadcast; ours goes on along its tree."""
        self._perform(self.allocator.handle_broadcast_untrusted(source, payload, now))
        return self.allocator.complete()

    def handle_unicast_untrusted(self, source: PeerName, payload: bytes, now: float) -> None:
        """Takes what a peer sent to us alone."""
        self._perform(self.allocator.handle_unicast_untrusted(source, payload, now))

    def complete(self) -> AddressNews:
        """Returns our state, to be gossiped."""
        return self.allocator.complete()

    # ---- time

    def next_timer(self) -> float | None:
        """Returns when `handle_timer` is due."""
        timers = [self.allocator.next_timer(), None if self.lease is None else self.lease.next_timer()]
        return min((at for at in timers if at is not None), default=None)

    def handle_timer(self, now: float) -> None:
        """Does what is due by `now`."""
        if self.lease is not None:
            self.lease.handle_timer(now)
        self._perform(self.allocator.handle_timer(now))

    def peers_changed(self, now: float) -> None:
        """Tries again what waits: there may be somebody to ask now."""
        if self.lease is not None:
            self.lease.peers_changed(now)
        self._perform(self.allocator.peers_changed(now))

    def _perform(self, actions: Iterable[AllocatorAction]) -> None:
        for action in actions:
            match action:
                case Save(key, text):
                    self._emit(Persist(key, text))
                case Announce():
                    self._gossip.broadcast(CHANNEL, self.allocator.complete())
                case Tell(peer, message):
                    self._gossip.unicast(CHANNEL, peer, encode_address_unicast(message))
                case Granted(number, address):
                    self._emit(Answered(number, address))
                case Refused(number, reason):
                    self._emit(Answered(number, reason=reason))
